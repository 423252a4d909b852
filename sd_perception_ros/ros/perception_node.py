"""Camera images in, perception out: the lifecycle node around the engine."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
import contextlib
import sys
import time
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from numpy.typing import NDArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, JumpThreshold
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool
import torch

from sd_perception_ros.config import EngineConfig
from sd_perception_ros.image_encodings import compressed_to_rgb, image_to_rgb
from sd_perception_ros.ros.cameras import Arrival, CameraOutputs, Streams
from sd_perception_ros.ros.input.mailbox import Worker
from sd_perception_ros.ros.node.diagnostics import array_of, Statistics
from sd_perception_ros.ros.node.errors import described, FAULTS, remedy
from sd_perception_ros.ros.node.logs import NodeLog
from sd_perception_ros.ros.node.parameters import (
    declare,
    likely_typos,
    names_of,
    read,
    replace_old_names,
)
from sd_perception_ros.ros.node.shutdown import FAILED, GONE, run_node
from sd_perception_ros.ros.options import InputOptions, NodeOptions, OLD_PARAMETERS, OutputOptions
from sd_perception_ros.ros.output.outputs import Output, Outputs
from sd_perception_ros.ros.output.results import Frame
from sd_perception_ros.ros.reloading import Reloading
from sd_perception_ros.ros.serving import load, Served, Serving
from sd_perception_ros.tasks import TASKS
from sd_perception_ros.types import Prediction

GROUPS = ((NodeOptions, ''), (EngineConfig, ''), (InputOptions, ''), (OutputOptions, ''))
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_TEND_PERIOD_S = 0.5


class _Job(NamedTuple):
    """A frame that somebody wants something of."""

    arrival: Arrival
    rgb: NDArray[np.uint8]
    wanted: list[Output]
    tasks: set[str]


class PerceptionNode(LifecycleNode):
    """
    One image of each camera, one pass, many tasks.

    The executor only receives; a worker thread takes the newest frames, so a late frame is
    dropped and never queued, and services answer while the network runs.

    :raises ValueError: a wrong parameter value.
    """

    def __init__(self) -> None:
        super().__init__('perception')
        NodeLog(self)
        replace_old_names(self, OLD_PARAMETERS)
        for cls, prefix in GROUPS:
            declare(self, cls, prefix)
        known = [name for cls, prefix in GROUPS for name in names_of(cls, prefix)]
        for name, meant in likely_typos(self, known):
            self.get_logger().warning(f"unknown parameter '{name}'; did you mean '{meant}'?")
        self.add_on_set_parameters_callback(self._check_parameters)
        self.finished = Future()
        self.enabled = True
        self._serving = Serving()
        self._reloading = Reloading(self, self._serving)
        self._streams: Streams | None = None
        self._worker: Worker[Arrival] | None = None
        self._stats = Statistics()
        self._free_ns = 0
        options = read(self, NodeOptions)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # with simulated time as without
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        period_s = 1 / options.diagnostics_rate_hz
        self.create_timer(period_s, self._publish_diagnostics, clock=steady)
        self.create_timer(_TEND_PERIOD_S, self._tend, clock=steady)
        self.create_service(SetBool, '~/enable', self._enable)
        jump = JumpThreshold(
            min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True
        )
        self._jump = self.get_clock().create_jump_callback(jump, post_callback=self._time_jumped)

    def start(self) -> None:
        """Configure and activate, if `autostart` says so."""
        if not read(self, NodeOptions).autostart:
            self.get_logger().info('waiting for the lifecycle services (autostart: false)')
            return
        if self.trigger_configure() != SUCCESS or self.trigger_activate() != SUCCESS:
            self.finished.set_result(FAILED)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and offer its topics; a wrong checkpoint leaves the node as it was."""
        try:
            self._options = read(self, InputOptions)
            options = read(self, OutputOptions)
            engine = load(read(self, EngineConfig), options.checkpoints())
            self._streams = Streams(self._options, options, self._stats)
            outputs = CameraOutputs.of(self, engine.tasks, options, self._streams.metres)
        except FAULTS as error:  # rclpy would swallow it and say nothing
            text = f'configuration failed: {described(error)}{remedy(error)}'
            self._stats.error(text)
            self.get_logger().error(text)
            return FAILURE
        self._serving.swap(Served(engine, outputs))
        self.get_logger().info(engine.summary())
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to receive."""
        outputs = self._serving.now.outputs
        self._worker = Worker(self._process)
        self._streams.open(self, self._deliver)
        self.get_logger().info(
            f'listening to {" and ".join(self._streams.topics)}; '
            f'offering {", ".join(outputs.topics)}'
        )
        if outputs.withheld:
            self.get_logger().info(
                f'not with this model and these parameters: {", ".join(outputs.withheld)}'
            )
        if outputs.why_no_metres:
            self.get_logger().warning(outputs.why_no_metres)
        if not outputs.subscribed():
            self.get_logger().info('waiting for subscribers: nothing is computed until then')
        outputs.activate()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop receiving; the model stays loaded."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the model and take the topics down."""
        self._stop()
        self._serving.clear()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop whatever runs."""
        self._stop()
        return SUCCESS

    def close(self) -> None:
        """Stop all threads before the process ends."""
        self._stop()
        self._reloading.join()

    def _stop(self) -> None:
        # The worker first: until it has ended it asks the inputs for the cameras of its frames.
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        if self._streams is not None:
            self._streams.close()

    def _deliver(self, arrival: Arrival) -> None:
        if not self.enabled:
            self._stats.count('dropped: disabled')
        elif self._worker.put(arrival.camera, arrival):
            self._stats.count('dropped: newer_frame_came')

    def _process(self, arrivals: list[Arrival]) -> None:
        """Handle a frame of each camera that has one, on the worker thread."""
        try:
            with self._reporting(), self._serving.frame() as served:
                enabled = self._enabled_tasks(served)
                jobs = [self._job(arrival, served, enabled) for arrival in arrivals]
                if ready := [job for job in jobs if job is not None]:
                    self._perceive(ready, served)
        finally:
            self._free_ns = time.monotonic_ns()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Drop and report a frame that fails: the node lives on."""
        try:
            yield
        except GONE:  # first: rclpy's errors are RuntimeErrors, and so is torch's of full memory
            if self.context.ok():
                raise
        except ValueError as error:
            self._drop('bad_image', described(error))
        except FloatingPointError as error:
            self._drop('not_finite', described(error))
        except (MemoryError, torch.OutOfMemoryError) as error:
            self._drop('out_of_memory', f'{described(error)}; set a smaller long_side_px')
        except FAULTS as error:
            self._drop('failed', described(error))

    def _enabled_tasks(self, served: Served) -> set[str]:
        return {
            task for task in served.engine.tasks if self.get_parameter(f'{task}.enabled').value
        }

    def _wanted(self, outputs: Outputs, enabled: Collection[str]) -> list[Output]:
        """List the outputs to make, and count why there are none or fewer than subscribed to."""
        subscribed = outputs.subscribed()
        wanted = [output for output in subscribed if output.task in enabled]
        for task in sorted({output.task for output in subscribed} - set(enabled)):
            self._stats.count(f'task disabled: {task}')
        if not wanted:
            reason = 'tasks_disabled' if subscribed else 'no_subscribers'
            self._stats.count(f'dropped: {reason}')
        return wanted

    def _job(self, arrival: Arrival, served: Served, enabled: Collection[str]) -> _Job | None:
        """Unpack a frame that somebody wants something of; None where nobody does."""
        with self._reporting():
            outputs, stream = served.outputs[arrival.camera], self._streams[arrival.camera]
            wanted = self._wanted(outputs, enabled)
            if not wanted or stream.too_old(arrival.msg.header):
                return None
            msg = arrival.msg
            convert = image_to_rgb if isinstance(msg, Image) else compressed_to_rgb
            rgb = convert(msg, self._options.max_pixels)
            if self._options.rectify:
                rgb = stream.rectified(msg.header, rgb)
            return _Job(arrival, rgb, wanted, outputs.tasks_for(wanted, enabled))
        return None

    def _perceive(self, jobs: Sequence[_Job], served: Served) -> None:
        """Run frames as one batch, and publish what each one gives."""
        before_ns = time.monotonic_ns()
        tasks = set().union(*(job.tasks for job in jobs))
        try:
            found = served.engine.predict([job.rgb for job in jobs], tasks)
        except FAULTS:
            if len(jobs) == 1:
                raise
            for job in jobs:  # one camera's frame that fails must not cost the others theirs
                with self._reporting():
                    self._perceive([job], served)
            return
        inference_ns = time.monotonic_ns() - before_ns
        for job, predictions in zip(jobs, found, strict=True):
            with self._reporting():
                self._publish(job, predictions, served, inference_ns)

    def _publish(
        self,
        job: _Job,
        predictions: Mapping[str, Prediction],
        served: Served,
        inference_ns: int,
    ) -> None:
        camera, msg, arrival_ns = job.arrival
        height, width = job.rgb.shape[:2]
        info = self._streams[camera].camera_for(msg.header, width, height)
        frame = Frame(msg.header, job.rgb, info)
        own = {task: predictions[task] for task in job.tasks}
        sent = served.outputs[camera].publish(frame, own, job.wanted)
        end_ns = time.monotonic_ns()
        # A frame that came while the one before was in hand waited for that one's inference.
        begin_ns = max(arrival_ns, self._free_ns)
        self._stats.count('processed')
        self._stats.count('published', sent)
        self._stats.time('latency', (end_ns - arrival_ns) / 1e6)
        self._stats.time('waiting', (begin_ns - arrival_ns) / 1e6)
        self._stats.time('inference', inference_ns / 1e6)
        self._stats.time('overhead', (end_ns - begin_ns - inference_ns) / 1e6)

    def _drop(self, reason: str, why: str) -> None:
        text = f'image dropped: {why}'
        self._stats.count(f'dropped: {reason}')
        self._stats.error(text)
        self.get_logger().error(text, throttle_duration_sec=5.0)

    def _tend(self) -> None:
        self._serving.sweep()
        if self._worker is not None and not self._worker.alive:
            self.get_logger().fatal('the worker thread ended by the exception above')
            self.finished.set_result(FAILED)
        elif self._streams is not None:
            self._streams.tend()

    def _publish_diagnostics(self) -> None:
        hardware = self._streams.hardware if self._streams is not None else ''
        served = self._serving.now
        healthy = served.engine.summary() if served is not None else 'no model is loaded'
        status = self._stats.status(f'{self.get_fully_qualified_name()}', hardware, healthy)
        self._diagnostics.publish(array_of(status, self.get_clock().now().to_msg()))

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
        return SetParametersResult(successful=True, reason=_when_used(change))

    def _time_jumped(self, jump: object) -> None:
        if self._streams is not None and self._streams.hardware:
            self._stats.count('time_jumps')
            self._streams.reset()


def _when_used(names: Collection[str]) -> str:
    if all(name.endswith('.enabled') for name in names):
        return 'used from the next frame on'
    if set(names) <= {*names_of(EngineConfig), *(f'{task}.checkpoint' for task in TASKS)}:
        return 'used at the next configure or ~/reload_model'
    return 'used at the next configure'


def main(argv: list[str] | None = None) -> int:
    """Run the node; arguments are ROS arguments (--ros-args ...)."""
    return run_node(PerceptionNode, 'perception', argv)


if __name__ == '__main__':
    sys.exit(main())
