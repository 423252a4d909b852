"""The service ~/reload_model: another model is loaded while frames go through the old one."""

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
from sd_perception_ros.ros.node.errors import format_error, loading_hint, SURVIVABLE_ERRORS
from sd_perception_ros.ros.node.parameters import read
from sd_perception_ros.ros.options import OutputOptions
from sd_perception_ros.ros.serving import free_memory, load, Served, Serving

if TYPE_CHECKING:
    from sd_perception_ros.engine import Engine


class Reloading:
    """
    Loads the model that the parameters name now, when it is asked to.

    What cannot be loaded changes nothing.
    """

    def __init__(self, node: Node, serving: Serving) -> None:
        self._node, self._serving = node, serving
        self._loading: Loading | None = None
        # A group of its own: a coroutine keeps its group busy while it awaits, frames included.
        group = ReentrantCallbackGroup()
        node.create_service(Trigger, '~/reload_model', self._reload, callback_group=group)

    def join(self) -> None:
        """Wait for a load that is under way; its model is forgotten."""
        if self._loading is not None:
            self._loading.join()

    async def _reload(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        # A coroutine: the executor receives frames and answers other services meanwhile.
        if self._serving.now is None:
            response.message = 'no model is loaded: configure the node instead'
            return response
        if self._loading is not None:
            response.message = 'a reload is under way: call again when it has ended'
            return response
        outputs = self._serving.now.outputs  # not the engine: cleanup must be able to free it
        config = read(self._node, EngineConfig)
        options = read(self._node, OutputOptions)
        self._loading = loading = Loading(config, options, self._node.executor)
        await loading.finished
        self._loading = None
        response.message = loading.error
        if loading.engine is not None:
            response.message = self._replace(outputs, loading.engine)
        response.success = not response.message
        del loading
        if response.success:
            response.message = self._serving.now.engine.summary()
            self._node.get_logger().info(f'reloaded: {response.message}')
        else:
            free_memory()
            self._node.get_logger().error(f'reload failed: {response.message}; all is as before')
        return response

    def _replace(self, outputs: CameraOutputs, engine: Engine) -> str:
        """Serve another model from the next frame on; return why not."""
        now = self._serving.now
        if now is None or now.outputs is not outputs:
            return 'the node was cleaned up while the model was loaded'
        try:
            successor = outputs.successor(engine.tasks)
        except ValueError as error:
            return format_error(error)
        self._serving.swap(Served(engine, successor))
        if successor.missing_tasks:
            self._node.get_logger().warning(successor.missing_tasks)
        return ''


class Loading:
    """
    A thread that loads a model and warms it up.

    :param config: what to load and how to run it.
    :param options: name the checkpoints of tasks that have one of their own.
    :param executor: woken at the end, so that whoever awaits `finished` goes on.
    :ivar engine: the model; None until it is there, and where `error` says why it is not.
    """

    def __init__(self, config: EngineConfig, options: OutputOptions, executor: Executor) -> None:
        self.finished = Future(executor=executor)
        self.engine: Engine | None = None
        self.error = 'the loader ended by the exception in the log'
        self._config, self._options, self._executor = config, options, executor
        self._thread = threading.Thread(target=self._run, name='loader')
        self._thread.start()

    def join(self) -> None:
        """Wait for the end: a thread inside torch when the interpreter ends aborts the process."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self.engine = load(self._config, self._options)
            self.error = ''
        except SURVIVABLE_ERRORS as error:
            self.error = f'{format_error(error)}{loading_hint(error)}'
        finally:
            self.finished.set_result(None)
            self._executor.wake()
