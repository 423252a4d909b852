"""The engine: pictures of any size in, predictions at their size out, one error for each fault."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
import shutil

from models import save_tiny, tiny_model
import numpy as np
import pytest
import torch
import yaml

from sd_perception_ros.checkpoint.config_file import CheckpointConfig
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.engine import Engine
from sd_perception_ros.tasks import TASKS
from sd_perception_ros.types import DepthMap, NormalMap


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope='module')
def engine(tiny_checkpoint: Path) -> Engine:
    return Engine.load(str(tiny_checkpoint), device='cpu')


@pytest.mark.parametrize('size', [(48, 64), (1, 1), (1, 300), (97, 31), (480, 640)])
def test_predictions_have_the_size_of_the_image(engine: Engine, size: tuple[int, int]) -> None:
    prediction = engine.predict([picture(*size)])[0]
    depth, normals = prediction['depth'], prediction['normals']
    assert isinstance(depth, DepthMap)
    assert isinstance(normals, NormalMap)
    assert depth.values.shape == size
    assert normals.values.shape == (*size, 3)
    assert depth.values.dtype == normals.values.dtype == np.float32
    assert 0 <= depth.values.min() <= depth.values.max() <= 1
    np.testing.assert_allclose(np.linalg.norm(normals.values, axis=-1), 1, atol=1e-4)


def test_predictions_are_deterministic(engine: Engine) -> None:
    first, second = (engine.predict([picture(48, 64)])[0]['depth'].values for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_batch_gives_the_results_of_single_images_in_order(engine: Engine) -> None:
    pictures = [picture(48, 64, 1), picture(32, 40, 2), picture(48, 64, 3)]
    together = engine.predict(pictures)
    for one, prediction in zip(pictures, together, strict=True):
        alone = engine.predict([one])[0]
        np.testing.assert_allclose(prediction['depth'].values, alone['depth'].values, atol=1e-5)


def test_no_images_give_no_predictions(engine: Engine) -> None:
    assert engine.predict([]) == []


def test_only_the_wanted_tasks_run(engine: Engine) -> None:
    assert list(engine.predict([picture(48, 64)], tasks=['normals'])[0]) == ['normals']


def counted(engine: Engine, **arguments: object) -> Counter[str]:
    """Count how often encoders and denoisers run for one picture."""
    calls: Counter[str] = Counter()
    hooks = []
    for index, part in enumerate(engine._models):
        for name, backbone in part.model.backbones.items():
            parts = {'encoder': backbone.vae.encoder, f'denoiser {index} {name}': backbone.unet}
            hooks += [
                module.register_forward_hook(lambda *_, label=label: calls.update([label]))
                for label, module in parts.items()
                # One encoder serves all backbones of a model.
                if label != 'encoder' or name == next(iter(part.model.backbones))
            ]
    engine.predict([picture(48, 64)], **arguments)
    for hook in hooks:
        hook.remove()
    return calls


FIVE = dict.fromkeys(('depth', 'normals', 'segmentation', 'matting', 'human_pose'), 'light')


def test_five_tasks_on_one_denoiser_run_denoiser_and_encoder_once(tmp_path: Path) -> None:
    engine = Engine.load(str(save_tiny(tmp_path, FIVE)), device='cpu')
    assert counted(engine) == {'encoder': 1, 'denoiser 0 unet': 1}


def test_a_task_with_a_separate_denoiser_shares_the_encoder(tmp_path: Path) -> None:
    """In one checkpoint with two UNets, and over two checkpoints with equal encoders."""
    first, second = (save_tiny(tmp_path / name, FIVE) for name in 'ab')
    shutil.copytree(first / 'unet', first / 'unet_human_pose')
    values = yaml.safe_load((first / 'checkpoint.yaml').read_text())
    values['tasks']['human_pose']['unet'] = 'unet_human_pose'
    (first / 'checkpoint.yaml').write_text(yaml.safe_dump(values))
    engine = Engine.load(str(first), device='cpu', checkpoints={'matting': str(second)})
    assert counted(engine) == {
        'encoder': 1,
        'denoiser 0 unet': 1,
        'denoiser 0 unet_human_pose': 1,
        'denoiser 1 unet': 1,
    }
    assert counted(engine, tasks=['human_pose']) == {'encoder': 1, 'denoiser 0 unet_human_pose': 1}


def test_a_checkpoint_with_another_encoder_encodes_separately(tmp_path: Path) -> None:
    first, second = (save_tiny(tmp_path / name, FIVE, seed) for seed, name in enumerate('ab'))
    engine = Engine.load(str(first), device='cpu', checkpoints={'human_pose': str(second)})
    assert counted(engine)['encoder'] == 2


def test_a_task_of_another_checkpoint_gives_the_results_of_that_checkpoint(tmp_path: Path) -> None:
    first, second = (save_tiny(tmp_path / name, FIVE, seed) for seed, name in enumerate('ab'))
    mixed = Engine.load(str(first), device='cpu', checkpoints={'depth': str(second)})
    alone = Engine.load(str(second), device='cpu')
    ours, theirs = (e.predict([picture(48, 64)], ['depth'])[0] for e in (mixed, alone))
    np.testing.assert_array_equal(ours['depth'].values, theirs['depth'].values)


@pytest.mark.parametrize('size', [(48, 64), (1, 1), (97, 31), (480, 640)])
def test_predictions_of_every_task_have_the_size_of_the_image(
    tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int]
) -> None:
    folder = save_tiny(tmp_path_factory.mktemp('all'), dict.fromkeys(TASKS, 'light'))
    prediction = Engine.load(str(folder), device='cpu').predict([picture(*size)])[0]
    assert set(prediction) == set(TASKS)
    for name in ('segmentation', 'foreground', 'matting', 'disparity'):
        for values in vars(prediction[name]).values():
            assert values.shape == size
    assert (prediction['human_pose'].height, prediction['human_pose'].width) == size


def test_the_error_for_an_unknown_task_lists_the_known_ones(engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"unknown tasks \['human_pose'\]; choose from"):
        engine.predict([picture(48, 64)], tasks=['human_pose'])


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
def test_one_value_that_is_not_finite_is_an_error(value: float) -> None:
    """Of four output cells for each latent cell, one channel's bias is bad."""
    model = tiny_model({'depth': 'light'})
    with torch.no_grad():
        model.heads['depth'].out.bias[0] = value
    broken = Engine([(model, CheckpointConfig(long_side_px=64))], EngineConfig(device='cpu'))
    with pytest.raises(FloatingPointError, match='depth values that are not finite'):
        broken.warm_up(48, 64)
    with pytest.raises(FloatingPointError, match='depth values that are not finite'):
        broken.predict([picture(48, 64)])


def test_the_dry_frame_has_the_size_of_the_network_and_the_number_of_cameras(
    tiny_checkpoint: Path,
) -> None:
    engine = Engine.load(str(tiny_checkpoint), device='cpu', long_side_px=32)
    assert engine.dry_size == (24, 32)
    seen = []
    backbone = next(iter(engine._models[0].model.backbones.values()))
    hook = backbone.vae.encoder.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape))
    engine.warm_up(*engine.dry_size, count=2)
    hook.remove()
    assert seen == [(2, 3, 24, 32)]


def test_the_long_side_of_the_engine_overrides_the_checkpoint(tiny_checkpoint: Path) -> None:
    engine = Engine.load(str(tiny_checkpoint), device='cpu', long_side_px=32)
    seen = []
    backbone = next(iter(engine._models[0].model.backbones.values()))
    hook = backbone.vae.encoder.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape))
    engine.predict([picture(480, 640)])
    hook.remove()
    assert seen == [(1, 3, 24, 32)]


def test_the_decoder_head_of_the_paper_supports_the_same_tasks() -> None:
    model = tiny_model({'depth': 'decoder', 'normals': 'decoder'})
    engine = Engine([(model, CheckpointConfig(long_side_px=64))], EngineConfig(device='cpu'))
    assert engine.predict([picture(50, 70)])[0]['normals'].values.shape == (50, 70, 3)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'device': 'gpu'}, "expected a device such as cpu or cuda:0, got 'gpu'"),
        ({'device': 'cuda:99'}, "device 'cuda:99' is not available"),
        ({'precision': 'int4'}, "no choice 'int4'; choose one of: auto, fp32"),
        ({'long_side_px': -1}, 'must be at least 0, got -1'),
        ({'checkpoint': 'nowhere'}, "expected a checkpoint: .* got 'nowhere'"),
        ({'tasks': ['human_pose']}, "has no task 'human_pose'; choose from: depth, normals"),
        ({'checkpoints': {'human_pose': 'nowhere'}}, "expected a checkpoint: .* got 'nowhere'"),
    ],
)
def test_the_error_for_a_wrong_option_lists_the_allowed_values(
    tiny_checkpoint: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Engine.load(**({'checkpoint': str(tiny_checkpoint), 'device': 'cpu'} | options))


def test_the_summary_is_one_line_with_the_licence(engine: Engine) -> None:
    assert engine.summary().count('\n') == 0
    assert 'Apache-2.0' in engine.summary()
    assert 'cpu, float32' in engine.summary()
