"""The licence of weights, from their model card."""

from __future__ import annotations

from pathlib import Path
import re

import yaml

FRONT = re.compile(r'\A---\s*\n(.*?)\n---\s*$', re.DOTALL | re.MULTILINE)
RESTRICTED = re.compile(
    r'non-?\s?commercial|(?:^|[^a-z])nc(?:[^a-z]|$)|research|academic|sai-nc', re.IGNORECASE
)


def license_near(folder: Path, levels: int = 2) -> str:
    """
    Return the licence of the model card in a folder, or in one of the folders above it.

    The card is README.md, the licence its YAML key `license`, or `license_name` for 'other'.

    :param levels: number of folders above.
    :returns: '' if no card names a licence.
    """
    for place in (folder, *list(folder.parents)[:levels]):
        card = place / 'README.md'
        front = FRONT.match(card.read_text(errors='replace')) if card.is_file() else None
        if front is None:
            continue
        try:
            values = yaml.safe_load(front[1])
        except yaml.YAMLError:
            continue
        if isinstance(values, dict) and values.get('license'):
            given = str(values['license'])
            return str(values.get('license_name') or given) if given == 'other' else given
    return ''


def is_restricted(license_name: str) -> bool:
    """Return whether the name of a licence excludes commercial use."""
    return bool(RESTRICTED.search(license_name))
