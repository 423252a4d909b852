"""
Write the parts of a model as ONNX files, and check that a runtime gives what torch gives.

    folder/graph.onnx           one part; beyond 2 GB its weights lie in further files
    folder/example.safetensors  inputs of another size than was traced, and torch's outputs
    folder/graph.json           what it is, of what, and how near each runtime comes to torch
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
from sd_perception_ros.runtimes.attention import FusedAttention
from sd_perception_ros.runtimes.graphs import (
    ABOUT,
    cache_folder,
    forget_unused,
    GRAPH,
    is_intact,
    write_json,
    writing,
)
from sd_perception_ros.runtimes.memory import trim
from sd_perception_ros.runtimes.parts import digests_of, Part, parts_of, run_parts
from sd_perception_ros.runtimes.sessions import Session, SESSIONS
from sd_perception_ros.safe_save import save_safetensors

EXAMPLE = 'example.safetensors'
OPSET = 18
# Largest difference from torch, in units of the largest value of an output: fp32's own rounding,
# summed in another order, gave 1e-6.
TOLERANCE = 1e-4
Tensors = tuple[Tensor, ...]


def sessions_of(model: Model, runtime: str, threads: int) -> tuple[dict[str, Session], str]:
    """
    Return a session for each part of a folded model, by name, and the id of its encoder.

    Graphs come from the cache. Of an outline, the numbers are read only when a graph is missing,
    and are gone before a session is made.

    :param runtime: one of `SESSIONS`.
    :raises ValueError: the runtime's numbers are not torch's.
    :raises OSError: the graphs cannot be written.
    """
    kind, digests = SESSIONS[runtime], digests_of(model)
    folders = {name: cache_folder() / f'{name}-{digest}' for name, digest in digests.items()}
    forget_unused(folders.values())
    prepared = {
        name: (folder / ABOUT).is_file() and kind.is_prepared(folder, digests[name])
        for name, folder in folders.items()
    }
    missing = {
        name: folder
        for name, folder in folders.items()
        if not prepared[name] and not is_intact(folder, digests[name])
    }
    if missing:
        _write_graphs(model, missing, digests)
        trim()
    made = {}
    for part in parts_of(model):
        folder = folders[part.name]
        if not prepared[part.name]:
            kind.prepare(folder, digests[part.name])
            trim()
        session = kind(kind.file_of(folder), part.inputs, part.outputs, threads)
        check_graph(part.name, folder, runtime, session, again=not prepared[part.name])
        made[part.name] = session
    return made, json.loads((folders['encoder'] / ABOUT).read_text())['encoder']


def _write_graphs(model: Model, folders: Mapping[str, Path], digests: Mapping[str, str]) -> None:
    whole = model.materialize()
    whole.fold()
    parts = parts_of(whole)
    examples, encoder = Examples(whole, parts), whole.encoder_id()
    with FusedAttention():
        for part in parts:
            if part.name in folders:
                folder, digest = folders[part.name], digests[part.name]
                write_graph(part, folder, examples, digest, {'encoder': encoder})


class Examples:
    """What parts are traced with, and what they are checked with: each is made when asked for."""

    def __init__(self, model: Model, parts: list[Part]) -> None:
        backbone = next(iter(model.backbones.values()))
        # Traced where every level halves evenly, checked where none does.
        even = backbone.stride * 2 ** len(backbone.feature_channels)
        odd = backbone.stride * (2 ** len(backbone.feature_channels) + 1)
        self._sizes = {'trace': (even, 2 * even), 'check': (odd, even - backbone.stride)}
        self._parts = parts
        self._values: dict[str, dict[str, Tensors]] = {}

    def __call__(self, use: str) -> dict[str, Tensors]:
        """Return what each part gives for 'trace' or 'check'."""
        if use not in self._values:
            generator = torch.Generator().manual_seed(0)
            image = torch.rand(1, 3, *self._sizes[use], generator=generator) * 2 - 1
            self._values[use] = run_parts(self._parts, image)
        return self._values[use]


def write_graph(
    part: Part, folder: Path, examples: Examples, digest: str, notes: Mapping[str, Any]
) -> None:
    """
    Write a part as a folder, all or nothing.

    :param digest: names the part's weights.
    :param notes: what else graph.json shall say.
    """
    about = {
        'part': part.name,
        'reads': part.source or 'the picture, RGB in -1..1',
        'inputs': list(part.inputs),
        'outputs': list(part.outputs),
        'versions': {'torch': torch.__version__, 'diffusers': version('diffusers')},
        'opset': OPSET,
        'largest_difference': {},
    }
    with writing(folder, digest, about | dict(notes)) as work:
        _trace(part, work / GRAPH, examples('trace')[part.source])
        values = examples('check')
        example = _named('input', values[part.source]) | _named('output', values[part.name])
        save_safetensors(work / EXAMPLE, example)


def check_graph(
    name: str, folder: Path, runtime: str, session: Session, again: bool = False
) -> float:
    """
    Compare a session with torch at a size that was not traced, once for each runtime.

    :param name: of the part, for people.
    :param folder: of its graph.
    :param again: compare even if that was done before.
    :returns: the largest difference, in units of an output's largest value.
    :raises ValueError: it is too large.
    """
    about = json.loads((folder / ABOUT).read_text())
    worst = about['largest_difference'].get(runtime)
    if worst is None or again:
        example = load_file(folder / EXAMPLE)
        found = session(*_listed('input', example), frugal=True)
        pairs = zip(found, _listed('output', example), strict=True)
        worst = max(_difference(ours, theirs) for ours, theirs in pairs)
        if not worst <= TOLERANCE:
            raise ValueError(
                f"{runtime} gives other numbers than torch for the model's {name}: "
                f'{worst:.1e} of the largest value, {TOLERANCE:.0e} is allowed; '
                'set runtime: torch'
            )
        about['largest_difference'][runtime] = worst
        write_json(folder / ABOUT, about)
    return float(worst)


def export(
    model: Model, out: Path, size: tuple[int, int], runtimes: Collection[str], threads: int
) -> dict[str, Any]:
    """
    Write the parts of a folded model below `out`, checked with runtimes; return what they are.

    They have operators of the ONNX standard alone, so that any runtime reads them.

    :param size: (height, width) that the network sees; it only says the shapes in the answer.
    :returns: {part: what its graph.json says, and the shape of each input}.
    :raises ValueError: a runtime's numbers are not torch's.
    """
    parts, digests = parts_of(model), digests_of(model)
    examples = Examples(model, parts)
    seen = run_parts(parts, torch.zeros(1, 3, *size))
    made = {}
    for part in parts:
        folder = out / part.name
        write_graph(part, folder, examples, digests[part.name], {})
        for runtime in runtimes:
            session = SESSIONS[runtime](folder / GRAPH, part.inputs, part.outputs, threads)
            check_graph(part.name, folder, runtime, session)
        shapes = zip(part.inputs, seen[part.source], strict=True)
        made[part.name] = json.loads((folder / ABOUT).read_text()) | {
            'shapes': {name: list(tensor.shape) for name, tensor in shapes}
        }
    return made


def _named(kind: str, tensors: Tensors) -> dict[str, Tensor]:
    # Copies: two outputs of a part may be one tensor, which a file of tensors does not take.
    return {f'{kind}_{i}': tensor.clone().contiguous() for i, tensor in enumerate(tensors)}


def _listed(kind: str, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    count = sum(name.startswith(kind) for name in tensors)
    return [tensors[f'{kind}_{i}'] for i in range(count)]


def _difference(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return math.inf
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))


def _trace(part: Part, file: Path, inputs: Tensors) -> None:
    axes = {
        name: {0: 'batch', 2: f'{name}_rows', 3: f'{name}_columns'}
        for name in (*part.inputs, *part.outputs)
    }
    with warnings.catch_warnings(), torch.no_grad():
        # Sizes that tracing would fix are those that `check_graph` looks for.
        warnings.simplefilter('ignore')
        # Not the exporter on torch.export: it takes ten times as long, and no other sizes.
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
