"""Tables as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Write rows of texts in columns, the first to the left and the others to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        '  ' + '  '.join(_padded(column, text, widths[column]) for column, text in enumerate(row))
        for row in rows
    ]


def _padded(column: int, text: str, width: int) -> str:
    return text.ljust(width) if column == 0 else text.rjust(width)
