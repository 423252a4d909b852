"""The service ~/reload_model: load another model while the old one processes frames."""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import TYPE_CHECKING

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from sd_perception_ros.checkpoint import hub
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.people.options import TopDownOptions
from sd_perception_ros.ros.node.errors import format_error, loading_hint
from sd_perception_ros.ros.node.parameters import read
from sd_perception_ros.ros.node.shutdown import SURVIVABLE_ERRORS
from sd_perception_ros.ros.options import InputOptions, LoadingOptions, OutputOptions
from sd_perception_ros.ros.serving import free_memory, load, LoadedModel, Serving

if TYPE_CHECKING:
    from sd_perception_ros.engine import Engine


class ReloadService:
    """
    The service ~/reload_model, which loads the model of the current parameters.

    If loading fails, the old model stays in use. A call with other parameters than those of the
    load in progress cancels that load.

    :param on_replaced: called with a new model and the options that it was loaded with.
    """

    def __init__(
        self,
        node: Node,
        serving: Serving,
        on_replaced: Callable[[Engine, OutputOptions], None],
    ) -> None:
        self._node, self._serving, self._on_replaced = node, serving, on_replaced
        self._loader: ModelLoader | None = None
        # A separate group: a coroutine blocks the other callbacks of its group while it awaits.
        group = ReentrantCallbackGroup()
        node.create_service(Trigger, '~/reload_model', self._reload, callback_group=group)

    def close(self, timeout_s: float) -> bool:
        """Cancel a load and wait for its end, `timeout_s` at most; return whether it ended."""
        loader = self._loader
        return loader is None or loader.cancel(timeout_s)

    async def _reload(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        # A coroutine: meanwhile the executor receives frames and serves other requests.
        if self._serving.current is None:
            response.message = 'no model is loaded: configure the node first'
            return response
        clears = self._serving.clears
        config = read(self._node, EngineConfig)
        options = read(self._node, OutputOptions)
        cameras = max(len(read(self._node, InputOptions).cameras), 1)
        if self._loader is not None:
            before = self._loader
            if before.loads(config, options) or before.is_cancelled:
                response.message = 'a reload is in progress: call again after it'
                return response
            before.cancel()
            await before.finished
        loading = read(self._node, LoadingOptions)
        self._loader = loader = ModelLoader(config, loading, options, cameras, self._node.executor)
        await loader.finished
        if self._loader is loader:
            self._loader = None
        response.message = loader.error
        if loader.engine is not None:
            response.message = self._replace(clears, loader.engine, options)
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

    def _replace(self, clears: int, engine: Engine, options: OutputOptions) -> str:
        """
        Replace the model from the next frame on; return an error, or ''.

        :param clears: number of cleanups when the load began.
        :param options: those that the model was loaded with.
        """
        current = self._serving.current
        if current is None or self._serving.clears != clears:
            return 'the node was cleaned up while the model was loaded'
        try:
            successor = current.outputs.successor(engine.tasks, read(self._node, OutputOptions))
        except ValueError as error:
            return format_error(error)
        self._serving.swap(LoadedModel(engine, successor))
        self._on_replaced(engine, options)
        if successor.missing_tasks:
            self._node.get_logger().warning(successor.missing_tasks)
        return ''


class ModelLoader:
    """
    A thread that loads a model and warms it up.

    :param config: checkpoint, device, precision and runtime.
    :param loading: folders and waiting times.
    :param options: has the checkpoints of tasks with a separate checkpoint.
    :param cameras: number of cameras, whose frames run as one batch.
    :param executor: woken at the end, to continue the coroutine that awaits `finished`.
    :ivar engine: the model; None until it is loaded, and after an error.
    :ivar error: error text; empty after success.
    """

    def __init__(
        self,
        config: EngineConfig,
        loading: LoadingOptions,
        options: OutputOptions,
        cameras: int,
        executor: Executor,
    ) -> None:
        self.finished = Future(executor=executor)
        self.engine: Engine | None = None
        self.error = 'the loader thread ended by an exception, see the log'
        self._config, self._loading, self._options = config, loading, options
        self._cameras = cameras
        self._executor, self._cancelled = executor, threading.Event()
        # A daemon: a load that hangs must not keep the process from its end.
        self._thread = threading.Thread(target=self._run, name='loader', daemon=True)
        self._thread.start()

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    def loads(self, config: EngineConfig, options: OutputOptions) -> bool:
        """Return whether it loads the model of these parameters."""
        return (config, _of_model(options)) == (self._config, _of_model(self._options))

    def cancel(self, timeout_s: float = 0.0) -> bool:
        """
        End the load at its next wait for the network, and drop its model.

        :param timeout_s: wait so long for the end.
        :returns: whether it has ended. Python aborts if the interpreter ends with a thread inside
            torch; end the process by `os._exit`.
        """
        self._cancelled.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with hub.cancelled_by(self._cancelled):
                engine = load(self._config, self._loading, self._options, self._cameras)
            if self.is_cancelled:
                raise ValueError('cancelled: the node ends, or other parameters are loaded')
            self.engine, self.error = engine, ''
        except SURVIVABLE_ERRORS as error:
            self.error = f'{format_error(error)}{loading_hint(error)}'
        finally:
            self.finished.set_result(None)
            self._executor.wake()


def _of_model(options: OutputOptions) -> tuple[dict[str, str], TopDownOptions]:
    """Return the options that a model is loaded with."""
    return options.checkpoints(), options.human_pose.top_down
