"""The package says the same everywhere and installs everything that it needs to run."""

from __future__ import annotations

import ast
import os
from pathlib import Path
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import setuptools

from sd_perception_ros import __version__

ROOT = Path(__file__).resolve().parents[1]
NAME = 'sd_perception_ros'
REQUIREMENTS = sorted((ROOT / 'requirements').glob('*.txt'))

# Most bytes allowed: the weights, the demo's sequence, any other single file.
LIMITS = {
    f'{NAME}/assets/checkpoints/': 25_000_000,
    f'{NAME}/assets/demo_sequence/': 8_000_000,
    'docs/demo.webp': 2_500_000,
}
FILE_LIMIT = 500_000


@pytest.fixture(scope='module')
def setup() -> setuptools.Distribution:
    """Read what setup.py says, without running a command of it."""
    from distutils.core import run_setup  # setuptools provides it since Python 3.12

    before = Path.cwd()
    os.chdir(ROOT)
    try:
        return run_setup('setup.py', stop_after='init')
    finally:
        os.chdir(before)


@pytest.fixture(scope='module')
def manifest() -> ElementTree.Element:
    """Read package.xml."""
    return ElementTree.parse(ROOT / 'package.xml').getroot()


@pytest.fixture(scope='module')
def tracked() -> list[Path]:
    """List the files of the repository, as git knows them."""
    git = ['git', 'ls-files', '-z']
    try:
        done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f'not a git checkout: {error}')
    return [ROOT / name for name in done.stdout.split('\0') if name and (ROOT / name).is_file()]


def files_in(folder: str) -> set[str]:
    """List the files of a folder of the repository, relative to the root."""
    found = (ROOT / folder).rglob('*')
    return {
        path.relative_to(ROOT).as_posix()
        for path in found
        if path.is_file() and '__pycache__' not in path.parts
    }


def installed(setup: setuptools.Distribution) -> set[str]:
    """List the files of the repository that setup.py installs into share/."""
    return {file for _, files in setup.data_files for file in files}


def package_data(setup: setuptools.Distribution) -> set[str]:
    """List the data files that setup.py installs beside the code."""
    return {f'{NAME}/{file}' for file in setup.package_data[NAME]}


def test_manifest_and_setup_agree(
    setup: setuptools.Distribution, manifest: ElementTree.Element
) -> None:
    assert manifest.get('format') == '3'
    assert manifest.findtext('name') == setup.get_name() == NAME
    assert manifest.findtext('version') == setup.get_version() == __version__
    assert manifest.findtext('license') == setup.get_license() == 'Apache-2.0'
    maintainer = manifest.find('maintainer')
    assert maintainer is not None
    assert maintainer.get('email') == setup.get_maintainer_email()


def test_ros_tools_accept_the_manifest() -> None:
    catkin = pytest.importorskip('catkin_pkg.package')
    package = catkin.parse_package(ROOT / 'package.xml')  # raises where the manifest is invalid
    assert package.get_build_type() == 'ament_python'


def test_changelog_starts_with_this_version(setup: setuptools.Distribution) -> None:
    text = (ROOT / 'CHANGELOG.rst').read_text(encoding='utf-8')
    newest = re.search(r'^(\d+\.\d+\.\d+) \(.+\)$', text, re.MULTILINE)
    assert newest is not None
    assert newest[1] == setup.get_version()


def test_every_command_has_a_main(setup: setuptools.Distribution) -> None:
    commands = dict(
        line.replace(' ', '').split('=') for line in setup.entry_points['console_scripts']
    )
    assert set(commands) == {'perception_node', 'camera_node', NAME}
    for target in commands.values():
        module, function = target.split(':')
        path = ROOT / f'{module.replace(".", "/")}.py'
        tree = ast.parse(path.read_text(encoding='utf-8'))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        names |= {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert function in names, f'{path} has no {function}()'


def test_every_package_folder_is_installed(setup: setuptools.Distribution) -> None:
    folders = {Path(file).parent for file in files_in(NAME) if file.endswith('.py')}
    assert set(setup.packages) == {'.'.join(folder.parts) for folder in folders}


def test_every_launch_and_config_file_is_installed(setup: setuptools.Distribution) -> None:
    wanted = files_in('launch') | files_in('config')
    assert {'launch/perception.launch.py', 'config/perception.yaml'} <= wanted
    assert installed(setup) == wanted | {'package.xml', f'resource/{NAME}'}


def test_weights_and_demo_images_are_installed_beside_the_code(
    setup: setuptools.Distribution,
) -> None:
    wanted = files_in(f'{NAME}/assets/checkpoints') | files_in(f'{NAME}/assets/demo_sequence')
    assert f'{NAME}/assets/checkpoints/bundled/checkpoint.yaml' in wanted
    assert f'{NAME}/assets/demo_sequence/sequence.json' in wanted
    assert wanted <= package_data(setup)


def test_the_joints_of_the_catalogue_are_installed(setup: setuptools.Distribution) -> None:
    assert f'{NAME}/synthetic/people_joints.json' in package_data(setup)


def test_no_installed_command_imports_torch_at_start(setup: setuptools.Distribution) -> None:
    assert setup.install_requires == ['setuptools']


def test_colcon_builds_it_as_a_ros_package(tmp_path: Path, setup: setuptools.Distribution) -> None:
    pytest.importorskip('colcon_core')
    colcon = [sys.executable, '-m', 'colcon', '--log-base', str(tmp_path / 'log')]
    paths = ['--paths', str(ROOT)]

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [*colcon, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert '(ros.ament_python)' in run('list', *paths)
    run('build', *paths)
    prefix = tmp_path / 'install' / NAME
    for file in installed(setup) - {f'resource/{NAME}'}:
        assert (prefix / 'share' / NAME / file).is_file()
    for command in ('perception_node', 'camera_node', NAME):
        script = prefix / 'lib' / NAME / command
        assert os.access(script, os.X_OK)
        assert script.read_text().startswith('#!/usr/bin/env python3\n')
    (site,) = prefix.glob('lib/python3*/*-packages')
    assert [file for file in sorted(package_data(setup)) if not (site / file).is_file()] == []


def test_every_requirement_is_exact() -> None:
    lines = {
        line: path.name
        for path in REQUIREMENTS
        for line in path.read_text().replace('\\\n', ' ').splitlines()
        if line and not line.startswith(('#', '-r '))
    }
    assert len(lines) > 100
    assert [line for line in lines if not re.match(r'[a-z0-9.-]+==[\w.]+( |$)', line)] == []
    unhashed = [line for line in lines if '--hash=sha256:' not in line]
    assert [line for line in unhashed if lines[line] == 'ros.txt'] == []
    assert 'torch==2.13.0' in lines
    assert not any(line.startswith('torchvision') for line in lines)


def test_the_repository_stays_small(tracked: list[Path]) -> None:
    total = dict.fromkeys(LIMITS, 0)
    for path in tracked:
        file, size = path.relative_to(ROOT).as_posix(), path.stat().st_size
        place = next((place for place in LIMITS if file.startswith(place)), None)
        if place:
            total[place] += size
        else:
            assert size <= FILE_LIMIT, f'{file} has {size} bytes'
    assert {place: size for place, size in total.items() if size > LIMITS[place]} == {}


def test_no_file_names_a_folder_or_server_of_one_machine(tracked: list[Path]) -> None:
    folders = '|'.join(('farm', 'home', 'root', 'work'))
    words = re.compile(rf'(?<![\w.\-~}}/])/({folders})/|pythonhosted\.|download\.pytorch\.')
    found = []
    for path in tracked:
        data = path.read_bytes()
        if b'\0' not in data[:8000] and path != Path(__file__):
            lines = data.decode('utf-8', 'replace').splitlines()
            found += [
                f'{path}:{i}: {line}' for i, line in enumerate(lines, 1) if words.search(line)
            ]
    assert found == []
