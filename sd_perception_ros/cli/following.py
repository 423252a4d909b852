"""Progress of a training: a bar with the remaining time, losses, and TensorBoard logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
import time

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from sd_perception_ros.cli.contact_sheet import grid
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.training.loop import rate_factor
from sd_perception_ros.training.options import TrainingConfig
from sd_perception_ros.training.processes import is_main
from sd_perception_ros.training.validation import Validated
from sd_perception_ros.types import UInt8

LOG = 'log'
VALIDATION = 'validation'  # a run of its own in TensorBoard: its losses lie beside those of `LOG`
EVERY = 50  # steps between two logged values
KEPT = 0.98  # decay of the running means of losses
COLUMNS = ('image', 'truth', 'prediction')
Pictures = Mapping[str, Sequence[tuple[UInt8, UInt8, UInt8]]]  # by task and frame: `COLUMNS`


def follow(
    title: str,
    log: Iterator[tuple[int, dict[str, float]]],
    config: TrainingConfig,
    folder: Path,
    paint: Callable[[], Pictures] | None = None,
) -> dict[str, float]:
    """
    Run a training to its end with a progress bar; return the running means of its losses.

    Only the main process prints and logs.

    :param folder: TensorBoard logs are written to `log` below it: losses, learning rate, images
        a second, and pictures of predictions whenever a state is saved.
    :param paint: returns images of predictions.
    """
    if not is_main():
        for _ in log:
            pass
        return {}
    means: dict[str, float] = {}
    with (
        SummaryWriter(str(folder / LOG)) as board,
        tqdm(total=config.steps, desc=title, unit='step', mininterval=5) as bar,
    ):
        since, then = 0, 0.0  # steps done at the last logged value, and when
        for done, losses in log:
            bar.initial = bar.initial or done - 1
            bar.n = done
            for name, loss in losses.items():
                means[name] = KEPT * means.get(name, loss) + (1 - KEPT) * loss
            if done % EVERY == 0 or done == config.steps:
                bar.set_postfix({n: f'{mean:.4f}' for n, mean in means.items()}, refresh=False)
                for name, mean in means.items():
                    board.add_scalar(f'{title}/{name}', mean, done)
                rate = config.learning_rate * rate_factor(done - 1, config)
                board.add_scalar('training/learning_rate', rate, done)
                now = time.monotonic()
                if since:
                    images = (done - since) * config.batch_size
                    board.add_scalar('training/images_per_second', images / (now - then), done)
                since, then = done, now
            if paint is not None and (done % config.save_every == 0 or done == config.steps):
                for name, rows in paint().items():
                    sheet = grid([list(zip(COLUMNS, row, strict=True)) for row in rows])
                    board.add_image(name, sheet, done, dataformats='HWC')
            bar.refresh() if done == config.steps else bar.update(0)
    return {name: round(mean, 4) for name, mean in means.items()}


class ValidationLog:
    """
    Prints each validation in one line and logs it for TensorBoard.

    :param title: of the training, as for `follow`.
    :param folder: as for `follow`.
    :ivar best: the best result since the start of this process; None: none was better than before.
    """

    def __init__(self, title: str, tasks: Mapping[str, Task], folder: Path) -> None:
        self._title, self._tasks = title, tasks
        self._folder = folder / LOG / VALIDATION
        self.best: Validated | None = None

    def __call__(self, result: Validated) -> None:
        """Print and log a result."""
        if result.best:
            self.best = result
        with SummaryWriter(str(self._folder)) as board:
            for name, loss in result.losses.items():
                board.add_scalar(f'{self._title}/{name}', loss, result.step)
            for name, metrics in result.metrics.items():
                for metric, value in metrics.items():
                    board.add_scalar(f'{name}/{metric}', value, result.step)
        headlines = ', '.join(
            f'{name} {task.headline} {result.metrics[name][task.headline]:.3f}'
            for name, task in self._tasks.items()
            if task.headline in result.metrics[name]
        )
        best = ' (lowest so far)' if result.best else ''
        loss = sum(result.losses.values())
        tqdm.write(f'validation after step {result.step}: loss {loss:.4f}{best}; {headlines}')
