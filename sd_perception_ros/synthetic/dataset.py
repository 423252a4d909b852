"""Write rendered frames to a folder: the same bytes for the same seed, resumable at any time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import as_completed, ProcessPoolExecutor
from dataclasses import asdict, dataclass
import importlib.metadata
import json
import multiprocessing
from pathlib import Path
import signal
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.synthetic.assets import attribution, Model, read_catalogs
from sd_perception_ros.synthetic.layout import Stage
from sd_perception_ros.synthetic.library import Catalog, Library, Solids
from sd_perception_ros.synthetic.render import (
    develop,
    exposure,
    ground_truth,
    GroundTruth,
    Look,
    radiance,
)
from sd_perception_ros.synthetic.rooms import make_room
from sd_perception_ros.synthetic.scene import View
from sd_perception_ros.synthetic.views import random_view
from sd_perception_ros.synthetic.yards import make_yard

UInt8 = NDArray[np.uint8]
YARD_SHARE = 0.25
MAX_ATTEMPTS = 8
FRAME_PARTS = ('image.png', 'depth.png', 'normals.png', 'semantic.png', 'camera.json')


@dataclass(frozen=True)
class Recipe:
    """
    All that decides the pictures.

    :ivar assets: folder with the furniture catalogues, or 'none' for plain solids.
    :ivar held_out: use only the reserved models, otherwise only the others.
    """

    scenes: int
    views: int
    seed: int
    width: int
    height: int
    assets: str
    held_out: bool


def make_library(recipe: Recipe, cache: Path) -> Library:
    """Open the catalogues of a recipe, or the plain solids."""
    if recipe.assets == 'none':
        return Solids()
    return Catalog(Path(recipe.assets), cache, recipe.held_out)


def make_stage(rng: np.random.Generator, library: Library) -> Stage:
    """Draw a room, or in a quarter of all cases a yard."""
    return make_yard(rng, library) if rng.random() < YARD_SHARE else make_room(rng, library)


def frame_key(scene: int, view: int) -> str:
    """Return the name of a frame, for example 000123_0."""
    return f'{scene:06d}_{view}'


def is_complete(folder: Path, key: str) -> bool:
    """Whether a frame is there; its camera.json is written last."""
    return (folder / f'{key}.camera.json').exists()


def write_scene(recipe: Recipe, library: Library, folder: Path, scene: int) -> list[Model]:
    """
    Render all views of one scene into a folder, and note the models used.

    :returns: the catalogue models of the scene.
    :raises ValueError: no acceptable view in several attempts.
    """
    for attempt in range(MAX_ATTEMPTS):
        rng = np.random.default_rng([recipe.seed, scene, attempt])
        stage = make_stage(rng, library)
        found = [random_view(rng, stage, recipe.width, recipe.height) for _ in range(recipe.views)]
        views = [view for view in found if view is not None]
        if len(views) == recipe.views:
            break
    else:
        raise ValueError(
            f'scene {scene} of seed {recipe.seed}: no acceptable view in {MAX_ATTEMPTS} attempts; '
            'use another seed'
        )
    for number, view in enumerate(views):
        # A generator of its own: skipping a finished view must not change the next one.
        view_rng = np.random.default_rng([recipe.seed, scene, attempt, number])
        key = frame_key(scene, number)
        if not is_complete(folder, key):
            light = radiance(stage.scene, view, view_rng)
            look = Look.random(view_rng)
            image = develop(light, look, exposure(light, look), view_rng)
            write_frame(folder, key, view, ground_truth(stage.scene, view), image)
    names = sorted({model.key for model in stage.models})
    write_atomically(folder / 'models' / f'{scene:06d}.json', json.dumps(names).encode())
    return list(stage.models)


def write_frame(
    folder: Path, key: str, view: View, truth: GroundTruth, image: UInt8, jpeg: int = 0
) -> None:
    """
    Write the five files of a frame; the last one, camera.json, makes it complete.

    :param jpeg: quality of a JPEG image, 0 for PNG.
    """
    millimetres = np.where(np.isfinite(truth.depth_m), np.round(truth.depth_m * 1000), 65535)
    normals = (np.round(truth.normals * 127) + 128).astype(np.uint8)
    flags = [cv2.IMWRITE_PNG_COMPRESSION, 6 if jpeg else 3]
    pictures: dict[str, NDArray[Any]] = {
        'depth.png': millimetres.astype(np.uint16),
        'normals.png': normals[..., ::-1],
        'semantic.png': truth.semantic,
    }
    if jpeg:
        _write_image(
            folder / f'{key}.image.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, jpeg]
        )
    else:
        _write_image(folder / f'{key}.image.png', image[..., ::-1], flags)
    for name, pixels in pictures.items():
        _write_image(folder / f'{key}.{name}', pixels, flags)
    camera = {
        **asdict(view.camera),
        'camera_height_m': round(float(view.position_m[2]), 5),
        'pitch_deg': round(view.pitch_deg, 5),
        'roll_deg': round(view.roll_deg, 5),
    }
    write_atomically(folder / f'{key}.camera.json', json.dumps(camera).encode())


def _write_image(path: Path, pixels: NDArray[Any], flags: list[int]) -> None:
    done, data = cv2.imencode(path.suffix, np.ascontiguousarray(pixels), flags)
    if not done:
        raise RuntimeError(f"could not encode '{path}'")
    write_atomically(path, data.tobytes())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under another name, then rename it: readers never see half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.tmp')
    temporary.write_bytes(data)
    temporary.replace(path)


def missing_scenes(recipe: Recipe, folder: Path) -> list[int]:
    """Return the scenes that still lack a frame."""
    return [
        scene
        for scene in range(recipe.scenes)
        if not (folder / 'models' / f'{scene:06d}.json').exists()
        or not all(is_complete(folder, frame_key(scene, view)) for view in range(recipe.views))
    ]


def write_dataset(recipe: Recipe, folder: Path, cache: Path, workers: int) -> Iterator[int]:
    """
    Render what is missing, then write the credits; yields after each finished scene.

    :raises ValueError: the folder holds frames of another recipe.
    :raises FileNotFoundError: there are no catalogues where the recipe says.
    """
    if recipe.assets != 'none':
        read_catalogs(Path(recipe.assets))  # here, since a worker that fails only breaks its pool
    _claim(recipe, folder)
    scenes = missing_scenes(recipe, folder)
    if workers > 1:
        context = multiprocessing.get_context('spawn')
        pool = ProcessPoolExecutor(
            workers, context, initializer=_start_worker, initargs=(recipe, cache)
        )
        try:
            jobs = [pool.submit(_work, recipe, folder, scene) for scene in scenes]
            for job in as_completed(jobs):
                yield job.result()
        finally:
            # A stop waits for the scenes that are being rendered, not for all that were asked for.
            pool.shutdown(cancel_futures=True)
    else:
        library = make_library(recipe, cache)
        for scene in scenes:
            write_scene(recipe, library, folder, scene)
            yield scene
    write_atomically(folder / 'ATTRIBUTION.md', _credits(recipe, folder).encode())


_library: list[Library] = []  # of this worker process: the catalogues are read once in each


def _start_worker(recipe: Recipe, cache: Path) -> None:
    # Ctrl-C in a terminal reaches every process: the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    _library.append(make_library(recipe, cache))


def _work(recipe: Recipe, folder: Path, scene: int) -> int:
    write_scene(recipe, _library[0], folder, scene)
    return scene


def _claim(recipe: Recipe, folder: Path) -> None:
    """Write recipe.json, or check that the one there says the same (the count may grow)."""
    path = folder / 'recipe.json'
    arguments = asdict(recipe)
    if path.exists():
        there = json.loads(path.read_text())['arguments']
        if {**there, 'scenes': 0} != {**arguments, 'scenes': 0}:
            raise ValueError(
                f"'{folder}' was made by another recipe: expected {arguments}, found {there}; "
                'choose an empty folder'
            )
    versions = {name: importlib.metadata.version(name) for name in ('numpy', 'embreex')}
    text = json.dumps({'arguments': arguments, 'versions': versions}, indent=2)
    write_atomically(path, text.encode())


def _credits(recipe: Recipe, folder: Path) -> str:
    if recipe.assets == 'none':
        return attribution([])
    keys = {
        key for path in (folder / 'models').glob('*.json') for key in json.loads(path.read_text())
    }
    return attribution(m for m in read_catalogs(Path(recipe.assets)) if m.key in keys)
