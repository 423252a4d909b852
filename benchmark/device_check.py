"""
Check and time this machine's device: the same predictions as on the CPU, and how long they take.

  python benchmark/device_check.py --json benchmark/results/my_gpu_device.json

A VGA picture goes in, predictions of all tasks come out, both on the CPU's side. Every way of
running the model is compared with fp32 on the CPU. It needs neither ROS nor a data set. Without
CUDA there is only the CPU to check.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
import platform
import statistics
import sys
import time
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import diffusers  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmark.common import machine, parser, run_command, write  # noqa: E402
from sd_perception_ros.cli.versions import commit  # noqa: E402
from sd_perception_ros.engine import Engine  # noqa: E402
from sd_perception_ros.ros.replay.sources import open_source  # noqa: E402

# How large the root mean square of a task's difference may be, in standard deviations of its
# values. On a CPU the bundled model gave 0.0005 in fp16 and 0.008 in bf16.
BARS = {'fp32': 2e-3, 'fp16': 4e-3, 'bf16': 3e-2}


class Way(NamedTuple):
    """One way of running the model."""

    device: str
    precision: str
    runtime: str
    cuda_graphs: bool

    def __str__(self) -> str:
        kind = 'compile' if self.runtime == 'torch-compile' else 'eager'
        if self.cuda_graphs:
            kind = 'graph' if kind == 'eager' else 'compile+graph'
        return f'{self.device} {self.precision} {kind}'


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; return 0 when every way that ran is close to the CPU's fp32."""
    options = _parser().parse_args(argv)
    begin = time.monotonic()
    device = options.device
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    picture = _picture(options.width, options.height)
    reference = Engine.load(options.checkpoint, device='cpu')
    truth = {name: raw for name, (raw, _) in reference.predict_raw([picture])[0].items()}
    print(_machine(device), flush=True)
    print(f'{"way":28}{"median":>9}{"p95":>9}  ms{"memory":>9}  MiB   difference', flush=True)
    rows = []
    for way in _ways(device, options.compile):
        if time.monotonic() - begin > options.seconds:
            rows.append({'way': str(way), 'skipped': f'{options.seconds} s are over'})
        else:
            rows.append(check(way, picture, truth, options))
        print(_row(rows[-1]), flush=True)
    ran = [row for row in rows if 'median_ms' in row]
    passes = bool(ran) and all(row['passes'] for row in rows if 'passes' in row)
    result = {
        'machine': _machine(device),
        'versions': {
            'python': platform.python_version(),
            'torch': torch.__version__,
            'diffusers': diffusers.__version__,
        },
        'commit': commit(),
        'picture': [options.width, options.height],
        'tasks': list(truth),
        'checkpoint': options.checkpoint,
        'rows': rows,
        'passes': passes,
    }
    write(result, options.json)
    print(f'{"passes" if passes else "FAILS"}, {time.monotonic() - begin:.0f} s')
    return 0 if passes else 1


def check(
    way: Way, picture: np.ndarray, truth: dict[str, Tensor], options: argparse.Namespace
) -> dict[str, Any]:
    """Compare with the truth, and time predictions; what fails is told, and the rest goes on."""
    row: dict[str, Any] = {'way': str(way)}
    on_cuda = way.device != 'cpu'
    if on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    try:
        engine = Engine.load(options.checkpoint, **way._asdict())
        for _ in range(4):  # as it is, recorded, replayed
            found = {name: raw for name, (raw, _) in engine.predict_raw([picture])[0].items()}
        row['first_s'] = round(time.perf_counter() - start, 2)
        row['times'] = _times_ms(engine, picture, options.rounds)
    # A machine may lack a compiler, memory or an instruction: the other ways still count.
    except (RuntimeError, ValueError, ImportError, ArithmeticError) as error:
        return row | {'failed': f'{type(error).__name__}: {str(error).splitlines()[0]}'}
    times = sorted(row.pop('times'))
    row |= {
        'median_ms': statistics.median(times),
        'p95_ms': times[int(0.95 * (len(times) - 1))],
        'difference': {name: _difference(found[name], truth[name]) for name in truth},
        'summary': engine.summary(),
    }
    if on_cuda:
        row['peak_mib'] = torch.cuda.max_memory_allocated() / 2**20
    row['passes'] = max(row['difference'].values()) <= BARS[way.precision]
    if way.cuda_graphs and 'with CUDA graphs' not in row['summary']:
        row |= {'failed': row['summary'], 'passes': False}
    return row


def _times_ms(engine: Engine, picture: np.ndarray, rounds: int) -> list[float]:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        engine.predict([picture])
        times.append((time.perf_counter() - begin) * 1000)
    return times


def _ways(device: str, compiles: bool) -> Iterator[Way]:
    if device == 'cpu':
        yield Way('cpu', 'fp32', 'torch', False)
        if compiles:
            yield Way('cpu', 'fp32', 'torch-compile', False)
        return
    for precision in ('fp32', 'bf16', 'fp16'):
        for graphs in (False, True):
            yield Way(device, precision, 'torch', graphs)
    if compiles:
        yield Way(device, 'bf16', 'torch-compile', True)
        yield Way(device, 'bf16', 'torch-compile', False)
        yield Way(device, 'fp16', 'torch-compile', True)


def _difference(found: Tensor, truth: Tensor) -> float:
    """Return the root mean square of the difference in standard deviations of the truth."""
    return float((found - truth).square().mean().sqrt() / truth.std().clamp(min=1e-3))


def _picture(width: int, height: int) -> np.ndarray:
    """Return the first picture of the bundled film, enlarged."""
    import cv2

    return np.ascontiguousarray(cv2.resize(open_source('demo').frame(0).rgb, (width, height)))


def _row(row: dict[str, Any]) -> str:
    text = f'{row["way"]:28}'
    if 'median_ms' in row:
        task, worst = max(row['difference'].items(), key=lambda pair: pair[1])
        memory = f'{row["peak_mib"]:9.0f}' if 'peak_mib' in row else f'{"-":>9}'
        text += f'{row["median_ms"]:9.2f}{row["p95_ms"]:9.2f}    {memory}'
        text += f'        {worst:.1e} {task}, first {row["first_s"]:.1f} s'
    for why in ('failed', 'skipped'):
        if why in row:
            text += f'  {why}: {row[why]}'
    return text


def _machine(device: str) -> str:
    if device != 'cpu':
        return f'{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}'
    return machine()


def _parser() -> argparse.ArgumentParser:
    options = parser(__doc__)
    add = options.add_argument
    add('--checkpoint', default='bundled', help='as the parameter checkpoint')
    add('--device', default='auto', help='as the parameter device')
    add('--width', type=int, default=640, help='of the picture')
    add('--height', type=int, default=480, help='of the picture')
    add('--rounds', type=int, default=50, help='how many predictions are timed')
    add('--seconds', type=float, default=75, help='no other way is begun after this time')
    add('--no-compile', dest='compile', action='store_false', help='leave torch.compile out')
    return options


if __name__ == '__main__':
    run_command(main)
