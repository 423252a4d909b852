"""A folded model gives what it gave before, with fewer parameters: exactly as many as counted."""

from __future__ import annotations

import copy
from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from models import tiny_model, tiny_unet, tiny_vae
import pytest
import torch
from torch import nn, Tensor

from sd_perception_ros.backbones.backbone import Backbone
from sd_perception_ros.backbones.folding import foldable
from sd_perception_ros.backbones.small import PROMPT_WIDTH, small_unet
from sd_perception_ros.backbones.unet import UNetBackbone
from sd_perception_ros.checkpoint import checkpoint
from sd_perception_ros.checkpoint.finetuning import model_to_finetune
from sd_perception_ros.checkpoint.weights import CONFIGS, read_model_config
from sd_perception_ros.engine import Engine


def tiny_sd21() -> UNet2DConditionModel:
    """Return Stable Diffusion 2.1's UNet, block for block, with a fortieth of its channels."""
    shape = {
        'block_out_channels': (8, 16, 32, 32),
        'attention_head_dim': (1, 2, 4, 4),
        'cross_attention_dim': PROMPT_WIDTH,
        'norm_num_groups': 4,
    }
    return UNet2DConditionModel(**(read_model_config(CONFIGS, CONFIGS / 'sd21_unet.json') | shape))


UNETS = {'SD 2.1': tiny_sd21, 'small': small_unet}
PROMPTS = {
    'one token': torch.randn(1, 1, PROMPT_WIDTH, generator=torch.Generator().manual_seed(0)),
    'two tokens': torch.randn(1, 2, PROMPT_WIDTH, generator=torch.Generator().manual_seed(0)),
    '77 tokens': torch.randn(1, 77, PROMPT_WIDTH, generator=torch.Generator().manual_seed(0)),
    '77 equal tokens': torch.ones(1, 77, PROMPT_WIDTH),
}


def backbone_of(unet: nn.Module, prompt: Tensor) -> UNetBackbone:
    """Return a random backbone in which nothing is zero, so that nothing can be forgotten."""
    torch.manual_seed(0)
    backbone = UNetBackbone(tiny_vae(), unet, prompt, timestep=500)
    for parameter in backbone.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.3)
    return backbone.eval().requires_grad_(False)


def folded(backbone: Backbone, decodes: bool = True) -> Backbone:
    again = copy.deepcopy(backbone)
    again.fold(decodes)
    return again


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize('prompt', PROMPTS)
@pytest.mark.parametrize('unet', UNETS)
@torch.inference_mode()
def test_a_folded_backbone_gives_the_same_latent_and_levels(unet: str, prompt: str) -> None:
    torch.manual_seed(1)
    stock = backbone_of(UNETS[unet](), PROMPTS[prompt])
    image = torch.rand(2, 3, 72, 104) * 2 - 1  # 9 x 13 cells: odd on every level
    ours, theirs = folded(stock), stock
    latent = theirs.encode(image)
    torch.testing.assert_close(ours.encode(image), latent, atol=1e-5, rtol=1e-5)
    found, expected = ours.step(latent), theirs.step(latent)
    torch.testing.assert_close(found.latent, expected.latent, atol=1e-5, rtol=1e-5)
    assert len(found.features) == len(expected.features)
    for level, truth in zip(found.features, expected.features, strict=True):
        torch.testing.assert_close(level, truth, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.decode(latent), theirs.decode(latent))


def test_prompt_and_timestep_affect_the_output_before_folding() -> None:
    """Else the test above would pass with any condition."""
    latent = torch.randn(1, 4, 8, 8)
    answers = []
    for prompt in ('two tokens', '77 tokens'):
        stock = backbone_of(small_unet(), PROMPTS[prompt])
        answers.append(stock.step(latent).latent)
        stock.timestep.fill_(1)
        answers.append(stock.step(latent).latent)
    for one in range(4):
        for other in range(one):
            assert (answers[one] - answers[other]).abs().max() > 1e-3


def test_folding_removes_timestep_and_prompt_projections() -> None:
    """
    The tiny UNet: levels of 16 and 32 channels, prompt of 8, one token.

    Timestep: embedding 16 -> 64 -> 64; nine residual blocks (one and one down, two in the middle,
    two and two up), 64 -> channels. Attention at the level of 32 (one down, one in the middle, two
    up): to_q and to_out 32 x 32, to_k and to_v 8 x 32, and a layer norm.
    """
    backbone = backbone_of(tiny_unet(), torch.zeros(1, 1, 8))
    timestep = (16 * 64 + 64) + (64 * 64 + 64) + 65 * (16 * 3 + 32 * 5)
    attention = 4 * (32 * 32 + 32 * 32 + 32 + 2 * 8 * 32 + 2 * 32)
    assert count(backbone.unet) - count(folded(backbone).unet) == timestep + attention


def test_a_folded_encoder_outputs_only_the_mean() -> None:
    """The last convolution, 8 channels to 8, and quant_conv, 8 to 8, become one of 8 to 4."""
    backbone = backbone_of(tiny_unet(), torch.zeros(1, 1, 8))
    lean = folded(backbone, decodes=False)
    assert lean.vae.encoder.conv_out.weight.shape == (4, 8, 3, 3)
    before = (8 * 8 * 9 + 8) + (8 * 8 + 8)
    decoder = count(backbone.vae.decoder) + count(backbone.vae.post_quant_conv)
    assert count(backbone.vae) - count(lean.vae) == before - (4 * 8 * 9 + 4) + decoder


def test_stable_diffusion_21_loses_78_million_parameters_and_its_decoder() -> None:
    """On the meta device: shapes without numbers."""
    with torch.device('meta'):
        unet = UNet2DConditionModel.from_config(
            read_model_config(CONFIGS, CONFIGS / 'sd21_unet.json')
        )
        vae = AutoencoderKL.from_config(read_model_config(CONFIGS, CONFIGS / 'sd21_vae.json'))
        backbone = UNetBackbone(vae, unet, torch.zeros(1, 2, 1024), timestep=1).to('meta')
    assert count(backbone.unet) == 865_910_724
    encoder = count(backbone.vae.encoder)
    backbone.fold(decodes=False)
    assert count(backbone.unet) == 788_082_564
    assert count(backbone.vae) == encoder - 4 * (512 * 9 + 1)


def test_folding_twice_equals_folding_once() -> None:
    backbone = folded(backbone_of(tiny_unet(), torch.zeros(1, 1, 8)))
    assert count(folded(backbone)) == count(backbone)


def test_two_denoisers_on_one_encoder_fold_it_once() -> None:
    first = backbone_of(tiny_unet(), torch.zeros(1, 1, 8))
    second = UNetBackbone(first.vae, tiny_unet(), torch.zeros(1, 1, 8), timestep=1)
    image = torch.rand(1, 3, 32, 32)
    before = first.encode(image)
    first.fold(decodes=True)
    second.fold(decodes=True)
    torch.testing.assert_close(second.encode(image), before, atol=1e-5, rtol=1e-5)


def test_a_unet_with_another_condition_is_not_folded() -> None:
    odd = UNet2DConditionModel(
        **(dict(tiny_unet().config) | {'resnet_time_scale_shift': 'scale_shift'})
    )
    assert not foldable(odd)
    stock = backbone_of(odd, torch.zeros(1, 1, 8))
    latent = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(folded(stock).step(latent).latent, stock.step(latent).latent)


@pytest.mark.parametrize('head', ['light', 'decoder', 'dpt'])
@torch.inference_mode()
def test_a_folded_model_gives_the_same_output_for_every_task(head: str) -> None:
    model = tiny_model({'depth': head, 'normals': head})
    image = torch.rand(1, 3, 32, 40) * 2 - 1
    before = model(image)
    model.fold()
    for task, raw in model(image).items():
        torch.testing.assert_close(raw, before[task], atol=1e-5, rtol=1e-5)


def test_the_engine_folds_models_and_logs_the_saved_parameters() -> None:
    loaded, _ = checkpoint.load('bundled')
    engine = Engine.load('bundled', device='cpu')
    served = sum(count(part.model) for part in engine._models)
    assert served < count(loaded)
    assert f'{served / 1e6:.1f} M parameters ({count(loaded) / 1e6:.1f} M' in engine.summary()


def test_a_checkpoint_for_training_is_not_folded() -> None:
    model = model_to_finetune(Path('bundled'), ['depth'], 'light')
    [backbone] = model.backbones.values()
    assert isinstance(backbone.unet, UNet2DConditionModel)
    assert backbone.unet.time_embedding is not None
