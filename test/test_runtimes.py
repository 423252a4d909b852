"""Every runtime gives torch's numbers, from graphs that are written once and checked."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import contextlib
import copy
import gc
import importlib.util
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import threading
import time

from models import DENOISERS, save_base, save_tiny, tiny_model, tiny_vae, unet_with
import numpy as np
import onnx
import pytest
from safetensors.torch import load_file
import torch
from torch import nn, Tensor
import torch._dynamo.utils
import torch.nn.functional as F

from sd_perception_ros.__main__ import main
from sd_perception_ros.backbones.backbone import Backbone, Denoised
from sd_perception_ros.backbones.unet import UNetBackbone
from sd_perception_ros.checkpoint import checkpoint, reader
from sd_perception_ros.checkpoint.config_file import CheckpointConfig
from sd_perception_ros.checkpoint.heads import make_head
from sd_perception_ros.checkpoint.weights import save_tensors
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.engine import Engine
from sd_perception_ros.model import Model
from sd_perception_ros.runtimes import exporting, onnx_files, prepare, sessions, winograd
from sd_perception_ros.runtimes.attention import FusedAttention
from sd_perception_ros.runtimes.choice import choose
from sd_perception_ros.runtimes.parts import digest_of, digests_of, parts_of
from sd_perception_ros.runtimes.sessions import SESSIONS
from sd_perception_ros.tasks import make_task

CPU = torch.device('cpu')
ROOT = Path(__file__).parents[1]
HEADS = {'depth': 'light', 'normals': 'decoder', 'disparity': 'dpt', 'human_pose': 'light'}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep graphs in a folder of the test."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return onnx_files.cache_folder()


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint with a head of each kind, on levels of several sizes."""
    torch.manual_seed(0)
    unet = unet_with(
        block_out_channels=(8, 16, 16),
        down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'),
        up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'),
    )
    backbone = UNetBackbone(tiny_vae(), unet, torch.randn(1, 2, 8), timestep=1)
    tasks = {name: make_task(name) for name in HEADS}
    heads = {
        name: make_head(kind, tasks[name].channels, backbone, 16) for name, kind in HEADS.items()
    }
    model = Model({'unet': backbone}, tasks, heads, dict.fromkeys(HEADS, 'unet'))
    made = tmp_path_factory.mktemp('heads')
    checkpoint.save(made, model, CheckpointConfig(long_side_px=64))
    return made


@pytest.fixture(scope='module')
def written(
    folder: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Path, Path]:
    """Write the graphs of both checkpoints for every runtime, once; return their caches."""
    caches = {}
    for place in (folder, tiny_checkpoint):
        caches[place] = tmp_path_factory.mktemp('graphs')
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv('XDG_CACHE_HOME', str(caches[place]))
            for runtime in SESSIONS:
                Engine.load(str(place), device='cpu', runtime=runtime)
    return caches


@pytest.fixture
def cache_of_folder(cache: Path, written: dict[Path, Path], folder: Path) -> Path:
    """Fill the test's own folder with the graphs of the checkpoint of all heads."""
    shutil.copytree(written[folder], cache.parents[1], dirs_exist_ok=True)
    return cache


@pytest.fixture
def cache_of_tiny(cache: Path, written: dict[Path, Path], tiny_checkpoint: Path) -> Path:
    """Fill the test's own folder with the graphs of the tiny checkpoint."""
    shutil.copytree(written[tiny_checkpoint], cache.parents[1], dirs_exist_ok=True)
    return cache


@pytest.fixture(scope='module')
def reference(folder: Path) -> Engine:
    return Engine.load(str(folder), device='cpu', runtime='torch')


def assert_alike(ours: Engine, theirs: Engine, pictures: list[np.ndarray]) -> None:
    found, expected = ours.predict_raw(pictures), theirs.predict_raw(pictures)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for task, (raw, grid) in other.items():
            assert one[task][1] == grid
            # A random decoder makes 1e-4 of fp32's rounding; the bundled model 2e-5 in all.
            torch.testing.assert_close(one[task][0], raw, atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize('runtime', SESSIONS)
def test_a_runtime_equals_torch_at_any_size_and_batch(
    folder: Path, reference: Engine, cache_of_folder: Path, runtime: str
) -> None:
    engine = Engine.load(str(folder), device='cpu', runtime=runtime)
    for size in ((48, 64), (97, 31), (5, 7)):
        assert_alike(engine, reference, [picture(*size)])
    assert_alike(engine, reference, [picture(48, 64, seed) for seed in range(3)])
    assert f'{runtime} (as asked)' in engine.summary()


class Convolutions(Backbone):
    """The smallest backbone: a real one takes inductor's C++ compiler half a minute."""

    stride, latent_channels, outputs_latent, feature_channels = 2, 4, True, (8,)

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.level = nn.Conv2d(4, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 3, padding=1)

    def encode(self, image: Tensor) -> Tensor:
        return self.encoder(image)

    def step(self, latent: Tensor) -> Denoised:
        level = self.level(latent).tanh()
        return Denoised(self.last(level), (level,))

    def decode(self, latent: Tensor) -> Tensor:
        raise NotImplementedError

    def encoder_id(self) -> str:
        return 'convolution'

    def trainable(self) -> nn.Module:
        return self.level


def test_torch_compile_equals_torch() -> None:
    torch.manual_seed(0)
    task, backbone = make_task('depth'), Convolutions()
    head = make_head('light', 1, backbone, 16)
    engines = []
    for runtime in ('torch', 'torch-compile'):
        model = Model({'unet': backbone}, {'depth': task}, {'depth': head}, {'depth': 'unet'})
        config = EngineConfig(device='cpu', runtime=runtime)
        about = CheckpointConfig(long_side_px=32)
        engines.append(Engine([(copy.deepcopy(model).eval(), about)], config))
    torch._dynamo.reset()
    assert_alike(engines[1], engines[0], [picture(24, 32)])
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 3  # and none was broken


def test_a_denoiser_without_its_last_convolution_has_levels_only() -> None:
    model = tiny_model({'depth': 'light'})
    model.backbones['unet'].outputs_latent = False
    parts = parts_of(model)
    assert parts[1].outputs == parts[2].inputs == ('level_0', 'level_1')


def test_a_graph_for_a_single_size_is_not_used(tmp_path: Path) -> None:
    """Levels of one size make the DPT head pool them to a size that its trace fixes."""
    model, about = tiny_model({'disparity': 'dpt'}), CheckpointConfig(long_side_px=64)
    config = EngineConfig(device='cpu', runtime='onnxruntime')
    with pytest.raises(ValueError, match='differs from torch for the head_disp'):
        Engine([(model, about)], config)


@pytest.mark.parametrize('runtime', ['onnxruntime', 'auto'])
def test_a_model_with_a_size_dependent_graph_runs_in_torch(runtime: str) -> None:
    model = tiny_model({'depth': 'light'})
    # So that it is not folded.
    model.backbones['unet'].unet.register_to_config(center_input_sample=True)
    config, about = EngineConfig(device='cpu', runtime=runtime), CheckpointConfig(long_side_px=64)
    if runtime == 'auto':
        assert (
            'torch (auto: the ONNX graph of this model'
            in Engine([(model, about)], config).summary()
        )
    else:
        with pytest.raises(ValueError, match='whose ONNX graph is the same at every size'):
            Engine([(model, about)], config)


def test_only_the_heads_of_wanted_tasks_run(folder: Path, cache_of_folder: Path) -> None:
    engine = Engine.load(str(folder), device='cpu', runtime='onnxruntime')
    sessions = engine._models[0].model._sessions
    ran = []
    for name, session in list(sessions.items()):
        sessions[name] = lambda *x, name=name, run=session, **o: (ran.append(name), run(*x, **o))[
            1
        ]
    engine.predict([picture(48, 64)], ['human_pose', 'depth'])
    assert ran == ['encoder', 'denoiser_0', 'head_depth', 'head_human_pose']


def stamps(cache: Path) -> dict[str, int]:
    return {file.parent.name: file.stat().st_mtime_ns for file in cache.glob('*/graph.onnx')}


def test_graphs_are_written_once_for_equal_weights(tiny_checkpoint: Path, cache: Path) -> None:
    Engine.load(str(tiny_checkpoint), device='cpu', runtime='onnxruntime')
    before = stamps(cache)
    assert sorted(name.rpartition('-')[0] for name in before) == [
        'denoiser_0',
        'encoder',
        'head_depth',
        'head_normals',
    ]
    Engine.load(str(tiny_checkpoint), device='cpu', runtime='openvino')
    Engine.load(str(tiny_checkpoint), device='cpu', runtime='onnxruntime', tasks=['normals'])
    assert stamps(cache) == before
    about = json.loads(next(cache.glob('head_normals-*/graph.json')).read_text())
    assert set(about['largest_difference']) == set(SESSIONS)


@pytest.mark.parametrize(
    ('runtime', 'name'), [('openvino', 'graph.onnx'), ('onnxruntime', 'weights.bin')]
)
def test_damaged_files_are_written_again(
    tiny_checkpoint: Path, cache_of_tiny: Path, runtime: str, name: str
) -> None:
    cache = cache_of_tiny
    sizes = {file: file.stat().st_size for file in cache.glob(f'[ed]*/**/{name}')}
    sizes |= {file: file.stat().st_size for file in cache.glob(f'head_depth-*/**/{name}')}
    assert len(sizes) == 3
    for file in sizes:
        file.write_bytes(file.read_bytes()[:-100])
    Engine.load(str(tiny_checkpoint), device='cpu', runtime=runtime, tasks=['depth'])
    assert {file: file.stat().st_size for file in sizes} == sizes
    for about in cache.rglob('graph.json'):
        assert onnx_files.is_intact(about.parent, json.loads(about.read_text())['digest'])
    assert [path.name for path in cache.rglob('.*')] == []


def test_a_served_session_model_holds_no_weights_of_torch(
    tiny_checkpoint: Path, cache: Path
) -> None:
    """Neither when it writes the graphs, nor when it finds them."""

    def weights() -> dict[int, Tensor]:
        return {
            id(each): each
            for each in gc.get_objects()
            if type(each) is nn.Parameter and not each.is_meta
        }

    others = weights()
    torches = Engine.load(str(tiny_checkpoint), device='cpu', runtime='torch')
    assert len(weights()) > len(others) + 50
    del torches
    for _ in range(2):
        engine = Engine.load(str(tiny_checkpoint), device='cpu', runtime='onnxruntime')
        assert weights().keys() == others.keys()
        assert engine.predict([picture(48, 64)])[0]['depth'].values.shape == (48, 64)


def test_cached_graphs_are_used_without_reading_weights(
    tiny_checkpoint: Path, cache_of_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Engine.load(str(tiny_checkpoint), device='cpu', runtime='onnxruntime')
    monkeypatch.setattr(reader, 'load_file', None)
    again = Engine.load(str(tiny_checkpoint), device='cpu', runtime='onnxruntime')
    assert_alike(again, first, [picture(48, 64)])
    assert again.summary() == first.summary()


def test_a_changed_checkpoint_is_exported_again(tmp_path: Path, cache_of_tiny: Path) -> None:
    cache, place = cache_of_tiny, save_tiny(tmp_path / 'model')  # the same weights
    first = Engine.load(str(place), device='cpu', runtime='onnxruntime')
    before = stamps(cache)
    weights = load_file(place / 'head_depth.safetensors')
    save_tensors(place / 'head_depth.safetensors', {n: 2 * t for n, t in weights.items()})
    second = Engine.load(str(place), device='cpu', runtime='onnxruntime')
    assert {name.rpartition('-')[0] for name in stamps(cache).keys() - before.keys()} == {
        'head_depth'
    }
    assert_alike(second, Engine.load(str(place), device='cpu', runtime='torch'), [picture(9, 9)])
    with pytest.raises(AssertionError):
        assert_alike(second, first, [picture(9, 9)])


@pytest.mark.parametrize('kind', DENOISERS)
def test_parts_are_the_same_on_the_meta_device(kind: str, tmp_path: Path) -> None:
    """So that what is written from one is found by the other, for every kind of denoiser."""
    save_base(tmp_path, kind)
    name = 'unet' if (tmp_path / 'unet').is_dir() else 'transformer'
    (tmp_path / 'checkpoint.yaml').write_text(f'base: .\ntasks: {{depth: {{unet: {name}}}}}\n')
    outline, _ = checkpoint.load_on_meta(str(tmp_path))
    assert all(tensor.is_meta for tensor in outline.state_dict().values())
    whole = outline.materialize()
    assert not any(tensor.is_meta for tensor in whole.state_dict().values())
    for model in (outline, whole):
        model.fold()
    assert [p[:2] + p[3:] for p in parts_of(outline)] == [p[:2] + p[3:] for p in parts_of(whole)]
    assert [b.is_traceable() for b in outline.backbones.values()] == [
        b.is_traceable() for b in whole.backbones.values()
    ]


def test_attention_is_one_operator_where_the_cache_is_written(tmp_path: Path) -> None:
    """Self-attention of the tiny UNet's four blocks; its prompt of one token needs none."""
    model = tiny_model({'depth': 'light'})
    model.fold()
    parts = parts_of(model)
    examples = exporting.Examples(model, parts)
    found = []
    for name, way in (
        ('export', contextlib.nullcontext()),
        ('cache', FusedAttention()),
    ):
        with way:
            exporting.write_graph(parts[1], tmp_path / name, examples, 'a', {})
        nodes = [node.op_type for node in onnx.load(tmp_path / name / 'graph.onnx').graph.node]
        found.append((nodes.count('Softmax'), nodes.count('MultiHeadAttention')))
    assert found == [(4, 0), (0, 4)]


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_writing_a_graph_does_not_affect_attention_in_another_thread() -> None:
    def operators() -> set[str]:
        def attend(x: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(x, x, x)

        x = torch.rand(1, 2, 3, 4)
        traced = torch.jit.trace(attend, (x,), check_trace=False)
        torch.testing.assert_close(traced(x), F.scaled_dot_product_attention(x, x, x))
        return {node.kind() for node in traced.graph.nodes()}

    stock = 'aten::scaled_dot_product_attention'
    with FusedAttention(), ThreadPoolExecutor(1) as other:
        assert stock in other.submit(operators).result()
        assert stock not in operators()
    assert stock in operators()


def test_a_large_model_uses_winograd_returns_memory_and_still_works(
    tiny_checkpoint: Path, cache_of_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for optimized in cache_of_tiny.glob('*/onnxruntime'):
        shutil.rmtree(optimized)
    reference = Engine.load(str(tiny_checkpoint), device='cpu', runtime='torch')
    monkeypatch.setattr(sessions, 'LARGE_BYTES', 1)
    monkeypatch.setattr(prepare, 'LARGE_PX', 1)
    monkeypatch.setattr(winograd, 'LEAST_CHANNELS', 4)
    engine = Engine.load(str(tiny_checkpoint), device='cpu', runtime='onnxruntime')
    places = [s._weights for s in engine._models[0].model._sessions.values()]
    assert len(places) == 4
    for place in places[:2]:  # encoder and denoiser
        graph = onnx.load(place.with_name('optimized.onnx'), load_external_data=False).graph
        assert 'If' in {node.op_type for node in graph.node}  # see winograd.py

    def resident_kb(file: Path) -> int:
        found = -1
        for line in Path('/proc/self/smaps').read_text().splitlines():
            if '-' in line.split()[0]:
                is_it = line.endswith(str(file))
            elif is_it and line.startswith('Rss:'):
                found = max(found, 0) + int(line.split()[1])
        return found

    for _ in range(2):
        assert_alike(engine, reference, [picture(48, 64)])
        assert [resident_kb(place) for place in places if place] == [0] * len(places)


def test_graphs_not_used_for_a_month_are_deleted(
    tiny_checkpoint: Path, cache_of_tiny: Path
) -> None:
    """What is served from stays, however old; so does what was used a week ago."""
    cache = cache_of_tiny
    served = set(cache.iterdir())
    assert len(served) == 4
    forgotten, recent = cache / 'encoder-0123', cache / '.head_depth-89ab-part'
    for entry, days in ((forgotten, 31), (recent, 7), *((one, 365) for one in served)):
        entry.mkdir(exist_ok=True)
        (entry / 'graph.onnx').touch()
        then = time.time() - days * 24 * 3600
        os.utime(entry, (then, then))
    Engine.load(str(tiny_checkpoint), device='cpu', runtime='onnxruntime')
    assert set(cache.iterdir()) == served | {recent}


# Replacements of graph.json, for each of four parts: cut, no JSON, null fields, wrong types.
DAMAGES = {
    'cut': [lambda text: '', lambda text: text[:40], lambda text: text[:-2], lambda text: '{'],
    'other': [
        lambda text: 'null',
        lambda text: '[]',
        lambda text: '{}',
        lambda text: b'\xff\xfe' + text.encode(),
    ],
    'null': [
        lambda text: with_entry(text, 'largest_difference', None),
        lambda text: with_entry(text, 'sha256', None),
        lambda text: with_entry(text, 'digest', None),
        lambda text: with_entry(text, 'encoder', None),
    ],
    'types': [
        lambda text: with_entry(text, 'largest_difference', {'onnxruntime': 'small'}),
        lambda text: with_entry(text, 'sha256', {}),
        lambda text: with_entry(text, 'largest_difference', [0.0]),
        lambda text: with_entry(text, 'encoder', 7),
    ],
}


def with_entry(text: str, key: str, value: object) -> str:
    return json.dumps(json.loads(text) | {key: value})


@pytest.mark.parametrize('damages', DAMAGES.values(), ids=DAMAGES)
def test_an_entry_of_the_cache_that_cannot_be_read_is_made_anew(
    tiny_checkpoint: Path, cache_of_tiny: Path, damages: list[Callable[[str], str | bytes]]
) -> None:
    for entry, damage in zip(sorted(cache_of_tiny.glob('*/graph.json')), damages, strict=True):
        damaged = damage(entry.read_text())
        entry.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
        if '"sha256": {}' in entry.read_text(errors='replace'):  # nothing vouches for the graph
            (entry.parent / 'graph.onnx').write_bytes(b'')
            shutil.rmtree(entry.parent / 'onnxruntime')
    engine = Engine.load(str(tiny_checkpoint), device='cpu', runtime='onnxruntime')
    assert 'onnxruntime (' in engine.summary()
    for entry in cache_of_tiny.glob('*/graph.json'):
        record = json.loads(entry.read_text())
        assert onnx_files.is_intact(entry.parent, record['digest'], 'graph.onnx')
        assert record['largest_difference']['onnxruntime'] < 1e-4


@pytest.mark.parametrize('about', ['', '{', '[]', '{}', '{"digest": "a", "sha256": {"x": "y"}}'])
def test_a_graph_without_valid_hashes_is_not_intact(tmp_path: Path, about: str) -> None:
    (tmp_path / 'graph.json').write_text(about)
    assert not onnx_files.is_intact(tmp_path, 'a')
    (tmp_path / 'graph.json').write_text('{"digest": "a", "sha256": {}}')
    assert onnx_files.is_intact(tmp_path, 'a')
    assert not onnx_files.is_intact(tmp_path, 'b')


def test_two_processes_may_write_the_same_graphs_at_once(
    tiny_checkpoint: Path, cache: Path
) -> None:
    model = checkpoint.load(str(tiny_checkpoint))[0]
    model.fold()
    part = parts_of(model)[0]
    examples = exporting.Examples(model, parts_of(model))
    examples('trace')
    threads = [
        threading.Thread(target=onnx_files.publish, args=(made, cache / 'graph'))
        for made in (cache / 'one', cache / 'two')
    ]
    for made in (cache / 'one', cache / 'two'):
        exporting.write_graph(part, made, examples, 'a', {})
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert onnx_files.is_intact(cache / 'graph', 'a')
    assert [path.name for path in cache.iterdir()] == ['graph']


def test_other_weights_or_settings_are_other_graphs() -> None:
    def digests(seed: int = 0, bias: float = 0.0) -> list[str]:
        model = tiny_model({'depth': 'light'}, seed)
        with torch.no_grad():
            model.heads['depth'].out.bias += bias
        return [*digests_of(model).values()]

    assert digests() == digests()
    encoder, _, head = digests()
    assert digests(seed=1)[0] != encoder
    assert digests(bias=1.0)[0] == encoder
    assert digests(bias=1.0)[2] != head
    fine, coarse = torch.nn.GroupNorm(2, 8), torch.nn.GroupNorm(4, 8)
    assert digest_of(fine) != digest_of(coarse)


def test_a_runtime_with_other_outputs_is_refused(
    tiny_checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(SESSIONS['onnxruntime']):
        """Numbers that are off by 1 %."""

        def __call__(self, *tensors: Tensor, frugal: bool = False) -> tuple[Tensor, ...]:
            return tuple(each + 0.01 * each.abs().max() for each in super().__call__(*tensors))

    monkeypatch.setitem(SESSIONS, 'onnxruntime', Wrong)
    with pytest.raises(ValueError, match='differs from torch for the encoder'):
        Engine.load(str(tiny_checkpoint), device='cpu', runtime='onnxruntime')


@pytest.mark.parametrize(
    ('options', 'device', 'runtime', 'why'),
    [
        ({}, 'cuda', 'torch', 'on CUDA it replays'),
        ({}, 'cpu', 'onnxruntime', 'on a CPU it is faster'),
        ({'precision': 'bf16'}, 'cpu', 'torch', 'the only one with bf16'),
        ({'runtime': 'openvino'}, 'cpu', 'openvino', 'as asked'),
        ({'runtime': 'torch-compile'}, 'cuda', 'torch-compile', 'as asked'),
    ],
)
def test_the_choice_fits_the_device_and_says_why(
    options: dict[str, str], device: str, runtime: str, why: str
) -> None:
    config = EngineConfig(**({'runtime': 'auto'} | options))
    choice = choose(config, torch.device(device))
    assert choice.runtime == runtime
    assert why in choice.why


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda n: None if n in names else find(n))


def test_without_other_runtimes_the_choice_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, 'onnxruntime')
    assert choose(EngineConfig(runtime='auto'), CPU).runtime == 'openvino'
    without(monkeypatch, *SESSIONS)
    choice = choose(EngineConfig(runtime='auto'), CPU)
    assert choice[:2] == ('torch', 'auto: none of onnxruntime, openvino is installed')


@pytest.mark.parametrize('lost', [('openvino',), ('onnx',), ('openvino', 'onnx')])
def test_a_runtime_that_is_not_installed_says_how_to_get_it(
    lost: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, *lost)
    with pytest.raises(ValueError, match=f'pip install {" ".join(lost)} '):
        choose(EngineConfig(runtime='openvino'), CPU)


@pytest.mark.parametrize(('device', 'precision'), [('cuda', 'fp32'), ('cpu', 'bf16')])
def test_graphs_of_openvino_run_on_the_cpu_in_fp32(device: str, precision: str) -> None:
    config = EngineConfig(runtime='openvino', precision=precision)
    with pytest.raises(ValueError, match='runs on the CPU in fp32, got device'):
        choose(config, torch.device(device))


def test_a_cache_that_cannot_be_written_is_an_error_or_torch(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    with pytest.raises(OSError, match='file'):
        Engine.load(str(tiny_checkpoint), device='cpu', runtime='onnxruntime')
    engine = Engine.load(str(tiny_checkpoint), device='cpu', runtime='auto')
    assert 'torch (auto: no ONNX graphs for onnxruntime, ' in engine.summary()


# Loads a checkpoint with ONNX Runtime, where `before` may set a trap.
SERVE = """
import os, resource, signal, sys
from sd_perception_ros.engine import Engine
from sd_perception_ros.runtimes import exporting, onnx_files

def kill_in(module, name, after):
    kept = getattr(module, name)
    def trap(*arguments, **named):
        if after:
            kept(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(module, name, trap)

{before}
try:
    engine = Engine.load(sys.argv[1], device='cpu', runtime=sys.argv[2])
    print(engine.summary())
except (OSError, ValueError, RuntimeError) as error:
    print('error', error)
"""


def start_serving(
    name: Path, cache: Path, before: str = '', runtime: str = 'onnxruntime'
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, '-c', SERVE.format(before=before), str(name), runtime],
        env=os.environ | {'XDG_CACHE_HOME': str(cache.parents[1])},
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_after_a_kill_while_graphs_are_written_three_processes_that_start_at_once_serve(
    tiny_checkpoint: Path, cache: Path
) -> None:
    traps = (
        "kill_in(exporting, 'save_safetensors', False)",  # half of a part
        "kill_in(exporting, 'check_graph', False)",  # all are written, none is checked
    )
    for trap in traps:
        assert start_serving(tiny_checkpoint, cache, trap).wait(600) == -9
    shutil.rmtree(next(cache.glob('encoder-*')))
    processes = [start_serving(tiny_checkpoint, cache) for _ in range(3)]
    for process in processes:
        printed, _ = process.communicate(timeout=600)
        assert 'onnxruntime (' in printed


@pytest.mark.parametrize(
    ('runtime', 'words'), [('onnxruntime', 'error'), ('auto', 'torch (auto: no ONNX graphs for')]
)
def test_a_disk_that_is_full_is_an_error_or_torch(
    tiny_checkpoint: Path, cache: Path, runtime: str, words: str
) -> None:
    full = 'resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))'  # no larger file
    process = start_serving(tiny_checkpoint, cache, full, runtime)
    printed, _ = process.communicate(timeout=600)
    assert printed.startswith(words) or words in printed
    assert process.returncode == 0
    assert list(cache.glob('*/graph.json')) == []


def test_export_writes_every_part_and_what_tensorrt_needs(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture of 64 x 32 is a latent of 8 x 4; the UNet's levels rise from it, halved once."""
    out = tmp_path / 'graphs'
    words = ['--checkpoint', str(tiny_checkpoint), '--out', str(out), '--size', '64x32']
    assert main(['export', *words, '--runtime', 'onnxruntime']) == 0
    told = capsys.readouterr().out
    parts = ['encoder', 'denoiser_0', 'head_depth', 'head_normals']
    for part in parts:
        assert f'trtexec --onnx={out}/{part}/graph.onnx' in told
    shapes = 'clean:1x4x4x8,level_0:1x32x4x8,level_1:1x16x4x8'
    assert f'head_depth.engine --fp16 --shapes={shapes}' in told
    record = json.loads((out / 'model.json').read_text())
    assert list(record['parts']) == parts
    assert record['parts']['encoder']['largest_difference']['onnxruntime'] < 1e-5
    assert record['license'] == 'Apache-2.0'


def test_onnxruntime_sends_no_telemetry(tiny_checkpoint: Path, cache_of_tiny: Path) -> None:
    """Its builds on PyPI put a database for telemetry beside our folder."""
    words = f"'{tiny_checkpoint}', device='cpu', runtime='onnxruntime', tasks=['depth']"
    code = f'from sd_perception_ros.engine import Engine; Engine.load({words})'
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
    home = cache_of_tiny.parents[1]
    assert [path.name for path in home.iterdir()] == ['sd_perception_ros']
