"""The licence of weights, from the card that lies with them."""

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
    Return the licence that a model card names, in a folder or a few above it; '' if none does.

    The card is README.md, its licence the `license` (or `license_name`) of its YAML front matter.
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
    """Return whether a licence's name says that commercial use is not allowed."""
    return bool(RESTRICTED.search(license_name))
