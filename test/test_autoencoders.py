"""Tiny autoencoders (taesd) in place of the KL autoencoder, or of one of its halves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, AutoencoderTiny
import hollow
from models import random_weights, save_tiny, tiny_model, tiny_vae
import numpy as np
import pytest
import torch
from torch import Tensor
import yaml

from sd_perception_ros.checkpoint import checkpoint
from sd_perception_ros.checkpoint.config_file import CheckpointConfig
from sd_perception_ros.checkpoint.weights import save_model
from sd_perception_ros.engine import Engine
from sd_perception_ros.model import Model
from sd_perception_ros.runtimes import onnx_files
from sd_perception_ros.runtimes.sessions import SESSIONS

KL_FACTOR = 0.18215
IMAGE = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
LATENT = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep graphs in a folder of the test."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return onnx_files.cache_folder()


def small_tiny(seed: int = 7, **changes: Any) -> AutoencoderTiny:
    """Return a random AutoencoderTiny of 8 channels with taesd's stride of 8."""
    torch.manual_seed(seed)
    options = {
        'encoder_block_out_channels': (8,) * 4,
        'decoder_block_out_channels': (8,) * 4,
        'num_encoder_blocks': (1, 1, 1, 1),
        'num_decoder_blocks': (1, 1, 1, 1),
    }
    tiny = AutoencoderTiny(**options | changes)
    return random_weights(tiny)  # type: ignore[return-value]


def with_keys(folder: Path, **keys: str) -> Path:
    """Change keys of a checkpoint.yaml."""
    file = folder / 'checkpoint.yaml'
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | keys))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a checkpoint with a KL autoencoder, and a tiny one in its subfolder `taesd`."""
    save_tiny(tmp_path / 'model', {'depth': 'decoder', 'normals': 'decoder'})
    save_model(tmp_path / 'model/taesd', small_tiny(), torch.float32)
    return tmp_path / 'model'


def loaded(folder: Path) -> Any:
    [backbone] = checkpoint.load(str(folder))[0].backbones.values()
    return backbone


@torch.no_grad()
def kl(folder: Path) -> tuple[Tensor, Tensor]:
    """Return the latent and the picture of the KL autoencoder by diffusers itself."""
    vae = AutoencoderKL.from_pretrained(folder / 'vae').float()
    latent = vae.encode(IMAGE).latent_dist.mean * KL_FACTOR
    return latent, vae.decode(LATENT / KL_FACTOR).sample


@torch.no_grad()
def tiny(folder: Path) -> tuple[Tensor, Tensor]:
    """Return the latent and the picture of the tiny autoencoder by diffusers itself."""
    vae = AutoencoderTiny.from_pretrained(folder / 'taesd')
    return vae.encode(IMAGE).latents, vae.decode(LATENT).sample


@pytest.mark.parametrize(
    ('keys', 'encodes', 'decodes'),
    [
        ({'vae': 'taesd'}, tiny, tiny),
        ({'tiny_encoder': 'taesd'}, tiny, kl),
        ({'tiny_decoder': 'taesd'}, kl, tiny),
        ({'tiny_encoder': 'taesd', 'tiny_decoder': 'taesd'}, tiny, tiny),
    ],
    ids=lambda value: ' and '.join(value) if isinstance(value, dict) else value.__name__,
)
@pytest.mark.parametrize('folded', [False, True])
def test_each_half_computes_what_diffusers_computes(
    folder: Path, keys: dict[str, str], encodes: Any, decodes: Any, folded: bool
) -> None:
    """The KL latent is scaled by 0.18215; the tiny encoder's output is the scaled latent."""
    backbone = loaded(with_keys(folder, **keys))
    if folded:
        backbone.fold(decodes=True)
    with torch.inference_mode():
        latent, pixels = backbone.encode(IMAGE), backbone.decode(LATENT)
    torch.testing.assert_close(latent, encodes(folder)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pixels, decodes(folder)[1], atol=1e-5, rtol=1e-5)


def test_the_decoder_head_averages_the_channels_of_the_tiny_decoder(folder: Path) -> None:
    """RGB in -1..1 averaged and clipped, as with the KL decoder; normals are all three."""
    model = checkpoint.load(str(with_keys(folder, tiny_decoder='taesd')))[0]
    _, pixels = tiny(folder)
    with torch.inference_mode():
        depth = model.heads['depth'](LATENT, ())
        normals = model.heads['normals'](LATENT, ())
    torch.testing.assert_close(depth, pixels.mean(1, keepdim=True).clamp(-1, 1))
    torch.testing.assert_close(normals, pixels.clamp(-1, 1))


def test_the_halves_that_do_not_run_are_not_in_memory(folder: Path) -> None:
    def size(*keys: str) -> int:
        chosen = dict.fromkeys(('tiny_encoder', 'tiny_decoder'), '') | dict.fromkeys(keys, 'taesd')
        return sum(p.numel() for p in loaded(with_keys(folder, **chosen)).parameters())

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    vae, taesd = tiny_vae(), small_tiny()
    encoder = count(taesd.encoder) - count(vae.encoder) - count(vae.quant_conv)
    decoder = count(taesd.decoder) - count(vae.decoder) - count(vae.post_quant_conv)
    assert size('tiny_encoder') - size() == encoder
    assert size('tiny_decoder') - size() == decoder


def test_the_encoder_id_is_that_of_the_tiny_encoder(folder: Path) -> None:
    before = loaded(folder).encoder_id()
    decodes = loaded(with_keys(folder, tiny_decoder='taesd')).encoder_id()
    encodes = loaded(with_keys(folder, tiny_encoder='taesd')).encoder_id()
    assert decodes == before != encodes
    assert loaded(with_keys(folder, vae='taesd', tiny_encoder='')).encoder_id() == encodes


@pytest.mark.parametrize('runtime', sorted(SESSIONS))
@pytest.mark.parametrize('key', ['vae', 'tiny_encoder', 'tiny_decoder'])
def test_a_runtime_computes_what_torch_computes(folder: Path, key: str, runtime: str) -> None:
    """
    At 56 x 40, neither the traced size nor the one at which graphs are checked.

    Depth is compared, not normals: of random weights some vectors are close to zero, and making
    them unit vectors enlarges their rounding. The raw outputs of both passed `check_graph`.
    """
    with_keys(folder, **{key: 'taesd'})
    picture = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    expected, depth = (
        Engine.load(str(folder), device='cpu', runtime=name).predict([picture])[0]['depth'].values
        for name in ('torch', runtime)
    )
    np.testing.assert_allclose(depth, expected, atol=1e-4)
    assert np.nanstd(expected) > 0.1


def test_a_saved_checkpoint_keeps_its_tiny_halves(folder: Path, tmp_path: Path) -> None:
    model, config = checkpoint.load(str(with_keys(folder, tiny_encoder='taesd')))
    checkpoint.save(tmp_path / 'saved', model, config, torch.float32)
    first, second = loaded(folder), loaded(tmp_path / 'saved')
    with torch.inference_mode():
        torch.testing.assert_close(second.encode(IMAGE), first.encode(IMAGE))
        torch.testing.assert_close(second.decode(LATENT), first.decode(LATENT))


# taesd's config.json, from its public repository (madebyollin/taesd).
TAESD = {
    '_class_name': 'AutoencoderTiny',
    'act_fn': 'relu',
    'decoder_block_out_channels': [64, 64, 64, 64],
    'encoder_block_out_channels': [64, 64, 64, 64],
    'force_upcast': False,
    'in_channels': 3,
    'latent_channels': 4,
    'latent_magnitude': 3,
    'latent_shift': 0.5,
    'num_decoder_blocks': [3, 3, 3, 1],
    'num_encoder_blocks': [1, 3, 3, 3],
    'out_channels': 3,
    'scaling_factor': 1.0,
    'upsampling_scaling_factor': 2,
}


def hollow_taesd(folder: Path) -> None:
    """Write taesd's tensors at full size, written down from its code, without numbers."""
    shapes: hollow.Shapes = {}

    def convolution(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        shapes[f'{name}.weight'] = (outputs, inputs, 3, 3)
        if bias:
            shapes[f'{name}.bias'] = (outputs,)

    # Indices of nn.Sequential; an int is a block of three convolutions.
    encoder = ['in', 'block', *['down', 'block', 'block', 'block'] * 3, 'out']
    decoder = ['out', 'relu', *['block', 'block', 'block', 'up', 'down'] * 3, 'block', 'in']
    for half, layers in (('encoder', encoder), ('decoder', decoder)):
        for index, kind in enumerate(layers):
            name = f'{half}.layers.{index}'
            if kind == 'block':
                for number in (0, 2, 4):
                    convolution(f'{name}.conv.{number}', 64, 64)
            elif kind == 'down':  # strided in the encoder, after an upsampling in the decoder
                convolution(name, 64, 64, bias=False)
            elif kind in ('in', 'out'):
                picture = kind == 'in'
                channels = 3 if picture else 4
                first = (half == 'encoder') == picture
                convolution(name, *((channels, 64) if first else (64, channels)))
    hollow.write(folder / 'diffusion_pytorch_model.safetensors', shapes)
    (folder / 'config.json').write_text(json.dumps(TAESD))


@pytest.mark.parametrize('key', ['vae', 'tiny_encoder', 'tiny_decoder'])
def test_taesd_fits_stable_diffusion_21_at_full_size(tmp_path: Path, key: str) -> None:
    """
    On the meta device: names and shapes.

    Encoder: 10 blocks of 3 convolutions 64 -> 64, three strided ones without bias, 3 -> 64 and
    64 -> 4. The decoder mirrors it.
    """
    hollow.pipeline(tmp_path / 'sd')
    hollow_taesd(tmp_path / 'taesd')
    (tmp_path / 'prompt.npy').unlink(missing_ok=True)
    np.save(tmp_path / 'prompt.npy', np.zeros((2, 1024), np.float32))
    values = {
        'base': 'sd',
        'prompt': 'prompt.npy',
        'tasks': {'depth': {'unet': 'sd/unet'}},
        key: 'taesd',
    }
    (tmp_path / 'checkpoint.yaml').write_text(yaml.safe_dump(values))
    model, _ = checkpoint.load(str(tmp_path), device='meta')
    [backbone] = model.backbones.values()
    assert (backbone.stride, backbone.latent_channels) == (8, 4)
    middle = 30 * (64 * 64 * 9 + 64) + 3 * 64 * 64 * 9
    ends = 3 * 64 * 9 + 64 * 4 * 9
    sizes = {'encoder': middle + ends + 64 + 4, 'decoder': middle + ends + 64 + 3}
    used = {'vae': sizes, 'tiny_encoder': ['encoder'], 'tiny_decoder': ['decoder']}[key]
    module = backbone.vae if key == 'vae' else getattr(backbone, key)
    assert sum(p.numel() for p in module.parameters()) == sum(sizes[half] for half in used)


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'latent_channels': 16}, 'tiny_encoder: expected .* 4 latent channels .* got 16 and 8'),
        (
            {
                'encoder_block_out_channels': (8,) * 3,
                'num_encoder_blocks': (1,) * 3,
            },
            'stride 8, as the VAE has, got 4 and 4',
        ),
    ],
)
def test_a_tiny_autoencoder_of_another_family_is_refused(
    folder: Path, changes: dict[str, Any], reason: str
) -> None:
    save_model(folder / 'taesd', small_tiny(**changes), torch.float32)
    with pytest.raises(ValueError, match=reason):
        loaded(with_keys(folder, tiny_encoder='taesd'))


def test_a_kl_autoencoder_is_refused_as_a_tiny_one(folder: Path) -> None:
    with pytest.raises(ValueError, match=r'expected an AutoencoderTiny at .*vae, got Autoencoder'):
        loaded(with_keys(folder, tiny_decoder='vae'))


def test_a_tiny_decoder_without_weights_is_refused(folder: Path) -> None:
    encoder_only = small_tiny()
    encoder_only.decoder = torch.nn.Identity()
    save_model(folder / 'taesd', encoder_only, torch.float32)
    loaded(with_keys(folder, tiny_encoder='taesd'))
    with pytest.raises(ValueError, match=r'tiny_decoder: expected a decoder in .*taesd'):
        loaded(with_keys(folder, tiny_encoder='', tiny_decoder='taesd'))


@pytest.mark.parametrize('key', ['vae', 'tiny_decoder'])
def test_a_fine_tuned_decoder_is_not_silently_replaced(folder: Path, key: str) -> None:
    """An experiment of GenPercept whose decoder was fine-tuned lies around the denoiser."""
    for part in ('decoder', 'post_quant_conv'):
        path = folder / f'vae_{part}' / 'diffusion_pytorch_model.safetensors'
        path.parent.mkdir()
        checkpoint.save_tensors(path, getattr(tiny_vae(), part).state_dict())
    with pytest.raises(ValueError, match='and a tiny decoder exclude each other'):
        loaded(with_keys(folder, **{key: 'taesd'}))
    loaded(with_keys(folder, vae='vae', tiny_encoder='taesd', tiny_decoder=''))


def test_two_denoisers_share_one_tiny_encoder(folder: Path) -> None:
    first: Model = tiny_model({'depth': 'decoder'}, seed=3)
    checkpoint.save(folder / 'other', first, CheckpointConfig())
    tasks = {'depth': {'unet': 'unet'}, 'normals': {'unet': 'other/unet'}}
    with_keys(folder, tasks=tasks, tiny_encoder='taesd')  # type: ignore[arg-type]
    one, two = checkpoint.load(str(folder))[0].backbones.values()
    assert one.tiny_encoder is two.tiny_encoder is not None
