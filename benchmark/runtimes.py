"""
Measure every runtime that is installed: latency of a frame, for one task, some and all.

  python benchmark/runtimes.py --json benchmark/results/my_machine_runtimes.json

The image is VGA and is resized to the long side of the checkpoint. Runtimes run in turn, so that a
machine that slows down affects all of them alike. Ratios are those of medians to torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import statistics
import sys
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmark.common import about_run, parser, restart_tuned, run_command, write  # noqa: E402
from sd_perception_ros.engine import Engine  # noqa: E402
from sd_perception_ros.ros.replay.sources import open_source  # noqa: E402
from sd_perception_ros.runtimes.sessions import missing_packages, SESSIONS  # noqa: E402

BARS_HZ = {'torch': 6.0, 'best': 10.0}  # all tasks; the node's own work comes on top
PACKAGES = ('torch', 'diffusers', 'numpy', 'onnx', *SESSIONS)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; return 0 if torch and the best runtime reach their target rates."""
    options = _parser().parse_args(argv)
    if argv is None:
        restart_tuned()
    runtimes = options.runtimes or ['torch', *(n for n in SESSIONS if not missing_packages(n))]
    engines, started_s = {}, {}
    picture = _picture(options.width, options.height)
    for runtime in dict.fromkeys(['torch', *runtimes]):
        begin = time.perf_counter()
        engines[runtime] = Engine.load(
            options.checkpoint, device='cpu', runtime=runtime, threads=options.threads
        )
        engines[runtime].warm_up(*picture.shape[:2])
        started_s[runtime] = round(time.perf_counter() - begin, 2)
        print(f'{started_s[runtime]:6.1f} s to start  {engines[runtime].summary()}', flush=True)
    result = measure(engines, picture, options.rounds) | {
        'started_s': started_s,
        'checkpoint': options.checkpoint,
        'threads': torch.get_num_threads(),
    }
    print(table(result))
    write(result, options.json)
    return 0 if result['passes'] else 1


def measure(engines: dict[str, Engine], picture: np.ndarray, rounds: int) -> dict[str, Any]:
    """Predict one image with every runtime and set of tasks, round after round."""
    names = list(engines['torch'].tasks)
    sets = {'1 task': names[:1], f'{len(names)} tasks': names}
    times_ms: dict[str, dict[str, list[float]]] = {r: {n: [] for n in sets} for r in engines}
    for round_number in tqdm(range(rounds + 2), unit='round'):
        for runtime, engine in engines.items():
            for name, tasks in sets.items():
                begin = time.perf_counter()
                engine.predict([picture], tasks)
                if round_number >= 2:  # the first ones warm up
                    times_ms[runtime][name].append((time.perf_counter() - begin) * 1000)
    medians = {
        runtime: {name: statistics.median(values) for name, values in each.items()}
        for runtime, each in times_ms.items()
    }
    all_tasks = {runtime: 1000 / each[list(sets)[-1]] for runtime, each in medians.items()}
    best = max(all_tasks, key=lambda runtime: all_tasks[runtime])
    truth = engines['torch'].predict_raw([picture])[0]
    return {
        **about_run(),
        'picture': [picture.shape[1], picture.shape[0]],
        'tasks': sets,
        'rounds': rounds,
        'median_ms': medians,
        'spread_ms': {
            runtime: {
                name: statistics.quantiles(values, n=4)[::2] for name, values in each.items()
            }
            for runtime, each in times_ms.items()
        },
        'times_faster_than_torch': {
            runtime: {name: medians['torch'][name] / value for name, value in each.items()}
            for runtime, each in medians.items()
        },
        'largest_difference_from_torch': {
            runtime: {
                name: float((raw - truth[name][0]).abs().max())
                for name, (raw, _) in engine.predict_raw([picture])[0].items()
            }
            for runtime, engine in engines.items()
        },
        'all_tasks_hz': all_tasks,
        'best': best,
        'passes': all_tasks['torch'] >= BARS_HZ['torch'] and all_tasks[best] >= BARS_HZ['best'],
    }


def table(result: dict[str, Any]) -> str:
    """Write the result for people."""
    sets = list(result['tasks'])
    lines = [
        f'{result["picture"][0]} x {result["picture"][1]} image, {result["threads"]} threads, '
        f'load average {result["load_average"]:.1f}; ms, and times as fast as torch',
        '',
        f'  {"":16}'
        + ''.join(f'{name:>20}' for name in sets)
        + '      all tasks, Hz   difference',
    ]
    for runtime, medians in result['median_ms'].items():
        cells = ''.join(
            f'{medians[name]:11.1f} {result["times_faster_than_torch"][runtime][name]:6.2f} x'
            for name in sets
        )
        worst = max(result['largest_difference_from_torch'][runtime].values())
        rate = result['all_tasks_hz'][runtime]
        lines.append(f'  {runtime:16}{cells}{rate:19.1f}{worst:13.0e}')
    verdict = 'passes' if result['passes'] else 'FAILS'
    bar = f'all tasks at {BARS_HZ["torch"]:g} Hz in torch and {BARS_HZ["best"]:g} Hz in the best'
    return '\n'.join([*lines, '', f'  {verdict}: {bar} ({result["best"]})'])


def _picture(width: int, height: int) -> np.ndarray:
    """Return the first image of the bundled film, enlarged."""
    return np.ascontiguousarray(cv2.resize(open_source('demo').frame(0).rgb, (width, height)))


def _parser() -> argparse.ArgumentParser:
    options = parser(__doc__)
    add = options.add_argument
    add('--checkpoint', default='bundled', help='as the parameter checkpoint')
    add('--runtimes', nargs='*', help='torch and these; default: all installed but torch-compile')
    add('--threads', type=int, default=0, help='as the parameter threads')
    add('--width', type=int, default=640, help='width of the image')
    add('--height', type=int, default=480, help='height of the image')
    add('--rounds', type=int, default=30, help='how often each is predicted')
    return options


if __name__ == '__main__':
    run_command(main)
