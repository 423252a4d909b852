"""The service ~/reload_model: load another model while the old one processes frames."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from sd_perception_ros.config import EngineConfig
from sd_perception_ros.ros.cameras import CameraOutputs
from sd_perception_ros.ros.node.errors import format_error, loading_hint
from sd_perception_ros.ros.node.parameters import read
from sd_perception_ros.ros.node.shutdown import SURVIVABLE_ERRORS
from sd_perception_ros.ros.options import InputOptions, OutputOptions
from sd_perception_ros.ros.serving import free_memory, load, LoadedModel, Serving

if TYPE_CHECKING:
    from sd_perception_ros.engine import Engine


class ReloadService:
    """
    The service ~/reload_model, which loads the model of the current parameters.

    If loading fails, the old model stays in use.
    """

    def __init__(self, node: Node, serving: Serving) -> None:
        self._node, self._serving = node, serving
        self._loader: ModelLoader | None = None
        # A separate group: a coroutine blocks the other callbacks of its group while it awaits.
        group = ReentrantCallbackGroup()
        node.create_service(Trigger, '~/reload_model', self._reload, callback_group=group)

    def join(self) -> None:
        """Wait for the end of a load; its model is dropped."""
        if self._loader is not None:
            self._loader.join()

    async def _reload(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        # A coroutine: meanwhile the executor receives frames and serves other requests.
        if self._serving.current is None:
            response.message = 'no model is loaded: configure the node first'
            return response
        if self._loader is not None:
            response.message = 'a reload is in progress: call again after it'
            return response
        outputs = self._serving.current.outputs  # no reference to the engine: cleanup frees it
        config = read(self._node, EngineConfig)
        options = read(self._node, OutputOptions)
        cameras = max(len(read(self._node, InputOptions).cameras), 1)
        self._loader = loader = ModelLoader(config, options, cameras, self._node.executor)
        await loader.finished
        self._loader = None
        response.message = loader.error
        if loader.engine is not None:
            response.message = self._replace(outputs, loader.engine)
        response.success = not response.message
        del loader
        if response.success:
            response.message = self._serving.current.engine.summary()
            self._node.get_logger().info(f'reloaded: {response.message}')
        else:
            free_memory()
            self._node.get_logger().error(
                f'reload failed: {response.message}; the old model stays in use'
            )
        return response

    def _replace(self, outputs: CameraOutputs, engine: Engine) -> str:
        """Replace the model from the next frame on; return an error, or ''."""
        current = self._serving.current
        if current is None or current.outputs is not outputs:
            return 'the node was cleaned up while the model was loaded'
        try:
            successor = outputs.successor(engine.tasks)
        except ValueError as error:
            return format_error(error)
        self._serving.swap(LoadedModel(engine, successor))
        if successor.missing_tasks:
            self._node.get_logger().warning(successor.missing_tasks)
        return ''


class ModelLoader:
    """
    A thread that loads a model and warms it up.

    :param config: checkpoint, device, precision and runtime.
    :param options: has the checkpoints of tasks with a separate checkpoint.
    :param cameras: number of cameras, whose frames run as one batch.
    :param executor: woken at the end, to continue the coroutine that awaits `finished`.
    :ivar engine: the model; None until it is loaded, and after an error.
    :ivar error: error text; empty after success.
    """

    def __init__(
        self, config: EngineConfig, options: OutputOptions, cameras: int, executor: Executor
    ) -> None:
        self.finished = Future(executor=executor)
        self.engine: Engine | None = None
        self.error = 'the loader thread ended by an exception, see the log'
        self._config, self._options, self._cameras = config, options, cameras
        self._executor = executor
        self._thread = threading.Thread(target=self._run, name='loader')
        self._thread.start()

    def join(self) -> None:
        """Wait for the end: Python aborts if the interpreter ends with a thread inside torch."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self.engine = load(self._config, self._options, self._cameras)
            self.error = ''
        except SURVIVABLE_ERRORS as error:
            self.error = f'{format_error(error)}{loading_hint(error)}'
        finally:
            self.finished.set_result(None)
            self._executor.wake()
