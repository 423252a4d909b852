"""
Check and time the device of this machine: are predictions those of the CPU, and how fast.

  python benchmark/device_check.py --json benchmark/results/my_gpu_device.json

Every installed runtime predicts all tasks of a VGA image, including the transfer from and to the
CPU, and is compared with torch in fp32 on the CPU: torch with and without CUDA graphs,
torch.compile, ONNX Runtime and TensorRT. TensorRT builds its engines first, which takes minutes.
Neither ROS nor a data set is needed. Without CUDA only the CPU is checked.

ONNX Runtime and TensorRT on a GPU were written without one and have not run on one. Please send us
the JSON file of your machine, also if something fails: docs/runtimes.md says how.

Each row of the JSON file:

  way, runtime, precision, cuda_graphs
  first_s              until the first frames are there, which torch serves
  engines_s            until the engines are built and serve
  median_ms, p95_ms    of a frame with all tasks
  peak_mib             largest memory of torch's tensors
  device_mib           memory of the GPU that is in use after the frames, more than before
  difference           {task: root mean square, in standard deviations of the task's values}
  largest_difference   {task: largest absolute difference of the raw output}
  summary              what runs where
  passes               whether `difference` is small enough, and engines run all parts
  failed, skipped      the reason
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import gc
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
import platform
import statistics
import sys
import time
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmark.common import machine, parser, run_command, write  # noqa: E402
from sd_perception_ros.cli.versions import commit  # noqa: E402
from sd_perception_ros.config import EngineConfig, GPU_RUNTIMES  # noqa: E402
from sd_perception_ros.engine import Engine  # noqa: E402
from sd_perception_ros.ros.replay.sources import open_source  # noqa: E402
from sd_perception_ros.runtimes.choice import choose  # noqa: E402

# How large the root mean square of a task's difference may be, in standard deviations of its
# values. On a CPU the bundled model gave 0.0005 in fp16 and 0.008 in bf16.
PACKAGES = ('diffusers', 'onnx', 'onnxruntime', 'onnxruntime-gpu', 'tensorrt')
BARS = {'fp32': 2e-3, 'fp16': 4e-3, 'bf16': 3e-2}


class Way(NamedTuple):
    """One combination of runtime, precision and CUDA graphs."""

    device: str
    precision: str
    runtime: str
    cuda_graphs: bool

    def __str__(self) -> str:
        kind = {'torch': 'eager', 'torch-compile': 'compile'}.get(self.runtime, self.runtime)
        if self.cuda_graphs:
            kind = 'graph' if kind == 'eager' else f'{kind}+graph'
        return f'{self.device} {self.precision} {kind}'

    def why_not(self) -> str:
        """Return why this machine cannot run it; empty if it can."""
        config = EngineConfig(precision=self.precision, runtime=self.runtime)
        try:
            choose(config, torch.device(self.device))
        except ValueError as error:
            return str(error)
        return ''


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; return 0 if every way that ran is close to fp32 on the CPU."""
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
        elif reason := way.why_not():
            rows.append({'way': str(way), 'skipped': reason})
        else:
            rows.append(check(way, picture, truth, options))
        print(_row(rows[-1]), flush=True)
    ran = [row for row in rows if 'median_ms' in row]
    passes = bool(ran) and all(row['passes'] for row in rows if 'passes' in row)
    result = {
        'machine': _machine(device),
        'versions': _versions(),
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
    """Compare with `truth` and time predictions; an error becomes part of the row."""
    row: dict[str, Any] = {'way': str(way)} | way._asdict()
    on_cuda = way.device != 'cpu'
    if on_cuda:
        gc.collect()  # the engine before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        free_before, _ = torch.cuda.mem_get_info(way.device)
    start = time.perf_counter()
    try:
        engine = Engine.load(options.checkpoint, **way._asdict())
        found = _frames(engine, picture)
        row['first_s'] = round(time.perf_counter() - start, 2)
        if on_cuda and way.runtime in GPU_RUNTIMES:
            if not engine.wait_for_engines(options.build_seconds):
                return row | {'failed': f'no engines in {options.build_seconds:.0f} s'}
            found = _frames(engine, picture)
            row['engines_s'] = round(time.perf_counter() - start, 2)
        row['times'] = _times_ms(engine, picture, options.rounds)
    # A machine may lack a compiler, memory or an instruction: the other ways still count.
    except (RuntimeError, ValueError, ImportError, ArithmeticError) as error:
        return row | {'failed': f'{type(error).__name__}: {str(error).splitlines()[0]}'}
    times = row.pop('times')
    row |= {
        'median_ms': statistics.median(times),
        'p95_ms': float(np.percentile(times, 95)),
        'difference': {name: _difference(found[name], truth[name]) for name in truth},
        'largest_difference': {
            name: float((found[name] - truth[name]).abs().max()) for name in truth
        },
        'summary': engine.summary(),
    }
    if on_cuda:
        row['peak_mib'] = torch.cuda.max_memory_allocated() / 2**20
        row['device_mib'] = (free_before - torch.cuda.mem_get_info(way.device)[0]) / 2**20
    row['passes'] = max(row['difference'].values()) <= BARS[way.precision]
    has_failed = way.cuda_graphs and 'with CUDA graphs' not in row['summary']
    if has_failed or 'torch runs' in row['summary']:
        row |= {'failed': row['summary'], 'passes': False}
    return row


def _frames(engine: Engine, picture: np.ndarray) -> dict[str, Tensor]:
    """Return the raw output of the fourth frame: as it is, recorded, replayed."""
    for _ in range(4):
        found = {name: raw for name, (raw, _) in engine.predict_raw([picture])[0].items()}
    return found


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
    for precision in ('fp32', 'fp16'):
        yield Way(device, precision, 'onnxruntime', False)
        yield Way(device, precision, 'tensorrt', False)
        yield Way(device, precision, 'tensorrt', True)
    if compiles:
        yield Way(device, 'bf16', 'torch-compile', True)
        yield Way(device, 'bf16', 'torch-compile', False)
        yield Way(device, 'fp16', 'torch-compile', True)


def _difference(found: Tensor, truth: Tensor) -> float:
    """Return the root mean square of the difference in standard deviations of the truth."""
    return float((found - truth).square().mean().sqrt() / truth.std().clamp(min=1e-3))


def _picture(width: int, height: int) -> np.ndarray:
    """Return the first image of the bundled film, enlarged."""
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


def _versions() -> dict[str, str]:
    versions = {'python': platform.python_version(), 'torch': torch.__version__}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _parser() -> argparse.ArgumentParser:
    options = parser(__doc__)
    add = options.add_argument
    add('--checkpoint', default='bundled', help='as the parameter checkpoint')
    add('--device', default='auto', help='as the parameter device')
    add('--width', type=int, default=640, help='width of the image')
    add('--height', type=int, default=480, help='height of the image')
    add('--rounds', type=int, default=50, help='how many predictions are timed')
    add('--seconds', type=float, default=900, help='no other way is begun after this time')
    add('--build-seconds', type=float, default=1800, help='longest wait for engines of a way')
    add('--no-compile', dest='compile', action='store_false', help='leave torch.compile out')
    return options


if __name__ == '__main__':
    run_command(main)
