"""Checkpoint folders: what is written is read back, and each kind of damage has its own error."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
import shutil
import subprocess
import sys
from types import ModuleType

from models import save_tiny, tiny_model
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
import torch
import yaml

from sd_perception_ros.checkpoint import checkpoint, config_file, locations, reader
from sd_perception_ros.checkpoint.catalog import known_checkpoints
from sd_perception_ros.checkpoint.config_file import (
    CheckpointConfig,
    FILE,
    open_checkpoint,
    resolve,
)
from sd_perception_ros.tasks import make_task

UNET = 'unet/diffusion_pytorch_model.safetensors'


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may break."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / 'copy'))


def edit(folder: Path, **values: object) -> None:
    file = folder / FILE
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | values))


@pytest.mark.parametrize('head', ['light', 'decoder'])
def test_a_saved_model_is_loaded_unchanged(tmp_path: Path, head: str) -> None:
    model = tiny_model({'depth': head, 'normals': head})
    checkpoint.save(tmp_path, model, CheckpointConfig(), torch.float32)
    again, _ = checkpoint.load(str(tmp_path))
    image = torch.rand(1, 3, 32, 40) * 2 - 1
    with torch.inference_mode():
        for name, raw in model(image).items():
            torch.testing.assert_close(again(image)[name], raw)


def test_half_precision_files_are_loaded_in_single_precision(folder: Path) -> None:
    assert load_file(folder / UNET)['conv_in.weight'].dtype == torch.float16
    model, _ = checkpoint.load(str(folder))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_checkpoint_is_found_by_folder_file_and_known_name(folder: Path) -> None:
    assert resolve(str(folder)) == folder / 'checkpoint.yaml'
    assert resolve(str(folder / 'checkpoint.yaml')) == folder / 'checkpoint.yaml'
    assert resolve('bundled').is_file()


def test_the_home_of_an_unknown_user_is_a_missing_checkpoint() -> None:
    with pytest.raises(FileNotFoundError, match="got '~nosuchuser/model'"):
        resolve('~nosuchuser/model')


def test_unwanted_tasks_are_not_loaded(folder: Path) -> None:
    (folder / 'head_normals.safetensors').unlink()
    model, _ = checkpoint.load(str(folder), ['depth'])
    assert list(model.tasks) == ['depth']


def test_tasks_that_name_one_denoiser_share_it(folder: Path) -> None:
    model, _ = checkpoint.load(str(folder))
    assert len(model.backbones) == 1


def test_an_autoencoder_from_before_2023_is_read(folder: Path) -> None:
    file = folder / 'vae/diffusion_pytorch_model.safetensors'
    old = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
    weights = load_file(file)
    for new_name, old_name in old.items():
        weights = {
            k.replace(f'attentions.0.{new_name}', f'attentions.0.{old_name}'): v
            for k, v in weights.items()
        }
    assert any('proj_attn' in name for name in weights)
    save_file(weights, file)
    assert checkpoint.load(str(folder))[0].stride == 8


@pytest.mark.parametrize(
    ('old', 'new', 'alpha'), [('velocity', 'v_prediction', 0.25), ('flow', 'flow_prediction', 0.5)]
)
def test_a_file_with_keys_of_the_previous_release_is_the_same_model(
    folder: Path, caplog: pytest.LogCaptureFixture, old: str, new: str, alpha: float
) -> None:
    edit(folder, prediction_type=new, alpha=alpha)
    image = torch.rand(1, 3, 32, 40) * 2 - 1
    expected = checkpoint.load(str(folder))[0](image)
    assert not caplog.text
    values = yaml.safe_load((folder / FILE).read_text())
    values |= {'prediction': old, 'signal': values.pop('alpha')}
    del values['prediction_type']
    (folder / FILE).write_text(yaml.safe_dump(values))
    model, config = checkpoint.load(str(folder))
    assert (config.prediction_type, config.alpha) == (new, alpha)
    for name, raw in model(image).items():
        assert torch.equal(raw, expected[name])
    for old_name, new_name in (('prediction', 'prediction_type'), ('signal', 'alpha'), (old, new)):
        assert f"'{old_name}' is now called '{new_name}'" in caplog.text


def test_the_task_name_of_the_previous_release_is_read_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = yaml.safe_load((folder / 'checkpoint.yaml').read_text())['tasks']
    edit(folder, tasks={'pose': {**tasks['depth'], 'head': 'decoder', 'head_weights': ''}})
    assert config_file.tasks_of(str(folder)) == ['human_pose']
    assert "'pose' is now called 'human_pose'" in caplog.text


def test_a_denoiser_without_config_uses_the_config_of_its_base(
    folder: Path, tmp_path: Path
) -> None:
    """The official GenPercept folders hold the weights alone."""
    (folder / 'task').mkdir()
    shutil.copy(folder / UNET, folder / 'task')
    edit(folder, base='.', tasks={'depth': {'unet': 'task'}})
    assert list(checkpoint.load(str(folder))[0].tasks) == ['depth']


def test_prompts_are_read_from_npy_files_and_never_unpickled(folder: Path) -> None:
    np.save(folder / 'prompt.npy', np.zeros((1, 1, 8), np.float32))
    edit(folder, prompt='prompt.npy')
    assert checkpoint.load(str(folder))[0].stride == 8
    np.save(folder / 'prompt.npy', np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match='not an array of numbers'):
        checkpoint.load(str(folder))


def test_an_error_names_a_truncated_file(folder: Path) -> None:
    file = folder / UNET
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r'unet.*not an intact safetensors file.*copy it again'):
        checkpoint.load(str(folder))


def test_an_error_names_a_missing_file(folder: Path) -> None:
    (folder / UNET).unlink()
    with pytest.raises(FileNotFoundError, match=r'found none at .*unet'):
        checkpoint.load(str(folder))


def test_weights_of_another_model_are_refused_by_name(folder: Path) -> None:
    weights = load_file(folder / UNET)
    save_file({k: v for k, v in weights.items() if 'conv_in' not in k}, folder / UNET)
    with pytest.raises(ValueError, match=r'it lacks conv_in.bias, conv_in.weight; is config.json'):
        checkpoint.load(str(folder))
    save_file(weights | {'conv_in.weight': torch.zeros(1)}, folder / UNET)
    with pytest.raises(ValueError, match=r'it reshapes conv_in.weight'):
        checkpoint.load(str(folder))


def test_a_prompt_of_another_text_encoder_is_refused(folder: Path) -> None:
    save_file({'prompt': torch.zeros(1, 2, 1024)}, folder / 'prompt.safetensors')
    with pytest.raises(ValueError, match=r'shape \(1, tokens, 8\).* got \(1, 2, 1024\)'):
        checkpoint.load(str(folder))


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'timestp': 1}, "unknown option 'timestp'; did you mean 'timestep'"),
        ({'prediction_typ': 'sample'}, "'prediction_typ'; did you mean 'prediction_type'"),
        ({'signal': 0.5}, "'signal' is the old name of 'alpha', and both are given"),
        ({'prediction_type': 'speed'}, "no choice 'speed'; choose one of: auto, v_prediction"),
        ({'timestep': 1001}, 'timestep must be at most 1000, got 1001'),
        ({'timestep': 'one'}, 'timestep must be an integer'),
        ({'resize': 'crop'}, "no choice 'crop'; choose one of: exact, pad"),
        ({'tasks': {}}, "expected 'tasks'"),
        ({'tasks': {'depht': {}}}, "unknown task 'depht'; choose one of: depth"),
        ({'tasks': {'depth': {'head': 'dtp'}}}, "no choice 'dtp'"),
        ({'tasks': {'depth': {'head': 'light'}}}, 'name them in head_weights'),
        ({'tasks': {'depth': {'unet': 'nowhere'}}}, 'found none at .*nowhere'),
        ({'tasks': {'depth': 'unet'}}, 'expected a mapping of options, got str'),
    ],
)
def test_an_error_in_checkpoint_yaml_lists_the_allowed_values(
    folder: Path, values: dict[str, object], message: str
) -> None:
    edit(folder, **values)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        checkpoint.load(str(folder))


def test_a_misspelt_known_name_gets_a_suggestion() -> None:
    with pytest.raises(FileNotFoundError, match="got 'bundle'; did you mean 'bundled'"):
        resolve('bundle')


def test_a_file_of_something_else_is_not_printed(tmp_path: Path) -> None:
    """Whoever sets the parameter of a node from afar reads its errors."""
    (tmp_path / 'secret').write_text('word ' * 50 + 'secret')
    with pytest.raises(ValueError, match='expected a mapping') as error:
        open_checkpoint(str(tmp_path / 'secret'))
    assert 'secret' not in str(error.value).partition('expected')[2]


def test_a_file_that_is_not_yaml_is_one_line(folder: Path) -> None:
    (folder / FILE).write_text('tasks: {depth: [')
    with pytest.raises(ValueError, match='is not YAML') as caught:
        checkpoint.load(str(folder))
    assert '\n' not in str(caught.value)


def test_an_error_says_what_to_write_into_checkpoint_yaml(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'has no checkpoint\.yaml: write one'):
        checkpoint.load(str(tmp_path))


def test_the_shipped_configs_make_stable_diffusion_2_1() -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from sd_perception_ros.checkpoint.weights import CONFIGS, read_model_config

    with torch.device('meta'):
        unet = UNet2DConditionModel.from_config(
            read_model_config(CONFIGS, CONFIGS / 'sd21_unet.json')
        )
        vae = AutoencoderKL.from_config(read_model_config(CONFIGS, CONFIGS / 'sd21_vae.json'))
    # The published sizes of Stable Diffusion 2.1's parts.
    assert sum(p.numel() for p in unet.parameters()) == 865_910_724
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863


def test_the_tiny_checkpoint_is_small(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    assert sum(f.stat().st_size for f in folder.rglob('*')) < 2_000_000


@pytest.mark.parametrize('name', [known.name for known in known_checkpoints()])
def test_a_known_checkpoint_names_tasks_options_and_a_licence(name: str) -> None:
    if name in config_file.UNSUPPORTED:
        with pytest.raises(ValueError, match=f"'{name}' is not supported: "):
            resolve(name)
        return
    config = open_checkpoint(name).config
    assert config.tasks
    for task, entry in config.tasks.items():
        assert make_task(task, entry.options).name == task
    if name != 'bundled':
        assert config.description
        assert config.license != config_file.UNKNOWN
        assert config.license_source


def count_calls(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> Counter[tuple[object, ...]]:
    """Count the calls of a module's function by its arguments; it works as before."""
    calls: Counter[tuple[object, ...]] = Counter()
    function = getattr(module, name)

    def counted(*arguments: object) -> object:
        calls[arguments] += 1
        return function(*arguments)

    monkeypatch.setattr(module, name, counted)
    return calls


@pytest.mark.parametrize('on_meta', [False, True])
def test_files_are_found_once_and_read_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, on_meta: bool
) -> None:
    """Two tasks on one denoiser and one on another."""
    shutil.copytree(folder / 'unet', folder / 'other')
    shutil.copy(folder / 'head_depth.safetensors', folder / 'head_disparity.safetensors')
    light = {'head': 'light', 'head_weights': 'head_disparity.safetensors'}
    tasks = yaml.safe_load((folder / FILE).read_text())['tasks']
    edit(folder, tasks={**tasks, 'disparity': {'unet': 'other', **light}})
    options = count_calls(monkeypatch, config_file, 'read_config')
    layouts = count_calls(monkeypatch, locations, 'find_layout')
    shapes = count_calls(monkeypatch, reader, '_shapes')
    weights = count_calls(monkeypatch, reader, 'load_file')
    hashed = count_calls(monkeypatch, reader, 'file_sha256')
    if on_meta:
        model, _ = checkpoint.load_on_meta(str(folder))
        assert not weights
        model.materialize()
    else:
        checkpoint.load(str(folder))
    files = [
        *(UNET, UNET.replace('unet', 'other'), UNET.replace('unet', 'vae')),
        'prompt.safetensors',
        *(f'head_{task}.safetensors' for task in ('depth', 'normals', 'disparity')),
    ]
    once = {(folder / file,): 1 for file in files}
    assert options == {(folder / FILE,): 1}
    assert layouts == {(folder / 'unet',): 1, (folder / 'other',): 1}
    assert weights == hashed == once
    assert shapes == (once if on_meta else {})


def test_options_are_read_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        'from sd_perception_ros.checkpoint.config_file import tasks_of\n'
        "print(len(tasks_of('bundled')))"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout == '7\n', done.stderr
