"""
Measure what pre-training is worth: the paper's ablation (arXiv 2403.06090) in miniature.

  python -m sd_perception_ros pretrain --data data/rooms/train --frame-size 128x96 \
      --denoiser-size 128x96 --denoiser-channels 32 64 96 --denoiser-steps 5000 \
      --out runs/pretrained
  python benchmark/transfer/transfer.py --base runs/pretrained --data data/rooms/train \
      --held data/rooms/heldout --held-frames 60 --steps 800 --out runs/transfer

A small denoiser learns depth and poses from the same annotated frames in the same steps. It starts
from random weights (scratch), from denoising images without annotations (pretrained), or from the
latter with only the heads trained (frozen). Each run writes one small file to --out: a stopped
command continues, and several commands may share the work, each with one of the --seeds. plot.py
draws the results.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
import sys
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from diffusers import UNet2DConditionModel  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmark.common import run_command  # noqa: E402
from sd_perception_ros.checkpoint.config_file import CheckpointConfig  # noqa: E402
from sd_perception_ros.checkpoint.finetuning import model_to_finetune  # noqa: E402
from sd_perception_ros.checkpoint.weights import weights_fingerprint  # noqa: E402
from sd_perception_ros.cli.arguments import size  # noqa: E402
from sd_perception_ros.config import EngineConfig  # noqa: E402
from sd_perception_ros.data.dataset import Dataset  # noqa: E402
from sd_perception_ros.data.formats.rooms import RoomsDataset  # noqa: E402
from sd_perception_ros.data.latents import latents_of  # noqa: E402
from sd_perception_ros.data.mixture import ResizedDataset  # noqa: E402
from sd_perception_ros.data.resident import ResidentDataset  # noqa: E402
from sd_perception_ros.engine import Engine  # noqa: E402
from sd_perception_ros.evaluation.evaluate import measure, Measured, summarize  # noqa: E402
from sd_perception_ros.model import Model  # noqa: E402
from sd_perception_ros.paths import user_path  # noqa: E402
from sd_perception_ros.training.finetune import train  # noqa: E402
from sd_perception_ros.training.options import FinetuneConfig, TrainingConfig  # noqa: E402
from sd_perception_ros.training.processes import device  # noqa: E402
from sd_perception_ros.training.state import discard_state  # noqa: E402

STARTS = ('scratch', 'pretrained', 'frozen')
TASKS = ('depth', 'human_pose')


def main(argv: Sequence[str] | None = None) -> int:
    """Do the runs that are not done yet."""
    options = _parser().parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    everything = ResizedDataset(RoomsDataset(options.data), options.size)
    source = f'{everything.fingerprint()} {weights_fingerprint(options.base / "vae")}'
    latents = latents_of(options.base / 'latents.safetensors', source)
    if latents is None:
        raise ValueError(
            f'expected the latents of {options.data} in {options.base}, found none; make them '
            'with: python -m sd_perception_ros pretrain'
        )
    if max(options.frames) > len(everything):
        raise ValueError(
            f'expected at least {max(options.frames)} frames in {options.data}, found '
            f'{len(everything)}; render more, or give smaller --frames'
        )
    held = ResizedDataset(RoomsDataset(options.held, options.held_frames, keep=True), options.size)
    runs = [(s, n, b) for s in options.seeds for n in options.frames for b in options.starts]
    for seed, frames, start in tqdm(runs, unit='run'):
        file = options.out / f'{start}_{frames}_{seed}.json'
        if file.exists():
            _check(file, options, len(held))
        else:
            figures = run(options, everything, latents, held, start, frames, seed)
            file.write_text(json.dumps(figures, indent=2) + '\n')
            tqdm.write(f'{start:10} {frames:5} frames, seed {seed}: {figures["metrics"]["depth"]}')
    return 0


def _check(file: Path, options: argparse.Namespace, held_frames: int) -> None:
    """Refuse a result of other options, which would count as one of these."""
    there = json.loads(file.read_text())
    for name, wanted in {**_about(options), 'held_frames': held_frames}.items():
        if there.get(name) != wanted:
            raise ValueError(
                f'expected a run with {name} {wanted} in {file}, found {there.get(name)}; choose '
                'another --out'
            )


def _about(options: argparse.Namespace) -> dict[str, Any]:
    return {
        'steps': options.steps,
        'batch_size': options.batch_size,
        'pictures': list(options.size),
        'learning_rate': options.learning_rate,
        'base': options.base.name,
        'timestep': options.timestep,
    }


def run(
    options: argparse.Namespace,
    everything: Dataset,
    latents: torch.Tensor,
    held: Dataset,
    start: str,
    frames: int,
    seed: int,
) -> dict[str, Any]:
    """Train once and measure on the held-out frames."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(everything))[:frames]).tolist()
    labelled = RoomsDataset(options.data, keep=True)
    labelled.select(chosen)
    dataset = ResidentDataset(ResizedDataset(labelled, options.size), device())
    torch.manual_seed(seed)
    model = begin(options.base, start, options.timestep)
    config = TrainingConfig(
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_steps=20,
        precision='bf16',
        seed=seed,
        save_every=options.steps,
    )
    tuning = FinetuneConfig(trainable='heads' if start == 'frozen' else 'full')
    folder = options.out / f'{start}_{frames}_{seed}'
    began = time.monotonic()
    log = train(
        model, dataset, latents[:, chosen].to(device()), config, [options.size], folder, tuning
    )
    losses = [losses for _, losses in log]
    discard_state(folder)
    folder.rmdir()
    about = CheckpointConfig(long_side_px=max(options.size))
    engine = Engine([(model, about)], EngineConfig(device='auto', runtime='torch'))
    measured: Measured = {}
    for _ in measure(engine, held, measured):
        pass
    tail = losses[-20:]
    return {
        'start': start,
        'frames': frames,
        'seed': seed,
        **_about(options),
        'held_frames': len(held),
        'last_losses': {name: float(np.mean([step[name] for step in tail])) for name in tail[0]},
        'minutes': round((time.monotonic() - began) / 60, 2),
        'metrics': summarize(measured, engine.tasks),
    }


def begin(base: Path, start: str, timestep: int) -> Model:
    """Return the model that a run starts from; its heads are always new."""
    model = model_to_finetune(base, TASKS, 'light', timestep)
    if start == 'scratch':
        unet = model.backbones['unet'].trainable()
        fresh = UNet2DConditionModel.from_config(unet.config)
        unet.load_state_dict(fresh.state_dict())
    return model


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--base', type=user_path, required=True, help='Folder that pretrain wrote, with latents')
    add('--data', type=user_path, required=True, help='Labelled frames, those of the latents')
    add('--held', type=user_path, required=True, help='Held-out frames')
    add('--held-frames', type=int, default=0, help='Measure on the first only; 0: all')
    add('--out', type=user_path, required=True, help='Folder of the results')
    add('--frames', type=int, nargs='+', default=[50, 200, 1000], help='Labelled frames')
    add('--starts', nargs='+', default=STARTS, choices=STARTS, help='default: all')
    add('--seeds', type=int, nargs='+', default=[0, 1, 2], help='Also choose the frames')
    add('--size', type=size, default=(96, 128), help='Of all images, default 128x96')
    add('--timestep', type=int, default=-1, help='Of the one step; -1: as train has it')
    add('--steps', type=int, default=1000, help='default: %(default)s')
    add('--batch-size', type=int, default=16, help='default: %(default)s')
    add('--learning-rate', type=float, default=1e-3, help='default: %(default)s')
    return parser


if __name__ == '__main__':
    run_command(main)
