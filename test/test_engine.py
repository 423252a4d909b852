"""The engine: pictures of any size in, predictions at their size out, one error for each fault."""

from __future__ import annotations

from pathlib import Path

from models import tiny_model
import numpy as np
import pytest
import torch

from sd_perception_ros.checkpoint import CheckpointConfig
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.engine import Engine
from sd_perception_ros.types import DepthMap, NormalMap


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope='module')
def engine(tiny_checkpoint: Path) -> Engine:
    return Engine.load(str(tiny_checkpoint), device='cpu')


@pytest.mark.parametrize('size', [(48, 64), (1, 1), (1, 300), (97, 31), (480, 640)])
def test_predictions_have_the_size_of_the_picture(engine: Engine, size: tuple[int, int]) -> None:
    prediction = engine.predict([picture(*size)])[0]
    depth, normals = prediction['depth'], prediction['normals']
    assert isinstance(depth, DepthMap)
    assert isinstance(normals, NormalMap)
    assert depth.values.shape == size
    assert normals.values.shape == (*size, 3)
    assert depth.values.dtype == normals.values.dtype == np.float32
    assert 0 <= depth.values.min() <= depth.values.max() <= 1
    np.testing.assert_allclose(np.linalg.norm(normals.values, axis=-1), 1, atol=1e-4)


def test_the_same_picture_gives_the_same_numbers_twice(engine: Engine) -> None:
    first, second = (engine.predict([picture(48, 64)])[0]['depth'].values for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_batch_gives_what_single_pictures_give_in_their_order(engine: Engine) -> None:
    pictures = [picture(48, 64, 1), picture(32, 40, 2), picture(48, 64, 3)]
    together = engine.predict(pictures)
    for one, prediction in zip(pictures, together, strict=True):
        alone = engine.predict([one])[0]
        np.testing.assert_allclose(prediction['depth'].values, alone['depth'].values, atol=1e-5)


def test_no_pictures_give_no_predictions(engine: Engine) -> None:
    assert engine.predict([]) == []


def test_only_the_wanted_tasks_run(engine: Engine) -> None:
    assert list(engine.predict([picture(48, 64)], tasks=['normals'])[0]) == ['normals']


def test_tasks_on_one_denoiser_run_it_once_and_encode_once(engine: Engine) -> None:
    calls = []
    model = engine._model
    backbone = next(iter(model.backbones.values()))
    hooks = [
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, module in (('encoder', backbone.vae.encoder), ('unet', backbone.unet))
    ]
    engine.predict([picture(48, 64)])
    for hook in hooks:
        hook.remove()
    assert calls == ['encoder', 'unet']


def test_an_unknown_task_is_answered_with_the_known_ones(engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"unknown tasks \['pose'\]; choose from"):
        engine.predict([picture(48, 64)], tasks=['pose'])


def test_a_network_that_gives_nan_is_an_error_and_not_a_picture() -> None:
    model = tiny_model({'depth': 'light'})
    with torch.no_grad():
        model.heads['depth'].out.bias.fill_(torch.nan)
    broken = Engine(model, CheckpointConfig(long_side_px=64), EngineConfig(device='cpu'))
    broken.warm_up(48, 64)
    with pytest.raises(FloatingPointError, match='depth values that are not finite'):
        broken.predict([picture(48, 64)])


def test_the_long_side_of_the_engine_overrides_the_checkpoint(tiny_checkpoint: Path) -> None:
    engine = Engine.load(str(tiny_checkpoint), device='cpu', long_side_px=32)
    seen = []
    backbone = next(iter(engine._model.backbones.values()))
    hook = backbone.vae.encoder.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape))
    engine.predict([picture(480, 640)])
    hook.remove()
    assert seen == [(1, 3, 24, 32)]


def test_the_paper_s_decoder_head_reads_the_same_tasks() -> None:
    model = tiny_model({'depth': 'decoder', 'normals': 'decoder'})
    engine = Engine(model, CheckpointConfig(long_side_px=64), EngineConfig(device='cpu'))
    assert engine.predict([picture(50, 70)])[0]['normals'].values.shape == (50, 70, 3)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'device': 'gpu'}, "expected a device such as cpu or cuda:0, got 'gpu'"),
        ({'device': 'cuda:99'}, "device 'cuda:99' is not here"),
        ({'precision': 'int4'}, "no choice 'int4'; choose one of: auto, fp32"),
        ({'long_side_px': -1}, 'must be at least 0, got -1'),
        ({'checkpoint': 'nowhere'}, "expected a checkpoint: .* got 'nowhere'"),
        ({'tasks': ['pose']}, "has no task 'pose'; choose from: depth, normals"),
    ],
)
def test_a_wrong_option_says_what_may_be_there(
    tiny_checkpoint: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Engine.load(**({'checkpoint': str(tiny_checkpoint), 'device': 'cpu'} | options))


def test_the_summary_is_one_line_with_the_licence(engine: Engine) -> None:
    assert engine.summary().count('\n') == 0
    assert 'Apache-2.0' in engine.summary()
    assert 'cpu, float32' in engine.summary()
