"""Replace wide 3x3 convolutions of an ONNX file by Winograd convolutions."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from pathlib import Path
import tempfile
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.runtimes.winograd_function import (
    conv3x3_function,
    DOMAIN,
    FUNCTION,
    KERNEL,
    matrices,
    MICROSOFT,
    SIDE,
)

# Narrower convolutions gain nothing. Transformed weights are four times as large: too much memory
# for the widest convolutions of Stable Diffusion's denoiser.
LEAST_CHANNELS, MOST_WEIGHTS = 128, 5 * 2**16  # of a convolution; of a pair of channels


@contextlib.contextmanager
def with_winograd_convolutions(file: Path) -> Iterator[Path]:
    """
    Yield a copy of an ONNX file with Winograd convolutions, or the file if none is replaced.

    The copy is a temporary file in the same folder, which may have the weights.

    :param file: an ONNX file.
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


def _replace(model: Any, folder: Path, data: BinaryIO) -> int:
    """Replace all wide 3x3 convolutions; return their number."""
    from onnx import helper, numpy_helper

    graph = model.graph
    tensors = {each.name: each for each in graph.initializer}
    tensors |= {
        node.output[0]: node.attribute[0].t
        for node in graph.node
        if node.op_type == 'Constant' and node.attribute[0].name == 'value'
    }
    pixels, weights, back = matrices()
    count, replaced = 0, set[str]()
    for node in graph.node:
        if not _is_wide(node, tensors):
            continue
        kernel = numpy_helper.to_array(tensors[node.input[1]], str(folder)).astype(np.float64)
        weight = np.einsum('ia,jb,kcab->ijkc', weights, weights, kernel, optimize=True)
        bias = np.zeros(len(kernel), np.float32)
        if len(node.input) > 2:
            bias = numpy_helper.to_array(tensors[node.input[2]], str(folder))
        replaced |= set(node.input[1:])
        names = [f'{DOMAIN}/{count}/weight', f'{DOMAIN}/{count}/bias']
        graph.initializer.append(
            _external_tensor(names[0], weight.reshape(-1, *kernel.shape[:2]), data)
        )
        graph.initializer.append(_external_tensor(names[1], bias.reshape(-1, 1, 1), data))
        inputs = [node.input[0], *names, f'{DOMAIN}/pixels', f'{DOMAIN}/back']
        node.CopyFrom(
            helper.make_node(FUNCTION, inputs, node.output, name=node.name, domain=DOMAIN)
        )
        count += 1
    if count:
        both = np.kron(pixels, pixels).reshape(SIDE**2, 1, 1, SIDE, SIDE)
        graph.initializer.append(_external_tensor(f'{DOMAIN}/pixels', both, data))
        graph.initializer.append(_external_tensor(f'{DOMAIN}/back', np.kron(back, back).T, data))
        model.functions.append(conv3x3_function())
        known = {each.domain for each in model.opset_import}
        for domain in {DOMAIN, MICROSOFT} - known:
            model.opset_import.append(helper.make_opsetid(domain, 1))
        _remove_unused(graph, replaced)
    return count


def _is_wide(node: Any, tensors: dict[str, Any]) -> bool:
    """Return whether a node is a 3x3 convolution with enough channels."""
    from onnx import helper

    if node.op_type != 'Conv' or any(name not in tensors for name in node.input[1:]):
        return False
    options = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    answers, channels, *kernel = tensors[node.input[1]].dims
    return (
        kernel == [KERNEL, KERNEL]
        and options.get('pads') == [1, 1, 1, 1]
        and options.get('strides', [1, 1]) == options.get('dilations', [1, 1]) == [1, 1]
        and options.get('group', 1) == 1
        and min(answers, channels) >= LEAST_CHANNELS
        and answers * channels <= MOST_WEIGHTS
    )


def _external_tensor(name: str, values: NDArray[Any], data: BinaryIO) -> Any:
    """Write values to a file; return a tensor that refers to them."""
    from onnx import external_data_helper, numpy_helper

    tensor = numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name)
    place, length = data.tell(), len(tensor.raw_data)
    data.write(tensor.raw_data)
    external_data_helper.set_external_data(tensor, Path(data.name).name, place, length)
    tensor.ClearField('raw_data')
    return tensor


def _remove_unused(graph: Any, names: set[str]) -> None:
    """Delete weights that are not used any more."""
    names -= {name for node in graph.node for name in node.input}
    for node in [node for node in graph.node if names & set(node.output)]:
        graph.node.remove(node)
    for tensor in [each for each in graph.initializer if each.name in names]:
        graph.initializer.remove(tensor)


@contextlib.contextmanager
def _beside(file: Path) -> Iterator[BinaryIO]:
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f'.{file.stem}-') as made:
        yield made  # type: ignore[misc]
