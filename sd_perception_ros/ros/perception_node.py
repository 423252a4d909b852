"""The perception node: parameters, lifecycle, services and diagnostics."""

from __future__ import annotations

import sys

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
from sd_perception_ros.ros.node.shutdown import FAILED, run_node, SURVIVABLE_ERRORS
from sd_perception_ros.ros.options import (
    InputOptions,
    NodeOptions,
    NODES,
    OLD_PARAMETERS,
    OutputOptions,
    when_used,
)
from sd_perception_ros.ros.pipeline import FramePipeline
from sd_perception_ros.ros.reloading import ReloadService
from sd_perception_ros.ros.serving import load, LoadedModel, Serving

GROUPS = tuple((cls, '') for cls in NODES['perception'])
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_TIMER_PERIOD_S = 0.5


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
            declare(self, cls, prefix)
        declared = [name for cls, prefix in GROUPS for name in parameter_names(cls, prefix)]
        for name, similar in likely_typos(self, declared):
            self.get_logger().warning(f"unknown parameter '{name}'; did you mean '{similar}'?")
        self.add_on_set_parameters_callback(self._check_parameters)
        self.finished = Future()
        self.enabled = True
        self._serving = Serving()
        self._reload_service = ReloadService(self, self._serving)
        self._pipeline: FramePipeline | None = None
        self._stats = NodeStatistics()
        options = read(self, NodeOptions)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # independent of simulated time
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        period_s = 1 / options.diagnostics_rate_hz
        self.create_timer(period_s, self._publish_diagnostics, clock=steady)
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
            engine = load(read(self, EngineConfig), options, max(len(input_options.cameras), 1))
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
        self._stop()
        return super().on_deactivate(state)

    @reports_errors
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and remove its topics."""
        self._stop()
        self._serving.clear()
        return SUCCESS

    @reports_errors
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop processing images."""
        self._stop()
        return SUCCESS

    def close(self) -> None:
        """Stop all threads, at the end of the process."""
        self._stop()
        self._reload_service.join()

    def _stop(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()

    def _is_enabled(self, task: str) -> bool:
        return bool(self.get_parameter(f'{task}.enabled').value)

    def _on_timer(self) -> None:
        self._serving.release_replaced()
        if self._pipeline is None:
            return
        if self._pipeline.has_failed:
            self.get_logger().fatal('the worker thread ended by the exception above; exiting')
            self.finished.set_result(FAILED)
        else:
            self._pipeline.on_timer()

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

    def _check_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        change = {parameter.name: parameter.value for parameter in changed}
        try:
            for cls, prefix in GROUPS:
                read(self, cls, prefix, change)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True, reason=when_used(change))

    def _time_jumped(self, jump: object) -> None:
        if self._pipeline is not None and self._pipeline.image_topics:
            self._stats.count('time jumps')
            self._pipeline.reset()


def main(argv: list[str] | None = None) -> int:
    """Run the node; arguments are ROS arguments (--ros-args ...)."""
    return run_node(PerceptionNode, 'perception', argv)


if __name__ == '__main__':
    sys.exit(main())
