"""Every official layout loads unchanged: all names and shapes at full size, numbers at a small."""

from __future__ import annotations

from collections.abc import Callable
import json
import logging
from pathlib import Path
from typing import Any

from diffusers import (
    DDIMScheduler,
    MarigoldDepthPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
import hollow
from models import save_tiny, tiny_unet, tiny_vae, unet_with
import numpy as np
from peft import get_peft_model, get_peft_model_state_dict, LoraConfig
import pytest
from safetensors.torch import load_file, save_file
import torch
import yaml

from sd_perception_ros.backbones.onestep import OneStep
from sd_perception_ros.checkpoint import checkpoint
from sd_perception_ros.checkpoint.licenses import commercial_use, NOT_STATED
from sd_perception_ros.checkpoint.weight_files import file_sha256
from sd_perception_ros.checkpoint.weights import save_model
from sd_perception_ros.heads.decoder import DecoderHead
from sd_perception_ros.heads.dpt import DPTHead
from sd_perception_ros.model import Model

WEIGHTS = 'diffusion_pytorch_model.safetensors'
UNET_SIZE, VAE_SIZE, DECODER_SIZE = 865_910_724, 83_653_863, 49_490_199
SAMPLE = hollow.SCHEDULER | {'prediction_type': 'sample'}
LOTUS = {'class_embed_type': 'projection', 'projection_class_embeddings_input_dim': 4}


def describe(folder: Path, **values: Any) -> Path:
    """Write a checkpoint.yaml for depth into a folder."""
    (folder / 'checkpoint.yaml').write_text(yaml.safe_dump(values))
    return folder


def sd21(folder: Path) -> Path:
    """Write Stable Diffusion 2.1, and the embedding of the empty prompt."""
    np.save(folder / 'prompt.npy', np.zeros((1, 2, 1024), np.float32))
    return hollow.pipeline(folder / 'sd')


def version_2(folder: Path) -> dict[str, Any]:
    hollow.write(folder / 'unet_depth_v2' / WEIGHTS, hollow.unet_shapes())
    return {'base': 'sd', 'prompt': 'prompt.npy', 'tasks': {'depth': {'unet': 'unet_depth_v2'}}}


def version_2_dpt(folder: Path) -> dict[str, Any]:
    shapes = {
        k: v
        for k, v in hollow.unet_shapes().items()
        if not k.startswith(('conv_out', 'conv_norm'))
    }
    hollow.write(folder / 'unet_disparity_dpt_head_v2' / WEIGHTS, shapes)
    hollow.write(folder / 'dpt_head_identity/model.safetensors', hollow.dpt_shapes())
    task = {'depth': {'unet': 'unet_disparity_dpt_head_v2'}}
    return {'base': 'sd', 'prompt': 'prompt.npy', 'tasks': task}


def version_1(folder: Path) -> dict[str, Any]:
    """Write the first version: a VAE without decoder, 77 tokens, heads with unused parts."""
    shapes = {
        k: v
        for k, v in hollow.unet_shapes().items()
        if not k.startswith(('conv_out', 'conv_norm'))
    }
    vae = {k: v for k, v in hollow.vae_shapes().items() if 'decoder' not in k and 'post' not in k}
    hollow.write(folder / 'v1/unet_depth_v1' / WEIGHTS, shapes)
    hollow.write(folder / 'v1/vae' / WEIGHTS, vae)
    hollow.write(folder / 'v1/dpt_head/model.safetensors', hollow.dpt_shapes(first_version=True))
    np.save(folder / 'v1/empty_text_embed.npy', np.zeros((77, 1024), np.float32))
    return {'tasks': {'depth': {'unet': 'v1/unet_depth_v1'}}}


def experiment_dpt(folder: Path) -> dict[str, Any]:
    """Write one whose UNet kept the last convolution, which the official code drops."""
    hollow.write(folder / 'exp/unet' / WEIGHTS, hollow.unet_shapes())
    hollow.write(folder / 'exp/dpt_head_identity/model.safetensors', hollow.dpt_shapes())
    return {'base': 'sd', 'prompt': 'prompt.npy', 'tasks': {'depth': {'unet': 'exp'}}}


def experiment_frozen(folder: Path) -> dict[str, Any]:
    """Write one that trained a head on the UNet of Stable Diffusion as it is."""
    hollow.write(folder / 'exp/dpt_head_identity/model.safetensors', hollow.dpt_shapes())
    return {'base': 'sd', 'prompt': 'prompt.npy', 'tasks': {'depth': {'unet': 'exp'}}}


def experiment_decoder(folder: Path) -> dict[str, Any]:
    vae = hollow.vae_shapes()
    for part in ('decoder', 'post_quant_conv'):
        shapes = {
            k.removeprefix(f'{part}.'): v for k, v in vae.items() if k.startswith(f'{part}.')
        }
        hollow.write(folder / f'exp/vae_{part}/model.safetensors', shapes)
    hollow.write(folder / 'exp/unet' / WEIGHTS, hollow.unet_shapes())
    return {'base': 'sd', 'prompt': 'prompt.npy', 'tasks': {'depth': {'unet': 'exp'}}}


def experiment_lora(folder: Path) -> dict[str, Any]:
    hollow.write(folder / 'exp/unet' / WEIGHTS, hollow.lora_shapes(rank=16))
    return {'base': 'sd', 'prompt': 'prompt.npy', 'tasks': {'depth': {'unet': 'exp'}}}


def experiment_marigold(folder: Path) -> dict[str, Any]:
    """Write a Marigold-style UNet without config.json: its first tensor tells of two latents."""
    hollow.write(folder / 'exp/unet' / WEIGHTS, hollow.unet_shapes(in_channels=8))
    return {'base': 'sd', 'prompt': 'prompt.npy', 'tasks': {'depth': {'unet': 'exp'}}}


def e2e_ft(folder: Path) -> dict[str, Any]:
    hollow.pipeline(folder / 'e2e', in_channels=8)
    return {'prompt': 'prompt.npy', 'tasks': {'depth': {'unet': 'e2e'}}}


def lotus_d(folder: Path) -> dict[str, Any]:
    hollow.pipeline(folder / 'lotus', SAMPLE, **LOTUS)
    return {'prompt': 'prompt.npy', 'tasks': {'depth': {'unet': 'lotus'}}}


MARIGOLD_STEP = (
    999,
    'v_prediction',
    0.068265,
)  # sqrt of the last of SD's alphas_cumprod, 0.0046602
EXPECTED: dict[Callable[[Path], dict[str, Any]], tuple[int, int, tuple[float, str, float]]] = {
    version_2: (0, 0, (1, 'v_prediction', 0)),
    version_2_dpt: (-(320 + 320 + 4 * 320 * 9 + 4), 0, (1, 'v_prediction', 0)),
    version_1: (-(320 + 320 + 4 * 320 * 9 + 4), -DECODER_SIZE, (1, 'v_prediction', 0)),
    experiment_dpt: (0, 0, (1, 'v_prediction', 0)),
    experiment_frozen: (0, 0, (1, 'v_prediction', 0)),
    experiment_decoder: (0, 0, (1, 'v_prediction', 0)),
    experiment_lora: (0, 0, (1, 'v_prediction', 0)),
    experiment_marigold: (4 * 320 * 9, 0, MARIGOLD_STEP),
    e2e_ft: (4 * 320 * 9, 0, MARIGOLD_STEP),
    # The switch: 4 numbers to 1280, and 1280 to 1280.
    lotus_d: (4 * 1280 + 1280 + 1280 * 1280 + 1280, 0, (999, 'sample', 0)),
}


@pytest.fixture(scope='module')
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('sd21')
    sd21(folder)
    return folder


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """Return a folder that sees Stable Diffusion 2.1 and the prompt."""
    for name in ('sd', 'prompt.npy'):
        (tmp_path / name).symlink_to(base / name)
    return tmp_path


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize('layout', EXPECTED, ids=lambda layout: layout.__name__)
def test_every_name_and_shape_of_a_layout_fits_at_full_size(
    folder: Path, layout: Callable[[Path], dict[str, Any]]
) -> None:
    describe(folder, **layout(folder))
    model, _ = checkpoint.load(str(folder), device='meta')
    [backbone] = model.backbones.values()
    unet, vae, (timestep, prediction_type, alpha) = EXPECTED[layout]
    assert count(backbone.unet) == UNET_SIZE + unet
    assert count(backbone.vae) == VAE_SIZE + vae
    step = backbone.one_step
    assert (step.timestep, step.prediction_type) == (timestep, prediction_type)
    assert step.alpha == pytest.approx(alpha, abs=1e-6)
    has_head = (folder / 'dpt_head_identity').exists() or list(folder.glob('*/dpt_head*'))
    assert isinstance(model.heads['depth'], DPTHead if has_head else DecoderHead)


def test_a_model_on_the_meta_device_has_output_shapes(folder: Path) -> None:
    describe(folder, **version_2_dpt(folder) | {'prompt': 'prompt.npy'})
    model, _ = checkpoint.load(str(folder), device='meta')
    assert model(torch.empty(1, 3, 64, 96, device='meta'))['depth'].shape == (1, 1, 64, 96)


def test_a_head_ends_in_a_relu_where_the_official_one_does(folder: Path) -> None:
    for layout, rectifies in ((version_1, True), (experiment_dpt, False)):
        describe(folder, **layout(folder))
        assert checkpoint.load(str(folder), device='meta')[0].heads['depth'].rectifies == rectifies


def test_an_error_names_missing_tensors_and_wrong_shapes(folder: Path) -> None:
    values = version_2(folder)
    describe(folder, **values)
    shapes = hollow.unet_shapes()
    shapes.pop('time_embedding.linear_1.bias')
    hollow.write(folder / 'unet_depth_v2' / WEIGHTS, shapes)
    with pytest.raises(
        ValueError, match=r'unet_depth_v2 .* it lacks time_embedding.linear_1.bias'
    ):
        checkpoint.load(str(folder), device='meta')
    hollow.write(folder / 'unet_depth_v2' / WEIGHTS, hollow.unet_shapes(in_channels=5))
    with pytest.raises(ValueError, match=r'expected a denoiser with 4 or 8 channels in .* got 5'):
        checkpoint.load(str(folder), device='meta')


def test_an_error_lists_the_expected_layouts(folder: Path) -> None:
    (folder / 'things').mkdir()
    (folder / 'things/notes.txt').touch()
    describe(folder, base='sd', prompt='prompt.npy', tasks={'depth': {'unet': 'things'}})
    with pytest.raises(FileNotFoundError, match=r'expected a denoiser .* which has notes.txt'):
        checkpoint.load(str(folder), device='meta')
    (folder / 'things/unet').mkdir()
    (folder / 'things/unet/diffusion_pytorch_model.bin').touch()
    describe(folder, base='sd', prompt='prompt.npy', tasks={'depth': {'unet': 'things/unet'}})
    with pytest.raises(FileNotFoundError, match='expected a denoiser'):
        checkpoint.load(str(folder), device='meta')


def test_a_decoder_head_is_refused_for_a_vae_without_decoder(folder: Path) -> None:
    values = version_1(folder)
    hollow.write(folder / 'v1/unet_depth_v1' / WEIGHTS, hollow.unet_shapes())
    describe(folder, **values)
    with pytest.raises(ValueError, match='needs a VAE with a decoder, and this one only encodes'):
        checkpoint.load(str(folder), device='meta')


# With numbers, at a size that runs.


def tiny_pipeline(folder: Path, unet: UNet2DConditionModel, scheduler: DDIMScheduler) -> Path:
    """Write a random model in the layout of diffusers, with the stored prompt."""
    torch.manual_seed(1)
    save_model(folder / 'vae', tiny_vae(), torch.float32)
    save_model(folder / 'unet', unet, torch.float32)
    scheduler.save_config(folder / 'scheduler')
    (folder / 'model_index.json').write_text('{}')
    save_file({'prompt': torch.ones(1, 2, 8)}, folder / 'prompt.safetensors')
    return folder


def served(folder: Path, unet: str, **values: Any) -> Model:
    describe(folder, tasks={'depth': {'unet': unet}}, **values)
    return checkpoint.load(str(folder))[0]


def marigold_scheduler(**changes: Any) -> DDIMScheduler:
    return DDIMScheduler.from_config(hollow.SCHEDULER | {'timestep_spacing': 'trailing'} | changes)


def wide_unet() -> UNet2DConditionModel:
    return changed_unet(in_channels=8)


def changed_unet(**changes: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return unet_with(**changes)


@pytest.mark.parametrize('prediction_type', ['v_prediction', 'epsilon', 'sample'])
@pytest.mark.parametrize('zero_snr', [False, True])
@pytest.mark.parametrize('set_alpha_to_one', [False, True])
def test_a_two_latent_model_equals_the_pipeline_of_diffusers_from_zeros(
    tmp_path: Path, prediction_type: str, zero_snr: bool, set_alpha_to_one: bool
) -> None:
    """E2E-FT's setting of Marigold: one step, trailing, and zeros for the noise."""
    scheduler = marigold_scheduler(
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
        set_alpha_to_one=set_alpha_to_one,
    )
    tiny_pipeline(tmp_path / 'marigold', wide_unet(), scheduler)
    if prediction_type == 'epsilon' and zero_snr:
        with pytest.raises(ValueError, match='does not determine the clean latent'):
            served(tmp_path, 'marigold')
        return
    model = served(tmp_path, 'marigold')
    [backbone] = model.backbones.values()
    image = torch.rand(1, 3, 48, 64)
    official = MarigoldDepthPipeline(
        backbone.unet, backbone.vae, scheduler, None, None, True, True, 1, 0
    )
    official.empty_text_embedding = backbone.prompt
    official.set_progress_bar_config(disable=True)
    expected = official(
        image, 1, processing_resolution=0, latents=torch.zeros(1, 4, 6, 8), output_type='pt'
    ).prediction
    with torch.inference_mode():
        ours = (model(image * 2 - 1)['depth'] + 1) / 2
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 1e-3


def test_lotus_outputs_the_clean_latent_with_its_task_embedding(tmp_path: Path) -> None:
    unet = changed_unet(**LOTUS)
    scheduler = marigold_scheduler(prediction_type='sample')
    folder = tiny_pipeline(tmp_path / 'lotus', unet, scheduler)
    [backbone] = served(tmp_path, 'lotus').backbones.values()
    latent = torch.randn(1, 4, 6, 8)
    # As its inference script has it: sines, then cosines, of (1, 0).
    switch = torch.tensor([[1.0, 0.0]])
    switch = torch.cat([switch.sin(), switch.cos()], -1)
    prompt = load_file(folder / 'prompt.safetensors')['prompt']
    with torch.inference_mode():
        expected = unet(latent, 999, prompt, class_labels=switch).sample
        torch.testing.assert_close(backbone.step(latent).latent, expected)
        other = unet(latent, 999, prompt, class_labels=switch.flip(1)).sample
    assert (other - expected).abs().max() > 1e-4


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (LOTUS, r'unet: a class embedding of 4 inputs that is neither of Lotus .*v_prediction'),
        (LOTUS | {'projection_class_embeddings_input_dim': 10}, r'10 inputs is that of GeoWizard'),
        (LOTUS | {'projection_class_embeddings_input_dim': 6}, r'got projection with 6 inputs'),
        ({'num_class_embeds': 3}, r'got a table with 3 inputs; its meaning is unknown'),
        ({'class_embed_type': 'timestep'}, r'got timestep with None inputs'),
    ],
)
def test_a_class_embedding_of_unknown_meaning_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    tiny_pipeline(tmp_path / 'other', changed_unet(**changes), marigold_scheduler())
    with pytest.raises(ValueError, match=message):
        served(tmp_path, 'other')


def test_the_generative_lotus_is_refused_because_it_reads_noise(tmp_path: Path) -> None:
    unet = changed_unet(in_channels=8, **LOTUS)
    tiny_pipeline(tmp_path / 'lotus_g', unet, marigold_scheduler(prediction_type='sample'))
    values = {'timestep': 999, 'prediction_type': 'sample'}
    for options in ({}, values):
        with pytest.raises(ValueError, match=r'generative Lotus .*reads noise.* choose Lotus-D'):
            served(tmp_path, 'lotus_g', **options)


def test_a_scheduler_of_another_kind_is_refused_unless_the_step_is_written_down(
    tmp_path: Path,
) -> None:
    folder = tiny_pipeline(tmp_path / 'edm', wide_unet(), marigold_scheduler())
    file = folder / 'scheduler/scheduler_config.json'
    file.write_text('{"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}')
    with pytest.raises(ValueError, match=r"scheduler_config\.json: the scheduler 'EDMEuler"):
        served(tmp_path, 'edm')
    step = {'timestep': 999, 'prediction_type': 'sample', 'alpha': 0.0}
    [backbone] = served(tmp_path, 'edm', **step).backbones.values()
    assert backbone.one_step == OneStep(999, 'sample', 0.0)


def test_a_spacing_that_starts_at_the_clean_end_is_said_once_and_confirmed_by_a_timestep(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leading = marigold_scheduler(timestep_spacing='leading')
    tiny_pipeline(tmp_path / 'old', wide_unet(), leading)
    [backbone] = served(tmp_path, 'old').backbones.values()
    assert backbone.one_step.timestep == 999
    [record] = caplog.records
    assert 'timestep_spacing leading starts a single step at the clean end' in record.message
    caplog.clear()
    served(tmp_path, 'old', timestep=999)
    assert not caplog.records


def test_a_saved_checkpoint_keeps_the_step_of_its_scheduler(tmp_path: Path) -> None:
    tiny_pipeline(tmp_path / 'e2e', wide_unet(), marigold_scheduler())
    describe(tmp_path, tasks={'depth': {'unet': 'e2e'}})
    model, config = checkpoint.load(str(tmp_path))
    assert next(iter(model.backbones.values())).one_step.final_alpha < 1
    checkpoint.save(tmp_path / 'saved', model, config, torch.float32)
    again, _ = checkpoint.load(str(tmp_path / 'saved'))
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(again(image)['depth'], model(image)['depth'])


def test_a_class_embedding_is_lotus_s_if_the_options_say_its_step(tmp_path: Path) -> None:
    tiny_pipeline(tmp_path / 'other', changed_unet(**LOTUS), marigold_scheduler())
    model = served(tmp_path, 'other', timestep=999, prediction_type='sample')
    [backbone] = model.backbones.values()
    assert backbone.one_step.prediction_type == 'sample'
    with pytest.raises(ValueError, match=r'write timestep: 999 and prediction_type: sample'):
        served(tmp_path, 'other', timestep=999)


def test_the_pipeline_folder_of_genpercept_runs_at_timestep_1_with_alpha_0(
    tmp_path: Path,
) -> None:
    """Its scheduler has betas of 1; diffusers' own division by zero gives NaN there."""
    scheduler = DDIMScheduler.from_config(
        hollow.SCHEDULER | {'beta_start': 1.0, 'beta_end': 1.0, 'beta_schedule': 'linear'}
    )
    tiny_pipeline(tmp_path / 'depth', tiny_unet(), scheduler)
    [backbone] = served(tmp_path, 'depth').backbones.values()
    assert (backbone.one_step.timestep, backbone.one_step.alpha) == (1, 0)
    assert (backbone.one_step.latent_coefficient, backbone.one_step.output_coefficient) == (0, -1)


def test_the_step_in_checkpoint_yaml_has_priority(tmp_path: Path) -> None:
    tiny_pipeline(tmp_path / 'e2e', wide_unet(), marigold_scheduler())
    values = {'timestep': 500, 'prediction_type': 'sample', 'alpha': 0.5}
    step = next(iter(served(tmp_path, 'e2e', **values).backbones.values())).one_step
    assert (step.timestep, step.prediction_type, step.alpha) == (500, 'sample', 0.5)


@pytest.fixture
def adapted(tmp_path: Path) -> UNet2DConditionModel:
    """Return a UNet with adapters that peft made, none of them zero, beside its base on disk."""
    torch.manual_seed(2)
    unet = tiny_unet()
    tiny_pipeline(tmp_path / 'base', unet, marigold_scheduler())
    layers = LoraConfig(r=2, lora_alpha=2, target_modules=['to_q', 'to_k', 'to_v', 'to_out.0'])
    unet.add_adapter(layers)
    for name, parameter in unet.named_parameters():
        if 'lora_' in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return unet.eval()


def test_adapters_inside_a_unet_are_merged_as_peft_runs_them(
    tmp_path: Path, adapted: UNet2DConditionModel
) -> None:
    """The state that GenPercept's experiments store."""
    (tmp_path / 'exp/unet').mkdir(parents=True)
    save_file(adapted.state_dict(), tmp_path / 'exp/unet' / WEIGHTS)
    [backbone] = served(tmp_path, 'exp', base='base').backbones.values()
    latent, prompt = torch.randn(1, 4, 6, 8), torch.ones(1, 2, 8)
    with torch.inference_mode():
        expected = -adapted(latent, 1, prompt).sample
        torch.testing.assert_close(backbone.step(latent).latent, expected)
        adapted.disable_adapters()
        assert (adapted(latent, 1, prompt).sample + expected).abs().max() > 1e-3


@pytest.mark.parametrize('alpha', [None, 8])
@pytest.mark.parametrize(
    ('prefix', 'down', 'up'),
    [
        ('base_model.model.', 'lora_A.weight', 'lora_B.weight'),
        ('unet.', 'lora.down.weight', 'lora.up.weight'),
    ],
)
def test_adapters_alone_change_the_base_by_alpha_over_rank(
    tmp_path: Path,
    adapted: UNet2DConditionModel,
    prefix: str,
    down: str,
    up: str,
    alpha: int | None,
) -> None:
    own = adapted.state_dict()
    names = {'lora_A.default.weight': down, 'lora_B.default.weight': up}
    alone = {
        prefix + name.replace(old, new): tensor
        for name, tensor in own.items()
        for old, new in names.items()
        if name.endswith(old)
    }
    (tmp_path / 'lora').mkdir()
    save_file(alone, tmp_path / 'lora/model.safetensors')
    if alpha:
        (tmp_path / 'lora/adapter_config.json').write_text(
            json.dumps({'r': 2, 'lora_alpha': alpha})
        )
    [backbone] = served(tmp_path, 'lora', base='base').backbones.values()
    layer = next(name for name in own if name.endswith('to_q.lora_A.default.weight'))
    layer = layer.removesuffix('.lora_A.default.weight')
    change = own[f'{layer}.lora_B.default.weight'] @ own[f'{layer}.lora_A.default.weight']
    expected = own[f'{layer}.base_layer.weight'] + (alpha or 2) / 2 * change
    torch.testing.assert_close(backbone.unet.state_dict()[f'{layer}.weight'], expected)


SCALES: dict[str, dict[str, Any]] = {
    'alpha': {'lora_alpha': 5},
    'rank-stabilised': {'lora_alpha': 5, 'use_rslora': True},
    'patterns': {'lora_alpha': 3, 'rank_pattern': {'to_q': 4}, 'alpha_pattern': {'to_k': 7}},
}


@pytest.mark.parametrize('writer', ['peft', 'model of diffusers', 'pipeline of diffusers'])
@pytest.mark.parametrize('scale', SCALES)
def test_folders_of_peft_and_diffusers_are_merged_as_their_writers_run_them(
    tmp_path: Path, writer: str, scale: str
) -> None:
    torch.manual_seed(2)
    unet = tiny_unet()
    tiny_pipeline(tmp_path / 'base', unet, marigold_scheduler())
    layers = ['to_q', 'to_k', 'to_v', 'to_out.0', 'conv1']
    config = LoraConfig(r=2, target_modules=layers, **SCALES[scale])
    adapted = get_peft_model(unet, config) if writer == 'peft' else unet
    if writer != 'peft':
        unet.add_adapter(config)
    for name, parameter in unet.named_parameters():
        if 'lora_' in name:
            torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path / 'lora'
    if writer == 'peft':
        adapted.save_pretrained(folder)
    elif writer == 'model of diffusers':
        unet.save_lora_adapter(folder)
    else:
        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers=get_peft_model_state_dict(unet),
            unet_lora_adapter_metadata=unet.peft_config['default'].to_dict(),
        )
    [backbone] = served(tmp_path, 'lora', base='base').backbones.values()
    latent, prompt = torch.randn(1, 4, 6, 8), torch.ones(1, 2, 8)
    with torch.inference_mode():
        expected = -unet.eval()(latent, 1, prompt).sample
        torch.testing.assert_close(backbone.step(latent).latent, expected, atol=1e-4, rtol=1e-4)


ODD_ADAPTERS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], dict[str, Any], str]] = {
    'DoRA': (dict, {'use_dora': True}, 'has DoRA adapters, which are not supported; merge them'),
    'DoRA without its config': (
        lambda own: own | {'a.to_q.lora_magnitude_vector.weight': torch.ones(2)},
        {},
        'has DoRA adapters',
    ),
    'bias': (
        lambda own: own | {'a.to_q.lora_B.bias': torch.ones(2)},
        {},
        'LoRA adapters with a bias of their own',
    ),
    'kohya': (
        lambda own: {'lora_unet_mid_block_to_q.lora_down.weight': torch.ones(2, 4)},
        {},
        "LoRA adapters with kohya's names",
    ),
    'LoHa': (dict, {'peft_type': 'LOHA'}, 'adapters of the kind LOHA'),
    'LoKr without its config': (
        lambda own: {'a.to_q.lokr_w1': torch.ones(2, 4)},
        {},
        'adapters other than LoRA',
    ),
    'text encoder': (
        lambda own: own | {'text_encoder.q_proj.lora_A.weight': torch.ones(2, 4)},
        {},
        'adapters of a text encoder',
    ),
    'PiSSA': (dict, {'init_lora_weights': 'pissa_niter_4'}, 'which also changes the base'),
    'two adapters': (
        lambda own: (
            own | {'a.lora_A.one.weight': torch.ones(1), 'a.lora_A.two.weight': torch.ones(1)}
        ),
        {},
        r'several adapters \(one, two\)',
    ),
    'alpha of words': (dict, {'lora_alpha': 'many'}, "lora: expected numbers .* got 'many'"),
    'alpha of NaN': (dict, {'lora_alpha': float('nan')}, 'expected finite numbers'),
    'pattern list': (dict, {'alpha_pattern': [1]}, r'expected numbers .* and \[1\]'),
    'pattern of words': (dict, {'alpha_pattern': {'to_q': 'x'}}, 'expected numbers'),
    'pattern that is none': (dict, {'alpha_pattern': {'(': 3}}, 'expected numbers'),
    'one axis': (
        lambda own: {name: tensor[0] for name, tensor in own.items()},
        {},
        'of different ranks; copy it again',
    ),
    'another rank': (
        lambda own: {n: t[:1] if 'lora_A' in n else t for n, t in own.items()},
        {},
        r'the factors of \S+ are \(\d+, 2\) and \(1, \d+\), of different ranks',
    ),
}


@pytest.mark.parametrize('kind', ODD_ADAPTERS)
def test_adapters_that_cannot_be_merged_are_refused_by_name(
    tmp_path: Path, adapted: UNet2DConditionModel, kind: str
) -> None:
    change, options, message = ODD_ADAPTERS[kind]
    own = {n.replace('.default', ''): t for n, t in adapted.state_dict().items() if 'lora_' in n}
    (tmp_path / 'lora').mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in change(own).items()}
    save_file(tensors, tmp_path / 'lora/adapter_model.safetensors')
    if options:
        (tmp_path / 'lora/adapter_config.json').write_text(json.dumps(options))
    with pytest.raises(ValueError, match=message):
        served(tmp_path, 'lora', base='base')


@pytest.mark.parametrize('prefix', ['', '_orig_mod.', 'module.', 'base_model.model._orig_mod.'])
def test_adapters_of_any_name_and_layers_trained_as_a_whole_are_merged(
    tmp_path: Path, prefix: str
) -> None:
    torch.manual_seed(2)
    unet = tiny_unet()
    tiny_pipeline(tmp_path / 'base', unet, marigold_scheduler())
    layers = LoraConfig(r=2, lora_alpha=2, target_modules=['to_q'], modules_to_save=['conv_in'])
    unet.add_adapter(layers, adapter_name='depth')
    for name, parameter in unet.named_parameters():
        if 'lora_' in name or 'modules_to_save' in name:
            torch.nn.init.normal_(parameter, std=0.3)
    (tmp_path / 'exp/unet').mkdir(parents=True)
    state = {f'{prefix}{name}': tensor for name, tensor in unet.state_dict().items()}
    save_file(state, tmp_path / 'exp/unet' / WEIGHTS)
    [backbone] = served(tmp_path, 'exp', base='base').backbones.values()
    latent, prompt = torch.randn(1, 4, 6, 8), torch.ones(1, 2, 8)
    with torch.inference_mode():
        expected = -unet.eval()(latent, 1, prompt).sample
        torch.testing.assert_close(backbone.step(latent).latent, expected, atol=1e-4, rtol=1e-4)


def test_adapters_alone_need_a_base_and_one_that_fits(
    tmp_path: Path, adapted: UNet2DConditionModel
) -> None:
    own = adapted.state_dict()
    factors = {n.replace('.default', ''): t for n, t in own.items() if 'lora_' in n}
    (tmp_path / 'lora').mkdir()
    save_file(factors, tmp_path / 'lora/model.safetensors')
    vae, prompt = 'base/vae', 'base/prompt.safetensors'
    with pytest.raises(ValueError, match='LoRA adapters only; name their model'):
        served(tmp_path, 'lora', vae=vae, prompt=prompt)
    save_file({f'wrong.{n}': t for n, t in factors.items()}, tmp_path / 'lora/model.safetensors')
    with pytest.raises(ValueError, match=r'it lacks the layer of wrong\.'):
        served(tmp_path, 'lora', base='base')


def test_a_fine_tuned_decoder_decodes_and_the_encoder_is_that_of_the_base(tmp_path: Path) -> None:
    folder = tiny_pipeline(tmp_path / 'base', tiny_unet(), marigold_scheduler())
    torch.manual_seed(5)
    tuned = tiny_vae()
    for part in ('decoder', 'post_quant_conv'):
        (tmp_path / f'exp/vae_{part}').mkdir(parents=True)
        save_file(
            getattr(tuned, part).state_dict(), tmp_path / f'exp/vae_{part}/model.safetensors'
        )
    [backbone] = served(tmp_path, 'exp', base='base').backbones.values()
    latent, image = torch.randn(1, 4, 4, 4), torch.rand(1, 3, 32, 32)
    base_vae = type(tuned).from_pretrained(folder / 'vae')
    with torch.inference_mode():
        painted = tuned.decode(latent / 0.18215).sample
        torch.testing.assert_close(backbone.decode(latent), painted)
        encoded = base_vae.encode(image).latent_dist.mean * 0.18215
        torch.testing.assert_close(backbone.encode(image), encoded)


def test_pipelines_with_one_vae_share_the_encoder_and_different_vaes_are_refused(
    tmp_path: Path,
) -> None:
    for name in 'ab':
        tiny_pipeline(tmp_path / name, wide_unet(), marigold_scheduler())
    tasks = {'depth': {'unet': 'a'}, 'normals': {'unet': 'b'}}
    describe(tmp_path, tasks=tasks)
    first, second = checkpoint.load(str(tmp_path))[0].backbones.values()
    assert first.vae is second.vae
    torch.manual_seed(9)
    save_model(tmp_path / 'b/vae', tiny_vae(), torch.float32)
    with pytest.raises(ValueError, match=r'one checkpoint has one VAE, .* side by side'):
        checkpoint.load(str(tmp_path))


def test_shards_are_read_as_one_model(tmp_path: Path) -> None:
    folder = tiny_pipeline(tmp_path / 'e2e', wide_unet(), marigold_scheduler())
    whole = load_file(folder / 'unet' / WEIGHTS)
    names = sorted(whole)
    parts = {f'model-{i}-of-2.safetensors': names[i::2] for i in range(2)}
    for file, own in parts.items():
        save_file({name: whole[name] for name in own}, folder / 'unet' / file)
    (folder / 'unet' / WEIGHTS).unlink()
    index = {'weight_map': {name: file for file, own in parts.items() for name in own}}
    listed = folder / 'unet' / f'{WEIGHTS}.index.json'
    listed.write_text(json.dumps(index))
    [backbone] = served(tmp_path, 'e2e').backbones.values()
    for name, tensor in backbone.unet.state_dict().items():
        torch.testing.assert_close(tensor, whole[name])
    (folder / 'unet/model-1-of-2.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match=r'expected model-1-of-2.safetensors beside'):
        served(tmp_path, 'e2e')


@pytest.mark.parametrize('index', ['index.json', 'index.fp16.json', 'fp16.index.json'])
def test_shards_come_before_an_old_file_and_every_index_name_is_known(
    tmp_path: Path, index: str
) -> None:
    folder = tiny_pipeline(tmp_path / 'e2e', wide_unet(), marigold_scheduler()) / 'unet'
    old = load_file(folder / WEIGHTS)
    save_file({n: t + 1 for n, t in old.items()}, folder / 'model-1-of-1.safetensors')
    weight_map = dict.fromkeys(old, 'model-1-of-1.safetensors')
    (folder / f'{WEIGHTS}.{index}').write_text(json.dumps({'weight_map': weight_map}))
    if 'fp16' in index:  # full precision is preferred
        (folder / WEIGHTS).unlink()
    [backbone] = served(tmp_path, 'e2e').backbones.values()
    for name, tensor in backbone.unet.state_dict().items():
        torch.testing.assert_close(tensor, old[name] + 1)


@pytest.mark.parametrize('prefix', ['_orig_mod.', 'module.', 'module._orig_mod.'])
def test_weights_of_compiled_and_data_parallel_modules_are_read(
    tmp_path: Path, prefix: str
) -> None:
    file = tiny_pipeline(tmp_path / 'e2e', wide_unet(), marigold_scheduler()) / 'unet' / WEIGHTS
    weights = load_file(file)
    save_file({prefix + name: tensor for name, tensor in weights.items()}, file)
    [backbone] = served(tmp_path, 'e2e').backbones.values()
    assert torch.equal(backbone.unet.conv_in.weight, weights['conv_in.weight'])


def test_a_path_may_start_with_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    tiny_pipeline(tmp_path / 'models/e2e', wide_unet(), marigold_scheduler())
    assert served(tmp_path, '~/models/e2e').stride == 8


@pytest.mark.parametrize('values', [{'unet': 'owner/model'}, {'unet': 'e2e', 'base': 'owner/m'}])
def test_an_id_of_the_hub_without_its_prefix_gets_a_hint(
    tmp_path: Path, values: dict[str, str]
) -> None:
    tiny_pipeline(tmp_path / 'e2e', wide_unet(), marigold_scheduler())
    with pytest.raises(FileNotFoundError, match=r'on the hub is named hub:owner/\w+$'):
        served(tmp_path, **values)
    with pytest.raises(FileNotFoundError, match=r'on the hub is named hub:owner/model$'):
        checkpoint.load('owner/model')


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        (f'unet/{WEIGHTS}', '', rf'unet/{WEIGHTS} is not an intact safetensors file'),
        ('unet/config.json', '', r'unet/config\.json is not JSON'),
        ('scheduler/scheduler_config.json', '[]', r'scheduler_config\.json: expected a mapping'),
        (
            f'vae/{WEIGHTS}',
            'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n',
            rf'vae/{WEIGHTS} is a git-lfs pointer, .*: git lfs pull',
        ),
    ],
)
def test_an_empty_or_broken_file_of_a_pipeline_is_named(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    folder = tiny_pipeline(tmp_path / 'e2e', wide_unet(), marigold_scheduler())
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        served(tmp_path, 'e2e')


# Hashes and licences.


def test_hashes_are_logged_and_expected_hashes_are_checked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_tiny(tmp_path)
    file = folder / 'unet' / WEIGHTS
    values = yaml.safe_load((folder / 'checkpoint.yaml').read_text())
    true = file_sha256(file)
    caplog.set_level(logging.INFO, 'sd_perception_ros')
    describe(folder, **values | {'sha256': {f'unet/{WEIGHTS}': true.upper()}})
    checkpoint.load(str(folder))
    assert f'{file}, SHA-256 {true}' in caplog.text
    assert caplog.text.count('SHA-256') == 5  # vae, unet, prompt, two heads
    describe(folder, **values | {'sha256': {f'unet/{WEIGHTS}': '0' * 64}})
    with pytest.raises(ValueError, match=f'expected SHA-256 0{{64}}, got {true}'):
        checkpoint.load(str(folder))
    describe(folder, **values | {'sha256': {'unet/other.safetensors': true}})
    with pytest.raises(ValueError, match=r"sha256 names 'unet/other.safetensors', but no file"):
        checkpoint.load(str(folder))


@pytest.mark.parametrize(
    ('card', 'license_name', 'commercial'),
    [
        ('---\nlicense: apache-2.0\n---\n# Model', 'apache-2.0', 'allowed'),
        ('---\nlicense: cc-by-nc-4.0\n---\n', 'cc-by-nc-4.0', 'not allowed'),
        (
            '---\nlicense: other\nlicense_name: non-commercial-research\n---\n',
            'non-commercial-research',
            'not allowed',
        ),
        ('---\nlicense: openrail++\ntags: [depth]\n---\n', 'openrail++', 'allowed'),
        ('# No front matter', NOT_STATED, 'not known'),
        ('---\n: [\n---\n', NOT_STATED, 'not known'),
    ],
)
def test_the_licence_is_that_of_the_model_card(
    tmp_path: Path, card: str, license_name: str, commercial: str
) -> None:
    folder = tiny_pipeline(tmp_path / 'e2e', wide_unet(), marigold_scheduler())
    (folder / 'README.md').write_text(card)
    describe(tmp_path, tasks={'depth': {'unet': 'e2e'}})
    _, about = checkpoint.load(str(tmp_path))
    assert about.license == license_name
    assert commercial_use(about.license) == commercial
    describe(tmp_path, tasks={'depth': {'unet': 'e2e'}}, license='my own')
    assert checkpoint.load(str(tmp_path))[1].license == 'my own'
