"""Licences of the packages in requirements/, as they state them themselves."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
import re
import sys
from xml.etree import ElementTree

REQUIREMENTS = Path(__file__).resolve().parents[1] / 'requirements'
# What robots and training machines need, before what only the checks of this repository need.
LISTS = ('core', 'ros', 'predict', 'runtimes', 'train', 'dev', 'docs')
# Packages whose metadata name no licence: read from their LICENSE files.
FROM_FILES = {
    'apsw': 'any OSI-approved licence',
    'embreex': 'BSD-2-Clause',
    'flake8-deprecated': 'GPL-2.0',
    'pysodmetrics': 'MIT',
    'ros-fastcdr': 'Apache-2.0',
    'ros-fastdds': 'Apache-2.0',
    'setuptools': 'MIT',
}
_MOST_CHARACTERS = 60  # a longer text is a whole licence
_NO_NAMES = ('', 'UNKNOWN')


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Yield list, package, version and licence of each package, in its first list."""
    seen: set[str] = set()
    for name in LISTS:
        for package, version in requirements_of(name):
            if package not in seen:
                seen.add(package)
                yield name, package, version, license_of(package)


def requirements_of(name: str) -> Iterator[tuple[str, str]]:
    """Yield package and version of each line of a list."""
    for line in (REQUIREMENTS / f'{name}.txt').read_text().splitlines():
        if found := re.match(r'([a-z0-9.-]+)==([\w.]+)', line):
            yield found[1], found[2]


def license_of(package: str) -> str:
    """
    Return the licence of an installed package, from its metadata or its package.xml.

    :raises ValueError: it states none; add it to `FROM_FILES`.
    """
    about = metadata.metadata(package)
    classifiers = [
        text.rpartition(' :: ')[2]
        for text in about.get_all('Classifier', [])
        if text.startswith('License ::')
    ]
    stated = [
        FROM_FILES.get(package, ''),
        about.get('License-Expression', ''),
        about.get('License', ''),
        ', '.join(classifiers),
        _of_ros(package),
    ]
    for text in (' '.join((text or '').split()) for text in stated):
        if text not in _NO_NAMES and len(text) <= _MOST_CHARACTERS:
            return text
        if package == 'torch' and text:
            return text
    raise ValueError(f'{package} states no licence; add it to FROM_FILES')


def _of_ros(package: str) -> str:
    """Return the licences in the package.xml of a ROS package; '' if it has none."""
    name = package.removeprefix('ros-').replace('-', '_')
    file = Path(sys.prefix) / 'share' / name / 'package.xml'
    if not package.startswith('ros-') or not file.is_file():
        return ''
    return ', '.join(
        element.text or '' for element in ElementTree.parse(file).getroot().iter('license')
    )
