"""
TensorRT and ONNX Runtime on a GPU, as far as it can be tested without one.

The graphs are real, and ONNX Runtime runs them on the CPU. Builds go through real processes and
files, with a stand-in for TensorRT (test/standins): it proves nothing about engines.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
import hashlib
import importlib.util
import json
import logging
import os
from pathlib import Path
import subprocess
import sys
import time
from types import SimpleNamespace

from models import tiny_model
import numpy as np
import onnx
from onnx import TensorProto
import onnxruntime
import pytest
import torch
from torch import Tensor

from sd_perception_ros import engine as engine_module
from sd_perception_ros.checkpoint.config_file import CheckpointConfig
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.engine import Engine
from sd_perception_ros.model import Model
from sd_perception_ros.runtimes import background, onnxruntime_gpu
from sd_perception_ros.runtimes.background import BackgroundSession, compare, EngineBuilder
from sd_perception_ros.runtimes.build_engine import build_environment
from sd_perception_ros.runtimes.choice import Choice, choose
from sd_perception_ros.runtimes.exporting import gpu_graph
from sd_perception_ros.runtimes.gpu_sessions import PartSpec
from sd_perception_ros.runtimes.onnx_files import cache_folder
from sd_perception_ros.runtimes.onnxruntime_gpu import (
    CUDA,
    gpu_provider,
    OnnxRuntimeGpuSession,
    provider_options,
    raises_runtime_error,
    TENSORRT,
)
from sd_perception_ros.runtimes.parts import digests_of, parts_of, run_parts
from sd_perception_ros.runtimes.prepare import GpuModel
from sd_perception_ros.runtimes.tensorrt_session import BuildProcess, engine_spec, TensorRtSession

GPU, CPU = torch.device('cuda:0'), torch.device('cpu')
STANDINS = Path(__file__).parent / 'standins'
# Of our operators, those in https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md, and
# inputs that are constants there.
PARSED = {
    'Add',
    'BatchNormalization',
    'Cast',
    'Clip',
    'Concat',
    'Constant',
    'ConstantOfShape',
    'Conv',
    'ConvTranspose',
    'DepthToSpace',
    'Div',
    'Equal',
    'Erf',
    'Expand',
    'Gather',
    'Identity',
    'InstanceNormalization',
    'LayerNormalization',
    'MatMul',
    'Mod',
    'Mul',
    'Pad',
    'ReduceMax',
    'ReduceMean',
    'ReduceMin',
    'Relu',
    'Reshape',
    'Resize',
    'Shape',
    'Sigmoid',
    'Slice',
    'Softmax',
    'Sub',
    'Transpose',
    'Unsqueeze',
    'Where',
}
CONSTANT_INPUTS = {
    'Conv': (1, 2),
    'ConvTranspose': (1, 2),
    'InstanceNormalization': (1, 2),
    'Slice': (3,),
    'Unsqueeze': (1,),
}
ORIN = SimpleNamespace(name='Orin', multi_processor_count=16, major=8, minor=7)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep graphs and engines in a folder of the test."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return cache_folder()


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let this process and its children import the stand-in; return the list of its builds."""
    monkeypatch.delitem(sys.modules, 'tensorrt', raising=False)  # a real one
    monkeypatch.syspath_prepend(str(STANDINS))
    monkeypatch.setenv('PYTHONPATH', str(STANDINS))
    monkeypatch.setenv('STANDIN_BUILDS', str(tmp_path / 'builds'))
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: ORIN)
    yield tmp_path / 'builds'
    sys.modules.pop('tensorrt', None)


def folded(dtype: torch.dtype = torch.float32) -> Model:
    model = tiny_model({'depth': 'light', 'normals': 'decoder'})
    model.fold()
    return model.to(dtype).eval().requires_grad_(False)


def count(builds: Path) -> int:
    return len(builds.read_text().splitlines()) if builds.exists() else 0


# Graphs


@pytest.mark.parametrize(
    ('dtype', 'fuses'),
    [(torch.float32, False), (torch.float16, False), (torch.float16, True)],
    ids=str,
)
def test_graphs_for_a_gpu_give_torch_s_numbers_at_another_size(
    dtype: torch.dtype, fuses: bool
) -> None:
    """A graph in fp16 is within a hundredth of torch's fp32; those of fp32 differ by rounding."""
    model, exact = folded(dtype), folded()
    image = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(1)) * 2 - 1
    truth = run_parts(parts_of(exact), image)
    for part in parts_of(model):
        folder = gpu_graph(model, part, digests_of(model, f'{fuses}')[part.name], fuses)
        session = onnxruntime.InferenceSession(
            str(folder / 'graph.onnx'), providers=['CPUExecutionProvider']
        )
        needed = {each.name for each in session.get_inputs()}
        feed = zip(part.inputs, truth[part.source], strict=True)
        found = session.run(None, {n: t.to(dtype).numpy() for n, t in feed if n in needed})
        for ours, theirs in zip(found, truth[part.name], strict=True):
            assert torch.from_numpy(ours).dtype == dtype
            limit = 1e-5 if dtype == torch.float32 else 1e-2
            error = (torch.from_numpy(ours).float() - theirs).square().mean().sqrt()
            assert error <= limit * theirs.square().mean().sqrt()


@pytest.fixture(scope='module')
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, onnx.ModelProto]:
    """Write the graphs for TensorRT of a model with heads of three kinds, in fp16."""
    model = tiny_model({'depth': 'light', 'normals': 'decoder', 'disparity': 'dpt'})
    model.fold()
    model.half().eval().requires_grad_(False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('graphs')))
        return {
            part.name: onnx.load(gpu_graph(model, part, 'a', False) / 'graph.onnx')
            for part in parts_of(model)
        }


def test_graphs_for_tensorrt_have_operators_that_its_parser_takes(
    graphs: dict[str, onnx.ModelProto],
) -> None:
    """
    As onnx-tensorrt's table of operators says, weights and axes are constants of the graph.

    Modes of Resize: nearest and linear, without antialias.
    """
    for graph in (each.graph for each in graphs.values()):
        assert {node.op_type for node in graph.node} <= PARSED
        made = {node.output[0] for node in graph.node if node.op_type == 'Constant'}
        constants = made | {each.name for each in graph.initializer}
        for node in graph.node:
            for position in CONSTANT_INPUTS.get(node.op_type, ()):
                if position < len(node.input) and node.input[position]:
                    assert node.input[position] in constants, node.name
            if node.op_type == 'Resize':
                options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
                assert options['mode'] in (b'nearest', b'linear')
                assert not options.get('antialias')


def test_a_graph_for_tensorrt_has_standard_operators_and_normalizes_in_fp32(
    graphs: dict[str, onnx.ModelProto],
) -> None:
    """Self-attention of the tiny UNet's four blocks: each two products and a softmax."""
    graph = graphs['denoiser_0']
    kinds = Counter(node.op_type for node in graph.graph.node)
    assert {node.domain for node in graph.graph.node} == {''}
    assert not graph.functions  # Winograd convolutions are functions
    assert kinds['Softmax'] == 4
    assert kinds['Sqrt'] == 0  # the scale of attention is a constant
    onnx.checker.check_model(graph, full_check=True)  # types agree
    typed = onnx.shape_inference.infer_shapes(graph, data_prop=True).graph
    values = [*typed.value_info, *typed.output]
    types = {each.name: each.type.tensor_type.elem_type for each in values}
    wide = [n for n in graph.graph.node if n.op_type.endswith('Normalization')]
    assert len(wide) > 20
    assert {types[node.output[0]] for node in wide} == {TensorProto.FLOAT}
    assert {types[n.output[0]] for n in graph.graph.node if n.op_type in ('Conv', 'Softmax')} == {
        TensorProto.FLOAT16
    }
    assert [each.type.tensor_type.elem_type for each in graph.graph.input] == [TensorProto.FLOAT16]


def test_a_graph_for_the_cuda_provider_has_attention_as_one_operator() -> None:
    model = folded(torch.float16)
    folder = gpu_graph(model, parts_of(model)[1], 'a', True)
    kinds = Counter(node.op_type for node in onnx.load(folder / 'graph.onnx').graph.node)
    assert (kinds['MultiHeadAttention'], kinds['Softmax']) == (4, 0)


def test_each_number_format_and_kind_of_attention_is_another_graph() -> None:
    digests = [
        digests_of(folded(dtype), salt)['denoiser_0']
        for dtype in (torch.float32, torch.float16)
        for salt in ('fused', 'written out')
    ]
    assert len(set(digests)) == 4
    assert digests_of(folded(torch.float16), 'fused')['denoiser_0'] == digests[2]


def test_a_graph_is_written_once_and_again_if_it_is_damaged(cache: Path) -> None:
    model = folded(torch.float16)
    file = gpu_graph(model, parts_of(model)[2], 'a', False) / 'graph.onnx'
    content, written = file.read_bytes(), file.stat().st_mtime_ns
    gpu_graph(model, parts_of(model)[2], 'a', False)
    assert file.stat().st_mtime_ns == written
    file.write_bytes(content[:-9])
    gpu_graph(model, parts_of(model)[2], 'a', False)
    assert len(file.read_bytes()) == len(content)
    assert [path.name for path in cache.iterdir()] == [file.parent.name]


# Choice


def config(**options: str) -> EngineConfig:
    return EngineConfig(**options)


def test_tensorrt_is_taken_if_it_is_installed(standin: Path) -> None:
    assert choose(config(runtime='tensorrt'), GPU) == Choice('tensorrt', 'as asked', False)
    assert choose(config(runtime='auto'), GPU).runtime == 'torch'


def test_without_tensorrt_the_error_says_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, 'tensorrt', None)
    with pytest.raises(ValueError, match=r'is not installed \(.*JetPack 6.1 or newer'):
        choose(config(runtime='tensorrt'), GPU)


def test_tensorrt_without_strongly_typed_networks_is_refused(
    standin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorrt

    monkeypatch.setattr(tensorrt, '__version__', '8.6.2')
    with pytest.raises(ValueError, match=r'needs TensorRT 10.3 or newer, found 8.6.2'):
        choose(config(runtime='tensorrt'), GPU)
    monkeypatch.setattr(tensorrt, '__version__', '11.4.0.106')
    assert choose(config(runtime='tensorrt'), GPU).runtime == 'tensorrt'


@pytest.mark.parametrize(
    ('options', 'device', 'why'),
    [
        ({'runtime': 'tensorrt'}, CPU, 'runtime tensorrt runs on CUDA, got device cpu'),
        ({'runtime': 'tensorrt', 'precision': 'bf16'}, GPU, 'in fp16 or fp32 on CUDA, got'),
        ({'runtime': 'onnxruntime', 'precision': 'bf16'}, GPU, 'in fp16 or fp32 on CUDA, got'),
        ({'runtime': 'onnxruntime'}, GPU, 'pip install onnxruntime-gpu in place of onnxruntime'),
        ({'runtime': 'openvino'}, GPU, 'runs on the CPU in fp32, got device cuda:0'),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(
    options: dict[str, str], device: torch.device, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = SimpleNamespace(get_available_providers=lambda: ['CPUExecutionProvider'])
    monkeypatch.setattr(onnxruntime_gpu, 'import_onnxruntime', lambda: runtime)
    with pytest.raises(ValueError, match=why) as caught:
        choose(config(**options), device)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('available', 'installed', 'provider'),
    [
        ([TENSORRT, CUDA], ['tensorrt'], TENSORRT),
        ([TENSORRT, CUDA], ['libnvinfer'], TENSORRT),
        ([TENSORRT, CUDA], [], CUDA),  # onnxruntime-gpu lists it all the same
        ([CUDA], ['tensorrt'], CUDA),
    ],
)
def test_the_tensorrt_provider_needs_tensorrt(
    available: list[str],
    installed: list[str],
    provider: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = SimpleNamespace(get_available_providers=lambda: available)
    monkeypatch.setattr(onnxruntime_gpu, 'import_onnxruntime', lambda: runtime)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda n: n in installed if n == 'tensorrt' else find(n)
    )
    monkeypatch.setattr(
        onnxruntime_gpu.ctypes.util,
        'find_library',
        lambda name: 'libnvinfer.so.10' if f'lib{name}' in installed else None,
    )
    assert gpu_provider() == provider


def spec(name: str = 'encoder', batch: int = 2, width: int = 56, digest: str = 'a') -> PartSpec:
    folder = cache_folder() / f'{name}-{digest}'
    return PartSpec(name, folder, digest, {'image': [batch, 3, 40, width]}, ('latent',), GPU)


def test_providers_share_a_stream_and_know_the_largest_batch() -> None:
    (first, tensorrt), (second, cuda) = provider_options(spec(batch=4), TENSORRT, 7)
    assert (first, second) == (TENSORRT, CUDA)
    assert tensorrt['user_compute_stream'] == cuda['user_compute_stream'] == '7'
    assert cuda['use_tf32'] == '0'
    assert tensorrt['trt_profile_min_shapes'] == 'image:1x3x40x56'
    assert tensorrt['trt_profile_max_shapes'] == 'image:4x3x40x56'
    folder = str(cache_folder() / 'encoder-onnxruntime-a-4x3x40x56')
    assert tensorrt['trt_engine_cache_path'] == folder  # deleted like graphs after a month
    assert [name for name, _ in provider_options(spec(), CUDA, 7)] == [CUDA]


def test_an_exception_of_onnx_runtime_becomes_a_runtime_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / 'graph.onnx').write_bytes(b'no graph')
    with pytest.raises(RuntimeError, match='Protobuf parsing failed'), raises_runtime_error():
        onnxruntime.InferenceSession(str(tmp_path / 'graph.onnx'))


def test_onnx_runtime_reads_and_writes_buffers_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, whose addresses are bound like those of a GPU."""
    provider = 'CPUExecutionProvider'
    monkeypatch.setattr(onnxruntime_gpu, 'provider_options', lambda *_: [(provider, {})])
    model = tiny_model({'depth': 'light'}).eval().requires_grad_(False)
    model.fold()
    image = torch.rand(2, 3, 40, 56) * 2 - 1
    values, parts = run_parts(parts_of(model), image), parts_of(model)
    for part in parts:
        graph = gpu_graph(model, part, 'a', True)
        shapes = {name: [2, 3, 40, 56] for name in part.inputs}
        about = PartSpec(part.name, graph, 'a', shapes, part.outputs, CPU)
        session = OnnxRuntimeGpuSession(about, provider)
        for inputs in (values[part.source], tuple(each[:1] for each in values[part.source])):
            compare(session, part.module, inputs)
            first, second = session(*inputs), session(*inputs)
            assert [each.data_ptr() for each in first] == [each.data_ptr() for each in second]


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDA")
def test_a_provider_that_cannot_be_loaded_is_an_error(
    part: PartSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime would run on the CPU without a word."""
    wanted = [(CUDA, {}), 'CPUExecutionProvider']
    monkeypatch.setattr(onnxruntime_gpu, 'provider_options', lambda *_: wanted)
    with pytest.raises(ValueError, match=f'cannot load its {CUDA} and would use CPUExec'):
        OnnxRuntimeGpuSession(part._replace(device=CPU), CUDA)


# Builds


@pytest.fixture(scope='module')
def relu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a graph that is as good as a model for steps around a build."""
    shape = ['batch', 3, 'rows', 'columns']
    ends = [onnx.helper.make_tensor_value_info(n, 1, shape) for n in ('image', 'latent')]
    nodes = [onnx.helper.make_node('Relu', ['image'], ['latent'])]
    graph = onnx.helper.make_graph(nodes, 'relu', ends[:1], ends[1:])
    folder = tmp_path_factory.mktemp('relu')
    opset = [onnx.helper.make_opsetid('', 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset), folder / 'graph.onnx')
    return folder


@pytest.fixture
def part(relu: Path) -> PartSpec:
    return spec()._replace(graph=relu)


def test_an_engine_is_named_by_graph_gpu_version_and_shapes(standin: Path) -> None:
    def folder(version: str = '10.3.0', **changes: object) -> str:
        return engine_spec(spec(**changes), version).folder

    names = [
        folder(),
        folder('11.4.0'),
        folder(digest='b'),
        folder(batch=1),
        folder(width=64),
        folder(name='denoiser_0'),
    ]
    ORIN.multi_processor_count = 8  # a smaller module of the same family
    names.append(folder())
    ORIN.multi_processor_count = 16
    assert len(set(names)) == len(names)
    assert folder() == names[0]


def test_an_engine_is_built_in_another_process_once(
    standin: Path, part: PartSpec, cache: Path
) -> None:
    session = TensorRtSession(part, BuildProcess())
    assert "{'image': (-1, 3, 40, 56)}" in session._engine.content
    assert '((1, 3, 40, 56), (2, 3, 40, 56), (2, 3, 40, 56))' in session._engine.content
    assert session._engine.content.endswith('[]')  # no TF32
    again = TensorRtSession(part, BuildProcess())
    assert again._engine.content == session._engine.content
    assert count(standin) == 1
    TensorRtSession(part._replace(inputs={'image': [1, 3, 40, 56]}), BuildProcess())
    assert count(standin) == 2
    [timings] = (cache.parent / 'tensorrt').glob('timings-*')
    assert timings.read_bytes() == b'measured;' * 2  # shared by both builds


@pytest.mark.parametrize('content', [b'', b'damaged', b'plan cut'])
def test_an_engine_that_cannot_be_read_is_built_again(
    standin: Path, part: PartSpec, cache: Path, content: bytes
) -> None:
    TensorRtSession(part, BuildProcess())
    [plan] = cache.glob('*/engine.plan')
    plan.write_bytes(content)
    TensorRtSession(part, BuildProcess())
    assert count(standin) == 2
    assert plan.read_bytes().startswith(b'plan {')


def test_an_engine_that_tensorrt_refuses_is_built_again(
    standin: Path, part: PartSpec, cache: Path
) -> None:
    """Intact by its hash, but of another driver, say."""
    TensorRtSession(part, BuildProcess())
    [plan] = cache.glob('*/engine.plan')
    plan.write_bytes(b'of another driver')
    record = json.loads((plan.parent / 'graph.json').read_text())
    record['sha256'][plan.name] = hashlib.sha256(plan.read_bytes()).hexdigest()
    (plan.parent / 'graph.json').write_text(json.dumps(record))
    TensorRtSession(part, BuildProcess())
    assert count(standin) == 2
    assert plan.read_bytes().startswith(b'plan {')


def test_measurements_of_another_gpu_are_not_used(
    standin: Path, part: PartSpec, cache: Path
) -> None:
    machine = engine_spec(part, '10.3.0').machine
    (cache.parent / 'tensorrt').mkdir(parents=True)
    file = cache.parent / 'tensorrt' / f'timings-{machine}.cache'
    file.write_bytes(b'other')
    TensorRtSession(part, BuildProcess())
    assert file.read_bytes() == b'measured;'


def test_two_processes_that_want_the_same_engine_build_it_once(
    standin: Path, part: PartSpec
) -> None:
    with ThreadPoolExecutor(2) as two:
        made = [two.submit(TensorRtSession, part, BuildProcess()) for _ in range(2)]
        contents = {each.result()._engine.content for each in made}
    assert len(contents) == 1
    assert count(standin) == 1


@pytest.mark.parametrize(
    ('mode', 'why'),
    [
        ('refuse', '^TensorRT cannot read the graph: No importer registered for op: Foo$'),
        ('fail', '^TensorRT built no engine: no tactic fits$'),
        ('crash', 'ended by SIGKILL, perhaps for want of memory$'),
    ],
)
def test_a_build_that_fails_says_why_in_one_line_and_leaves_nothing(
    standin: Path,
    part: PartSpec,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    why: str,
) -> None:
    monkeypatch.setenv('STANDIN_TENSORRT', mode)
    with pytest.raises(ValueError, match=why):
        TensorRtSession(part, BuildProcess())
    assert not list(cache.glob('*tensorrt*'))


def test_a_build_ends_when_the_model_is_no_longer_used(
    standin: Path, part: PartSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('STANDIN_TENSORRT', 'hang')
    process = BuildProcess()
    with ThreadPoolExecutor(1) as other:
        made = other.submit(TensorRtSession, part, process)
        while not count(standin) and not made.done():
            time.sleep(0.01)
        process.stop()
        with pytest.raises(ValueError, match='ended by SIGKILL'):
            made.result()
    with pytest.raises(ValueError, match='no longer used'):
        TensorRtSession(part, process)


def test_a_build_ends_with_the_process_that_started_it(
    standin: Path, part: PartSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('STANDIN_TENSORRT', 'hang')
    request = json.dumps(engine_spec(part, '10.3.0')._asdict())
    with subprocess.Popen(
        [sys.executable, '-m', 'sd_perception_ros.runtimes.build_engine', request],
        stdin=subprocess.PIPE,
        env=build_environment(0, os.environ),
    ) as child:
        while not count(standin) and child.poll() is None:
            time.sleep(0.01)
        child.stdin.close()
        assert child.wait() == 1


def test_a_build_sees_the_gpu_of_the_model_only() -> None:
    assert build_environment(1, {})['CUDA_VISIBLE_DEVICES'] == '1'
    listed = {'CUDA_VISIBLE_DEVICES': '3, GPU-5c'}
    assert build_environment(1, listed)['CUDA_VISIBLE_DEVICES'] == 'GPU-5c'


def test_a_build_does_not_import_torch() -> None:
    """A second copy of it would take memory that the engine needs."""
    code = (
        'import sys, sd_perception_ros.runtimes.build_engine\n'
        'assert not {"torch", "numpy", "onnx"} & set(sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True, env=build_environment(0, os.environ))


# In the background


class Builder(EngineBuilder):
    """Makes 'engines' that are torch's own modules, times a factor."""

    factor, error = 1.0, None

    def build(self, request):
        if self.error is not None:
            raise self.error

        def session(*tensors: Tensor) -> tuple[Tensor, ...]:
            self.ran.append((request.session.part.name, len(tensors[0])))
            return tuple(each * self.factor for each in request.session.part.module(*tensors))

        return session


@pytest.fixture
def builder() -> Builder:
    made = Builder(folded(), 'tensorrt', CPU)
    made.ran = []
    yield made
    made.stop()
    made.join()


def part_of(builder: Builder) -> BackgroundSession:
    return BackgroundSession(parts_of(builder._model)[0], builder)


def images(batch: int = 1, width: int = 56) -> Tensor:
    return torch.rand(batch, 3, 40, width, generator=torch.Generator().manual_seed(0))


def test_torch_serves_until_the_engine_is_ready_and_used(builder: Builder) -> None:
    part, x = part_of(builder), images()
    expected = part.part.module(x)[0]
    torch.testing.assert_close(part(x)[0], expected)
    assert builder.wait(60)
    assert builder.ran == [('encoder', 1)]  # compared with torch
    part(x)
    assert builder.ran == [('encoder', 1)]  # not yet: the change is between two frames
    assert part.use_finished()
    assert not part.use_finished()
    torch.testing.assert_close(part(x)[0], expected)
    assert builder.ran == [('encoder', 1)] * 2


def test_a_larger_batch_is_torch_s_until_there_is_an_engine_for_it(builder: Builder) -> None:
    part = part_of(builder)
    for batch in (1, 3, 4, 2):
        part(images(batch))
        assert builder.wait(60)
        part.use_finished()
        builder.ran.clear()
    for batch in (4, 1):
        part(images(batch))
    assert [each.batch for each in part._engines.values()] == [4]
    assert builder.ran == [('encoder', 4), ('encoder', 1)]


def test_each_size_has_an_engine_up_to_a_limit(
    builder: Builder, caplog: pytest.LogCaptureFixture
) -> None:
    part = part_of(builder)
    for width in (16, 24, 32, 40, 48, 48, 64):
        part(images(width=width))
    assert builder.wait(60)
    assert len(part._finished) == background.MOST_SIZES == 4
    [line] = [each for each in caplog.messages if 'torch does' in each]
    assert line.endswith('each of 4 sizes has an engine, other sizes get none')


@pytest.mark.parametrize(
    ('error', 'factor', 'why'),
    [
        (ValueError('no\ntactic'), 1.0, 'torch does: no tactic'),
        (MemoryError(), 1.0, 'torch does: MemoryError'),
        (None, 1.01, 'differs from torch by 1.0e-02 of the output'),
        (None, float('nan'), 'differs from torch by nan'),
    ],
)
def test_an_engine_that_fails_or_differs_leaves_torch_serving_with_the_reason(
    builder: Builder,
    caplog: pytest.LogCaptureFixture,
    error: Exception | None,
    factor: float,
    why: str,
) -> None:
    builder.error, builder.factor = error, factor
    part, x = part_of(builder), images()
    expected = part.part.module(x)[0]
    for _ in range(3):
        torch.testing.assert_close(part(x)[0], expected)
        assert builder.wait(60)
        assert not part.use_finished()
    [line] = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert why in line
    assert not part.is_ready


def test_an_engine_that_fails_while_it_serves_costs_nothing_but_itself(
    builder: Builder, caplog: pytest.LogCaptureFixture
) -> None:
    part, x = part_of(builder), images()
    part(x)
    assert builder.wait(60)
    part.use_finished()

    def fails(*tensors: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError('CUDA error')

    part._engines[40, 56] = part._engines[40, 56]._replace(session=fails)
    for _ in range(2):
        torch.testing.assert_close(part(x)[0], part.part.module(x)[0])
    [line] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line == 'tensorrt does not run encoder at 56x40, torch does: CUDA error'


def test_a_comparison_tells_shapes_and_limits_of_each_number_format() -> None:
    def off_by(factor: float):
        return lambda x: (x * (1 + factor),)

    def same(x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    compare(off_by(1e-2), same, (torch.ones(4).half(),))
    with pytest.raises(ValueError, match=r'differs from torch by 1\.0e-02'):
        compare(off_by(1e-2), same, (torch.ones(4),))
    with pytest.raises(ValueError, match=r'output of \(2,\) instead of \(4,\)'):
        compare(lambda x: (x[:2],), same, (torch.ones(4),))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Make an engine on the CPU whose parts go to the builders of these tests."""
    monkeypatch.setattr('sd_perception_ros.runtimes.prepare.EngineBuilder', Builder)
    Builder.ran = []

    def prepare(model: Model, choice: Choice, device: torch.device, dtype: torch.dtype):
        return GpuModel(model.eval(), 'tensorrt', device), Choice('tensorrt', 'as asked', False)

    monkeypatch.setattr(engine_module, 'prepare', prepare)
    model = tiny_model({'depth': 'light', 'normals': 'light'}).requires_grad_(False)
    yield Engine([(model, CheckpointConfig(long_side_px=64))], EngineConfig(device='cpu'))
    Builder.error = None


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)


def test_frames_are_the_same_before_and_after_the_engines_serve(engine: Engine) -> None:
    before = engine.predict([picture()])[0]
    assert 'torch runs encoder' in engine.summary()
    assert engine.wait_for_engines(60)
    after = engine.predict([picture()])[0]
    for task in ('depth', 'normals'):
        np.testing.assert_allclose(after[task].values, before[task].values, atol=1e-6)
    assert 'tensorrt (as asked) (all parts)' in engine.summary()


def test_noise_of_a_warm_up_requests_no_engine(engine: Engine) -> None:
    """Its size may never come; an engine costs minutes and a copy of the weights."""
    engine.warm_up(48, 64)
    assert engine.wait_for_engines(0)
    assert Builder.ran == []
    engine.predict([picture()])
    assert engine.wait_for_engines(60)
    assert len(Builder.ran) == 4


def test_the_summary_says_what_torch_runs_and_why(engine: Engine) -> None:
    Builder.error = ValueError('no tactic')
    engine.predict([picture()], ['depth'])
    assert engine.wait_for_engines(60)
    engine.predict([picture()], ['depth'])
    text = engine.summary()
    assert 'torch runs head_normals until engines are ready; torch runs encoder: no tactic' in text
    assert 'torch runs head_depth: no tactic' in text


def test_a_model_that_is_gone_ends_its_thread(engine: Engine) -> None:
    [served] = engine._models
    builder = served.model._builder
    engine.predict([picture()])
    engine.wait_for_engines(60)
    thread = builder._thread
    engine._models.clear()
    engine._gpu_models.clear()
    del served
    thread.join(60)
    assert not thread.is_alive()
