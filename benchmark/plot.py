"""
Draw the results of a folder: a PNG beside each JSON file that can be drawn.

  python benchmark/plot.py                       # benchmark/results/*.json to *.png
  python benchmark/plot.py --out docs my_machine_stages.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
import json
from pathlib import Path
import sys
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import matplotlib  # noqa: E402

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
import numpy as np  # noqa: E402

from benchmark.common import run_command  # noqa: E402
from sd_perception_ros.paths import user_path  # noqa: E402

RESULTS = Path(__file__).parent / 'results'
OURS, THEIRS, GREY = '#3b7dd8', '#d8572a', '#8c8c8c'


def main(argv: Sequence[str] | None = None) -> int:
    """Write PNG files; return 1 if there was nothing to draw."""
    options = _parser().parse_args(argv)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    drawn = 0
    for file in options.files or sorted(RESULTS.glob('*.json')):
        result = json.loads(file.read_text())
        draw = kind_of(result)
        if draw is None:
            print(f'no picture for {file.name}')
            continue
        try:
            figure = draw(result)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'expected in {file} what a benchmark of this version writes, but {error} is '
                'missing or wrong; measure again'
            ) from error
        machine = result.get('machine', '')
        figure.suptitle(
            ', '.join(filter(None, (file.stem, machine, result.get('commit', '')))), fontsize=8
        )
        picture = (options.out or file.parent) / f'{file.stem}.png'
        figure.savefig(picture, dpi=90)
        pyplot.close(figure)
        print(picture)
        drawn += 1
    return 0 if drawn else 1


def kind_of(result: Any) -> Callable[[dict[str, Any]], Any] | None:
    """Return the function that draws a result, by its keys; None if there is none."""
    if not isinstance(result, dict):
        return None
    return next((draw for key, draw in DRAWN_BY.items() if key in result), None)


def stages(result: dict[str, Any]) -> Any:
    """Draw time, the rate of arithmetic against the machine's peak, and memory, stage by stage."""
    names, peak = list(result['stages']), max(result['peak_gflop_per_s'].values())
    figure, (times, rates, memory) = pyplot.subplots(
        1, 3, figsize=(10, 1.2 + 0.28 * len(names)), layout='constrained', sharey=True
    )
    parts = result['stages'].values()
    bars(
        times,
        names,
        [s['median_ms'] for s in parts],
        'median, ms',
        OURS,
        [s['spread_ms'] for s in parts],
    )
    bars(rates, names, [s['gflop_per_s'] for s in parts], 'GFLOP/s', OURS)
    rates.axvline(peak, color=THEIRS, linestyle='--')
    rates.set_xlim(0, 1.15 * peak)
    rates.set_title(f"dashed: the machine's peak, {peak:.0f}", fontsize=8)
    bars(memory, names, [s['peak_mib'] for s in parts], 'memory more at its peak, MiB', OURS)
    width, height = result['network']
    times.set_title(
        f'network {width}x{height}, whole {result["whole"]["median_ms"]:.0f} ms', fontsize=8
    )
    return figure


def soak(result: dict[str, Any]) -> Any:
    """Draw memory, latency, threads and open files over time, a line for each scene."""
    names = {
        'memory_mib': 'anonymous memory, MiB',
        'latency_ms': 'latency, ms',
        'threads': 'threads',
        'open_files': 'open files',
    }
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 5), layout='constrained', sharex=True)
    for place, (name, label) in zip(axes.flat, names.items(), strict=True):
        for scene in result['soak']:
            samples = scene['samples']
            place.plot(
                [sample['minutes'] for sample in samples],
                [sample[name] for sample in samples],
                label=f'{scene["scene"]} ({scene["memory_slope_mib_per_minute"]:+.2f} MiB/min)',
            )
        place.set_ylabel(label, fontsize=8)
        place.set_ylim(bottom=0)
    axes[0, 0].legend(fontsize=7)
    for place in axes[1]:
        place.set_xlabel('minutes', fontsize=8)
    return figure


def official(result: dict[str, Any]) -> Any:
    """Draw time per frame and peak memory, ours and those of the pipelines of diffusers."""
    names = list(result['median_s'])
    figure, (times, memory) = pyplot.subplots(
        1, 2, figsize=(9, 2.6), layout='constrained', sharey=True
    )
    colors = [OURS if name.startswith('ours') else THEIRS for name in names]
    every = result['seconds']
    spread = [(max(every[name]) - min(every[name])) / 2 for name in names]
    bars(times, names, list(result['median_s'].values()), 'median, s a frame', colors, spread)
    bars(memory, names, [result['peak_mib'][n] / 1024 for n in names], 'peak memory, GiB', colors)
    memory.axvline(0.6 * result['peak_mib'][names[0]] / 1024, color=GREY, linestyle='--')
    memory.set_title('dashed: 0.6 of the first', fontsize=8)
    return figure


def through_ros(result: dict[str, Any]) -> Any:
    """Draw the latency of each scene, split into where it was spent, and what it takes."""
    names = [f'{scene["scene"]}\n{scene["frame"]}' for scene in result['scenes']]
    figure, (times, rates, cores) = pyplot.subplots(
        1,
        3,
        figsize=(11, 0.9 + 0.6 * len(names)),
        layout='constrained',
        sharey=True,
        width_ratios=(2, 1, 1),
    )
    before = [0.0] * len(names)
    for part, color in (('waiting', GREY), ('inference', OURS), ('overhead', THEIRS)):
        found = [scene['times_ms'][f'{part}_ms median'] for scene in result['scenes']]
        times.barh(names, found, left=before, color=color, label=part)
        before = [a + b for a, b in zip(before, found, strict=True)]
    last = [scene['times_ms']['latency_ms p99'] for scene in result['scenes']]
    times.plot(last, range(len(names)), 'k|', markersize=12, label='latency p99')
    times.legend(fontsize=7)
    times.set_xlabel('median, ms', fontsize=8)
    times.invert_yaxis()
    bars(rates, names, [scene['rate_hz'] for scene in result['scenes']], 'results a second', OURS)
    bars(cores, names, [s['processor_cores'] for s in result['scenes']], 'cores busy', OURS)
    return figure


def tasks(result: dict[str, Any]) -> Any:
    """Draw what more tasks, cameras and pixels cost."""
    names = list(result['median_ms'])
    figure, axes = pyplot.subplots(figsize=(6, 2.6), layout='constrained')
    spread = list(result['spread_ms'].values())
    bars(axes, names, list(result['median_ms'].values()), 'median, ms', OURS, spread)
    return figure


def runtimes(result: dict[str, Any]) -> Any:
    """Draw each runtime, for one task and for all."""
    names = [
        f'{runtime}, {name}' for runtime, sets in result['median_ms'].items() for name in sets
    ]
    values = [value for sets in result['median_ms'].values() for value in sets.values()]
    figure, axes = pyplot.subplots(figsize=(6, 1 + 0.3 * len(names)), layout='constrained')
    bars(axes, names, values, 'median, ms', OURS)
    return figure


def metric_depth(result: dict[str, Any]) -> Any:
    """Draw F1 of the marked cells over the tolerance, for each source of the scale."""
    figure, axes = pyplot.subplots(figsize=(5, 3), layout='constrained')
    for source, color in (('sparse', OURS), ('ground', THEIRS)):
        cells = result[source]['cells']
        label = f'{source}: AbsRel {result[source]["abs_rel"]:.3f}'
        axes.plot(list(cells), [c['f1'] for c in cells.values()], 'o-', color=color, label=label)
    axes.set(xlabel='tolerance', ylabel='F1 of marked cells', ylim=(0, 1))
    axes.axhline(result['bars']['f1']['bar'], color=GREY, linestyle='--')
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def families(result: dict[str, Any]) -> Any:
    """Draw the errors of each family of denoisers after the same steps, and the baseline."""
    rows = result['families']
    figure, axes = pyplot.subplots(
        1, 3, figsize=(11, 1 + 0.25 * len(rows)), layout='constrained', sharey=True
    )
    shown = {
        'depth.abs_rel': 'depth AbsRel',
        'normals.mean_deg': 'normals, mean degrees',
        'loss_after': 'loss',
    }
    others = result['guess'] | {'loss_after': [row['loss_frozen'] for row in rows.values()]}
    for part, (key, label) in zip(axes, shown.items(), strict=True):
        bars(part, list(rows), [row[key] for row in rows.values()], label, OURS)
        if key in result['guess']:
            part.axvline(others[key], color=GREY, linestyle='--')
            part.set_title('dashed: baseline, the mean training target', fontsize=8)
        else:
            part.plot(others[key], range(len(rows)), 'k|', markersize=10)
            part.set_title('marks: the same denoiser left as it was', fontsize=8)
        part.set_xlim(0, 1.25 * np.max(others[key]))
    return figure


# A key that only this kind of result has.
DRAWN_BY: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    'stages': stages,
    'times_as_fast': official,
    'scenes': through_ros,
    'times_faster_than_torch': runtimes,
    'ratio': tasks,
    'sparse': metric_depth,
    'families': families,
    'soak': soak,
}


def bars(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float],
    label: str,
    color: Any,
    spread: Sequence[float] | None = None,
) -> None:
    """Draw horizontal bars with their numbers, the first one on top."""
    drawn = axes.barh(range(len(names)), values, xerr=spread, color=color)
    axes.bar_label(drawn, fmt='%.3g', padding=4, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(axis='x', labelsize=7)
    axes.set_xlim(0, 1.22 * max([*values, 1e-9]))
    if not axes.yaxis_inverted():
        axes.invert_yaxis()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'files', nargs='*', type=user_path, help='results (default: all that are here)'
    )
    parser.add_argument(
        '--out', type=user_path, help='folder for PNG files (default: of the results)'
    )
    return parser


if __name__ == '__main__':
    run_command(main)
