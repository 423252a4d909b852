"""
Measure the time of each stage of a frame, its arithmetic, and the peak rate of the machine.

  python benchmark/stages.py --json benchmark/results/my_machine_stages.json
  python benchmark/stages.py --checkpoint runs/official/full/light --tasks depth --rounds 3

Stages run on the CPU one after the other, as the engine runs them, but each head separately. Their
arithmetic is counted on the torch model, 2 operations for a multiplication and addition. The peak
is the best rate of some large matrix products and convolutions in torch, on the same threads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
import statistics
import sys
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmark.common import (  # noqa: E402
    about_run,
    parser,
    restart_tuned,
    run_command,
    status_mib,
    write,
)
from sd_perception_ros.checkpoint import checkpoint  # noqa: E402
from sd_perception_ros.engine import Engine  # noqa: E402
from sd_perception_ros.images import check_rgb, to_batch, to_levels  # noqa: E402
from sd_perception_ros.model import Model  # noqa: E402
from sd_perception_ros.runtimes.parts import ModelPart, parts_of, run_parts  # noqa: E402

PICTURE, ANSWER, WHOLE = 'resize and pad', 'enlarge and decode', 'the whole frame'
PREDICT = 'Engine.predict'


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; write the figures."""
    options = _parser().parse_args(argv)
    if argv is None:
        restart_tuned()
    engine = Engine.load(
        options.checkpoint,
        tasks=options.tasks,
        device='cpu',
        runtime=options.runtime,
        threads=options.threads,
    )
    print(engine.summary())
    shape = (options.height, options.width, 3)
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    parts = parts_of(_folded(options.checkpoint, list(engine.tasks)))
    result = measure(engine, parts, picture, options.rounds) | {
        'checkpoint': options.checkpoint,
        'threads': torch.get_num_threads(),
    }
    print(table(result))
    write(result, options.json)
    return 0


def measure(
    engine: Engine, parts: Sequence[ModelPart], picture: np.ndarray, rounds: int
) -> dict[str, Any]:
    """
    Run the stages of one image, round after round.

    :param parts: the model's parts on the meta device, whose arithmetic is counted.
    """
    check_rgb(picture)
    served = engine._models[0]
    _, network_size = served.sizes(*picture.shape[:2])
    times_ms: dict[str, list[float]] = {}
    memory_mib: dict[str, float] = {}
    runs = _runs(served.model)

    def timed(stage: str, work: Callable[..., Any], *inputs: Any) -> Any:
        before = _reset_peak_mib()
        begin = time.perf_counter()
        made = work(*inputs)
        elapsed_ms = (time.perf_counter() - begin) * 1000
        times_ms.setdefault(stage, []).append(elapsed_ms)
        memory_mib[stage] = max(memory_mib.get(stage, 0.0), _peak_mib() - before)
        return made

    def resized() -> torch.Tensor:
        levels = to_levels(to_batch([picture], engine.device))
        return served.network_input(levels).contiguous(memory_format=torch.channels_last)

    def decoded(values: dict[str, Any]) -> None:
        for name, task in engine.tasks.items():
            size = picture.shape[:2]
            raw = served.at_image_size(name, values[f'head_{name}'][0], *size)
            task.decode(raw[0], served.grid(name, raw[0], *size))

    for round_number in tqdm(range(rounds + 1), unit='round'):
        if round_number == 1:  # the first one warmed up
            times_ms.clear()
        with torch.inference_mode():
            values = {'': (timed(PICTURE, resized),)}
            for part in parts:
                values[part.name] = timed(part.name, runs[part.name], *values[part.source])
            timed(ANSWER, decoded, values)
        timed(PREDICT, engine.predict, [picture])
    gflop = count_gflop(parts, network_size)
    peak = measured_peak()
    stages = {
        stage: _figures(values_ms, gflop.get(stage, 0.0), memory_mib[stage])
        for stage, values_ms in times_ms.items()
    }
    whole = stages.pop(PREDICT)
    total = sum(gflop.values())
    whole |= {'gflop': total, 'gflop_per_s': total / whole['median_ms'] * 1000}
    return {
        **about_run(),
        'engine': engine.summary(),
        'picture': [picture.shape[1], picture.shape[0]],
        'network': [network_size[1], network_size[0]],
        'rounds': rounds,
        'peak_gflop_per_s': peak,
        'stages': stages,
        'whole': whole,
        'resident_mib': status_mib('VmRSS'),
    }


def _figures(times_ms: Sequence[float], gflop: float, peak_mib: float) -> dict[str, float]:
    median_ms = statistics.median(times_ms)
    return {
        'median_ms': median_ms,
        'spread_ms': statistics.pstdev(times_ms),
        'gflop': gflop,
        'gflop_per_s': gflop / median_ms * 1000,
        'peak_mib': peak_mib,
    }


def count_gflop(parts: Sequence[ModelPart], size: tuple[int, int]) -> dict[str, float]:
    """Count the arithmetic of each part for an image of (height, width), in 10^9 operations."""
    values = run_parts(parts, torch.empty(1, 3, *size, device='meta'))
    counted = {}
    for part in parts:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            part.module(*values[part.source])
        counted[part.name] = counter.get_total_flops() / 1e9
    return counted


def measured_peak(tries: int = 5) -> dict[str, float]:
    """Return the highest GFLOP/s of matrix products and convolutions on this machine."""
    square = torch.rand(2048, 2048)
    image = torch.rand(1, 256, 96, 128).contiguous(memory_format=torch.channels_last)
    kernel = torch.rand(256, 256, 3, 3).contiguous(memory_format=torch.channels_last)
    works: dict[str, tuple[Callable[[], Any], float]] = {
        'matrix product': (lambda: square @ square, 2 * 2048**3),
        'convolution': (
            lambda: torch.nn.functional.conv2d(image, kernel, padding=1),
            2 * 96 * 128 * 256 * 256 * 9,
        ),
    }
    best = {}
    for name, (work, flop) in works.items():
        seconds = []
        for _ in range(tries + 1):
            begin = time.perf_counter()
            with torch.inference_mode():
                work()
            seconds.append(time.perf_counter() - begin)
        best[name] = flop / min(seconds) / 1e9
    return best


def table(result: dict[str, Any]) -> str:
    """Write the result for people."""
    peak = max(result['peak_gflop_per_s'].values())
    width, height = result['picture']
    lines = [
        f'{width}x{height} image, the network sees {result["network"][0]}x'
        f'{result["network"][1]}; {result["threads"]} threads, load average '
        f'{result["load_average"]:.1f}; the machine reaches {peak:.0f} GFLOP/s',
        '',
        f'  {"":22}{"ms":>9}{"+-":>7}{"GFLOP":>10}{"GFLOP/s":>9}{"of peak":>9}{"MiB more":>10}',
    ]
    for stage, figures in (result['stages'] | {WHOLE: result['whole']}).items():
        rate = figures['gflop_per_s']
        arithmetic = f'{figures["gflop"]:10.2f}{rate:9.1f}{rate / peak:9.0%}' if rate else ' ' * 28
        lines.append(
            f'  {stage:22}{figures["median_ms"]:9.1f}{figures["spread_ms"]:7.1f}{arithmetic}'
            f'{figures["peak_mib"]:10.0f}'
        )
    together = sum(figures['median_ms'] for figures in result['stages'].values())
    lines += [
        '',
        f'  stages together {together:.1f} ms; the process holds {result["resident_mib"]:.0f} MiB',
    ]
    return '\n'.join(lines)


def _folded(name: str, tasks: list[str]) -> Model:
    model, _ = checkpoint.load(name, tasks, device='meta')
    model.fold()
    return model


def _runs(model: Any) -> dict[str, Callable[..., tuple[torch.Tensor, ...]]]:
    """Return what runs each part, in torch or in another runtime."""
    if isinstance(model, Model):
        return {part.name: part.module for part in parts_of(model)}
    sessions: dict[str, Callable[..., tuple[torch.Tensor, ...]]] = model._sessions
    return sessions


def _reset_peak_mib() -> float:
    """Reset the peak of the memory to its current value, and return it."""
    Path('/proc/self/clear_refs').write_text('5')
    return status_mib('VmRSS')


def _peak_mib() -> float:
    return status_mib('VmHWM')


def _parser() -> argparse.ArgumentParser:
    options = parser(__doc__)
    add = options.add_argument
    add('--checkpoint', default='bundled', help='as the parameter checkpoint')
    add('--tasks', nargs='*', default=[], help='only these (default: all)')
    add('--runtime', default='torch', help='as the parameter runtime')
    add('--threads', type=int, default=0, help='as the parameter threads')
    add('--width', type=int, default=640, help='width of the image')
    add('--height', type=int, default=480, help='height of the image')
    add('--rounds', type=int, default=20, help='how often the stages run')
    return options


if __name__ == '__main__':
    run_command(main)
