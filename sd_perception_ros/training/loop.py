"""The training loop of every stage, on one process or several (accelerate)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
import json
import math
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    TorchDynamoPlugin,
)
import torch
from torch import nn, Tensor

from sd_perception_ros.training.average import WeightAverage
from sd_perception_ros.training.graphed_module import GraphedModule
from sd_perception_ros.training.options import TrainingConfig
from sd_perception_ros.training.processes import check_environment
from sd_perception_ros.training.state import check_writable, restore_state, save_state
from sd_perception_ros.training.step_losses import StepLosses
from sd_perception_ros.training.stopping import GracefulStop
from sd_perception_ros.training.validation import BEST, load_best, Validation

# (module, step, slice of the step's batch) -> losses by name. The module is wrapped by accelerate
# and sums gradients over processes.
LossesOf = Callable[[Any, int, slice], dict[str, Tensor]]


def run_training(
    module: nn.Module,
    losses_of: LossesOf,
    config: TrainingConfig,
    folder: Path,
    identity: Mapping[str, object],
    validation: Validation | None = None,
) -> Iterator[tuple[int, dict[str, float]]]:
    """
    Train the weights of a module that require gradients; yields (steps done, losses by name).

    Randomness of a step depends only on (seed, step) and is drawn for the whole batch, of which
    each process uses its slice. Therefore a stopped run is resumed exactly, and several processes
    give the same result as one, up to rounding.

    :param losses_of: returns losses, each a mean over images; their sum is minimised.
    :param folder: the training state is saved in `state` below it.
    :param identity: identifies the run besides `config`, for example by its data: a saved state
        with another identity is refused.
    :param validation: run by the main process where it is due, with the average of the weights,
        before the losses of its step are yielded. At the end, the weights become the best ones
        that it kept. Not with FSDP.
    :raises KeyboardInterrupt: on Ctrl-C or SIGTERM; with a single process the current step is
        finished and saved before.
    :raises FloatingPointError: a loss or a gradient is not finite; the last state stays.
    :raises OSError: the folder or a state cannot be written; the last state stays.
    :raises ValueError: the saved state is of another run, the batch size cannot be divided, or
        no weight requires gradients.
    """
    accelerator = _accelerator(config)
    if accelerator.is_main_process:
        check_writable(folder)
    if validation is not None and _is_sharded(accelerator):
        raise ValueError(
            '--validate does not work with FSDP, where no process has all weights; leave it out, '
            'or use DDP'
        )
    setup = _prepare(module, losses_of, config, accelerator)
    average = WeightAverage(setup.weights, config.ema_decay)
    accelerator.register_for_checkpointing(average)
    run = json.loads(json.dumps({**asdict(config), **identity}))
    first = restore_state(accelerator, folder, run)
    if not first and accelerator.is_main_process:
        (folder / BEST).unlink(missing_ok=True)  # of another run
    stop = GracefulStop(accelerator.num_processes)
    pending: list[StepLosses] = []
    try:
        for step in range(first, config.steps):
            losses = _train_step(setup, step)
            average.update()
            done, stopping = step + 1, stop.requested
            saving = done % config.save_every == 0 or done == config.steps or stopping
            # Losses on a GPU are read one step later, without waiting for it.
            late = setup.on_gpu and not saving
            results = [each.read() for each in (pending if late else [*pending, losses])]
            pending = [losses] if late else []
            if saving:
                save_state(accelerator, folder, done, run)
            if validation is not None and validation.is_due(done, config.steps):
                _validate(validation, setup, average, done)
            yield from results
            if stopping:
                raise KeyboardInterrupt
        if stop.requested:  # after the last step, which is saved
            raise KeyboardInterrupt
        average.copy_to_weights()
        if validation is not None and accelerator.is_main_process:
            load_best(validation.folder, setup.weights)
        if _is_sharded(accelerator):  # the main process writes the checkpoint
            _gather_weights(module, accelerator.get_state_dict(setup.wrapped))
    finally:
        stop.close()
        accelerator.unwrap_model(setup.wrapped, keep_fp32_wrapper=False)
        accelerator.free_memory()


def rate_factor(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step relative to its peak: warm-up, then decay to 1 %."""
    warmup = min(1.0, (step + 1) / config.warmup_steps)
    progress = min(1.0, step / (config.decay_steps or config.steps))
    if config.decay == 'exponential':
        return warmup * math.pow(0.01, progress)
    return warmup * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * progress)))


@dataclass(frozen=True)
class _Setup:
    """
    The objects of a training step, prepared by accelerate.

    :ivar wrapped: the module, wrapped for several processes.
    :ivar network: called for the losses: `wrapped`, or its CUDA graphs.
    :ivar weights: the trained weights of `wrapped`.
    :ivar slices: slices of the batch, one forward and backward pass each.
    """

    config: TrainingConfig
    losses_of: LossesOf
    accelerator: Accelerator
    wrapped: Any
    network: Any
    optimizer: Any
    weights: list[nn.Parameter]
    slices: list[slice]
    on_gpu: bool


def _accelerator(config: TrainingConfig) -> Accelerator:
    check_environment()
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision='no' if config.precision == 'fp32' else config.precision,
        # As plugins: accelerate replaces plain values by ACCELERATE_* variables.
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.gradient_accumulation_steps
        ),
        dynamo_plugin=TorchDynamoPlugin(backend='no'),
        # A head may leave some outputs of its denoiser unused.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if _is_sharded(accelerator) and config.ema_decay:
        raise ValueError(
            'ema_decay does not work with FSDP, which shards the weights; set it to 0, or use DDP'
        )
    return accelerator


def _is_sharded(accelerator: Accelerator) -> bool:
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def _prepare(
    module: nn.Module, losses_of: LossesOf, config: TrainingConfig, accelerator: Accelerator
) -> _Setup:
    """Create the optimizer and wrap the module."""
    slices = _slices(config, accelerator.process_index, accelerator.num_processes)
    on_gpu = accelerator.device.type == 'cuda'
    if on_gpu:
        torch.set_float32_matmul_precision('high')  # TF32
        torch.backends.cudnn.benchmark = True  # windows have few sizes
    # channels_last: 39 instead of 30 samples/s on a CPU. FSDP requires contiguous weights.
    layout = torch.contiguous_format if _is_sharded(accelerator) else torch.channels_last
    module.to(memory_format=layout)  # type: ignore[call-overload]
    trainable = [weight for weight in module.parameters() if weight.requires_grad]
    if not trainable:
        raise ValueError(
            'expected weights to train, got none: the decoder head has no weights of its own; '
            'choose --head light, or --trainable full'
        )
    optimizer = torch.optim.AdamW(
        trainable, lr=config.learning_rate, weight_decay=1e-4, fused=True
    )
    wrapped, optimizer = accelerator.prepare(module, optimizer)
    # Gradient accumulation would add to memory that the next replay of a graph overwrites.
    graphed = config.cuda_graphs and on_gpu and accelerator.num_processes == 1 == len(slices)
    return _Setup(
        config,
        losses_of,
        accelerator,
        wrapped,
        GraphedModule(wrapped) if graphed else wrapped,
        optimizer,
        [weight for weight in wrapped.parameters() if weight.requires_grad],
        slices,
        on_gpu,
    )


def _slices(config: TrainingConfig, process: int, processes: int) -> list[slice]:
    """Return the slices of the batch for one process, in order."""
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


def _train_step(setup: _Setup, step: int) -> StepLosses:
    """Do one optimizer step; the losses stay on the device."""
    config, accelerator = setup.config, setup.accelerator
    for group in setup.optimizer.param_groups:
        group['lr'] = config.learning_rate * rate_factor(step, config)
    # With fp16, gradients may overflow: the step is skipped and the loss scale lowered.
    losses = StepLosses(step, config.precision != 'fp16', check_early=not setup.on_gpu)
    for part in setup.slices:
        with accelerator.accumulate(setup.wrapped):
            torch.manual_seed(config.seed * 1_000_003 + step)
            by_name = setup.losses_of(setup.network, step, part)
            accelerator.backward(torch.stack(list(by_name.values())).sum())
            norm = None
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(setup.weights, 1.0)
            losses.add(by_name, norm)
            setup.optimizer.step()
            setup.optimizer.zero_grad(set_to_none=True)
    losses.reduce(accelerator)
    return losses


def _validate(validation: Validation, setup: _Setup, average: WeightAverage, done: int) -> None:
    """Let the main process validate the average of the weights, while the others wait."""
    if setup.accelerator.is_main_process:
        with average.in_weights():
            validation.run(done, setup.weights)
    setup.accelerator.wait_for_everyone()


def _gather_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Replace the shards of FSDP by complete weights; it does not restore load_state_dict."""
    for name, _ in list(module.named_parameters()):
        if name in weights:
            owner, _, attribute = name.rpartition('.')
            setattr(module.get_submodule(owner), attribute, nn.Parameter(weights[name]))
