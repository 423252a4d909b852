"""The model that serves, and its replacement while frames flow."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import gc
import threading
from typing import NamedTuple, TYPE_CHECKING

from sd_perception_ros.config import EngineConfig
from sd_perception_ros.ros.cameras import CameraOutputs
from sd_perception_ros.ros.node.shutdown import StopSignal
from sd_perception_ros.ros.options import OutputOptions

if TYPE_CHECKING:
    from sd_perception_ros.engine import Engine

# What the first real frame probably has, so that it is not the slow one.
_WARM_UP_SIZE = (480, 640)


class Served(NamedTuple):
    """A model and the topics that it fills."""

    engine: Engine
    outputs: CameraOutputs


class Serving:
    """
    The model that serves now. The executor swaps it; the worker uses it for one batch at a time.

    A batch ends with the model that it began with. A replaced model is freed by
    `release_replaced`, as soon as no batch uses it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leaving: list[Served] = []
        self._in_hand: Served | None = None
        self.now: Served | None = None

    @contextlib.contextmanager
    def frame(self) -> Iterator[Served]:
        """Hold the model that serves now, for one batch; RuntimeError while none is loaded."""
        with self._lock:
            served = self._in_hand = self.now
        if served is None:
            raise RuntimeError('no model is loaded')
        try:
            yield served
        finally:
            with self._lock:
                self._in_hand = None

    def swap(self, served: Served) -> None:
        """Serve something else from the next frame on."""
        with self._lock:
            if self.now is not None:
                self._leaving.append(self.now)
            self.now = served

    def release_replaced(self) -> None:
        """Free replaced models and their topics, unless a frame still uses them."""
        with self._lock:
            if not self._leaving or self._in_hand not in (None, self.now):
                return
            leaving, self._leaving = self._leaving, []
        for old in leaving:
            old.outputs.close(keep=None if self.now is None else self.now.outputs)
        del old, leaving
        free_memory()

    def clear(self) -> None:
        """Serve nothing, and take everything down; no frame may be in hand."""
        for old in self._leaving:
            old.outputs.close(keep=None if self.now is None else self.now.outputs)
        if self.now is not None:
            self.now.outputs.close()
        self._leaving, self.now = [], None
        free_memory()


def load(config: EngineConfig, options: OutputOptions) -> Engine:
    """
    Load a model and run it once; raises `SURVIVABLE_ERRORS`.

    :param options: name the checkpoints of tasks that have one of their own.
    """
    with StopSignal.postponed():  # torch takes seconds: wrong parameters were refused without it
        from sd_perception_ros.engine import Engine

    top_down = options.human_pose.top_down
    engine = Engine.from_config(config, options.checkpoints(), top_down)
    engine.warm_up(*_WARM_UP_SIZE)
    return engine


def free_memory() -> None:
    """Give back what nobody uses."""
    # A model's hooks make reference cycles: without this the next one is loaded beside it.
    gc.collect()
    import torch

    torch.cuda.empty_cache()
