"""The perception node: parameters, lifecycle, services and diagnostics."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, JumpThreshold
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_srvs.srv import SetBool

from sd_perception_ros.checkpoint.config_file import OLD_TASKS
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.ros.cameras import CameraInputs, CameraOutputs
from sd_perception_ros.ros.node.diagnostics import diagnostic_array, NodeStatistics
from sd_perception_ros.ros.node.errors import (
    format_error,
    loading_hint,
    reports_errors,
)
from sd_perception_ros.ros.node.logs import NodeLog
from sd_perception_ros.ros.node.parameters import (
    declare,
    likely_typos,
    parameter_names,
    read,
    replace_old_names,
    replace_old_values,
)
from sd_perception_ros.ros.node.shutdown import FAILED, RESTART, run_node, SURVIVABLE_ERRORS
from sd_perception_ros.ros.options import (
    change_of,
    InputOptions,
    LoadingOptions,
    NodeOptions,
    NODES,
    OLD_PARAMETERS,
    OutputOptions,
    when_used,
)
from sd_perception_ros.ros.pipeline import FramePipeline
from sd_perception_ros.ros.reloading import ReloadService
from sd_perception_ros.ros.serving import load, LoadedModel, Serving

if TYPE_CHECKING:
    from sd_perception_ros.engine import Engine

GROUPS = tuple((cls, '') for cls in NODES['perception'])
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_TIMER_PERIOD_S = 0.5
_END_S = 10.0  # a frame or a model that takes longer is left behind at the end of the process


class PerceptionNode(LifecycleNode):
    """
    Predict depth, normals, segmentation, mattes and people from the images of cameras.

    :raises ValueError: a wrong parameter value.
    """

    def __init__(self) -> None:
        super().__init__('perception')
        NodeLog(self)
        replace_old_names(self, OLD_PARAMETERS)
        replace_old_values(self, OLD_TASKS)
        for cls, prefix in GROUPS:
            declare(self, cls, prefix, lambda name: change_of(name) == 'start')
        declared = [name for cls, prefix in GROUPS for name in parameter_names(cls, prefix)]
        for name, similar in likely_typos(self, declared):
            self.get_logger().warning(f"unknown parameter '{name}'; did you mean '{similar}'?")
        self.add_on_set_parameters_callback(self._change_parameters)
        self.finished = Future()
        self.enabled = True
        self._serving = Serving()
        self._reload_service = ReloadService(self, self._serving, self._model_replaced)
        self._pipeline: FramePipeline | None = None
        self._stats = NodeStatistics()
        self._options = read(self, NodeOptions)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # independent of simulated time
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        period_s = 1 / self._options.diagnostics_rate_hz
        self._timer = self.create_timer(period_s, self._publish_diagnostics, clock=steady)
        self.create_timer(_TIMER_PERIOD_S, self._on_timer, clock=steady)
        self.create_service(SetBool, '~/enable', self._enable)
        jump = JumpThreshold(
            min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True
        )
        self._jump = self.get_clock().create_jump_callback(jump, post_callback=self._time_jumped)

    def start(self) -> None:
        """Configure and activate, if `autostart` is true."""
        if not read(self, NodeOptions).autostart:
            self.get_logger().info('waiting for lifecycle transitions (autostart: false)')
            return
        if self.trigger_configure() != SUCCESS or self.trigger_activate() != SUCCESS:
            self.finished.set_result(FAILED)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and create its publishers; after an error the node is unconfigured."""
        try:
            input_options, options = read(self, InputOptions), read(self, OutputOptions)
            engine = load(
                read(self, EngineConfig),
                read(self, LoadingOptions),
                options,
                max(len(input_options.cameras), 1),
            )
            inputs = CameraInputs(input_options, options, self._stats, engine.needs_boxes)
            outputs = CameraOutputs.create(self, engine.tasks, options, inputs.metric, self._stats)
        except SURVIVABLE_ERRORS as error:  # rclpy would ignore it silently
            text = f'configuration failed: {format_error(error)}{loading_hint(error)}'
            self._stats.error(text)
            self.get_logger().error(text)
            return FAILURE
        self._serving.swap(LoadedModel(engine, outputs))
        self._pipeline = FramePipeline(
            self,
            inputs,
            self._serving,
            input_options,
            self._stats,
            lambda: self.enabled,
            self._is_enabled,
        )
        self.get_logger().info(engine.summary())
        return super().on_configure(state)

    @reports_errors
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start to process images."""
        if self._pipeline is None or self._serving.current is None:
            return FAILURE  # for mypy: the lifecycle configures first
        outputs = self._serving.current.outputs
        self._pipeline.open()
        self.get_logger().info(
            f'subscribed to {", ".join(self._pipeline.topics)}; '
            f'publishing {", ".join(outputs.topics)}'
        )
        if outputs.not_offered:
            self.get_logger().info(
                'not published with this model and these parameters: '
                f'{", ".join(outputs.not_offered)}'
            )
        if outputs.missing_tasks:
            self.get_logger().warning(outputs.missing_tasks)
        if not outputs.subscribed():
            self.get_logger().info('no subscribers yet: images are not processed')
        outputs.activate()
        return super().on_activate(state)

    @reports_errors
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; the model stays loaded."""
        return super().on_deactivate(state) if self._stop() else FAILURE

    @reports_errors
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and remove its topics."""
        if not self._stop():
            return FAILURE
        self._serving.clear()
        return SUCCESS

    @reports_errors
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop processing images."""
        return SUCCESS if self._stop() else FAILURE

    def close(self) -> None:
        """Stop all threads, at the end of the process; one that hangs is left behind."""
        if self._pipeline is not None and not self._pipeline.close(_END_S):
            self.get_logger().warning('the frame in hand is not finished: ending without it')
        if not self._reload_service.close(_END_S):
            self.get_logger().warning('the model is still being loaded: ending without it')

    def _stop(self) -> bool:
        """Stop processing images; False if the frame in hand hangs, which ends the process."""
        limit_s = self._options.watchdog_exit_s or None
        if self._pipeline is None or self._pipeline.close(limit_s):
            return True
        self._end(f'the frame in hand is not finished after {limit_s:g} s', RESTART)
        return False

    def _end(self, reason: str, code: int) -> None:
        self._stats.error(reason)
        self.get_logger().fatal(f'{reason}; ending with exit code {code}')
        if not self.finished.done():
            self.finished.set_result(code)

    def _is_enabled(self, task: str) -> bool:
        return bool(self.get_parameter(f'{task}.enabled').value)

    def _on_timer(self) -> None:
        self._serving.release_replaced()
        if self._pipeline is None:
            return
        if self._pipeline.has_failed:
            self._end('the worker thread ended by the exception above', FAILED)
        elif lost := self._pipeline.lost_device:
            self._end(f'the GPU cannot be used again by this process ({lost})', RESTART)
        else:
            self._pipeline.on_timer()
            options = self._options
            in_hand_s = self._pipeline.check_progress(options.watchdog_s)
            if 0 < options.watchdog_exit_s < in_hand_s:
                self._end(
                    f'a frame is in hand for {in_hand_s:.0f} s, more than watchdog_exit_s = '
                    f'{options.watchdog_exit_s:g}',
                    RESTART,
                )

    def _publish_diagnostics(self) -> None:
        hardware = self._pipeline.image_topics if self._pipeline is not None else ''
        served = self._serving.current
        healthy = served.engine.summary() if served is not None else 'no model is loaded'
        if served is not None:
            self._stats.set('licence', served.engine.license)
            self._stats.set('commercial use', served.engine.commercial_use)
        status = self._stats.status(f'{self.get_fully_qualified_name()}', hardware, healthy)
        self._diagnostics.publish(diagnostic_array(status, self.get_clock().now().to_msg()))

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.enabled = request.data
        response.success = True
        response.message = 'frames are processed' if self.enabled else 'frames are dropped'
        return response

    def _change_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        """Check parameters and use them: from the next frame on, or with a warning of when."""
        change = {parameter.name: parameter.value for parameter in changed}
        try:
            node_options = read(self, NodeOptions, change=change)
            read(self, EngineConfig, change=change)
            read(self, LoadingOptions, change=change)
            inputs = read(self, InputOptions, change=change)
            outputs = read(self, OutputOptions, change=change)
            if self._pipeline is not None and self._serving.current is not None:
                self._use_options(self._pipeline, self._serving.current, inputs, outputs)
                self._warn_of_later_use(change)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if node_options.diagnostics_rate_hz != self._options.diagnostics_rate_hz:
            self._timer.timer_period_ns = round(1e9 / node_options.diagnostics_rate_hz)
            self._timer.reset()
        self._options = node_options
        return SetParametersResult(successful=True, reason=when_used(change))

    def _use_options(
        self,
        pipeline: FramePipeline,
        served: LoadedModel,
        inputs: InputOptions,
        outputs: OutputOptions,
    ) -> None:
        """
        Process the next frame with other options.

        :raises ValueError: they cannot be used now; then nothing has changed.
        """
        if inputs.cameras != read(self, InputOptions).cameras:
            raise ValueError(
                'cameras cannot be changed while the node is configured: deactivate it and clean '
                'it up first (ros2 lifecycle set), then set it and configure'
            )
        before = read(self, OutputOptions)
        if inputs == read(self, InputOptions) and outputs == before:
            return
        successor = served.outputs.successor(served.engine.tasks, outputs)
        try:
            pipeline.set_options(inputs, outputs)
        except ValueError:
            successor.close(keep=served.outputs)
            raise
        self._serving.swap(LoadedModel(served.engine, successor))
        if successor.missing_tasks:
            self.get_logger().warning(successor.missing_tasks)
        if topics := sorted(set(successor.topics) ^ set(served.outputs.topics)):
            verb = 'publishing' if set(topics) <= set(successor.topics) else 'not publishing'
            self.get_logger().info(f'{verb} {", ".join(topics)} from now on')

    def _warn_of_later_use(self, change: dict[str, object]) -> None:
        """Warn of changed parameters that the loaded model does not use."""
        later = [
            name
            for name, value in change.items()
            if self.has_parameter(name) and change_of(name) == 'reload'
            if value != self.get_parameter(name).value
        ]
        if later:
            self.get_logger().warning(
                f'{", ".join(later)}: used when the model is loaded again; call '
                f'{self.get_fully_qualified_name()}/reload_model'
            )

    def _model_replaced(self, engine: Engine, options: OutputOptions) -> None:
        if self._pipeline is not None:
            top_down = options.human_pose.top_down if engine.needs_boxes else None
            self._pipeline.set_top_down(top_down)

    def _time_jumped(self, jump: object) -> None:
        if self._pipeline is not None and self._pipeline.image_topics:
            self._stats.count('time jumps')
            self._pipeline.reset()


def main(argv: list[str] | None = None) -> int:
    """Run the node; arguments are ROS arguments (--ros-args ...)."""
    return run_node(PerceptionNode, 'perception', argv)


if __name__ == '__main__':
    sys.exit(main())
