"""
Compare with the pipelines of diffusers: same random weights of the size of Stable Diffusion 2.1.

  python benchmark/official.py --json benchmark/results/my_machine_official.json

Compared are Marigold's pipelines with one and with four steps, and this package with the same
denoiser: with the decoder of the autoencoder as head, with a light head, and with four tasks on
light heads. Each contender runs in its own process, in turn, for its time and peak memory. Before,
ours starts once with an empty cache of graphs, and that peak is reported, too. Later starts read
their graphs from the disk: the page cache is emptied between two contenders. The image has the
size of the network, so nothing is resized; both depth maps must agree.

--vae tiny also measures ours with a tiny autoencoder of the size of taesd instead of the KL one.
All weights are random, so the difference of the depth has no meaning; the loss of accuracy would
need published weights and annotated images.

The weights (5.5 GB) are made once in --work. --tiny compares small models in seconds, as a test of
this script.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import json
import os
from pathlib import Path
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from diffusers import (  # noqa: E402
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    MarigoldDepthPipeline,
    UNet2DConditionModel,
)
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image  # noqa: E402
import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402
import yaml  # noqa: E402

from benchmark.common import about_run, parser, run_command, status_mib, write  # noqa: E402
from sd_perception_ros.checkpoint.weights import save_tensors  # noqa: E402
from sd_perception_ros.engine import Engine  # noqa: E402
from sd_perception_ros.heads.light import LightHead  # noqa: E402
from sd_perception_ros.paths import user_path  # noqa: E402
from sd_perception_ros.tasks import make_task  # noqa: E402

PEERS = {'diffusers Marigold, 1 step': 1, 'diffusers Marigold, 4 steps': 4}
FOUR = ('depth', 'normals', 'segmentation', 'matting')
OURS = {
    'ours, decoder': ('decoder', FOUR[:1]),
    'ours, light head': ('light', FOUR[:1]),
    'ours, light heads, 4 tasks': ('light', FOUR),
}
TINY_VAE = {f'{name}, tiny VAE': name for name in ('ours, decoder', 'ours, light head')}
SIZES = {False: (576, 768), True: (64, 96)}  # (height, width), for --tiny or not
# (contender, how many times as fast as one step of the peer it must be, runs of the peer)
BARS = {
    'ours, decoder': (1.35, 1),
    'ours, light head': (3.0, 1),
    'ours, light heads, 4 tasks': (10.0, 4),
}
MEMORY_BAR = 0.6
AGREEMENT = 1e-4
VOCABULARY = ('<|startoftext|>', '<|endoftext|>', '!', '!</w>')


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; return 0 if every target is met."""
    options = _parser().parse_args(argv)
    if options.contender:
        print(json.dumps(run(options.contender, options)))
        return 0
    make_models(options.work, options.tiny)
    if options.vae == 'tiny':
        make_tiny_vae(options.work)
    contenders = [*PEERS, *OURS, *(TINY_VAE if options.vae == 'tiny' else ())]
    shutil.rmtree(options.work / 'cache', ignore_errors=True)
    first = {name: _in_a_process(name, options, 0)['peak_mib'] for name in tqdm(OURS)}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(options.turns):
        for name in tqdm(runs, unit='contender'):
            runs[name].append(_in_a_process(name, options, options.rounds))
    result = summarize(runs, options) | {'first_start_peak_mib': first}
    print(table(result))
    write(result, options.json)
    return 0 if result['passes'] else 1


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one contender: predict once as warm-up, then some times."""
    height, width = SIZES[options.tiny]
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    predict = _peer(options.work, PEERS[name]) if name in PEERS else _ours(name, options)
    depth = predict(picture)
    np.save(options.work / f'{name}.npy', depth)
    seconds = []
    for _ in range(options.rounds):
        begin = time.perf_counter()
        predict(picture)
        seconds.append(time.perf_counter() - begin)
    return {'seconds': seconds, 'peak_mib': status_mib('VmHWM')}


def _peer(work: Path, steps: int) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    pipeline = MarigoldDepthPipeline.from_pretrained(work / 'marigold', local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)

    def predict(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        height, width = picture.shape[:2]
        found = pipeline(
            Image.fromarray(picture),
            num_inference_steps=steps,
            processing_resolution=0,
            latents=torch.zeros(1, 4, height // 8, width // 8),  # as E2E-FT begins
        )
        depth: NDArray[np.float32] = found.prediction[0, ..., 0]
        return depth

    return predict


def _ours(
    name: str, options: argparse.Namespace
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    head, tasks = OURS[TINY_VAE.get(name, name)]
    folder = f'{head}_tiny_vae' if name in TINY_VAE else head
    engine = Engine.load(
        str(options.work / folder), tasks=tasks, device='cpu', runtime=options.runtime
    )
    print(engine.summary(), file=sys.stderr)

    def predict(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        depth: Any = engine.predict([picture])[0]['depth']
        values: NDArray[np.float32] = depth.values
        return values

    return predict


def summarize(
    runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace
) -> dict[str, Any]:
    """Compute medians, and compare them with the targets."""
    every = {name: [s for one in turns for s in one['seconds']] for name, turns in runs.items()}
    medians = {name: statistics.median(seconds) for name, seconds in every.items()}
    memory = {name: max(one['peak_mib'] for one in turns) for name, turns in runs.items()}
    peer = next(iter(PEERS))
    faster = {name: medians[peer] * times / medians[name] for name, (_, times) in BARS.items()}
    depths = {name: np.load(options.work / f'{name}.npy') for name in runs}
    theirs, ours = depths[peer], depths[next(iter(OURS))]
    inside = float(((theirs > 0.001) & (theirs < 0.999)).mean())
    difference = float(np.abs(theirs - ours).max())
    checks = {
        f'{name}: at least {bar} times as fast': faster[name] >= bar
        for name, (bar, _) in BARS.items()
    }
    for name in OURS:
        checks[f'{name}: at most {MEMORY_BAR} of the memory'] = (
            memory[name] <= MEMORY_BAR * memory[peer]
        )
    checks[f'the same depth to {AGREEMENT}'] = difference <= AGREEMENT and inside > 0.5
    return {
        **about_run(),
        'runtime': options.runtime,
        'picture': SIZES[options.tiny],
        'seconds': every,
        'median_s': medians,
        'peak_mib': memory,
        'times_as_fast': faster,
        'largest_difference': difference,
        'tiny_vae': {
            name: {
                'times_as_fast': medians[kl] / medians[name],
                'mean_difference': float(np.abs(depths[name] - depths[kl]).mean()),
            }
            for name, kl in TINY_VAE.items()
            if name in runs
        },
        'share_not_clipped': inside,
        'checks': checks,
        'passes': all(checks.values()),
    }


def table(result: dict[str, Any]) -> str:
    """Write the result for people."""
    height, width = result['picture']
    lines = [f'{width}x{height}, runtime {result["runtime"]}', '']
    for name, median in result['median_s'].items():
        spread = max(result['seconds'][name]) - min(result['seconds'][name])
        faster = result['times_as_fast'].get(name)
        lines.append(
            f'  {name:28}{median:8.2f} s  +-{spread / 2:5.2f}{result["peak_mib"][name]:8.0f} MiB'
            + (f'{faster:7.2f} x' if faster else '')
        )
    for name, peak in result['first_start_peak_mib'].items():
        lines.append(f'  {name:28}{"its first start, with an empty cache":>22}{peak:8.0f} MiB')
    lines += ['', f'  largest difference of depth {result["largest_difference"]:.1e}']
    for name, tiny in result['tiny_vae'].items():
        lines += [
            f'  {name}: {tiny["times_as_fast"]:.2f} times as fast as with the KL VAE; mean',
            f'    difference of depth {tiny["mean_difference"]:.3f} (random weights: no quality)',
        ]
    return '\n'.join(
        lines
        + [f'  {"passes" if good else "FAILS "} {what}' for what, good in result['checks'].items()]
    )


def make_models(work: Path, tiny: bool) -> None:
    """Write random weights as a Marigold pipeline, and our checkpoint files that point at them."""
    if (work / 'light' / 'checkpoint.yaml').is_file():
        return
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # slow

    torch.manual_seed(0)
    vae = AutoencoderKL.from_config(_config('vae', tiny))
    unet = UNet2DConditionModel.from_config(_config('unet', tiny) | {'in_channels': 8})
    words = work / 'words'
    words.mkdir(parents=True, exist_ok=True)
    places = {word: place for place, word in enumerate(VOCABULARY)}
    (words / 'vocab.json').write_text(json.dumps(places))
    (words / 'merges.txt').write_text('#version: 0.2\n')
    width = unet.config.cross_attention_dim
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=2 if tiny else 23,
            num_attention_heads=max(width // 64, 1),
            vocab_size=len(VOCABULARY) if tiny else 49408,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    pipeline = MarigoldDepthPipeline(
        unet,
        vae,
        DDIMScheduler(
            beta_schedule='scaled_linear',
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type='v_prediction',
            timestep_spacing='trailing',
            clip_sample=False,
        ),
        text,
        CLIPTokenizer(str(words / 'vocab.json'), str(words / 'merges.txt'), model_max_length=77),
        prediction_type='depth',
    )
    pipeline.save_pretrained(work / 'marigold')
    with torch.inference_mode():  # of the empty prompt, its two tokens only: what we store of it
        prompt = text(torch.tensor([[0, 1]]))[0]
    save_tensors(work / 'prompt.safetensors', {'prompt': prompt.clone()})
    for head in ('decoder', 'light'):
        entries: dict[str, dict[str, str]] = {}
        for task in FOUR:
            entries[task] = {'unet': '../marigold/unet', 'head': head}
        values = {
            'base': '../marigold',
            'prompt': '../prompt.safetensors',
            'resize': 'pad',
            'long_side_px': 0,
            'tasks': entries,
        }
        (work / head).mkdir(exist_ok=True)
        if head == 'light':
            _write_heads(work / head, entries, unet)
        (work / head / 'checkpoint.yaml').write_text(yaml.safe_dump(values))


def make_tiny_vae(work: Path) -> None:
    """Write a random AutoencoderTiny of taesd's size, and checkpoint files that name it in vae."""
    torch.manual_seed(0)
    AutoencoderTiny().save_pretrained(work / 'tiny_vae')
    for name in TINY_VAE.values():
        head, _ = OURS[name]
        values = yaml.safe_load((work / head / 'checkpoint.yaml').read_text())
        for entry in values['tasks'].values():
            if 'head_weights' in entry:
                entry['head_weights'] = f'../{head}/{entry["head_weights"]}'
        folder = work / f'{head}_tiny_vae'
        folder.mkdir(exist_ok=True)
        values['vae'] = '../tiny_vae'
        (folder / 'checkpoint.yaml').write_text(yaml.safe_dump(values))


def _write_heads(folder: Path, entries: dict[str, dict[str, str]], unet: Any) -> None:
    levels = tuple(reversed(unet.config.block_out_channels))
    for task, entry in entries.items():
        made = LightHead(make_task(task).channels, levels, unet.config.out_channels, 4, 32)
        save_tensors(folder / f'{task}.safetensors', made.state_dict())
        entry['head_weights'] = f'{task}.safetensors'


def _config(part: str, tiny: bool) -> dict[str, Any]:
    file = ROOT / 'sd_perception_ros' / 'checkpoint' / 'configs' / f'sd21_{part}.json'
    config: dict[str, Any] = json.loads(file.read_text())
    if tiny:
        small = {'block_out_channels': [32, 64, 64, 64], 'layers_per_block': 1}
        if part == 'unet':
            small |= {'cross_attention_dim': 64, 'attention_head_dim': [1, 2, 2, 2]}
        config |= small
    return config


def _in_a_process(name: str, options: argparse.Namespace, rounds: int) -> dict[str, Any]:
    words = ['--contender', name, '--work', str(options.work), '--rounds', str(rounds)]
    words += ['--runtime', options.runtime, *(['--tiny'] if options.tiny else [])]
    command = [sys.executable, str(Path(__file__).resolve()), *words]
    environment = os.environ | {'XDG_CACHE_HOME': str(options.work / 'cache')}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    _leave_page_cache(options.work)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _leave_page_cache(folder: Path) -> None:
    """Empty the page cache, so that the next contender has the same start."""
    for file in folder.rglob('*'):
        if file.is_file():
            with file.open('rb') as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _parser() -> argparse.ArgumentParser:
    options = parser(__doc__)
    add = options.add_argument
    add('--work', type=user_path, default=Path('runs/official'), help='folder of the weights')
    add('--runtime', default='auto', help='as the parameter runtime, for this package')
    add('--turns', type=int, default=3, help='turns of each contender')
    add('--rounds', type=int, default=1, help='timed predictions in a turn')
    add('--tiny', action='store_true', help='small models and a small image')
    add('--vae', choices=('kl', 'tiny'), default='kl', help='tiny: measure a tiny one, too')
    add('--contender', choices=(*PEERS, *OURS, *TINY_VAE), help=argparse.SUPPRESS)
    return options


if __name__ == '__main__':
    run_command(main)
