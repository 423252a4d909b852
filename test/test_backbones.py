"""Every backbone keeps one contract, and computes what diffusers does with the same weights."""

from __future__ import annotations

import copy
import inspect
import math
from pathlib import Path
from typing import Any

import diffusers
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from models import base_backbone, DENOISERS, save_base, tiny_mmdit, tiny_vae
import pytest
from safetensors.torch import save_file
import torch
from torch import nn, Tensor

from sd_perception_ros.backbones.latent import LatentBackbone, Prompt
from sd_perception_ros.backbones.onestep import balanced, of_scheduler, OneStep, spacing_note
from sd_perception_ros.backbones.small import PROMPT_WIDTH, small_unet, take_over
from sd_perception_ros.backbones.transformers import MMDiTBackbone, TransformerBackbone
from sd_perception_ros.checkpoint import checkpoint
from sd_perception_ros.checkpoint.config_file import CheckpointConfig
from sd_perception_ros.checkpoint.finetuning import model_to_finetune
from sd_perception_ros.data.formats.rooms import RoomsDataset
from sd_perception_ros.engine import Engine
from sd_perception_ros.training.finetune import train
from sd_perception_ros.training.options import FinetuneConfig, TrainingConfig

STABLE_DIFFUSION = {
    'beta_start': 0.00085,
    'beta_end': 0.012,
    'beta_schedule': 'scaled_linear',
    'clip_sample': False,
}


@pytest.fixture(scope='module', params=DENOISERS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random backbone, one for each kind of denoiser."""
    return save_base(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope='module')
def backbone(base: Path) -> LatentBackbone:
    return base_backbone(base)


def official(backbone: LatentBackbone, shown: Tensor) -> Tensor:
    """Return what diffusers' own forward makes of the same input under the same condition."""
    count = len(shown)
    time, text = backbone.timestep.expand(count), backbone.prompt.expand(count, -1, -1)
    pooled = None if backbone.pooled is None else backbone.pooled.expand(count, -1)
    net: Any = backbone.denoiser
    name = type(net).__name__
    if name == 'DiTTransformer2DModel':
        return net(shown, time, torch.full((count,), 10)).sample
    if name == 'SD3Transformer2DModel':
        return net(shown, text, pooled, time).sample
    if name == 'PixArtTransformer2DModel':
        told = {'resolution': torch.full((count, 2), 64.0), 'aspect_ratio': torch.ones(count, 1)}
        return net(shown, text, time, added_cond_kwargs=told).sample
    options: dict[str, Any] = {}
    if pooled is not None:
        sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(count, -1)
        options['added_cond_kwargs'] = {'text_embeds': pooled, 'time_ids': sizes}
    if net.config.class_embed_type:
        switch = torch.tensor([[math.sin(1), 0, math.cos(1), 1]])
        options['class_labels'] = switch.expand(count, -1)
    return net(shown, time, text, **options).sample


@torch.inference_mode()
def test_the_output_equals_forward_of_diffusers(backbone: LatentBackbone) -> None:
    latent = torch.randn(2, 4, 8, 8)
    shown = backbone.denoiser_input(latent)
    output, _ = backbone.denoise(shown)
    expected = official(backbone, shown)[:, :4]
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 1e-2


@pytest.mark.parametrize('size', [(8, 8), (6, 14), (7, 13), (5, 8), (22, 12)])
@torch.inference_mode()
def test_the_clean_latent_has_the_size_of_the_input_and_levels_match_it(
    backbone: LatentBackbone, size: tuple[int, int]
) -> None:
    latent = torch.randn(1, 4, *size)
    clean, features = backbone.step(latent)
    assert clean is not None
    assert clean.shape == latent.shape
    assert clean.isfinite().all()
    assert tuple(level.shape[1] for level in features) == backbone.feature_channels
    for level in features:
        assert level.isfinite().all()
        # As wide for its height as the latent is, to a cell.
        cell = size[0] / level.shape[2]
        assert abs(level.shape[3] - size[1] / cell) < 1.01


@torch.inference_mode()
def test_images_of_a_batch_are_independent(backbone: LatentBackbone) -> None:
    latent = torch.randn(3, 4, 6, 9)
    together = backbone.step(latent)
    for index in range(3):
        alone = backbone.step(latent[index : index + 1])
        torch.testing.assert_close(together.latent[index], alone.latent[0], atol=1e-4, rtol=1e-4)
        for many, one in zip(together.features, alone.features, strict=True):
            torch.testing.assert_close(many[index], one[0], atol=1e-4, rtol=1e-4)


def size_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.inference_mode()
def test_folding_reduces_the_size_and_keeps_the_output(backbone: LatentBackbone) -> None:
    folded = copy.deepcopy(backbone)
    folded.fold(decodes=True)
    folded.fold(decodes=True)  # a second time does nothing
    image = torch.rand(2, 3, 56, 72) * 2 - 1
    latent = backbone.encode(image)
    torch.testing.assert_close(folded.encode(image), latent, atol=1e-5, rtol=1e-5)
    found, expected = folded.step(latent), backbone.step(latent)
    scale = float(expected.latent.abs().max())
    torch.testing.assert_close(found.latent, expected.latent, atol=1e-5 * scale, rtol=1e-5)
    for level, truth in zip(found.features, expected.features, strict=True):
        largest = float(truth.abs().max())
        torch.testing.assert_close(level, truth, atol=1e-5 * largest, rtol=1e-5)
    assert size_of(folded.denoiser) < size_of(backbone.denoiser)


@torch.inference_mode()
def test_the_frozen_condition_affects_the_output(backbone: LatentBackbone) -> None:
    """Else folding would agree whatever it did."""
    latent = torch.randn(1, 4, 6, 8)
    before = backbone.step(latent).latent
    for name in ('prompt', 'pooled', 'timestep', 'switch', 'sizes', 'label'):
        frozen = getattr(backbone, name, None)
        if frozen is None or not frozen.numel():
            continue
        other = copy.deepcopy(backbone)
        value = getattr(other, name)
        value.copy_(value * 0.5 + 1 if value.is_floating_point() else (value - 7).abs())
        assert (other.step(latent).latent - before).abs().max() > 1e-5, name


@pytest.mark.parametrize('head', ['light', 'dpt', 'decoder'])
def test_each_head_works_on_each_backbone_and_trains_all_of_it(base: Path, head: str) -> None:
    model = model_to_finetune(base, ['depth'], head).train()
    [backbone] = model.backbones.values()
    backbone.trainable().requires_grad_(True)
    image = torch.rand(1, 3, 64, 96) * 2 - 1
    raw = model(image)['depth']
    assert raw.shape[2] / raw.shape[3] == 64 / 96
    assert raw.shape[2] in (32, 64)
    raw.square().mean().backward()
    idle = [name for name, p in backbone.denoiser.named_parameters() if p.grad is None]
    last = ('norm_out', 'proj_out', 'conv_norm_out', 'conv_out', 'scale_shift_table')
    # A DPT head reads no latent: what makes it stays as it is.
    assert not [name for name in idle if not (head == 'dpt' and name.startswith(last))]


@pytest.mark.parametrize('head', ['light', 'decoder'])
def test_a_saved_model_is_loaded_unchanged(base: Path, tmp_path: Path, head: str) -> None:
    torch.manual_seed(3)
    model = model_to_finetune(base, ['depth', 'normals'], head).eval()
    about = CheckpointConfig(license='Apache-2.0', long_side_px=64)
    checkpoint.save(tmp_path, model, about, torch.float32)
    again, read = checkpoint.load(str(tmp_path))
    assert (read.license, read.timestep) == ('Apache-2.0', model.backbones['unet'].timestep.item())
    image = torch.rand(1, 3, 48, 80) * 2 - 1
    with torch.inference_mode():
        for name, raw in again(image).items():
            torch.testing.assert_close(raw, model(image)[name])
    prediction = Engine.load(str(tmp_path), device='cpu').predict(
        [torch.randint(0, 256, (50, 70, 3), dtype=torch.uint8).numpy()]
    )[0]
    assert prediction['depth'].values.shape == (50, 70)


@pytest.mark.parametrize(
    'options', [{'gradient_checkpointing': True}, {'trainable': 'lora', 'lora_rank': 2}]
)
def test_training_changes_the_weights_and_saves_a_plain_model(
    base: Path, frames: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    model = model_to_finetune(base, ['depth'], 'light')
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = TrainingConfig(steps=2, batch_size=2, learning_rate=1e-2, warmup_steps=1)
    run = train(
        model, RoomsDataset(frames), None, config, [(24, 32)], tmp_path, FinetuneConfig(**options)
    )
    assert len(list(run)) == 2
    after = model.state_dict()
    assert after.keys() == before.keys()
    moved = {name for name in before if (after[name] != before[name]).any()}
    assert any('.denoiser.' in name for name in moved)
    assert not any('.vae.' in name for name in moved)


def test_gradients_are_equal_with_gradient_checkpointing(base: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(4)
        model = model_to_finetune(base, ['depth'], 'light').train()
        [backbone] = model.backbones.values()
        denoiser = backbone.trainable().requires_grad_(True)
        if checkpointing:
            denoiser.enable_gradient_checkpointing()
        model.read(torch.ones(1, 4, 6, 8), ['depth'])['depth'].square().mean().backward()
        gradients.append({n: p.grad for n, p in denoiser.named_parameters()})
    for name, gradient in gradients[0].items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4 * largest, rtol=1e-4)


# Where each kind runs when it is fine-tuned: timestep, prediction_type and the two coefficients.
TUNED = {
    'sd': (1, 'v_prediction', 0, -1),
    'marigold': (999, 'v_prediction', 0.0682649, -0.9976672),
    'lotus': (999, 'sample', 0, 1),
    'sdxl': (1, 'v_prediction', 0, -1),
    # Betas b of 0.0001 to 0.02: the product of 1 - b is a half after 259 steps, the first is 0.
    'dit': (258, 'epsilon', 2**0.5, -1),
    'pixart': (258, 'epsilon', 2**0.5, -1),
    'mmdit': (1000, 'flow_prediction', 1, -1),
}


@pytest.mark.parametrize('kind', DENOISERS)
def test_each_prediction_type_is_fine_tuned_at_its_balanced_step(
    tmp_path: Path, kind: str
) -> None:
    [backbone] = model_to_finetune(
        save_base(tmp_path, kind), ['depth'], 'light'
    ).backbones.values()
    step, (timestep, prediction_type, latent, output) = backbone.one_step, TUNED[kind]
    assert (step.timestep, step.prediction_type) == (timestep, prediction_type)
    assert step.latent_coefficient == pytest.approx(latent, abs=5e-3)
    assert step.output_coefficient == pytest.approx(output, abs=5e-3)


def test_positions_of_a_larger_image_are_the_stretched_table() -> None:
    """Stable Diffusion 3's table has an end; here a cell's position is its own column."""
    torch.manual_seed(0)
    prompt = Prompt(torch.zeros(1, 1, 8), torch.zeros(1, 6))
    backbone = MMDiTBackbone(tiny_vae(), tiny_mmdit(), prompt, OneStep(1000, 'flow_prediction'))
    patches = backbone.denoiser.pos_embed
    nn.init.zeros_(patches.proj.weight)
    nn.init.zeros_(patches.proj.bias)
    columns = torch.arange(6.0).view(1, 1, 6, 1).expand(1, 6, 6, 16)
    patches.pos_embed.copy_(columns.reshape(1, 36, 16))
    inside = backbone.embed(torch.zeros(1, 4, 8, 8)).view(4, 4, 16)
    assert inside[0, :, 0].tolist() == [1, 2, 3, 4]  # the middle of six
    torch.testing.assert_close(inside, patches(torch.zeros(1, 4, 8, 8)).view(4, 4, 16))
    wide = backbone.embed(torch.zeros(1, 4, 12, 24)).view(6, 12, 16)[0, :, 0]
    assert (wide.diff() > 0).all()
    assert wide[0] < 0.5
    assert wide[-1] > 4.5


@given(
    prediction_type=st.sampled_from(['v_prediction', 'epsilon', 'sample']),
    set_alpha_to_one=st.booleans(),
    zero_snr=st.booleans(),
    spacing=st.sampled_from(['trailing', 'leading', 'linspace']),
    steps_offset=st.integers(0, 2),
    clips=st.sampled_from([(), ('clip_sample',), ('thresholding',)]),
)
def test_the_step_equals_the_single_ddim_step_or_is_refused_by_name(
    prediction_type: str,
    set_alpha_to_one: bool,
    zero_snr: bool,
    spacing: str,
    steps_offset: int,
    clips: tuple[str, ...],
) -> None:
    config = STABLE_DIFFUSION | {
        'prediction_type': prediction_type,
        'set_alpha_to_one': set_alpha_to_one,
        'rescale_betas_zero_snr': zero_snr,
        'timestep_spacing': spacing,
        'steps_offset': steps_offset,
        **dict.fromkeys(clips, True),
    }
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(1)
    timestep = int(scheduler.timesteps[0])
    if clips:
        with pytest.raises(ValueError, match=f'with {clips[0]}: true; set it to false'):
            of_scheduler(config, timestep)
        return
    if prediction_type == 'epsilon' and zero_snr and timestep == 999:
        with pytest.raises(ValueError, match='does not determine the clean latent'):
            of_scheduler(config, timestep)
        return
    step = of_scheduler(config, timestep)
    torch.manual_seed(0)
    shown, output = torch.randn(2, 1, 4, 3, 3, dtype=torch.float64)
    for noisy in (shown, None):
        sample = torch.zeros_like(shown) if noisy is None else noisy
        expected = scheduler.step(output, timestep, sample).prev_sample
        tolerance = 1e-6 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(step.clean(noisy, output), expected, atol=tolerance, rtol=0)
    assert bool(spacing_note(config)) == (spacing != 'trailing')
    assert of_scheduler(config | {'prediction_type': 'sample'}).timestep == 999


SCHEDULERS = [
    name
    for name in dir(diffusers)
    if name.endswith('Scheduler') and not name.startswith('Flax') and name != 'PNDMScheduler'
]


@pytest.mark.filterwarnings('ignore')  # diffusers' own, thousands of them
@pytest.mark.parametrize('name', SCHEDULERS)
def test_each_scheduler_of_diffusers_is_followed_in_its_only_step_or_refused_by_name(
    name: str,
) -> None:
    """From zeros, as E2E-FT begins; with each option that a published file may have."""
    config = STABLE_DIFFUSION | {'_class_name': name, 'timestep_spacing': 'trailing'}
    for prediction_type in ('v_prediction', 'epsilon', 'sample'):
        config['prediction_type'] = prediction_type
        try:
            step = of_scheduler(config)
        except ValueError as error:
            assert name in str(error)  # noqa: PT017
            return
        own = inspect.signature(getattr(diffusers, name).__init__).parameters
        scheduler = getattr(diffusers, name)(**{k: v for k, v in config.items() if k in own})
        scheduler.set_timesteps(1)
        assert step.timestep == scheduler.timesteps[0]
        torch.manual_seed(0)
        output = torch.randn(1, 4, 3, 3)
        try:
            expected = scheduler.step(output, scheduler.timesteps[0], output * 0).prev_sample
        except (NotImplementedError, ValueError):  # Euler's family knows no 'sample'
            assert prediction_type == 'sample'
            continue
        tolerance = 1e-6 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(step.clean(None, output), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    'name',
    [
        'EDMEulerScheduler',
        'EDMDPMSolverMultistepScheduler',
        'CMStochasticIterativeScheduler',
        'FlowMatchHeunDiscreteScheduler',
        'TCDScheduler',
        'MyScheduler',
    ],
)
def test_a_scheduler_without_such_a_step_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' has no single step .* into checkpoint\.yaml"):
        of_scheduler(STABLE_DIFFUSION | {'_class_name': name})


def test_pndm_ends_where_ddim_does() -> None:
    """Stable Diffusion 1.5 names it; its own single step reads an empty list in diffusers."""
    config = STABLE_DIFFUSION | {'_class_name': 'PNDMScheduler', 'skip_prk_steps': True}
    alpha = of_scheduler(config).final_alpha
    assert alpha == pytest.approx((1 - 0.00085) ** 0.5)  # set_alpha_to_one is false there
    assert of_scheduler(config | {'set_alpha_to_one': True}).final_alpha == 1


@pytest.mark.parametrize('shift', [1.0, 3.0])
def test_a_flow_step_equals_that_of_diffusers(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(1)
    shown, output = torch.randn(2, 1, 4, 3, 3)
    expected = scheduler.step(output, scheduler.timesteps[0], shown).prev_sample
    step = of_scheduler(dict(scheduler.config) | {'_class_name': type(scheduler).__name__})
    assert step.timestep == scheduler.timesteps[0] == 1000
    torch.testing.assert_close(step.clean(shown, output), expected)


@given(
    prediction_type=st.sampled_from(['v_prediction', 'epsilon', 'flow_prediction']),
    alpha=st.floats(0.01, 1),
    clean=st.floats(-4, 4),
    noise=st.floats(-4, 4),
)
def test_a_perfect_prediction_gives_the_clean_latent(
    prediction_type: str, alpha: float, clean: float, noise: float
) -> None:
    step = OneStep(1, prediction_type, alpha)
    a, s = step.alpha, step.sigma
    output = {
        'v_prediction': a * noise - s * clean,
        'epsilon': noise,
        'flow_prediction': noise - clean,
    }
    shown = torch.tensor(a * clean + s * noise, dtype=torch.float64)
    found = step.clean(shown, torch.tensor(output[prediction_type], dtype=torch.float64))
    assert float(found) == pytest.approx(clean, abs=1e-6)


def test_the_balanced_step_has_equal_alpha_and_sigma() -> None:
    step = balanced(STABLE_DIFFUSION)
    assert step.alpha == pytest.approx(step.sigma, abs=5e-3)
    assert step.output_coefficient == pytest.approx(-1, abs=5e-3)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ({'clip_sample': True, '_class_name': 'DDIMScheduler'}, 'with clip_sample: true'),
        ({'thresholding': True}, 'with thresholding: true'),
        ({'prediction_type': 'noise'}, "a prediction_type of v_prediction, .* got 'noise'"),
        ({'clip_sample': None}, 'with clip_sample: true'),  # the default of diffusers
        ({'beta_schedule': 'sigmoid'}, 'diffusers cannot build DDIMScheduler .*sigmoid'),
        ({'num_train_timesteps': 'many'}, 'diffusers cannot build DDIMScheduler'),
        ({'_class_name': 'EulerDiscreteScheduler', 'timestep_type': 'continuous'}, 'continuous'),
        ({'_class_name': 'UniPCMultistepScheduler', 'use_flow_sigmas': True}, 'use_flow_sigmas'),
        (
            {'_class_name': 'FlowMatchEulerDiscreteScheduler', 'invert_sigmas': True},
            'with invert_sigmas: true',
        ),
    ],
)
def test_a_scheduler_that_we_cannot_follow_is_refused(
    config: dict[str, Any], message: str
) -> None:
    merged = {k: v for k, v in (STABLE_DIFFUSION | config).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        of_scheduler(merged)


def test_a_timestep_that_a_schedule_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r'a timestep of 0\.\.999 for DDIMScheduler, got 1000'):
        of_scheduler(STABLE_DIFFUSION, 1000)
    lcm = STABLE_DIFFUSION | {'_class_name': 'LCMScheduler'}
    with pytest.raises(ValueError, match='a timestep of at least 50 for LCMScheduler'):
        of_scheduler(lcm, 1)


@pytest.mark.parametrize(
    ('kind', 'tensors', 'message'),
    [
        ('sd', {'prompt': (1, 3, 9)}, r'shape \(1, tokens, 8\), .* got \(1, 3, 9\)'),
        ('pixart', {'prompt': (1, 3, 9)}, r'shape \(1, tokens, 8\), .* got \(1, 3, 9\)'),
        ('sdxl', {'prompt': (1, 3, 8)}, r'pooled prompt embedding of shape \(1, 6\), got none'),
        ('mmdit', {'prompt': (1, 3, 8), 'pooled': (1, 5)}, r'\(1, 6\), got \(1, 5\)'),
    ],
)
def test_a_prompt_of_another_model_is_refused(
    tmp_path: Path, kind: str, tensors: dict[str, tuple[int, ...]], message: str
) -> None:
    base = save_base(tmp_path, kind)
    stored = {name: torch.zeros(shape) for name, shape in tensors.items()}
    save_file(stored, base / 'prompt.safetensors')
    with pytest.raises(ValueError, match=message):
        base_backbone(base)


def test_an_unsupported_model_of_diffusers_is_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path, 'dit')
    file = base / 'transformer/config.json'
    file.write_text(file.read_text().replace('DiTTransformer2DModel', 'FluxTransformer2DModel'))
    with pytest.raises(ValueError, match=r'or a transformer \(DiT, PixArt, MMDiT\), got Flux'):
        base_backbone(base)


def test_transformers_give_four_levels_from_evenly_spaced_blocks(tmp_path: Path) -> None:
    backbone = base_backbone(save_base(tmp_path, 'dit'))
    assert isinstance(backbone, TransformerBackbone)
    assert backbone.taps == [1, 2, 3, 4]
    assert backbone.feature_channels == (16, 16, 16, 16)


def test_the_small_denoiser_has_the_requested_levels() -> None:
    unet = small_unet((16, 24, 32))
    assert [block.resnets[-1].out_channels for block in unet.up_blocks] == [32, 24, 16]
    assert unet(torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 1, PROMPT_WIDTH)).sample.std() > 0
    for channels in ((), (16, 20), (0, 8)):
        with pytest.raises(ValueError, match='multiples of 8'):
            small_unet(channels)


def test_a_finer_denoiser_keeps_the_trained_levels_as_its_coarsest() -> None:
    trained, finer = small_unet((16, 24, 32)), small_unet((16, 16, 24, 32))
    assert take_over(finer, trained) > 0.9
    for mine, theirs in ((1, 0), (2, 1), (3, 2)):
        assert _same(finer.down_blocks[mine], trained.down_blocks[theirs])
    for level in (0, 1):
        assert _same(finer.up_blocks[level], trained.up_blocks[level])
    assert _same(finer.up_blocks[2].resnets, trained.up_blocks[2].resnets)
    assert not _same(finer.up_blocks[3].resnets[0], trained.up_blocks[2].resnets[0])
    assert _same(finer.mid_block, trained.mid_block)


def test_a_denoiser_with_the_same_levels_is_copied_entirely_and_one_with_more_is_refused() -> None:
    trained, same = small_unet((16, 24, 32)), small_unet((16, 24, 32))
    assert take_over(same, trained) == 1
    assert _same(same, trained)
    with pytest.raises(ValueError, match='at most 3 levels to take over, got one of 4'):
        take_over(same, small_unet((16, 16, 24, 32)))
    for channels in ((16, 24, 40), (24, 24, 32)):  # another middle; another width of time
        with pytest.raises(ValueError, match='does not fit into one of'):
            take_over(small_unet(channels), trained)


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_a_model_starts_at_a_timestep_that_checkpoints_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='timestep must be at most 1000, got 5000'):
        model_to_finetune(save_base(tmp_path, 'sd'), ['depth'], 'light', timestep=5000)
