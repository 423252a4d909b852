"""The loaded model and its outputs, and their replacement while frames are processed."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import gc
import threading
from typing import NamedTuple, TYPE_CHECKING

from sd_perception_ros.checkpoint.files import only_below
from sd_perception_ros.checkpoint.hub import waiting_at_most
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.ros.cameras import CameraOutputs
from sd_perception_ros.ros.node.shutdown import StopSignal
from sd_perception_ros.ros.options import LoadingOptions, OutputOptions

if TYPE_CHECKING:
    from sd_perception_ros.engine import Engine


class LoadedModel(NamedTuple):
    """A model and the publishers of its outputs."""

    engine: Engine
    outputs: CameraOutputs


class Serving:
    """
    The current model. The executor thread swaps it, the worker thread uses it.

    A batch is processed by one model from begin to end. `release_replaced` frees a replaced model
    once no batch uses it.

    :ivar current: the current model; None if none is loaded.
    :ivar clears: number of calls of `clear`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replaced: list[LoadedModel] = []
        self._in_use: LoadedModel | None = None
        self.current: LoadedModel | None = None
        self.clears = 0

    @contextlib.contextmanager
    def use(self) -> Iterator[LoadedModel]:
        """Use the current model for one batch; RuntimeError if none is loaded."""
        with self._lock:
            served = self._in_use = self.current
        if served is None:
            raise RuntimeError('no model is loaded')
        try:
            yield served
        finally:
            with self._lock:
                self._in_use = None

    def swap(self, served: LoadedModel) -> None:
        """Replace the current model from the next batch on."""
        with self._lock:
            if self.current is not None:
                self._replaced.append(self.current)
            self.current = served

    def release_replaced(self) -> None:
        """Free replaced models and their topics, unless a batch still uses one."""
        with self._lock:
            if not self._replaced or self._in_use not in (None, self.current):
                return
            replaced, self._replaced = self._replaced, []
        for old in replaced:
            old.outputs.close(keep=None if self.current is None else self.current.outputs)
        del old, replaced
        free_memory()

    def clear(self) -> None:
        """Free all models and remove their topics; no batch may be in use."""
        for old in self._replaced:
            old.outputs.close(keep=None if self.current is None else self.current.outputs)
        if self.current is not None:
            self.current.outputs.close()
        self._replaced, self.current = [], None
        self.clears += 1
        free_memory()


def load(
    config: EngineConfig, loading: LoadingOptions, options: OutputOptions, cameras: int
) -> Engine:
    """
    Load a model and run one dry frame of each camera; raises `SURVIVABLE_ERRORS`.

    :param loading: folders and waiting times.
    :param options: has the checkpoints of tasks with a separate checkpoint.
    :param cameras: number of cameras, whose frames run as one batch.
    """
    with StopSignal.postponed():  # not at the top: torch takes seconds, parameters are read first
        from sd_perception_ros.engine import Engine

    top_down = options.human_pose.top_down
    with only_below(loading.checkpoint_folders), waiting_at_most(loading.network_timeout_s):
        engine = Engine.from_config(config, options.checkpoints(), top_down)
    engine.warm_up(*engine.dry_size, cameras)
    return engine


def free_memory() -> None:
    """Free the memory of deleted models."""
    # Hooks of a model form reference cycles: without a collection it stays beside the next one.
    gc.collect()
    import torch

    torch.cuda.empty_cache()
