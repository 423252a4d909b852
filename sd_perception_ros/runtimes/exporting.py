"""
Write the parts of a model as ONNX files, and check that a runtime gives what torch gives.

    folder/graph.onnx    one part; beyond 2 GB its weights lie in further files of the folder
    folder/graph.json    what it is, of what, and how near each runtime comes to torch
"""

from __future__ import annotations

from collections.abc import Collection
import hashlib
from importlib.metadata import version
import json
import math
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any
import warnings

import torch
from torch import Tensor

from sd_perception_ros.model import Model
from sd_perception_ros.runtimes.parts import Part, parts_of, run_parts
from sd_perception_ros.runtimes.sessions import Session, SESSIONS

GRAPH, ABOUT = 'graph.onnx', 'graph.json'
OPSET = 18
# Largest difference from torch, in units of the largest value of an output: fp32's own rounding,
# summed in another order, gave 1e-6.
TOLERANCE = 1e-4
Tensors = tuple[Tensor, ...]


def cache_folder() -> Path:
    """Return where graphs are kept: below XDG_CACHE_HOME, or ~/.cache."""
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(home) / 'sd_perception_ros' / 'graphs'


def sessions_of(model: Model, runtime: str, threads: int) -> dict[str, Session]:
    """
    Return a session for each part of a folded model, by name; graphs come from the cache.

    :param runtime: one of `SESSIONS`.
    :raises ValueError: the runtime's numbers are not torch's.
    :raises OSError: the graphs cannot be written.
    """
    parts = parts_of(model)
    examples = Examples(model, parts)
    made = {}
    for part in parts:
        folder = cache_folder() / f'{part.name}-{part.digest}'
        if not is_intact(folder, part.digest):
            write_graph(part, folder, examples)
        session = SESSIONS[runtime](folder / GRAPH, part.inputs, part.outputs, threads)
        check_graph(part, folder, runtime, session, examples)
        made[part.name] = session
    return made


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


def write_graph(part: Part, folder: Path, examples: Examples) -> None:
    """Write a part as a folder, all or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f'.{part.name}-', dir=folder.parent))
    try:
        _trace(part, work / GRAPH, examples('trace')[part.source])
        files = sorted(work.iterdir())
        about = {
            'part': part.name,
            'reads': part.source or 'the picture, RGB in -1..1',
            'inputs': list(part.inputs),
            'outputs': list(part.outputs),
            'digest': part.digest,
            'sha256': {file.name: _sha256(file) for file in files},
            'versions': {'torch': torch.__version__, 'diffusers': version('diffusers')},
            'opset': OPSET,
            'largest_difference': {},
        }
        _write_json(work / ABOUT, about)
        work.chmod(0o755)
        publish(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def is_intact(folder: Path, digest: str) -> bool:
    """Return whether a folder holds the whole graph of this digest."""
    try:
        about = json.loads((folder / ABOUT).read_text())
        sums = about['sha256'].items()
        return about['digest'] == digest and all(_sha256(folder / n) == s for n, s in sums)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def publish(work: Path, folder: Path) -> None:
    """Move a whole graph to its place, unless another process has put the same one there."""
    digest = json.loads((work / ABOUT).read_text())['digest']
    if folder.exists() and not is_intact(folder, digest):
        shutil.rmtree(folder)
    try:
        work.rename(folder)
    except OSError:
        if not is_intact(folder, digest):
            raise
        shutil.rmtree(work)


def check_graph(
    part: Part, folder: Path, runtime: str, session: Session, examples: Examples
) -> float:
    """
    Compare a session with torch at a size that was not traced, once for each runtime.

    :returns: the largest difference, in units of an output's largest value.
    :raises ValueError: it is too large.
    """
    about = json.loads((folder / ABOUT).read_text())
    worst = about['largest_difference'].get(runtime)
    if worst is None:
        values = examples('check')
        found = session(*values[part.source])
        pairs = zip(found, values[part.name], strict=True)
        worst = max(_difference(ours, theirs) for ours, theirs in pairs)
        if not worst <= TOLERANCE:
            raise ValueError(
                f"{runtime} gives other numbers than torch for the model's {part.name}: "
                f'{worst:.1e} of the largest value, {TOLERANCE:.0e} is allowed; '
                'set runtime: torch'
            )
        about['largest_difference'][runtime] = worst
        _write_json(folder / ABOUT, about)
    return float(worst)


def export(
    model: Model, out: Path, size: tuple[int, int], runtimes: Collection[str], threads: int
) -> dict[str, Any]:
    """
    Write the parts of a folded model below `out`, checked with runtimes; return what they are.

    :param size: (height, width) that the network sees; it only says the shapes in the answer.
    :returns: {part: what its graph.json says, and the shape of each input}.
    :raises ValueError: a runtime's numbers are not torch's.
    """
    parts = parts_of(model)
    examples = Examples(model, parts)
    seen = run_parts(parts, torch.zeros(1, 3, *size))
    made = {}
    for part in parts:
        folder = out / part.name
        write_graph(part, folder, examples)
        for runtime in runtimes:
            session = SESSIONS[runtime](folder / GRAPH, part.inputs, part.outputs, threads)
            check_graph(part, folder, runtime, session, examples)
        shapes = zip(part.inputs, seen[part.source], strict=True)
        made[part.name] = json.loads((folder / ABOUT).read_text()) | {
            'shapes': {name: list(tensor.shape) for name, tensor in shapes}
        }
    return made


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


def _sha256(file: Path) -> str:
    with file.open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()


def _write_json(file: Path, values: dict[str, Any]) -> None:
    part = file.with_suffix(f'.{os.getpid()}.part')
    part.write_text(json.dumps(values, indent=2) + '\n')
    part.replace(file)
