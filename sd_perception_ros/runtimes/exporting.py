"""
Write the parts of a model as ONNX graphs, and compare each runtime's outputs with torch's.

    folder/graph.onnx           one part; beyond 2 GB its weights are in further files
    folder/example.safetensors  inputs of a size that was not traced, and outputs of torch
    folder/graph.json           part, inputs, outputs, versions, largest difference of each runtime
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.metadata import version
import json
import math
from pathlib import Path
from typing import Any
import warnings

from safetensors.torch import load_file
import torch
from torch import Tensor

from sd_perception_ros.model import Model
from sd_perception_ros.runtimes.attention import (
    FullPrecisionNorms,
    FusedAttention,
    WrittenOutAttention,
)
from sd_perception_ros.runtimes.memory import trim
from sd_perception_ros.runtimes.onnx_files import (
    are_differences,
    cache_folder,
    delete_unused,
    DIFFERENCES,
    GRAPH,
    is_intact,
    read_record,
    RECORD,
    write_folder,
    write_json,
)
from sd_perception_ros.runtimes.parts import digests_of, ModelPart, parts_of, run_parts
from sd_perception_ros.runtimes.sessions import Session, SESSIONS
from sd_perception_ros.safe_save import save_safetensors

EXAMPLE = 'example.safetensors'
OPSET = 18
# Largest allowed difference from torch, relative to the largest value of an output. Rounding in
# fp32 in another order of sums gave 1e-6.
TOLERANCE = 1e-4
Tensors = tuple[Tensor, ...]


def sessions_of(model: Model, runtime: str, threads: int) -> tuple[dict[str, Session], str]:
    """
    Return a session for each part of a folded model, by name, and the id of its encoder.

    ONNX graphs come from the cache. The weights of a model on the meta device are read only if a
    graph is missing, and are freed before a session is made.

    :param runtime: one of `SESSIONS`.
    :param threads: CPU threads of one run.
    :raises ValueError: the runtime's outputs differ from torch's.
    :raises OSError: the ONNX graphs cannot be written.
    """
    kind, digests = SESSIONS[runtime], digests_of(model)
    folders = {name: cache_folder() / f'{name}-{digest}' for name, digest in digests.items()}
    delete_unused(folders.values())
    prepared = {
        name: _is_checked(folder, digests[name], runtime)
        and kind.is_prepared(folder, digests[name])
        for name, folder in folders.items()
    }
    missing = {
        name: folder
        for name, folder in folders.items()
        if not prepared[name] and not _is_complete(folder, digests[name])
    }
    if missing:
        _write_graphs(model, missing, digests)
        trim()
    sessions = {}
    for part in parts_of(model):
        folder = folders[part.name]
        if not prepared[part.name]:
            kind.prepare(folder, digests[part.name])
            trim()
        session = kind(kind.file_of(folder), part.inputs, part.outputs, threads)
        check_graph(part.name, folder, runtime, session, again=not prepared[part.name])
        sessions[part.name] = session
    return sessions, json.loads((folders['encoder'] / RECORD).read_text())['encoder']


def _is_checked(folder: Path, digest: str, runtime: str) -> bool:
    """Return whether graph.json can be read and has the difference of a runtime from torch."""
    record = read_record(folder, digest)
    return record is not None and _has_entries(record) and runtime in record[DIFFERENCES]


def _is_complete(folder: Path, digest: str) -> bool:
    """Return whether graph.json can be read and none of the files that it names has changed."""
    record = read_record(folder, digest)
    return record is not None and _has_entries(record) and is_intact(folder, digest, GRAPH)


def _has_entries(record: Mapping[str, Any]) -> bool:
    """Return whether a graph.json has the entries that serving reads, in their types."""
    return isinstance(record.get('encoder'), str) and are_differences(record.get(DIFFERENCES))


def _write_graphs(model: Model, folders: Mapping[str, Path], digests: Mapping[str, str]) -> None:
    model = model.materialize()
    model.fold()
    parts = parts_of(model)
    examples, encoder = Examples(model, parts), model.encoder_id()
    with FusedAttention():
        for part in parts:
            if part.name in folders:
                folder, digest = folders[part.name], digests[part.name]
                write_graph(part, folder, examples, digest, {'encoder': encoder})


def gpu_graph(model: Model, part: ModelPart, digest: str, fuses_attention: bool) -> Path:
    """
    Return the folder of a part's ONNX graph for a GPU; it is written if the cache lacks it.

    The graph has the number format of the model, except for normalizations, which are in fp32.
    Convolutions are as they are: Winograd convolutions are made for CPUs.

    :param model: folded, on the GPU; another thread may run it meanwhile.
    :param digest: of the part, from `digests_of`.
    :param fuses_attention: attention as one operator of ONNX Runtime; else standard operators.
    :raises OSError: the graph cannot be written.
    """
    folder = cache_folder() / f'{part.name}-{digest}'
    delete_unused([folder])
    if not is_intact(folder, digest):
        inputs = Examples(model, parts_of(model))('trace')[part.source]
        record = {'part': part.name, 'precision': str(inputs[0].dtype), 'opset': OPSET}
        attention = FusedAttention if fuses_attention else WrittenOutAttention
        # Not in inference mode, whose tensors cannot be traced.
        with (
            write_folder(folder, digest, record) as work,
            torch.inference_mode(False),
            FullPrecisionNorms(),
            attention(),
        ):
            _trace(part, work / GRAPH, inputs)
    return folder


class Examples:
    """
    Inputs and outputs of all parts at two image sizes, computed when first needed.

    :param model: folded, with weights.
    :param parts: of this model.
    """

    def __init__(self, model: Model, parts: list[ModelPart]) -> None:
        backbone = next(iter(model.backbones.values()))
        # Traced at a size that every level halves evenly, checked at one that no level does.
        even = backbone.stride * 2 ** len(backbone.feature_channels)
        odd = backbone.stride * (2 ** len(backbone.feature_channels) + 1)
        self._sizes = {'trace': (even, 2 * even), 'check': (odd, even - backbone.stride)}
        weight = next(model.parameters())
        self._format: Any = {'device': weight.device, 'dtype': weight.dtype}
        self._parts = parts
        self._values: dict[str, dict[str, Tensors]] = {}

    def __call__(self, use: str) -> dict[str, Tensors]:
        """
        Return the outputs of each part by name.

        :param use: 'trace' or 'check'.
        """
        if use not in self._values:
            generator = torch.Generator().manual_seed(0)
            image = torch.rand(1, 3, *self._sizes[use], generator=generator) * 2 - 1
            with torch.inference_mode(False):
                self._values[use] = run_parts(self._parts, image.to(**self._format))
        return self._values[use]


def write_graph(
    part: ModelPart, folder: Path, examples: Examples, digest: str, notes: Mapping[str, Any]
) -> None:
    """
    Write a part as a folder, atomically.

    :param digest: hash of the part's weights and code, from `digests_of`.
    :param notes: additional entries of graph.json.
    """
    record = {
        'part': part.name,
        'reads': part.source or 'the image, RGB in -1..1',
        'inputs': list(part.inputs),
        'outputs': list(part.outputs),
        'versions': {'torch': torch.__version__, 'diffusers': version('diffusers')},
        'opset': OPSET,
        DIFFERENCES: {},
    }
    with write_folder(folder, digest, record | dict(notes)) as work:
        _trace(part, work / GRAPH, examples('trace')[part.source])
        values = examples('check')
        example = _named('input', values[part.source]) | _named('output', values[part.name])
        save_safetensors(work / EXAMPLE, example)


def check_graph(
    name: str, folder: Path, runtime: str, session: Session, again: bool = False
) -> float:
    """
    Compare a session with torch at a size that was not traced, once for each runtime.

    :param name: of the part, for the error message.
    :param folder: of its ONNX graph.
    :param again: compare even if graph.json already has the difference of this runtime.
    :returns: the largest difference, relative to an output's largest value.
    :raises ValueError: it is larger than `TOLERANCE`.
    """
    record = json.loads((folder / RECORD).read_text())
    worst = record[DIFFERENCES].get(runtime)
    if worst is None or again:
        example = load_file(folder / EXAMPLE)
        outputs = session(*_listed('input', example), frugal=True)
        pairs = zip(outputs, _listed('output', example), strict=True)
        worst = max(_difference(output, expected) for output, expected in pairs)
        if not worst <= TOLERANCE:
            raise ValueError(
                f'{runtime} differs from torch for the {name} of the model: '
                f'{worst:.1e} of the largest value, {TOLERANCE:.0e} is allowed; '
                'set runtime: torch'
            )
        record[DIFFERENCES][runtime] = worst
        write_json(folder / RECORD, record)
    return float(worst)


def export(
    model: Model, out: Path, size: tuple[int, int], runtimes: Collection[str], threads: int
) -> dict[str, Any]:
    """
    Write the parts of a folded model below `out` and check them with runtimes.

    The ONNX graphs have only standard operators, for any runtime.

    :param size: (height, width) of the network's input, for the input shapes that are returned.
    :param runtimes: of `SESSIONS`.
    :returns: {part: its graph.json, with the shape of each input}.
    :raises ValueError: a runtime's outputs differ from torch's.
    """
    parts, digests = parts_of(model), digests_of(model)
    examples = Examples(model, parts)
    values = run_parts(parts, torch.zeros(1, 3, *size))
    exported = {}
    for part in parts:
        folder = out / part.name
        write_graph(part, folder, examples, digests[part.name], {})
        for runtime in runtimes:
            session = SESSIONS[runtime](folder / GRAPH, part.inputs, part.outputs, threads)
            check_graph(part.name, folder, runtime, session)
        shapes = zip(part.inputs, values[part.source], strict=True)
        exported[part.name] = json.loads((folder / RECORD).read_text()) | {
            'shapes': {name: list(tensor.shape) for name, tensor in shapes}
        }
    return exported


def _named(kind: str, tensors: Tensors) -> dict[str, Tensor]:
    # Copies: two outputs of a part may share memory, which safetensors refuses.
    return {f'{kind}_{i}': tensor.clone().contiguous() for i, tensor in enumerate(tensors)}


def _listed(kind: str, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    count = sum(name.startswith(kind) for name in tensors)
    return [tensors[f'{kind}_{i}'] for i in range(count)]


def _difference(output: Tensor, expected: Tensor) -> float:
    if output.shape != expected.shape:
        return math.inf
    return float((output - expected).abs().max() / expected.abs().max().clamp(min=1e-6))


def _trace(part: ModelPart, file: Path, inputs: Tensors) -> None:
    axes = {
        name: {0: 'batch', 2: f'{name}_rows', 3: f'{name}_columns'}
        for name in (*part.inputs, *part.outputs)
    }
    with warnings.catch_warnings(), torch.no_grad():
        # It warns about sizes that tracing may fix; `check_graph` detects them.
        warnings.simplefilter('ignore')
        # Not the exporter of torch.export: it takes ten times as long, and fixes the size.
        torch.onnx.export(
            part.module.eval(),
            inputs,
            str(file),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            dynamic_axes=axes,
        )
