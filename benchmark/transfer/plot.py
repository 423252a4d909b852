"""
Draw and tabulate what transfer.py measured.

  python benchmark/transfer/plot.py runs/transfer --picture docs/transfer.png \
      --json benchmark/results/transfer.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
import statistics
import sys
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import matplotlib  # noqa: E402

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402

from benchmark.common import run_command  # noqa: E402

STARTS = {
    'scratch': ('from scratch', '#8c8c8c'),
    'frozen': ('frozen', '#3b7dd8'),
    'pretrained': ('fine-tuned', '#d8572a'),
}
# Task, figure, what it is called, and whether more is better.
FIGURES = (
    ('depth', 'abs_rel', 'AbsRel, lower is better'),
    ('depth', 'delta1', 'delta1, higher is better'),
    ('human_pose', 'pck_0.2', 'PCK@0.2, higher is better'),
)
# One figure is of runs that have these in common.
SETTINGS = ('steps', 'batch', 'pictures', 'learning_rate', 'base', 'timestep', 'held_frames')


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table in Markdown; write image and figures."""
    options = _parser().parse_args(argv)
    files = sorted(options.runs.glob('*.json'))
    runs = [json.loads(file.read_text()) for file in files]
    if not runs:
        raise ValueError(f'expected results of transfer.py in {options.runs}, found none')
    for file, one in zip(files, runs, strict=True):
        if not isinstance(one, dict) or 'metrics' not in one:
            raise ValueError(
                f'expected a run of transfer.py in {file}; name a folder of those alone'
            )
        differing = [name for name in SETTINGS if one.get(name) != runs[0].get(name)]
        if differing:
            raise ValueError(
                f'{file} and {files[0]} differ in {", ".join(differing)}: no spread over seeds; '
                'name a folder of runs with the same options'
            )
    print(table(runs))
    if options.picture:
        draw(runs, options.picture)
    if options.json:
        options.json.write_text(json.dumps(runs, indent=1) + '\n')
    return 0


def spread(
    runs: Sequence[dict[str, Any]], start: str, frames: int, task: str, figure: str
) -> tuple[float, float]:
    """Return mean and standard deviation over seeds; the deviation of one seed is 0."""
    values = [
        run['metrics'][task][figure]
        for run in runs
        if (run['start'], run['frames']) == (start, frames)
    ]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return rows of starts, columns of labelled frames, for each figure."""
    sizes = sorted({run['frames'] for run in runs})
    lines = ['| | ' + ' | '.join(f'{size} frames' for size in sizes) + ' |']
    lines.append('|---' * (len(sizes) + 1) + '|')
    for task, figure, title in FIGURES:
        for start, (name, _) in _begun(runs).items():
            cells = (spread(runs, start, size, task, figure) for size in sizes)
            numbers = ' | '.join(f'{mean:.3f} ± {deviation:.3f}' for mean, deviation in cells)
            lines.append(f'| {task} {title.split(",")[0]}, {name} | {numbers} |')
    return '\n'.join(lines)


def draw(runs: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw one panel for each figure: a line for each start, bars of one standard deviation."""
    sizes = sorted({run['frames'] for run in runs})
    figure, panels = pyplot.subplots(1, len(FIGURES), figsize=(11, 3.4), layout='constrained')
    for panel, (task, name, title) in zip(panels, FIGURES, strict=True):
        for start, (label, color) in _begun(runs).items():
            means, bars = zip(*(spread(runs, start, s, task, name) for s in sizes), strict=True)
            panel.errorbar(sizes, means, bars, label=label, color=color, marker='o', capsize=3)
        panel.set(xscale='log', xlabel='labelled frames', title=f'{task}: {title}')
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(file, dpi=110)


def _begun(runs: Sequence[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Return the starts that are among the runs."""
    return {start: look for start, look in STARTS.items() if start in {r['start'] for r in runs}}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('runs', type=Path, help='Folder that transfer.py wrote')
    parser.add_argument('--picture', type=Path, help='PNG to draw')
    parser.add_argument('--json', type=Path, help='File for all runs together')
    return parser


if __name__ == '__main__':
    run_command(main)
