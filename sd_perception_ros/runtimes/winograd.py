"""
Convolutions of 3x3 pixels with a quarter of the products, for ONNX Runtime on a CPU.

A square of 4x4 results needs the 6x6 pixels around it. Both it and the weights are evaluated at
6x6 points, multiplied there, and the results read off: 36 products instead of 144 for each pair
of channels, and sums over channels are products of matrices, which a CPU is best at (Lavin and
Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308). More is lost to
rounding than in the plain sum: with the points here, found by trying, about half of what their
points 0, 1, -1, 2, -2 lose.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from pathlib import Path
import tempfile
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

SIDE, KERNEL = 4, 3  # of a square of results, of the weights
POINTS = (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)  # and infinity
# Narrower convolutions are as quick as they are; evaluated weights are four times as large, which
# is too much memory for the widest of Stable Diffusion's denoiser.
LEAST_CHANNELS, MOST_WEIGHTS = 128, 5 * 2**16  # of a pair of channels
BAND_BYTES = 2**27  # of evaluated pixels that are held at once
DOMAIN = 'sd_perception_ros'
_BAND = """
  stacked = Scan <num_scan_inputs = 1, scan_output_axes = [2], body = band
      (int64[10] pad) => (float[b, k, r, w] found) {
    surrounded = Pad(planes, pad)
    spread = Conv <strides = [1, 4, 4], pads = [0, 0, 1, 0, 0, 4]> (surrounded, evaluate)
    pixels = Reshape(spread, pixels_shape)
    products = MatMul(weight, pixels)
    listed = Reshape(products, listed_shape)
    read = com.microsoft.FusedMatMul <transA = 1> (listed, read_off)
    squares = Reshape(read, squares_shape)
    lines = Transpose <perm = [0, 1, 2, 4, 3, 5]> (squares)
    whole = Reshape(lines, band_shape)
    found = Add(CROPPED, bias)
  }> (pads)
"""
_FUNCTION = """
<opset_import: ["" : 18, "com.microsoft" : 1], domain: "DOMAIN">
Conv3x3 (x, weight, bias, evaluate, read_off) => (y) {
  zero = Constant <value_ints = [0]> ()
  one = Constant <value_ints = [1]> ()
  two = Constant <value_ints = [2]> ()
  three = Constant <value_ints = [3]> ()
  four = Constant <value_ints = [4]> ()
  points = Constant <value_ints = [36]> ()
  rest = Constant <value_ints = [-1]> ()
  batch = Shape <start = 0, end = 1> (x)
  rows = Shape <start = 2, end = 3> (x)
  columns = Shape <start = 3, end = 4> (x)
  channels = Shape <start = 2, end = 3> (weight)
  answers = Shape <start = 1, end = 2> (weight)

  # Squares, and bands of whole rows of them.
  rows_3 = Add(rows, three)
  square_rows = Div(rows_3, four)
  columns_3 = Add(columns, three)
  square_columns = Div(columns_3, four)
  width = Mul(square_columns, four)
  planes_most = Max(channels, answers)
  planes_all = Mul(batch, planes_most)
  points_line = Mul(planes_all, square_columns)
  points_all = Mul(points_line, square_rows)
  most = Constant <value_ints = [MOST]> ()
  full_bands = Div(points_all, most)
  some_bands = Add(full_bands, one)
  bands = Min(some_bands, square_rows)
  rows_and_bands = Add(square_rows, bands)
  rounding = Sub(rows_and_bands, one)
  band_square_rows = Div(rounding, bands)
  band_rows = Mul(band_square_rows, four)
  all_rows = Mul(bands, band_rows)

  # What to pad each band of the picture with: a line above and below; less than 0 cuts off.
  scalar_0 = Squeeze(zero)
  scalar_1 = Squeeze(one)
  scalar_bands = Squeeze(bands)
  numbers = Range(scalar_0, scalar_bands, scalar_1)
  column = Unsqueeze(numbers, one)
  first = Mul(column, band_rows)
  above = Sub(one, first)
  last = Add(first, band_rows)
  behind = Add(last, one)
  below = Sub(behind, rows)
  none = Mul(first, zero)
  pads = Concat <axis = 1> (none, none, none, above, none, none, none, none, below, none)

  planes_shape = Concat <axis = 0> (batch, one, channels, rows, columns)
  pixels_shape = Concat <axis = 0> (batch, points, channels, rest)
  listed_shape = Concat <axis = 0> (batch, points, rest)
  squares_shape = Concat <axis = 0> (batch, answers, band_square_rows, square_columns, four, four)
  band_shape = Concat <axis = 0> (batch, answers, band_rows, width)
  long_shape = Concat <axis = 0> (batch, answers, all_rows, columns)
  shape = Concat <axis = 0> (batch, answers, rows, columns)
  planes = Reshape(x, planes_shape)

  # Cutting copies everything, so it is done only where squares stand out.
  computed = Concat <axis = 0> (all_rows, width)
  wanted = Concat <axis = 0> (rows, columns)
  equal = Equal(computed, wanted)
  equal_ints = Cast <to = 7> (equal)
  equal_all = ReduceMin <keepdims = 0> (equal_ints)
  fits = Cast <to = 9> (equal_all)
  bands_or_cut = If (fits) <then_branch = fitting () => (float[b, k, n, r, w] stacked) {
    FITTING
  }, else_branch = cutting () => (float[b, k, h, w] cut) {
    CUTTING
    long = Reshape(stacked, long_shape)
    cut = Slice(long, zero, rows, two)
  }>
  y = Reshape(bands_or_cut, shape)
}
"""


@contextlib.contextmanager
def with_fewer_products(file: Path) -> Iterator[Path]:
    """
    Give a graph like another one in which convolutions of 3x3 pixels take fewer products.

    It lies beside the other and is deleted afterwards. Where no convolution is wide enough, it is
    the other one itself.

    :param file: an ONNX file; its weights may lie beside it.
    """
    import onnx

    model = onnx.load(file, load_external_data=False)
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(_beside(file))
        if not _replace(model, file.parent, data):
            yield file
            return
        graph = stack.enter_context(_beside(file))
        graph.write(model.SerializeToString())
        del model
        data.flush()
        graph.flush()
        yield Path(graph.name)


def matrices() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """
    Return what evaluates pixels (6, 6), what evaluates weights (6, 3), what reads off (4, 6).

    Results r of pixels p and weights w: r = read @ ((pixels @ p) * (weights @ w)). It is the
    transpose of multiplying two polynomials by their values at points.
    """
    count = SIDE + KERNEL - 1

    def powers(degree: int) -> NDArray[np.float64]:
        infinity = [0.0] * (degree - 1) + [1.0]
        return np.array([[point**k for k in range(degree)] for point in POINTS] + [infinity])

    pixels = np.linalg.inv(powers(count)).T
    # Rows about as large as 1, by powers of two, which cost no accuracy.
    scale = 2.0 ** np.round(-np.log2(np.abs(pixels).max(axis=1, keepdims=True)))
    return pixels * scale, powers(KERNEL) / scale, powers(SIDE).T


def _replace(model: Any, folder: Path, data: BinaryIO) -> int:
    """Replace all convolutions that gain from it; return how many."""
    from onnx import helper, numpy_helper, parser

    graph = model.graph
    tensors = {each.name: each for each in graph.initializer}
    tensors |= {
        node.output[0]: node.attribute[0].t
        for node in graph.node
        if node.op_type == 'Constant' and node.attribute[0].name == 'value'
    }
    pixels, weights, read = matrices()
    count, replaced = 0, set[str]()
    for node in graph.node:
        if not _gains(node, tensors):
            continue
        kernel = numpy_helper.to_array(tensors[node.input[1]], str(folder)).astype(np.float64)
        weight = np.einsum('ia,jb,kcab->ijkc', weights, weights, kernel, optimize=True)
        bias = np.zeros(len(kernel), np.float32)
        if len(node.input) > 2:
            bias = numpy_helper.to_array(tensors[node.input[2]], str(folder))
        replaced |= set(node.input[1:])
        names = [f'{DOMAIN}/{count}/weight', f'{DOMAIN}/{count}/bias']
        graph.initializer.append(_kept(names[0], weight.reshape(-1, *kernel.shape[:2]), data))
        graph.initializer.append(_kept(names[1], bias.reshape(-1, 1, 1), data))
        inputs = [node.input[0], *names, f'{DOMAIN}/pixels', f'{DOMAIN}/read']
        node.CopyFrom(
            helper.make_node('Conv3x3', inputs, node.output, name=node.name, domain=DOMAIN)
        )
        count += 1
    if count:
        points = len(pixels) ** 2
        both = np.kron(pixels, pixels).reshape(points, 1, 1, *pixels.shape)
        graph.initializer.append(_kept(f'{DOMAIN}/pixels', both, data))
        graph.initializer.append(_kept(f'{DOMAIN}/read', np.kron(read, read).T, data))
        model.functions.append(parser.parse_function(_text()))
        known = {each.domain for each in model.opset_import}
        for domain in {DOMAIN, 'com.microsoft'} - known:
            model.opset_import.append(helper.make_opsetid(domain, 1))
        _forget(graph, replaced)
    return count


def _gains(node: Any, tensors: dict[str, Any]) -> bool:
    """Return whether a node is a convolution of 3x3 pixels that is wide enough."""
    from onnx import helper

    if node.op_type != 'Conv' or any(name not in tensors for name in node.input[1:]):
        return False
    said = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    answers, channels, *kernel = tensors[node.input[1]].dims
    return (
        kernel == [KERNEL, KERNEL]
        and said.get('pads') == [1, 1, 1, 1]
        and said.get('strides', [1, 1]) == said.get('dilations', [1, 1]) == [1, 1]
        and said.get('group', 1) == 1
        and min(answers, channels) >= LEAST_CHANNELS
        and answers * channels <= MOST_WEIGHTS
    )


def _text() -> str:
    points = (SIDE + KERNEL - 1) ** 2
    most = BAND_BYTES // (points * np.dtype(np.float32).itemsize)
    fitting = _BAND.replace('CROPPED', 'whole')
    cutting = _BAND.replace(
        'found = ', 'inside = Slice(whole, zero, columns, three)\n    found = '
    )
    text = _FUNCTION.replace('FITTING', fitting)
    text = text.replace('CUTTING', cutting.replace('CROPPED', 'inside'))
    return text.replace('MOST', str(most)).replace('DOMAIN', DOMAIN)


def _kept(name: str, values: NDArray[Any], data: BinaryIO) -> Any:
    """Write numbers to a file; return the tensor that names their place there."""
    from onnx import external_data_helper, numpy_helper

    tensor = numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name)
    place, length = data.tell(), len(tensor.raw_data)
    data.write(tensor.raw_data)
    external_data_helper.set_external_data(tensor, Path(data.name).name, place, length)
    tensor.ClearField('raw_data')
    return tensor


def _forget(graph: Any, names: set[str]) -> None:
    """Delete weights that nothing reads any more."""
    names -= {name for node in graph.node for name in node.input}
    for node in [node for node in graph.node if names & set(node.output)]:
        graph.node.remove(node)
    for tensor in [each for each in graph.initializer if each.name in names]:
        graph.initializer.remove(tensor)


@contextlib.contextmanager
def _beside(file: Path) -> Iterator[BinaryIO]:
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f'.{file.stem}-') as made:
        yield made  # type: ignore[misc]
