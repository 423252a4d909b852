"""The licence of weights: from their card, their LICENSE file, or a table of known projects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import functools
from pathlib import Path
import re
from typing import NamedTuple

import yaml

from sd_perception_ros.checkpoint import hub
from sd_perception_ros.checkpoint.config_file import (
    CheckpointConfig,
    FILE,
    read_config,
    SHIPPED,
    UNKNOWN,
)
from sd_perception_ros.checkpoint.files import read_text

NOT_STATED = 'not stated by the authors'
SEPARATOR = '; '  # between the licences of several models
ALLOWED, NOT_ALLOWED, NOT_KNOWN = 'allowed', 'not allowed', 'not known'
_CARD_LEVELS = 2  # folders above the weights that may have the card
_FRONT = re.compile(r'\A---\s*\n(.*?)\n---\s*$', re.DOTALL | re.MULTILINE)
_RESTRICTED = re.compile(
    r'non-?\s?commercial|(?:^|[^a-z])nc(?:[^a-z]|$)|research|academic', re.IGNORECASE
)
_COMMERCIAL = re.compile(
    r'\b(?:apache|mit|bsd|cc0|cc-by|unlicense|isc|l?gpl)\b|open\s?rail|\brail', re.IGNORECASE
)
# Names by the beginning of a licence text; the more specific text comes first.
_TEXTS = {
    r'apache license\s+version 2\.0': 'Apache-2.0',
    r'\bmit license|permission is hereby granted, free of charge': 'MIT',
    r'\b(?:bsd 3-clause|3-clause bsd)': 'BSD-3-Clause',
    r'\b(?:bsd 2-clause|2-clause bsd)': 'BSD-2-Clause',
    r'redistribution and use in source and binary forms.*neither the name': 'BSD-3-Clause',
    r'redistribution and use in source and binary forms': 'BSD-2-Clause',
    r'cc0 1\.0 universal': 'CC0-1.0',
    r'attribution-noncommercial-sharealike 4\.0': 'CC-BY-NC-SA-4.0',
    r'attribution-noncommercial-noderiv\w* 4\.0': 'CC-BY-NC-ND-4.0',
    r'attribution-noncommercial 4\.0': 'CC-BY-NC-4.0',
    r'attribution-sharealike 4\.0': 'CC-BY-SA-4.0',
    r'attribution-noderiv\w* 4\.0': 'CC-BY-ND-4.0',
    r'attribution 4\.0 international': 'CC-BY-4.0',
    r'open\s?rail\s?\+\+': 'OpenRAIL++-M',
    r'open\s?rail': 'OpenRAIL-M',
}
_HEAD_CHARACTERS = 2000  # of a licence text; enough for the clauses of BSD


class Terms(NamedTuple):
    """
    The licence of some weights.

    :ivar name: SPDX identifier if there is one, or `NOT_STATED`.
    :ivar source: file or public page with the licence; '' if none.
    """

    name: str
    source: str = ''


def terms_of(folder: Path, location: str, levels: int = 1) -> Terms:
    """
    Return the licence of weights, from the first of these that states one.

    - the model card: README.md in the folder, or in one of the two folders above it, with the
      YAML key `license` (`license_name` for 'other')
    - a LICENSE file in the folder, or in `levels` folders above it
    - the known checkpoints: the terms of the project with the same owner/name on the hub

    :param folder: model or pipeline folder, or a file with weights.
    :param location: as in checkpoint.yaml; names the repository of a model on the hub.
    :param levels: 0 for the folder around several models.
    """
    folder = folder if folder.is_dir() else folder.parent
    near = [folder, *folder.parents]
    files = (file for place in near[: levels + 1] for file in _license_files(place))
    stated = (
        *map(_terms_of_card, near[: _CARD_LEVELS + 1]),
        *map(_terms_of_text, files),
        _project_terms(folder, location),
    )
    return next((terms for terms in stated if terms is not None), Terms(NOT_STATED))


def with_terms(config: CheckpointConfig, terms: Iterable[Terms]) -> tuple[str, str]:
    """Return licence and source of a checkpoint: its own, otherwise those of its models."""
    if config.license != UNKNOWN:
        return config.license, config.license_source
    different = list(dict.fromkeys(terms))
    sources = dict.fromkeys(one.source for one in different if one.source)
    return join_licenses(one.name for one in different), SEPARATOR.join(sources)


def join_licenses(names: Iterable[str]) -> str:
    """Join different licences to one text."""
    return SEPARATOR.join(dict.fromkeys(filter(None, names)))


def is_restricted(license_name: str) -> bool:
    """Return whether the name of a licence excludes commercial use."""
    return bool(_RESTRICTED.search(license_name))


def commercial_use(licenses: str) -> str:
    """
    Return `ALLOWED`, `NOT_ALLOWED` or `NOT_KNOWN`.

    :param licenses: one name, or several from `join_licenses`: the strictest counts.
    """
    if is_restricted(licenses):
        return NOT_ALLOWED
    names = licenses.split(SEPARATOR)
    return ALLOWED if all(map(_COMMERCIAL.search, names)) else NOT_KNOWN


def _terms_of_card(folder: Path) -> Terms | None:
    card = folder / 'README.md'
    front = _FRONT.match(read_text(card, 'replace')) if card.is_file() else None
    if front is None:
        return None
    try:
        values = yaml.safe_load(front[1])
    except yaml.YAMLError:
        return None
    if not isinstance(values, dict) or not values.get('license'):
        return None
    given = str(values['license'])
    return Terms(
        str(values.get('license_name') or given) if given == 'other' else given, str(card)
    )


def _license_files(folder: Path) -> list[Path]:
    """Return the LICENSE files of a folder, those of the model before those of the code."""
    files = [file for file in sorted(folder.glob('LICENSE*')) if file.is_file()]
    return sorted(files, key=lambda file: re.search('model|weight', file.name, re.I) is None)


def _terms_of_text(file: Path) -> Terms | None:
    """Recognize a licence text by its beginning; of an unknown text, return the first line."""
    text = read_text(file, 'replace')[:_HEAD_CHARACTERS]
    first = next((line.strip(' #*\t') for line in text.splitlines() if line.strip(' #*\t')), '')
    if not first:
        return None
    words = ' '.join(text.lower().split())
    name = next((name for begin, name in _TEXTS.items() if re.search(begin, words)), first[:80])
    opening = ' '.join(words.split()[:60])
    if not is_restricted(name) and is_restricted(opening):
        name += ', for non-commercial use'
    return Terms(name, str(file))


def _project_terms(folder: Path, location: str) -> Terms | None:
    if hub.is_on_hub(location):
        return known_terms().get(hub.parse(location).repo)
    # Of the hub's cache (models--owner--name), or a copy in owner/name.
    path = f'{folder.absolute().as_posix()}/'.replace('--', '/')
    return next((terms for repo, terms in known_terms().items() if f'/{repo}/' in path), None)


@functools.cache
def known_terms() -> Mapping[str, Terms]:
    """Return the terms of the known checkpoints by owner/name of their denoisers on the hub."""
    configs = [read_config(file) for file in sorted(SHIPPED.glob(f'*/{FILE}'))]
    return {
        hub.parse(entry.unet).repo: Terms(config.license, config.license_source)
        for config in configs
        for entry in config.tasks.values()
        if hub.is_on_hub(entry.unet)
    }
