"""Winograd convolutions give the outputs of direct ones, at any size."""

from __future__ import annotations

import itertools
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn, Tensor

from sd_perception_ros.runtimes import winograd_function
from sd_perception_ros.runtimes.winograd import with_winograd_convolutions
from sd_perception_ros.runtimes.winograd_function import matrices

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')  # of the exporter
AXES = {0: 'batch', 2: 'rows', 3: 'columns'}


def write(folder: Path, module: nn.Module) -> Path:
    """Export a module of convolutions with sizes left open."""
    file = folder / 'graph.onnx'
    channels = next(each.in_channels for each in module.modules() if isinstance(each, nn.Conv2d))
    torch.onnx.export(
        module.eval(),
        (torch.zeros(1, channels, 8, 8),),
        str(file),
        dynamo=False,
        opset_version=18,
        input_names=['x'],
        output_names=['y'],
        dynamic_axes={'x': AXES, 'y': AXES},
    )
    return file


def run(file: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    return torch.from_numpy(session.run(None, {'x': x.numpy()})[0])


def test_sixteen_outputs_are_computed_from_thirty_six_products() -> None:
    pixels, weights, read = matrices()
    patch = np.arange(36.0).reshape(6, 6)
    left = np.array([[0.0, 0, 0], [1, 0, -1], [0, 0, 0]])  # left minus right: always -2
    products = (pixels @ patch @ pixels.T) * (weights @ left @ weights.T)
    assert products.size == 36
    np.testing.assert_allclose(read @ products @ read.T, np.full((4, 4), -2.0), atol=1e-12)
    middle = np.array([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    products = (pixels @ patch @ pixels.T) * (weights @ middle @ weights.T)
    np.testing.assert_allclose(read @ products @ read.T, patch[1:5, 1:5], atol=1e-12)


@pytest.fixture(scope='module')
def module() -> nn.Module:
    """Return two convolutions that gain, one of them without bias, and one that is too narrow."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(128, 160, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(160, 128, 3, padding=1, bias=False),
        nn.Conv2d(128, 3, 3, padding=1),
    )


@pytest.fixture(scope='module', params=[2**27, 2**18], ids=['one band', 'bands'])
def files(
    request: pytest.FixtureRequest, module: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Return a graph as it was exported, and a whole file of what it becomes."""
    folder = tmp_path_factory.mktemp('graphs')
    plain, whole = write(folder, module), folder / 'whole.onnx'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd_function, 'BAND_BYTES', request.param)
        with with_winograd_convolutions(plain) as quick:
            onnx.save(onnx.load(quick), whole)
    return plain, whole


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 3), rows=st.integers(1, 21), columns=st.integers(1, 21))
def test_outputs_are_equal_at_any_size_and_batch(
    files: tuple[Path, Path], module: nn.Module, batch: int, rows: int, columns: int
) -> None:
    x = torch.randn(batch, 128, rows, columns, generator=torch.Generator().manual_seed(rows))
    with torch.inference_mode():
        expected = module(x)
    found = run(files[1], x)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_only_wide_convolutions_are_replaced_and_their_weights_removed(
    files: tuple[Path, Path],
) -> None:
    kinds = [node.op_type for node in onnx.load(files[1]).graph.node]
    assert kinds.count('Conv3x3') == 2
    assert kinds.count('Conv') == 1
    shapes = [tuple(each.dims) for each in onnx.load(files[1]).graph.initializer]
    assert (36, 160, 128) in shapes
    assert (160, 128, 3, 3) not in shapes
    assert (3, 128, 3, 3) in shapes


@pytest.mark.parametrize(
    'options',
    [
        {'kernel_size': 1},
        {'kernel_size': 3, 'padding': 1, 'stride': 2},
        {'kernel_size': 3, 'padding': 1, 'groups': 2},
        {'kernel_size': 3, 'padding': 2, 'dilation': 2},
        {'kernel_size': 3},
        {'kernel_size': 5, 'padding': 2},
    ],
    ids=str,
)
def test_other_convolutions_are_not_replaced(options: dict[str, int], tmp_path: Path) -> None:
    plain = write(tmp_path, nn.Conv2d(256, 256, **options))
    with with_winograd_convolutions(plain) as quick:
        assert quick == plain


def test_a_convolution_with_too_large_weights_is_not_replaced(tmp_path: Path) -> None:
    plain = write(tmp_path, nn.Conv2d(640, 640, 3, padding=1))
    with with_winograd_convolutions(plain) as quick:
        assert quick == plain


def test_weights_may_be_in_a_file_beside_a_graph_and_no_other_file_is_left(
    module: nn.Module, tmp_path: Path
) -> None:
    file = write(tmp_path, module)
    onnx.save(onnx.load(file), file, save_as_external_data=True, location='weights.bin')
    before = sorted(tmp_path.iterdir())
    x = torch.randn(1, 128, 9, 6)
    with with_winograd_convolutions(file) as quick:
        assert quick not in before
        found = run(quick, x)
    with torch.inference_mode():
        expected = module(x)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert sorted(tmp_path.iterdir()) == before


def rounding_error() -> float:
    """Return the root mean square error of results that are about 1, from 256 channels."""
    pixels, weights, read = matrices()
    rng = np.random.default_rng(0)
    patches = rng.standard_normal((200, 256, 6, 6)).astype(np.float32)
    kernel = (rng.standard_normal((256, 3, 3)) / 48).astype(np.float32)
    exact = np.zeros((200, 4, 4))
    for i, j in itertools.product(range(4), range(4)):
        exact[:, i, j] = np.einsum(
            'tcab,cab->t', patches[:, :, i : i + 3, j : j + 3].astype(float), kernel.astype(float)
        )
    left = np.einsum('ia,jb,tcab->tcij', *[pixels.astype(np.float32)] * 2, patches, optimize=True)
    right = np.einsum('ia,jb,cab->cij', weights, weights, kernel.astype(float)).astype(np.float32)
    products = np.einsum('tcij,cij->tij', left, right)
    found = np.einsum('ia,jb,tab->tij', *[read.astype(np.float32)] * 2, products, optimize=True)
    return float(np.sqrt(np.mean((found - exact) ** 2)))


def test_rounding_is_about_half_of_what_the_usual_points_lose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = rounding_error()
    monkeypatch.setattr(winograd_function, 'POINTS', (0.0, 1.0, -1.0, 2.0, -2.0))
    usual = rounding_error()
    assert ours < 3e-6
    assert ours < 0.6 * usual
