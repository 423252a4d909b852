"""The training loop that all stages share, on one process or many (accelerate)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import timedelta
import json
import math
from pathlib import Path
import shutil
import signal
import tempfile
import threading
from types import FrameType
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from safetensors import SafetensorError
import torch
from torch import nn, Tensor

from sd_perception_ros.safe_save import complete_folder, remove_folder, replace_folder
from sd_perception_ros.training.graphed_module import GraphedModule
from sd_perception_ros.training.options import TrainingConfig
from sd_perception_ros.training.step_losses import StepLosses

Run = dict[str, Any]
# Options that may differ when a stopped run is resumed. Other `steps` move the end of the learning
# rate schedule; a lower `learning_rate` is the remedy for a run that diverged.
RESUMABLE = {
    'steps',
    'learning_rate',
    'save_every',
    'gradient_accumulation_steps',
    'cuda_graphs',
}
STATE = 'state'
TIMEOUT = timedelta(hours=2)  # the main process checks every file while the others wait
RUN = 'run.json'

# (module as it is wrapped for many processes, step, which pictures of the step's batch) -> losses
LossesOf = Callable[[Any, int, slice], dict[str, Tensor]]


def rate_factor(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step as a share of the highest: rise, fall, then 1 %."""
    rise = min(1.0, (step + 1) / config.warmup_steps)
    share = min(1.0, step / (config.decay_steps or config.steps))
    if config.decay == 'exponential':
        return rise * math.pow(0.01, share)
    return rise * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * share)))


def run_training(
    module: nn.Module,
    losses_of: LossesOf,
    config: TrainingConfig,
    folder: Path,
    about: Mapping[str, object],
) -> Iterator[tuple[int, dict[str, float]]]:
    """
    Fit a module's trainable weights; yields (steps done, losses by name) after every step.

    Everything random in a step comes from (seed, step) and is drawn for the whole batch, of
    which each process takes its part. With losses that are means over pictures, two processes
    with half of the pictures each do what one does with all of them, to rounding; and a run that
    was stopped goes on from its state as if it had never stopped.

    :param losses_of: losses whose sum is descended, each a mean over the pictures of a part. It
        calls the module that it is given, which sums gradients over processes.
    :param folder: the state lies in `state` below it; it replaces the last one when it is whole.
    :param about: what else makes this run this run, such as its data; the state of another one
        is refused. More steps, or fewer, or another learning rate are the same run.
    :raises KeyboardInterrupt: somebody asked to stop; the step that was under way is done, and
        of one process saved.
    :raises FloatingPointError: a loss or a gradient is not finite; the last state stays.
    :raises OSError: the folder or a state cannot be written; the last state stays as it was.
    :raises ValueError: the state is of another run, the batch cannot be parted, or nothing moves.
    """
    run = json.loads(json.dumps({**asdict(config), **about}))
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision='no' if config.precision == 'fp32' else config.precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        # A readout may leave some of its denoiser's outputs unread.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    sharded = accelerator.distributed_type == DistributedType.FSDP
    if sharded and config.ema_decay:
        raise ValueError('ema needs whole weights on each process; set it to 0, or train with DDP')
    if accelerator.is_main_process:
        _check_writable(folder)
    parts = _microbatches(config, accelerator.process_index, accelerator.num_processes)
    if accelerator.device.type == 'cuda':  # float32 with the short factors of tensor cores
        torch.set_float32_matmul_precision('high')
        torch.backends.cudnn.benchmark = True  # windows have few sizes
    # Measured on a CPU: 30 samples/s become 39. FSDP shards contiguous weights only.
    layout = torch.contiguous_format if sharded else torch.channels_last
    module.to(memory_format=layout)  # type: ignore[call-overload]
    moving = [p for p in module.parameters() if p.requires_grad]
    if not moving:
        raise ValueError(
            'no weight would move: the decoder is no readout with weights of its own; take --head '
            'light, or --trainable full'
        )
    optimizer = torch.optim.AdamW(moving, lr=config.learning_rate, weight_decay=1e-4, fused=True)
    wrapped, optimizer = accelerator.prepare(module, optimizer)
    weights = [p for p in wrapped.parameters() if p.requires_grad]
    average = _WeightAverage(weights, config.ema_decay)
    accelerator.register_for_checkpointing(average)
    first = _restore(accelerator, folder, run)
    # With more, gradients would add up in memory that the next replay writes to.
    alone = accelerator.num_processes == 1 and len(parts) == 1
    on_gpu = accelerator.device.type == 'cuda'
    network = GraphedModule(wrapped) if config.cuda_graphs and alone and on_gpu else wrapped
    waiting: list[StepLosses] = []
    stop = _GracefulStop(accelerator.num_processes)
    try:
        for step in range(first, config.steps):
            for param_group in optimizer.param_groups:
                param_group['lr'] = config.learning_rate * rate_factor(step, config)
            # fp16 steps over gradients that overflow, and lowers their scale.
            report = StepLosses(step, config.precision != 'fp16', at_once=not on_gpu)
            for part in parts:
                with accelerator.accumulate(wrapped):
                    torch.manual_seed(config.seed * 1_000_003 + step)
                    losses = losses_of(network, step, part)
                    total = torch.stack(list(losses.values())).sum()
                    accelerator.backward(total)
                    norm = None
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(weights, 1.0)
                    report.add(losses, norm)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
            average.update()
            report.close(accelerator)
            done = step + 1
            stops = stop.asked
            saves = done % config.save_every == 0 or done == config.steps or stops
            # A GPU does not wait until its figures are read: that is done during its next step.
            late = [report] if on_gpu and not saves else []
            checked = [one.read() for one in (waiting if late else [*waiting, report])]
            waiting = late
            if saves:
                _save(accelerator, folder, done, run)
            yield from checked
            if stops:
                raise KeyboardInterrupt
        if stop.asked:  # after the last step: its state is saved
            raise KeyboardInterrupt
        average.take_over()
        if sharded:  # whole weights again, for the process that writes the checkpoint
            _put_whole(module, accelerator.get_state_dict(wrapped))
    finally:  # a serving model has no wrappers
        stop.close()
        accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
        accelerator.free_memory()


def is_main() -> bool:
    """Return whether this process is the one of all that prints and writes."""
    return bool(_process().is_main_process)


def processes() -> int:
    """Return how many processes there are."""
    return int(_process().num_processes)


def device() -> torch.device:
    """Return where this process trains."""
    here: torch.device = _process().device
    return here


def _process() -> PartialState:
    # Several processes without a GPU find one another only where they are told that it is missing.
    # They wait while the main one looks at every file of the data.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)


def discard_state(folder: Path) -> None:
    """Delete the state of a run that has ended."""
    for name in (STATE, f'{STATE}.part'):
        remove_folder(folder / name)


class _GracefulStop:
    """
    Holds the first Ctrl-C or SIGTERM back, so that the step under way can end and be saved.

    A second one stops at once, as any does with several processes: they would stop after
    different steps, and wait for one another.
    """

    def __init__(self, processes: int) -> None:
        self.asked = False
        self._held: list[signal.Signals] = []
        if processes == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # One that does something else is not ours to take.
                if signal.getsignal(number) is signal.default_int_handler:
                    signal.signal(number, self._hold)
                    self._held.append(number)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def close(self) -> None:
        """Hold nothing back any more."""
        for number in self._held:
            signal.signal(number, signal.default_int_handler)


class _WeightAverage:
    """An exponential moving average of weights; nothing at all with a decay of 0."""

    def __init__(self, weights: list[nn.Parameter], decay: float) -> None:
        self.weights = weights
        self.decay = decay
        self.means = [w.detach().clone() for w in weights] if decay else []
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the weights; the first updates move faster, as there is little to keep."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        if self.means:
            torch._foreach_lerp_(self.means, list[Tensor](self.weights), 1 - decay)

    @torch.no_grad()
    def take_over(self) -> None:
        """Make the averages the weights."""
        for mean, weight in zip(self.means, self.weights, strict=False):
            weight.copy_(mean)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""
        return {'means': self.means, 'updates': self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.updates = state['updates']
        for mean, saved in zip(self.means, state['means'], strict=True):
            mean.copy_(saved)


def _microbatches(config: TrainingConfig, process: int, processes: int) -> list[slice]:
    """Return the slices of a step's batch that one process runs, in order."""
    rounds = config.gradient_accumulation_steps
    count = processes * rounds
    if config.batch_size % count:
        raise ValueError(
            f'expected --batch-size to be a multiple of {count} ({processes} processes x {rounds} '
            f'gradient accumulation steps), got {config.batch_size}'
        )
    size = config.batch_size // count
    start = process * rounds * size
    return [slice(start + i * size, start + (i + 1) * size) for i in range(rounds)]


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f'expected a folder that can be written, got {folder} ({error.strerror}); choose '
            'another one before hours of work are lost'
        ) from error


def _put_whole(module: nn.Module, whole: Mapping[str, Tensor]) -> None:
    """Put whole weights in the place of shards, where they are; FSDP keeps load_state_dict."""
    for name, _ in list(module.named_parameters()):
        if name in whole:
            owner, _, own_name = name.rpartition('.')
            setattr(module.get_submodule(owner), own_name, nn.Parameter(whole[name]))


def _save(accelerator: Accelerator, folder: Path, done: int, run: Run) -> None:
    """Write the state beside the last one, then let it take that one's place."""
    part = folder / f'{STATE}.part'
    try:
        if accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(part))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (part / RUN).write_text(json.dumps({'done': done, 'run': run}))
            replace_folder(part, folder / STATE)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(
            f'the state after step {done} could not be written to {folder} ({error}); the one '
            'before it is whole: make room, or the folder writable, and run the same command again'
        ) from error


def _restore(accelerator: Accelerator, folder: Path, run: Run) -> int:
    """Load the state of a stopped run, if there is one; return the steps it had done."""
    state = complete_folder(folder / STATE)
    if not (state / RUN).is_file():
        return 0
    there = json.loads((state / RUN).read_text())
    for name in run.keys() - RESUMABLE:
        if there['run'].get(name) != run[name]:
            raise ValueError(
                f'{state} is of another run, with {name} {there["run"].get(name)} instead of '
                f'{run[name]}; choose another folder, or delete it'
            )
    try:
        accelerator.load_state(str(state))
    except (RuntimeError, KeyError, EOFError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(
            f'{state} does not fit this model, or is broken ({error}); choose another folder, or '
            'delete it'
        ) from error
    accelerator.step = 0  # it counts parts of steps, and there may be another number of them now
    return int(there['done'])
