"""Progress of a training: a bar with the remaining time, losses, and TensorBoard logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from sd_perception_ros.training.processes import is_main

LOG = 'log'
EVERY = 50  # steps between two logged values
KEPT = 0.98  # decay of the running means of losses
Pictures = Mapping[str, NDArray[np.uint8]]


def follow(
    title: str,
    log: Iterator[tuple[int, dict[str, float]]],
    total: int,
    folder: Path,
    paint: Callable[[], Pictures] | None = None,
    paint_every: int = 0,
) -> dict[str, float]:
    """
    Run a training to its end with a progress bar; return the running means of its losses.

    Only the main process shows and logs them.

    :param folder: TensorBoard logs are written to `log` below it.
    :param paint: returns images of predictions by name, (H, W, 3) uint8 RGB.
    :param paint_every: steps between two calls of `paint`; it is also called at the end.
    """
    if not is_main():
        for _ in log:
            pass
        return {}
    means: dict[str, float] = {}
    with (
        SummaryWriter(str(folder / LOG)) as board,
        tqdm(total=total, desc=title, unit='step', mininterval=5) as bar,
    ):
        for done, losses in log:
            bar.initial = bar.initial or done - 1
            bar.n = done
            for name, loss in losses.items():
                means[name] = KEPT * means.get(name, loss) + (1 - KEPT) * loss
            if done % EVERY == 0 or done == total:
                bar.set_postfix({n: f'{mean:.4f}' for n, mean in means.items()}, refresh=False)
                for name, mean in means.items():
                    board.add_scalar(f'{title}/{name}', mean, done)
            if paint is not None and (done % paint_every == 0 or done == total):
                for name, picture in paint().items():
                    board.add_image(name, picture, done, dataformats='HWC')
            bar.refresh() if done == total else bar.update(0)
    return {name: round(mean, 4) for name, mean in means.items()}
