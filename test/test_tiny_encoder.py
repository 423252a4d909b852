"""A tiny encoder that imitates a KL encoder."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
from typing import Any

from models import save_base, save_tiny, tiny_vae
import numpy as np
import pytest
import torch
import yaml

from sd_perception_ros.backbones.autoencoders import encode
from sd_perception_ros.backbones.small import small_tiny
from sd_perception_ros.checkpoint.weight_files import WEIGHTS
from sd_perception_ros.checkpoint.weights import save_model
from sd_perception_ros.cli import pretrain
from sd_perception_ros.cli.jobs.tiny_encoder import as_served
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.engine import Engine
from sd_perception_ros.training.options import TrainingConfig
from sd_perception_ros.training.pretrain import measure_scaling_factor
from sd_perception_ros.training.tiny_encoder import latent_error, train_tiny_encoder

SIZES = [(32, 48), (48, 32)]
IMAGE = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Layers are so small that several threads would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh(seed: int = 0) -> tuple[Any, Any]:
    """Return a random tiny autoencoder of taesd's stride, and a random KL one to imitate."""
    torch.manual_seed(seed)
    return small_tiny(8, 4, 8), tiny_vae().eval()


def test_a_fresh_tiny_encoder_of_64_channels_has_the_shape_of_taesd() -> None:
    from diffusers import AutoencoderTiny

    ours, taesd = small_tiny(64, 4, 8), AutoencoderTiny()
    assert [t.shape for t in ours.state_dict().values()] == [
        t.shape for t in taesd.state_dict().values()
    ]


def test_a_tiny_encoder_learns_the_latents_of_a_kl_encoder(frames: Path, tmp_path: Path) -> None:
    tiny, vae = fresh()
    dataset = open_data([str(frames)])
    vae.register_to_config(scaling_factor=measure_scaling_factor(vae, dataset))
    images = [dataset.image(i) for i in range(len(dataset))]
    before = latent_error(tiny, vae, images)
    config = TrainingConfig(
        steps=120, batch_size=4, learning_rate=5e-3, warmup_steps=5, ema_decay=0.9
    )
    run = train_tiny_encoder(tiny, vae, dataset, config, [(32, 32)], tmp_path)
    losses = [losses['squared'] for _, losses in run]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 2
    after = latent_error(tiny, vae, images)
    assert after['rms_error'] < 0.8 * before['rms_error']
    assert after['std'] == before['std']


def test_the_error_of_latents_is_a_share_of_their_spread() -> None:
    tiny, vae = (each.requires_grad_(False) for each in fresh())
    vae.register_to_config(scaling_factor=1.0)
    own = latent_error(vae, vae, [IMAGE])
    assert (own['rms_error'], own['mean_error']) == (0, 0)
    assert own['std'] == pytest.approx(float(encode(vae, IMAGE).std()), rel=1e-5)
    difference = encode(tiny, IMAGE) - encode(vae, IMAGE)
    share = float(difference.square().mean().sqrt()) / own['std']
    assert latent_error(tiny, vae, [IMAGE])['rms_error'] == pytest.approx(share, rel=1e-5)


def test_a_stopped_run_ends_as_one_that_was_not_stopped(frames: Path, tmp_path: Path) -> None:
    config = TrainingConfig(steps=4, batch_size=2, save_every=2, ema_decay=0.9)

    def run(folder: Path) -> tuple[Any, Iterator[Any]]:
        tiny, vae = fresh()
        dataset = open_data([str(frames)])
        return tiny, train_tiny_encoder(tiny, vae, dataset, config, SIZES, folder)

    whole, steps = run(tmp_path / 'whole')
    assert [done for done, _ in steps] == [1, 2, 3, 4]
    _, steps = run(tmp_path / 'stopped')
    next(steps), next(steps)
    steps.close()  # type: ignore[attr-defined]
    resumed, steps = run(tmp_path / 'stopped')
    assert [done for done, _ in steps] == [3, 4]
    for name, value in whole.encoder.state_dict().items():
        torch.testing.assert_close(resumed.encoder.state_dict()[name], value, rtol=0, atol=0)
    tiny, vae = fresh(seed=1)
    folder = tmp_path / 'stopped'
    with pytest.raises(ValueError, match=r'state is of another run, with (imitated|start)'):
        next(train_tiny_encoder(tiny, vae, open_data([str(frames)]), config, SIZES, folder))


def test_frames_are_measured_in_the_size_in_which_they_are_served() -> None:
    photo, small = torch.zeros(1, 3, 1000, 2000), torch.zeros(1, 3, 48, 60)
    assert as_served(photo, 0, 8).shape[-2:] == (384, 768)
    assert as_served(photo, 320, 8).shape[-2:] == (160, 320)
    assert as_served(small, 0, 8).shape[-2:] == (48, 64)  # padded


def words(base: Path, frames: Path, out: Path, *more: object) -> list[str]:
    options = ['--stage', 'tiny_encoder', '--base', base, '--data', frames, '--out', out]
    numbers = ['--tiny-steps', 3, '--batch-size', 2, '--tiny-sizes', '48x32', '32x48']
    return [str(word) for word in (*options, *numbers, '--tiny-channels', 16, *more)]


def test_the_command_writes_an_encoder_that_the_engine_runs_and_says_what_it_changes(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_tiny(tmp_path / 'base')
    for out in ('one', 'two'):
        assert pretrain.main(words(base, frames, tmp_path / out)) == 0
    one, two = ((tmp_path / out / 'tiny_encoder' / WEIGHTS) for out in ('one', 'two'))
    assert one.read_bytes() == two.read_bytes()  # equal seeds
    assert not (tmp_path / 'one' / 'tiny_encoder_training' / 'state').exists()
    figures = json.loads((tmp_path / 'one' / 'tiny_encoder.json').read_text())
    assert set(figures['outputs']) == {'depth', 'normals'}
    assert 0 < figures['latents']['mean_error'] < figures['latents']['rms_error']
    shown = capsys.readouterr().out
    assert f'output of depth    {figures["outputs"]["depth"]:.3f}' in shown
    file = base / 'checkpoint.yaml'
    rgb = ((IMAGE[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    before: Any = Engine.load(str(base), device='cpu').predict([rgb])[0]['depth']
    location = {'tiny_encoder': str(one.parent)}
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | location))
    after: Any = Engine.load(str(base), device='cpu').predict([rgb])[0]['depth']
    assert np.abs(before.values - after.values).max() > 1e-4
    with pytest.raises(ValueError, match='has a tiny_encoder already; remove that line'):
        pretrain.main(words(base, frames, tmp_path / 'three'))


def test_an_encoder_is_tuned_further_for_the_vae_of_a_diffusers_folder(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_base(tmp_path / 'base', 'sd')
    save_model(tmp_path / 'taesd', small_tiny(8, 4, 8), torch.float32)
    more = ('--tiny-from', tmp_path / 'taesd')
    assert pretrain.main(words(base, frames, tmp_path / 'out', *more)) == 0
    config = json.loads((tmp_path / 'out/tiny_encoder/config.json').read_text())
    assert config['encoder_block_out_channels'] == [8] * 4
    assert json.loads((tmp_path / 'out/tiny_encoder.json').read_text())['outputs'] == {}
    assert pretrain.main(words(base, frames, tmp_path / 'out', *more)) == 0
    assert 'is there: the tiny encoder is trained' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('start', 'message'),
    [
        (
            (8, 3, 8),
            'with 4 latent channels and stride 8, as the VAE has, got 3 and 8',
        ),
        ((8, 4, 4), 'got 4 and 4'),
    ],
)
def test_a_start_of_other_latents_is_refused(
    frames: Path, tmp_path: Path, start: tuple[int, int, int], message: str
) -> None:
    base = save_base(tmp_path / 'base', 'sd')
    save_model(tmp_path / 'other', small_tiny(*start), torch.float32)
    with pytest.raises(ValueError, match=message):
        pretrain.main(words(base, frames, tmp_path / 'out', '--tiny-from', tmp_path / 'other'))


def test_a_start_that_scales_its_output_is_refused(frames: Path, tmp_path: Path) -> None:
    base = save_base(tmp_path / 'base', 'sd')
    other = small_tiny(8, 4, 8)
    other.register_to_config(scaling_factor=0.18215)
    save_model(tmp_path / 'other', other, torch.float32)
    with pytest.raises(ValueError, match=r'expected scaling_factor 1 .* got 0\.18215 and 0'):
        pretrain.main(words(base, frames, tmp_path / 'out', '--tiny-from', tmp_path / 'other'))


def test_a_base_without_a_kl_encoder_is_refused(frames: Path, tmp_path: Path) -> None:
    base = save_base(tmp_path / 'base', 'sd')
    (base / 'vae' / WEIGHTS).unlink()
    save_model(base / 'vae', small_tiny(8, 4, 8), torch.float32)
    with pytest.raises(ValueError, match='expected an AutoencoderKL to imitate'):
        pretrain.main(words(base, frames, tmp_path / 'out'))


@pytest.mark.parametrize(
    ('options', 'got'),
    [(['--stage', 'tiny_encoder'], 'no --base'), (['--base', 'x'], '--base x and --stage all')],
)
def test_the_stage_and_the_base_belong_together(options: list[str], got: str) -> None:
    with pytest.raises(ValueError, match=f'expected --stage tiny_encoder together.* got {got}'):
        pretrain.main(['--data', 'x', '--out', 'x', *options])
