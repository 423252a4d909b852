"""Build and installation of the ament_python package: what goes where."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = 'sd_perception_ros'
ROOT = Path(__file__).parent


def files_in(folder: str, pattern: str = '*') -> list[str]:
    """List files of a folder of the repository as setup() wants them: relative, sorted."""
    found = (path for path in sorted((ROOT / folder).glob(pattern)) if path.is_file())
    return [path.relative_to(ROOT).as_posix() for path in found]


def package_files(*patterns: str) -> list[str]:
    """List data files inside the package; written out because old setuptools has no `**`."""
    return [path[len(NAME) + 1 :] for pattern in patterns for path in files_in(NAME, pattern)]


setup(
    name=NAME,
    version='0.1.0',
    description='A one-step diffusion backbone: depth, normals, classes, mattes and poses',
    license='Apache-2.0',
    maintainer='sd_perception_ros maintainers',
    maintainer_email='sd-perception-ros@example.org',
    packages=find_packages(include=[NAME, f'{NAME}.*']),
    package_data={
        NAME: package_files(
            'assets/checkpoints/**/*',
            'assets/demo_sequence/**/*',
            'checkpoint/configs/*.json',
            'synthetic/*.json',
        ),
    },
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        (f'share/{NAME}/launch', files_in('launch', '*.py')),
        (f'share/{NAME}/config', files_in('config')),
        (f'share/{NAME}/config/nav2', files_in('config/nav2')),
        (f'share/{NAME}/config/rviz', files_in('config/rviz')),
        (f'share/{NAME}/config/sros2', files_in('config/sros2')),
        (f'share/{NAME}/config/train', files_in('config/train')),
    ],
    # torch and diffusers stay out: a robot's build of them is its own choice, and a requirement
    # that is not met breaks every entry point. requirements/core.txt has the versions we test.
    install_requires=['setuptools'],
    extras_require={'test': ['pytest']},
    zip_safe=False,
    entry_points={
        'console_scripts': [
            f'perception_node = {NAME}.__main__:perception_node',
            f'camera_node = {NAME}.__main__:camera_node',
            f'{NAME} = {NAME}.__main__:main',
        ],
    },
)
