"""
Measure what more tasks, cameras and pixels cost: one denoiser pass serves all tasks.

  python benchmark/task_cost.py --json benchmark/results/my_machine_tasks.json

One image is predicted with the first task, with five, and with all tasks of the checkpoint; then
images of several cameras as one batch, and one at other sizes of the network. All run in turn, so
that a machine that slows down affects all of them alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
import statistics
import sys
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmark.common import about_run, parser, restart_tuned, run_command, write  # noqa: E402
from sd_perception_ros.engine import Engine  # noqa: E402

BAR = 1.3
CAMERAS = (2, 4)
SIDES_PX = (128, 512)
FIVE = ('depth', 'normals', 'segmentation', 'matting', 'human_pose')


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; return 0 if five tasks cost at most 1.3 times one."""
    options = _parser().parse_args(argv)
    if argv is None:
        restart_tuned()
    engine, *others = (
        Engine.load(
            options.checkpoint,
            device=options.device,
            threads=options.threads,
            runtime=options.runtime,
            long_side_px=side,
        )
        for side in (0, *SIDES_PX)
    )
    print(engine.summary())
    result = measure(engine, options.rounds, dict(zip(SIDES_PX, others, strict=True)))
    print(table(result))
    write(result, options.json)
    return 0 if result['passes'] else 1


def measure(
    engine: Engine, rounds: int, others: Mapping[int, Engine] | None = None
) -> dict[str, Any]:
    """
    Predict a VGA image in each way, round after round.

    :param others: the same model at other long sides.
    """
    others = others or {}
    five = [task for task in FIVE if task in engine.tasks]
    sets = {'1 task': five[:1], f'{len(five)} tasks': five, 'all tasks': list(engine.tasks)}
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    runs: dict[str, tuple[Engine, int, list[str]]] = {
        name: (engine, 1, tasks) for name, tasks in sets.items()
    }
    runs |= {f'{count} cameras': (engine, count, five) for count in CAMERAS}
    runs |= {f'long side {side} px': (other, 1, five) for side, other in others.items()}
    times_ms: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in tqdm(range(rounds + 2), unit='round'):
        for name, (one, count, tasks) in runs.items():
            begin = time.perf_counter()
            one.predict([picture] * count, tasks)
            if round_number >= 2:  # the first ones warm up
                times_ms[name].append((time.perf_counter() - begin) * 1000)
    medians = {name: statistics.median(values) for name, values in times_ms.items()}
    alone = medians['1 task']
    return {
        **about_run(),
        'engine': engine.summary(),
        'tasks': {name: tasks for name, (_, _, tasks) in runs.items()},
        'median_ms': medians,
        'spread_ms': {name: statistics.pstdev(values) for name, values in times_ms.items()},
        'ratio': {name: value / alone for name, value in medians.items()},
        'passes': medians[f'{len(five)} tasks'] / alone <= BAR,
    }


def table(result: dict[str, Any]) -> str:
    """Write the result for people."""
    lines = [f'VGA image, load average {result["load_average"]:.1f}', '']
    for name, median in result['median_ms'].items():
        tasks = ', '.join(result['tasks'][name])
        lines.append(f'  {name:18}{median:8.1f} ms  {result["ratio"][name]:5.2f} x  {tasks}')
    verdict = 'passes' if result['passes'] else 'FAILS'
    return '\n'.join([*lines, '', f'  {verdict}: five tasks cost at most {BAR} times one'])


def _parser() -> argparse.ArgumentParser:
    options = parser(__doc__)
    add = options.add_argument
    add('--checkpoint', default='bundled', help='as the parameter checkpoint')
    add('--device', default='auto', help='as the parameter device')
    add('--runtime', default='torch', help='as the parameter runtime')
    add('--threads', type=int, default=0, help='as the parameter threads')
    add('--rounds', type=int, default=20, help='how often each set is predicted')
    return options


if __name__ == '__main__':
    run_command(main)
