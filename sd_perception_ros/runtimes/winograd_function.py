"""
Winograd convolutions F(4x4, 3x3) for ONNX Runtime on a CPU: a quarter of the multiplications.

A tile of 4x4 outputs needs the 6x6 pixels around it. Tile and kernel are transformed to 6x6
values, multiplied there, and transformed back: 36 multiplications instead of 144 for each pair
of channels, and sums over channels are matrix products, which CPUs do fastest (Lavin and Gray,
"Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308). The rounding error is
larger than that of the direct sum: with the interpolation points here, found by trying, about
half of that with the paper's points 0, 1, -1, 2, -2.

Measured for a model of the size of Stable Diffusion 2.1 at 768x576 on two cores: its decoder
21.5 -> 12.8 s, its encoder 9.9 -> 6.5 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TILE, KERNEL = 4, 3  # sides, of the outputs computed together and of the weights
POINTS = (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)  # of interpolation, and infinity
SIDE = TILE + KERNEL - 1  # of the pixels that a tile needs
BAND_BYTES = 2**27  # of transformed pixels that are in memory at once
OPSET = 18
DOMAIN, FUNCTION, MICROSOFT = 'sd_perception_ros', 'Conv3x3', 'com.microsoft'
_SCAN: dict[str, Any] = {'num_scan_inputs': 1, 'scan_output_axes': [2]}


def matrices() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """
    Return the transforms of pixels (6, 6), of weights (6, 3), and back to outputs (4, 6).

    Outputs r of pixels p and weights w: r = back @ ((pixels @ p) * (weights @ w)). It is the
    transpose of multiplying two polynomials by their values at points.
    """

    def powers(degree: int) -> NDArray[np.float64]:
        infinity = [0.0] * (degree - 1) + [1.0]
        return np.array([[point**k for k in range(degree)] for point in POINTS] + [infinity])

    pixels = np.linalg.inv(powers(SIDE)).T
    # Rows about as large as 1, by powers of two, which cost no accuracy.
    scale = 2.0 ** np.round(-np.log2(np.abs(pixels).max(axis=1, keepdims=True)))
    return pixels * scale, powers(KERNEL) / scale, powers(TILE).T


class _Nodes:
    """The nodes of a graph, in order. Values are referred to by name."""

    def __init__(self, prefix: str = '') -> None:
        self.list: list[Any] = []
        self._prefix = prefix

    def __call__(self, kind: str, *inputs: str, domain: str = '', **attributes: Any) -> str:
        """Add an operator and return its output."""
        from onnx import helper

        output = f'{self._prefix}{kind.lower()}_{len(self.list)}'
        self.list.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def number(self, value: int) -> str:
        """Return a list of one number."""
        return self('Constant', value_ints=[value])

    def concat(self, *parts: str, axis: int = 0) -> str:
        """Return lists of numbers, one after the other."""
        return self('Concat', *parts, axis=axis)

    def size(self, value: str, axis: int) -> str:
        """Return the size of a value along an axis."""
        return self('Shape', value, start=axis, end=axis + 1)

    def divide_up(self, value: str, by: str, one: str) -> str:
        """Return a quotient of integers, rounded up."""
        return self('Div', self('Sub', self('Add', value, by), one), by)


class _Shapes(NamedTuple):
    """Sizes and shapes within the function, by the names of their values."""

    zero: str
    two: str
    three: str
    rows: str
    columns: str
    width: str  # of all tiles of a row
    tiles: str  # (batch, 36, channels, all tiles of a band)
    products: str  # (batch, 36, rest)
    squares: str  # (batch, outputs, rows of tiles, tiles of a row, 4, 4)
    band: str  # (batch, outputs, rows of a band, width)


def conv3x3_function() -> Any:
    """
    Return the ONNX function of a convolution, for any batch and size.

    x (B, C, H, W), weight (36, K, C), bias (K, 1, 1) -> y (B, K, H, W). Bands of whole rows of
    tiles are computed one after the other, so that few transformed pixels are in memory at once.
    """
    from onnx import helper

    n = _Nodes()
    zero, one, two, three, four = (n.number(value) for value in range(5))
    points, rest = n.number(SIDE**2), n.number(-1)
    batch, rows, columns = n.size('x', 0), n.size('x', 2), n.size('x', 3)
    outputs, channels = n.size('weight', 1), n.size('weight', 2)

    tile_rows, tile_columns = n.divide_up(rows, four, one), n.divide_up(columns, four, one)
    width = n('Mul', tile_columns, four)
    # As many bands as keep the transformed pixels of each below the limit.
    planes = n('Mul', batch, n('Max', channels, outputs))
    tiles = n('Mul', n('Mul', planes, tile_columns), tile_rows)
    limit = n.number(BAND_BYTES // (SIDE**2 * np.dtype(np.float32).itemsize))
    bands = n('Min', n('Add', n('Div', tiles, limit), one), tile_rows)
    band_tile_rows = n.divide_up(tile_rows, bands, one)
    band_rows = n('Mul', band_tile_rows, four)
    all_rows = n('Mul', bands, band_rows)

    # Pads of each band, begins and then ends of five axes; less than 0 cuts rows off. A band
    # needs one more row above and below.
    numbers = n('Range', n('Squeeze', zero), n('Squeeze', bands), n('Squeeze', one))
    first_row = n('Mul', n('Unsqueeze', numbers, one), band_rows)
    above = n('Sub', one, first_row)
    below = n('Sub', n('Add', n('Add', first_row, band_rows), one), rows)
    none = n('Mul', first_row, zero)
    pads = n.concat(none, none, none, above, none, none, none, none, below, none, axis=1)

    volume = n('Reshape', 'x', n.concat(batch, one, channels, rows, columns))
    shapes = _Shapes(
        zero=zero,
        two=two,
        three=three,
        rows=rows,
        columns=columns,
        width=width,
        tiles=n.concat(batch, points, channels, rest),
        products=n.concat(batch, points, rest),
        squares=n.concat(batch, outputs, band_tile_rows, tile_columns, four, four),
        band=n.concat(batch, outputs, band_rows, width),
    )
    long_shape = n.concat(batch, outputs, all_rows, columns)
    shape = n.concat(batch, outputs, rows, columns)
    # Cropping tiles that extend beyond the image copies everything: only if there are any.
    is_whole = n('Equal', n.concat(all_rows, width), n.concat(rows, columns))
    is_whole = n('ReduceMin', n('Cast', is_whole, to=_type('INT64')), keepdims=0)
    result = n(
        'If',
        n('Cast', is_whole, to=_type('BOOL')),
        then_branch=_whole(volume, pads, shapes),
        else_branch=_cut(volume, pads, shapes, long_shape),
    )
    y = helper.make_node('Reshape', [result, shape], ['y'])
    return helper.make_function(
        DOMAIN,
        FUNCTION,
        ['x', 'weight', 'bias', 'to_pixels', 'back'],
        ['y'],
        [*n.list, y],
        [helper.make_opsetid('', OPSET), helper.make_opsetid(MICROSOFT, 1)],
    )


def _whole(volume: str, pads: str, shapes: _Shapes) -> Any:
    """Return the graph that computes all bands, whose tiles end at the edge of the image."""
    n = _Nodes('whole_')
    bands = n('Scan', pads, body=_band(volume, shapes, 'whole_', cuts=False), **_SCAN)
    return _graph(n.list, bands, 'bknrw')


def _cut(volume: str, pads: str, shapes: _Shapes, long_shape: str) -> Any:
    """Return the graph that computes all bands and crops pixels beyond the image."""
    n = _Nodes('cut_')
    bands = n('Scan', pads, body=_band(volume, shapes, 'cut_', cuts=True), **_SCAN)
    long = n('Reshape', bands, long_shape)
    return _graph(n.list, n('Slice', long, shapes.zero, shapes.rows, shapes.two), 'bkhw')


def _band(volume: str, shapes: _Shapes, prefix: str, cuts: bool) -> Any:
    """Return the graph of one band: pixels of the volume -> outputs."""
    from onnx import helper

    n = _Nodes(f'{prefix}band_')
    pad = f'{prefix}pad'
    padded = n('Pad', volume, pad)
    spread = n('Conv', padded, 'to_pixels', strides=[1, TILE, TILE], pads=[0, 0, 1, 0, 0, 4])
    products = n('MatMul', 'weight', n('Reshape', spread, shapes.tiles))
    listed = n('Reshape', products, shapes.products)
    outputs = n('FusedMatMul', listed, 'back', domain=MICROSOFT, transA=1)
    squares = n('Reshape', outputs, shapes.squares)
    lines = n('Reshape', n('Transpose', squares, perm=[0, 1, 2, 4, 3, 5]), shapes.band)
    if cuts:
        lines = n('Slice', lines, shapes.zero, shapes.columns, shapes.three)
    found = n('Add', lines, 'bias')
    inputs = [helper.make_tensor_value_info(pad, _type('INT64'), [10])]
    return _graph(n.list, found, 'bkrw', inputs)


def _graph(nodes: list[Any], output: str, axes: str, inputs: Sequence[Any] = ()) -> Any:
    """Return a graph with one output of float numbers, whose axes have these names."""
    from onnx import helper

    outputs = [helper.make_tensor_value_info(output, _type('FLOAT'), list(axes))]
    return helper.make_graph(nodes, output, list(inputs), outputs)


def _type(name: str) -> int:
    from onnx import TensorProto

    return int(TensorProto.DataType.Value(name))
