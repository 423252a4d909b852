"""Write rendered frames to a folder: the same bytes for the same seed; can be resumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
import importlib.metadata
import json
import multiprocessing
from pathlib import Path
import signal

import cv2
import numpy as np

from sd_perception_ros.safe_save import write_bytes
from sd_perception_ros.synthetic.assets import attribution, Model, read_catalogs
from sd_perception_ros.synthetic.bodies import Bodies
from sd_perception_ros.synthetic.environments import environment_files, random_environment
from sd_perception_ros.synthetic.frames import Frame, write_frame
from sd_perception_ros.synthetic.items import Library
from sd_perception_ros.synthetic.joints import figures
from sd_perception_ros.synthetic.layout import Stage
from sd_perception_ros.synthetic.library import Catalog
from sd_perception_ros.synthetic.render import develop, exposure, ground_truth, Look, radiance
from sd_perception_ros.synthetic.rooms import make_room
from sd_perception_ros.synthetic.scene import View
from sd_perception_ros.synthetic.solids import Solids
from sd_perception_ros.synthetic.views import random_view
from sd_perception_ros.synthetic.yards import make_yard

YARD_SHARE = 0.25
MAX_ATTEMPTS = 8
GENERATOR = 4  # incremented whenever the same recipe gives other files


@dataclass(frozen=True)
class Recipe:
    """
    All options that determine the images.

    :ivar assets: folder with the furniture catalogues, or 'none' for plain solids.
    :ivar held_out: use only the reserved models, otherwise only the others.
    :ivar bodies: SHA-256 of a bank of people, or 'none'.
    :ivar lights: SHA-256 of environment maps, or 'none'.
    """

    scenes: int
    views: int
    seed: int
    width: int
    height: int
    assets: str
    held_out: bool
    bodies: str = 'none'
    lights: str = 'none'


def make_library(recipe: Recipe, cache: Path, bodies: Path | None = None) -> Library:
    """
    Open the catalogues of a recipe, or the plain solids.

    :param bodies: the bank of the recipe, if there is one.
    """
    library: Library = Solids()
    if recipe.assets != 'none':
        library = Catalog(Path(recipe.assets), cache, recipe.held_out)
    return Bodies(library, bodies, recipe.held_out) if bodies else library


def make_stage(rng: np.random.Generator, library: Library) -> Stage:
    """Draw a room or, in a quarter of all cases, a yard."""
    return make_yard(rng, library) if rng.random() < YARD_SHARE else make_room(rng, library)


def frame_key(scene: int, view: int) -> str:
    """Return the name of a frame, for example 000123_0."""
    return f'{scene:06d}_{view}'


def is_complete(folder: Path, key: str) -> bool:
    """Whether a frame is complete; its camera.json is written last."""
    return (folder / f'{key}.camera.json').exists()


def write_scene(
    recipe: Recipe, library: Library, folder: Path, scene: int, lights: Sequence[Path] = ()
) -> list[Model]:
    """
    Render all views of a scene into a folder, and record its models.

    :param lights: environment maps to draw from.
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
    # A separate generator: a scene has the same objects with and without maps.
    light_rng = np.random.default_rng([recipe.seed, scene, attempt, recipe.views])
    stage.scene.environment = random_environment(light_rng, lights)
    for number, view in enumerate(views):
        # A separate generator: skipping a finished view must not change the next one.
        view_rng = np.random.default_rng([recipe.seed, scene, attempt, number])
        key = frame_key(scene, number)
        if not is_complete(folder, key):
            write_frame(folder, key, render_frame(stage, view, view_rng))
    names = sorted({model.key for model in stage.models})
    write_bytes(folder / 'models' / f'{scene:06d}.json', json.dumps(names).encode())
    return list(stage.models)


def render_frame(stage: Stage, view: View, rng: np.random.Generator) -> Frame:
    """Render an image with a random camera, and its ground truth."""
    seen = radiance(stage.scene, view, rng)
    look = Look.random(rng)
    image = develop(seen.light, look, exposure(seen.light, look), rng)
    truth = ground_truth(stage.scene, view)
    people = figures(stage.scene, view, stage.people)
    return Frame(view, image, truth, seen.foreground, seen.matte, people)


def missing_scenes(recipe: Recipe, folder: Path) -> list[int]:
    """Return the scenes that still lack a frame."""
    return [
        scene
        for scene in range(recipe.scenes)
        if not (folder / 'models' / f'{scene:06d}.json').exists()
        or not all(is_complete(folder, frame_key(scene, view)) for view in range(recipe.views))
    ]


def write_dataset(
    recipe: Recipe,
    folder: Path,
    cache: Path,
    workers: int,
    bodies: Path | None = None,
    lights: Path | None = None,
) -> Iterator[int]:
    """
    Render what is missing, then write the credits; yields after each finished scene.

    :param bodies: the bank of the recipe, if there is one.
    :param lights: the folder of the environment maps of the recipe, if there are any.
    :raises ValueError: the folder holds frames of another recipe.
    :raises FileNotFoundError: there are no catalogues in the folder of the recipe.
    """
    if recipe.assets != 'none':
        read_catalogs(Path(recipe.assets))  # here: an error in a worker would only break its pool
    _claim(recipe, folder)
    scenes = missing_scenes(recipe, folder)
    if workers > 1:
        context = multiprocessing.get_context('spawn')
        pool = ProcessPoolExecutor(
            workers, context, initializer=_start_worker, initargs=(recipe, cache, bodies, lights)
        )
        try:
            jobs = [pool.submit(_work, recipe, folder, scene) for scene in scenes]
            for job in as_completed(jobs):
                yield job.result()
        finally:
            # An interruption waits for the scenes in progress, not for all.
            pool.shutdown(cancel_futures=True)
    else:
        library, maps = make_library(recipe, cache, bodies), environment_files(lights)
        with one_thread():
            for scene in scenes:
                write_scene(recipe, library, folder, scene, maps)
                yield scene
    write_bytes(folder / 'ATTRIBUTION.md', _credits(recipe, folder).encode())


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep OpenCV to one thread: with more, it rounds a few texels of a texture differently."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


# Global in each worker process: the catalogues are read once.
_sources: list[tuple[Library, list[Path]]] = []


def _start_worker(recipe: Recipe, cache: Path, bodies: Path | None, lights: Path | None) -> None:
    # Ctrl-C in a terminal reaches every process: the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    _sources.append((make_library(recipe, cache, bodies), environment_files(lights)))


def _work(recipe: Recipe, folder: Path, scene: int) -> int:
    library, lights = _sources[0]
    write_scene(recipe, library, folder, scene, lights)
    return scene


def _claim(recipe: Recipe, folder: Path) -> None:
    """Write recipe.json, or check that the existing one is equal (the count may grow)."""
    path = folder / 'recipe.json'
    arguments = asdict(recipe)
    if path.exists():
        known = json.loads(path.read_text())
        there, generator = known['arguments'], known.get('generator', 1)
        if generator != GENERATOR:
            raise ValueError(
                f"'{folder}' was made by generator {generator}, and this is {GENERATOR}: what its "
                'frames say differs; choose an empty folder'
            )
        if {**there, 'scenes': 0} != {**arguments, 'scenes': 0}:
            raise ValueError(
                f"'{folder}' was made by another recipe: expected {arguments}, found {there}; "
                'choose an empty folder'
            )
    versions = {name: importlib.metadata.version(name) for name in ('numpy', 'embreex')}
    about = {'generator': GENERATOR, 'arguments': arguments, 'versions': versions}
    text = json.dumps(about, indent=2)
    write_bytes(path, text.encode())


def _credits(recipe: Recipe, folder: Path) -> str:
    models: list[Model] = []
    if recipe.assets != 'none':
        files = (folder / 'models').glob('*.json')
        keys = {key for path in files for key in json.loads(path.read_text())}
        models = [model for model in read_catalogs(Path(recipe.assets)) if model.key in keys]
    return attribution(models, recipe.bodies != 'none')
