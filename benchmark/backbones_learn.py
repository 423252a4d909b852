"""
Show that a denoiser of every family learns: its loss, and its errors beside a baseline.

  python -m sd_perception_ros synthesize --assets furniture --out data/learn --scenes 60 \
      --width 128 --height 96
  python -m sd_perception_ros synthesize --assets furniture --out data/learn_held_out --scenes 12 \
      --width 128 --height 96 --seed 900001 --heldout
  python benchmark/backbones_learn.py --data data/learn --held-out data/learn_held_out \
      --json benchmark/results/my_machine_backbones.json

Each denoiser starts from random weights, with the autoencoder of the bundled model, and learns
depth and normals in one deterministic step with a light head. The baseline (`guess`) is the mean
training target of each pixel, the same for every image. `loss_frozen` is the loss if only the head
is trained, with the same random denoiser and as many steps. A few hundred steps show that the
denoiser itself learns; they do not show which family is better.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
import statistics
import sys
import tempfile
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from diffusers import (  # noqa: E402
    DiTTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmark.common import about_run, parser, run_command, write  # noqa: E402
from sd_perception_ros.checkpoint import checkpoint, config_file  # noqa: E402
from sd_perception_ros.checkpoint.config_file import CheckpointConfig  # noqa: E402
from sd_perception_ros.checkpoint.finetuning import model_to_finetune  # noqa: E402
from sd_perception_ros.checkpoint.reader import Reader  # noqa: E402
from sd_perception_ros.checkpoint.weights import load_vae, save_model, save_tensors  # noqa: E402
from sd_perception_ros.data.formats.rooms import RoomsDataset  # noqa: E402
from sd_perception_ros.engine import Engine  # noqa: E402
from sd_perception_ros.evaluation import evaluate  # noqa: E402
from sd_perception_ros.paths import user_path  # noqa: E402
from sd_perception_ros.training.finetune import train  # noqa: E402
from sd_perception_ros.training.options import FinetuneConfig, TrainingConfig  # noqa: E402

TASKS = ('depth', 'normals')
PROMPT_WIDTH, POOLED_WIDTH = 32, 24
EDGE = 10  # steps whose mean is the loss before, and after


def unet(**changes: Any) -> UNet2DConditionModel:
    """Return a UNet of three levels, as Stable Diffusion's but small."""
    shape = {
        'block_out_channels': (32, 64, 96),
        'down_block_types': ('DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'),
        'up_block_types': ('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'),
        'layers_per_block': 1,
        'cross_attention_dim': PROMPT_WIDTH,
        'attention_head_dim': 8,
        'norm_num_groups': 8,
        'sample_size': 32,
    }
    return UNet2DConditionModel(**shape | changes)


def sdxl() -> UNet2DConditionModel:
    """Return the UNet with SDXL's sizes and pooled prompt."""
    ids = 8
    return unet(
        addition_embed_type='text_time',
        addition_time_embed_dim=ids,
        projection_class_embeddings_input_dim=6 * ids + POOLED_WIDTH,
    )


WIDTH: dict[str, Any] = {'num_attention_heads': 6, 'attention_head_dim': 24, 'sample_size': 32}


def dit() -> DiTTransformer2DModel:
    """Return DiT, six blocks of 144 channels, patches of 2 x 2."""
    return DiTTransformer2DModel(
        in_channels=4, out_channels=8, num_layers=6, num_embeds_ada_norm=1000, **WIDTH
    )


def pixart() -> PixArtTransformer2DModel:
    """Return PixArt, six blocks of 144 channels, patches of 2 x 2."""
    return PixArtTransformer2DModel(
        in_channels=4,
        out_channels=8,
        num_layers=6,
        cross_attention_dim=144,
        caption_channels=PROMPT_WIDTH,
        **WIDTH,
    )


def mmdit() -> SD3Transformer2DModel:
    """Return Stable Diffusion 3.5's transformer, six blocks of 144 channels, patches of 2 x 2."""
    return SD3Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=6,
        joint_attention_dim=PROMPT_WIDTH,
        caption_projection_dim=144,
        pooled_projection_dim=POOLED_WIDTH,
        pos_embed_max_size=32,
        qk_norm='rms_norm',
        **WIDTH,
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    'SD': unet,
    'SDXL': sdxl,
    'Marigold': lambda: unet(in_channels=8),
    'Lotus': lambda: unet(class_embed_type='projection', projection_class_embeddings_input_dim=4),
    'DiT': dit,
    'PixArt': pixart,
    'SD3': mmdit,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; return 0 if every family beats the baseline and its own frozen denoiser."""
    options = _parser().parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    data, held_out = RoomsDataset(options.data, keep=True), RoomsDataset(options.held_out)
    rows = {}
    for name in options.families:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = learn(name, data, held_out, options, Path(folder))
        print(f'{name}: {rows[name]}', flush=True)
    result: dict[str, Any] = {
        **about_run(),
        'frames': len(data),
        'held_out': len(held_out),
        'steps': options.steps,
        'batch_size': options.batch_size,
        'learning_rate': options.learning_rate,
        'guess': guess(data, held_out),
        'families': rows,
    }
    result['passes'] = all(_beats(row, result['guess']) for row in rows.values())
    print(table(result))
    write(result, options.json)
    return 0 if result['passes'] else 1


def learn(
    name: str,
    data: RoomsDataset,
    held_out: RoomsDataset,
    options: argparse.Namespace,
    folder: Path,
) -> dict[str, Any]:
    """Train one family from random weights, and measure it on held-out frames."""
    torch.manual_seed(options.seed)
    base = write_base(folder / 'base', FAMILIES[name]())
    config = TrainingConfig(
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_steps=20,
        seed=options.seed,
        save_every=options.steps,
    )
    size = tuple(data[0]['image'].shape[-2:])
    losses: dict[str, list[float]] = {}
    for tune in ('heads', 'full'):
        torch.manual_seed(options.seed)
        model = model_to_finetune(base, TASKS, 'light')
        run = train(
            model, data, None, config, [size], folder / tune, FinetuneConfig(trainable=tune)
        )
        steps = tqdm(run, f'{name} {tune}', options.steps, mininterval=10)
        losses[tune] = [sum(by_task.values()) for _, by_task in steps]
    [backbone] = model.backbones.values()
    about = CheckpointConfig(long_side_px=max(size))
    checkpoint.save(folder / 'out', model, about, torch.float32)
    engine = Engine.load(str(folder / 'out'), device='cpu')
    measured: evaluate.Measured = {}
    for _ in evaluate.measure(engine, held_out, measured):
        pass
    return {
        'parameters_m': round(sum(p.numel() for p in backbone.denoiser.parameters()) / 1e6, 2),
        'prediction': backbone.one_step.prediction_type,
        'timestep': round(backbone.one_step.timestep),
        'loss_before': round(statistics.mean(losses['full'][:EDGE]), 4),
        'loss_after': round(statistics.mean(losses['full'][-EDGE:]), 4),
        'loss_frozen': round(statistics.mean(losses['heads'][-EDGE:]), 4),
        **headlines(evaluate.summarize(measured, engine.tasks), engine.tasks),
    }


def write_base(folder: Path, denoiser: Any) -> Path:
    """Write a random denoiser on the bundled autoencoder in the layout of diffusers."""
    bundled = config_file.resolve('bundled').parent
    save_model(folder / 'vae', load_vae(bundled / 'vae', Reader()), torch.float32)
    kind = 'unet' if isinstance(denoiser, UNet2DConditionModel) else 'transformer'
    save_model(folder / kind, denoiser, torch.float32)
    text = {'prompt': torch.zeros(1, 1, PROMPT_WIDTH), 'pooled': torch.zeros(1, POOLED_WIDTH)}
    save_tensors(folder / 'prompt.safetensors', text)
    return folder


def guess(data: RoomsDataset, held_out: RoomsDataset) -> dict[str, float]:
    """Return the figures of the mean training target."""
    tasks = {name: checkpoint.make_task(name) for name in TASKS}
    measured: evaluate.Measured = {}
    for _ in evaluate.measure_mean(tasks, data, held_out, measured):
        pass
    return headlines(evaluate.summarize(measured, tasks), tasks)


def headlines(figures: dict[str, dict[str, float]], tasks: Any) -> dict[str, float]:
    """Return each task's first figure by `task.figure`."""
    return {
        f'{name}.{tasks[name].headline}': round(figures[name][tasks[name].headline], 4)
        for name in TASKS
    }


def _beats(row: dict[str, Any], against: dict[str, float]) -> bool:
    learnt = row['loss_after'] < row['loss_frozen']
    return learnt and all(row[name] < value for name, value in against.items())


def table(result: dict[str, Any]) -> str:
    """Write the result for people."""
    figures = list(result['guess'])
    losses = ['loss_before', 'loss_frozen', 'loss_after']
    head = ['family', 'parameters_m', 'prediction', 'timestep', *losses]
    lines = ['  '.join(f'{word:>18}' for word in [*head, *figures])]
    for name, row in result['families'].items():
        cells = [name, *(row[word] for word in [*head[1:], *figures])]
        lines.append('  '.join(f'{cell!s:>18}' for cell in cells))
    blank = ['baseline', *[''] * (len(head) - 1), *result['guess'].values()]
    lines.append('  '.join(f'{cell!s:>18}' for cell in blank))
    return '\n'.join(lines)


def _parser() -> argparse.ArgumentParser:
    options = parser(__doc__)
    options.add_argument(
        '--data', type=user_path, required=True, help='Rendered frames for the training'
    )
    options.add_argument(
        '--held-out', type=user_path, required=True, help='Held-out rendered frames'
    )
    options.add_argument('--families', nargs='+', choices=FAMILIES, default=list(FAMILIES))
    options.add_argument('--steps', type=int, default=300, help='default: %(default)s')
    options.add_argument('--batch-size', type=int, default=8, help='default: %(default)s')
    options.add_argument('--learning-rate', type=float, default=1e-3, help='default: %(default)s')
    options.add_argument('--threads', type=int, default=0, help='0: let torch choose')
    options.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    return options


if __name__ == '__main__':
    run_command(main)
