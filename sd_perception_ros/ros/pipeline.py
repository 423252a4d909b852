"""The processing of frames: receive, decode, predict, publish."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import contextlib
import time
from typing import NamedTuple

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo

from sd_perception_ros.people.boxes import Box
from sd_perception_ros.people.options import HUMAN_POSE, TopDownOptions
from sd_perception_ros.ros.cameras import CameraInputs, ReceivedImage
from sd_perception_ros.ros.frame import CameraFrame
from sd_perception_ros.ros.input.mailbox import Worker
from sd_perception_ros.ros.memory_fallback import MemoryFallback
from sd_perception_ros.ros.node.diagnostics import NodeStatistics
from sd_perception_ros.ros.node.errors import format_error, is_device_lost, is_out_of_memory
from sd_perception_ros.ros.node.logs import PersistentWarning
from sd_perception_ros.ros.node.shutdown import CONTEXT_SHUTDOWN_ERRORS, SURVIVABLE_ERRORS
from sd_perception_ros.ros.options import InputOptions, OutputOptions
from sd_perception_ros.ros.output.outputs import Output
from sd_perception_ros.ros.output.publishers import Outputs
from sd_perception_ros.ros.serving import LoadedModel, Serving
from sd_perception_ros.types import check_finite, Prediction, UInt8


class _Job(NamedTuple):
    """
    A decoded image and the outputs to make of it.

    :ivar info: camera_info of the image, if it was used to rectify the image.
    :ivar tasks: tasks to run for the wanted outputs.
    :ivar boxes: boxes around people, from a detector.
    """

    received: ReceivedImage
    rgb: UInt8
    info: CameraInfo | None
    wanted: list[Output]
    tasks: set[str]
    boxes: list[Box]


class FramePipeline:
    """
    Process the newest image of each camera, all of them as one batch.

    The executor thread receives images. A worker thread decodes, predicts and publishes, so that
    services respond while the network runs. Late images are dropped, not queued. An image that
    cannot be processed is dropped, counted and reported.

    :param is_accepting: returns whether images are processed now.
    :param is_enabled: returns whether a task, by its name, is enabled now.
    :ivar lost_device: the error after which this process cannot use the GPU any more; '' if it
        can.
    """

    def __init__(
        self,
        node: LifecycleNode,
        inputs: CameraInputs,
        serving: Serving,
        options: InputOptions,
        stats: NodeStatistics,
        is_accepting: Callable[[], bool],
        is_enabled: Callable[[str], bool],
    ) -> None:
        self._node, self._inputs, self._serving = node, inputs, serving
        self._options, self._stats = options, stats
        self._is_accepting, self._is_enabled = is_accepting, is_enabled
        self._worker: Worker[ReceivedImage] | None = None
        self._idle_since_ns = 0
        log = node.get_logger()
        self._memory = MemoryFallback(log.warning)
        self._hang_warning = PersistentWarning(log, after_s=0.0)
        self._batch, self._batch_s, self._checked_s = 0, 0.0, time.monotonic()
        self.lost_device = ''

    @property
    def topics(self) -> list[str]:
        """Full names of the subscribed topics."""
        return self._inputs.topics

    @property
    def image_topics(self) -> str:
        """Topics of the images, for diagnostics; empty while closed."""
        return self._inputs.image_topics

    @property
    def has_failed(self) -> bool:
        """Whether the worker thread has ended by an exception."""
        return self._worker is not None and not self._worker.alive

    def open(self) -> None:
        """Start the worker thread, and subscribe."""
        self._worker = worker = Worker(self._process)

        def receive(received: ReceivedImage) -> None:
            if not self._is_accepting():
                self._stats.count('dropped: disabled')
            elif worker.put(received.camera, received):
                self._stats.count('dropped: newer_frame_came')

        self._inputs.open(self._node, receive, self._needs_detections)

    def on_timer(self) -> None:
        """Adapt to the QoS of new publishers; report why a topic is silent."""
        self._inputs.on_timer()

    def set_options(self, inputs: InputOptions, outputs: OutputOptions) -> None:
        """
        Use other options from the next frame on; `cameras` and the top-down options stay.

        :raises ValueError: they do not fit the cameras; then nothing has changed.
        """
        self._inputs.set_options(self._node, inputs, outputs)
        self._options = inputs

    def set_top_down(self, options: TopDownOptions | None) -> None:
        """Subscribe to detections as a new model needs; None: it needs none."""
        self._inputs.set_top_down(self._node, options)

    def check_progress(self, limit_s: float) -> float:
        """
        Report a frame that is in hand for too long; called by a timer.

        :param limit_s: a frame may take so long; 0: no limit.
        :returns: for how long the frame is in hand, seconds; 0 if none is.
        """
        now_s = time.monotonic()
        # Not more than a second of each period: a process that was stopped has not hung.
        passed_s, self._checked_s = min(now_s - self._checked_s, 1.0), now_s
        batch, images = self._worker.in_hand if self._worker is not None else (0, [])
        self._batch_s = self._batch_s + passed_s if batch and batch == self._batch else 0.0
        self._batch = batch
        if images and limit_s and self._batch_s > limit_s:
            stamp = images[0].msg.header.stamp
            text = (
                f'no result for {self._batch_s:.0f} s: the frame with the stamp {stamp.sec}.'
                f'{stamp.nanosec:09} is still in hand, the network or its device hangs'
            )
            self._stats.error(text)
            self._hang_warning.report(f'{text}; more than watchdog_s = {limit_s:g}')
        return self._batch_s

    def reset(self) -> None:
        """Forget all previous frames, after a jump in time."""
        self._inputs.reset()
        if self._serving.current is not None:
            self._serving.current.outputs.reset()

    def close(self, timeout_s: float | None = None) -> bool:
        """
        End the worker thread, and unsubscribe.

        :param timeout_s: wait no longer for the frame in hand; None: as long as it takes.
        :returns: whether the worker thread has ended; if not, nothing else has changed.
        """
        if self._worker is not None:
            if not self._worker.stop(timeout_s):  # first: the worker thread uses the inputs
                return False
            self._worker = None
        self._inputs.close()
        return True

    def _needs_detections(self, camera: str) -> bool:
        """Return whether an image of a camera would now be processed with detections."""
        served = self._serving.current
        if served is None or not served.engine.needs_boxes or not self._is_accepting():
            return False
        outputs = served.outputs[camera]
        enabled = {task for task in served.engine.tasks if self._is_enabled(task)}
        wanted = [output for output in outputs.subscribed() if output.task in enabled]
        return HUMAN_POSE in outputs.tasks_for(wanted, enabled)

    def _process(self, images: list[ReceivedImage]) -> None:
        """Process images of different cameras, on the worker thread."""
        try:
            with self._reporting(), self._serving.use() as served:
                enabled = {task for task in served.engine.tasks if self._is_enabled(task)}
                jobs = [self._decode(received, served, enabled) for received in images]
                if ready := [job for job in jobs if job is not None]:
                    self._predict(ready, served)
        finally:
            self._idle_since_ns = time.monotonic_ns()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Drop and report an image if an error is raised in this block."""
        try:
            yield
        except CONTEXT_SHUTDOWN_ERRORS:  # first: these are RuntimeErrors, too
            if self._node.context.ok():
                raise
        except ValueError as error:
            self._drop('bad_image', format_error(error))
        except FloatingPointError as error:
            self._drop('not_finite', format_error(error))
        except SURVIVABLE_ERRORS as error:
            if is_device_lost(error):
                self.lost_device = format_error(error)
                self._drop('failed', self.lost_device)
            elif is_out_of_memory(error):
                self._drop('out_of_memory', f'{format_error(error)}; set a smaller long_side_px')
            else:
                self._drop('failed', format_error(error))

    def _decode(
        self, received: ReceivedImage, served: LoadedModel, enabled: Collection[str]
    ) -> _Job | None:
        """Decode an image; None if it is dropped."""
        with self._reporting():
            outputs, camera = served.outputs[received.camera], self._inputs[received.camera]
            wanted = self._wanted(outputs, enabled)
            msg = received.msg
            if not wanted or camera.too_old(msg.header):
                return None
            rgb, info = camera.decode(msg), None
            if self._options.rectify:
                info = camera.info_for(msg.header, rgb)
                rgb = camera.rectified(info, rgb)
            tasks = outputs.tasks_for(wanted, enabled)
            boxes: list[Box] | None = []
            if served.engine.needs_boxes and HUMAN_POSE in tasks:
                boxes = self._inputs.boxes(received.camera, msg.header)
                if boxes is None:  # an empty list would claim that there are no people
                    tasks.discard(HUMAN_POSE)
                    wanted = [output for output in wanted if output.task in tasks]
            return _Job(received, rgb, info, wanted, tasks, boxes or []) if wanted else None
        return None

    def _wanted(self, outputs: Outputs, enabled: Collection[str]) -> list[Output]:
        """Return the subscribed outputs of enabled tasks, and count the others."""
        subscribed = outputs.subscribed()
        wanted = [output for output in subscribed if output.task in enabled]
        for task in sorted({output.task for output in subscribed} - set(enabled)):
            self._stats.count(f'task disabled: {task}')
        if not wanted:
            reason = 'tasks_disabled' if subscribed else 'no_subscribers'
            self._stats.count(f'dropped: {reason}')
        return wanted

    def _predict(self, jobs: Sequence[_Job], served: LoadedModel) -> None:
        """Run images as one batch, and publish the results of each."""
        start_ns = time.monotonic_ns()
        tasks = set().union(*(job.tasks for job in jobs))
        try:
            boxes = [job.boxes for job in jobs] if served.engine.needs_boxes else None
            pictures = [job.rgb for job in jobs]
            predictions = self._memory.predict(served.engine, pictures, tasks, boxes)
        except SURVIVABLE_ERRORS as error:
            if len(jobs) == 1 or is_device_lost(error):
                raise
            for job in jobs:  # one by one: one bad image must not drop those of other cameras
                with self._reporting():
                    self._predict([job], served)
            return
        inference_ns = time.monotonic_ns() - start_ns
        if reduced := self._memory.state:
            self._stats.warn(f'out of memory: {reduced}')
        self._stats.set('reduced for memory', reduced or 'no')
        for job, image_predictions in zip(jobs, predictions, strict=True):
            with self._reporting():
                self._publish(job, image_predictions, served, inference_ns)

    def _publish(
        self,
        job: _Job,
        predictions: Mapping[str, Prediction],
        served: LoadedModel,
        inference_ns: int,
    ) -> None:
        name, msg, arrival_ns = job.received
        camera = self._inputs[name]
        # As late as possible: a live camera's camera_info often arrives after its image.
        in_space = any(output.needs_camera for output in job.wanted)
        info = job.info or camera.info_for(msg.header, job.rgb, in_space)
        was_rectified = job.info is not None
        intrinsics = None if info is None else camera.camera_of(info, job.rgb, was_rectified)
        frame = CameraFrame(msg.header, job.rgb, intrinsics)
        job_predictions = {task: predictions[task] for task in job.tasks}
        for task, prediction in job_predictions.items():
            check_finite(task, prediction)
        sent = served.outputs[name].publish(frame, job_predictions, job.wanted)
        end_ns = time.monotonic_ns()
        # Processing began on arrival, or when the previous image was finished.
        begin_ns = max(arrival_ns, self._idle_since_ns)
        self._stats.count('processed')
        self._stats.count('published', sent)
        self._stats.time('latency', (end_ns - arrival_ns) / 1e6)
        self._stats.time('waiting', (begin_ns - arrival_ns) / 1e6)
        self._stats.time('inference', inference_ns / 1e6)
        self._stats.time('overhead', (end_ns - begin_ns - inference_ns) / 1e6)

    def _drop(self, counter: str, error_text: str) -> None:
        text = f'image dropped: {error_text}'
        self._stats.error(text, counter=f'dropped: {counter}')
        self._node.get_logger().error(text, throttle_duration_sec=5.0)
