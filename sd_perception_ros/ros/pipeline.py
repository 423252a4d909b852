"""The way of a frame through the node: receive, decode, predict, publish."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import contextlib
import time
from typing import NamedTuple

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, Image

from sd_perception_ros.image_encodings import compressed_to_rgb, image_to_rgb
from sd_perception_ros.people.boxes import Box
from sd_perception_ros.people.options import HUMAN_POSE
from sd_perception_ros.ros.cameras import CameraInputs, ReceivedImage
from sd_perception_ros.ros.frame import Frame
from sd_perception_ros.ros.input.mailbox import Worker
from sd_perception_ros.ros.node.diagnostics import Statistics
from sd_perception_ros.ros.node.errors import format_error, is_out_of_memory, SURVIVABLE_ERRORS
from sd_perception_ros.ros.node.shutdown import GONE
from sd_perception_ros.ros.options import InputOptions
from sd_perception_ros.ros.output.outputs import Output, Outputs
from sd_perception_ros.ros.serving import Served, Serving
from sd_perception_ros.types import Prediction, UInt8


class _Job(NamedTuple):
    """
    A decoded image and what is to be made of it.

    :ivar info: its camera_info, where it was needed to rectify the image.
    :ivar tasks: to run for the wanted outputs.
    :ivar boxes: around people, from a detector.
    """

    received: ReceivedImage
    rgb: UInt8
    info: CameraInfo | None
    wanted: list[Output]
    tasks: set[str]
    boxes: list[Box]


class FramePipeline:
    """
    Receive images of all cameras, run the newest ones as one batch, and publish the results.

    The executor only receives. A worker thread decodes, predicts and publishes: a late image is
    dropped and never queued, and services answer while the network runs. An image that cannot be
    processed is dropped, counted and reported.

    :param is_accepting: whether images are processed now.
    :param is_enabled: whether a task may run now, by its name.
    """

    def __init__(
        self,
        node: LifecycleNode,
        inputs: CameraInputs,
        serving: Serving,
        options: InputOptions,
        stats: Statistics,
        is_accepting: Callable[[], bool],
        is_enabled: Callable[[str], bool],
    ) -> None:
        self._node, self._inputs, self._serving = node, inputs, serving
        self._options, self._stats = options, stats
        self._is_accepting, self._is_enabled = is_accepting, is_enabled
        self._worker: Worker[ReceivedImage] | None = None
        self._idle_since_ns = 0

    @property
    def topics(self) -> list[str]:
        """Full names of the subscribed topics."""
        return self._inputs.topics

    @property
    def image_topics(self) -> str:
        """Topics of the images, for diagnostics; empty while nothing is subscribed."""
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

        self._inputs.open(self._node, receive)

    def on_timer(self) -> None:
        """Adapt to publishers that came or changed; report why a topic is silent."""
        self._inputs.on_timer()

    def reset(self) -> None:
        """Forget the frames before, after a jump of time."""
        self._inputs.reset()
        if self._serving.now is not None:
            self._serving.now.outputs.reset()

    def close(self) -> None:
        """End the worker thread, and unsubscribe."""
        if self._worker is not None:
            self._worker.stop()  # first: until it has ended it uses the inputs
            self._worker = None
        self._inputs.close()

    def _process(self, images: list[ReceivedImage]) -> None:
        """Handle the newest image of each camera that has one, on the worker thread."""
        try:
            with self._reporting(), self._serving.frame() as served:
                enabled = {task for task in served.engine.tasks if self._is_enabled(task)}
                jobs = [self._job(received, served, enabled) for received in images]
                if ready := [job for job in jobs if job is not None]:
                    self._predict(ready, served)
        finally:
            self._idle_since_ns = time.monotonic_ns()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Drop and report an image that fails."""
        try:
            yield
        except GONE:  # first: rclpy's errors are RuntimeErrors, and so is torch's of full memory
            if self._node.context.ok():
                raise
        except ValueError as error:
            self._drop('bad_image', format_error(error))
        except FloatingPointError as error:
            self._drop('not_finite', format_error(error))
        except SURVIVABLE_ERRORS as error:
            if is_out_of_memory(error):
                self._drop('out_of_memory', f'{format_error(error)}; set a smaller long_side_px')
            else:
                self._drop('failed', format_error(error))

    def _job(
        self, received: ReceivedImage, served: Served, enabled: Collection[str]
    ) -> _Job | None:
        """Decode an image; None if no output of it is wanted."""
        with self._reporting():
            outputs, camera = served.outputs[received.camera], self._inputs[received.camera]
            wanted = self._wanted(outputs, enabled)
            msg = received.msg
            if not wanted or camera.too_old(msg.header):
                return None
            convert = image_to_rgb if isinstance(msg, Image) else compressed_to_rgb
            rgb, info = convert(msg, self._options.max_pixels), None
            if self._options.rectify:
                info = camera.info_for(msg.header, rgb)
                rgb = camera.rectified(info, rgb)
            tasks = outputs.tasks_for(wanted, enabled)
            boxes: list[Box] | None = []
            if served.engine.needs_boxes and HUMAN_POSE in tasks:
                boxes = self._inputs.boxes(received.camera, msg.header)
                if boxes is None:  # that nobody is there is more than anybody knows
                    tasks.discard(HUMAN_POSE)
                    wanted = [output for output in wanted if output.task in tasks]
            return _Job(received, rgb, info, wanted, tasks, boxes or []) if wanted else None
        return None

    def _wanted(self, outputs: Outputs, enabled: Collection[str]) -> list[Output]:
        """List the outputs to make; count why there are none, or fewer than subscribed to."""
        subscribed = outputs.subscribed()
        wanted = [output for output in subscribed if output.task in enabled]
        for task in sorted({output.task for output in subscribed} - set(enabled)):
            self._stats.count(f'task disabled: {task}')
        if not wanted:
            reason = 'tasks_disabled' if subscribed else 'no_subscribers'
            self._stats.count(f'dropped: {reason}')
        return wanted

    def _predict(self, jobs: Sequence[_Job], served: Served) -> None:
        """Run images as one batch, and publish the results of each."""
        start_ns = time.monotonic_ns()
        tasks = set().union(*(job.tasks for job in jobs))
        try:
            boxes = [job.boxes for job in jobs] if served.engine.needs_boxes else None
            predictions = served.engine.predict([job.rgb for job in jobs], tasks, boxes)
        except SURVIVABLE_ERRORS:
            if len(jobs) == 1:
                raise
            for job in jobs:  # an image of one camera that fails must not cost the others theirs
                with self._reporting():
                    self._predict([job], served)
            return
        inference_ns = time.monotonic_ns() - start_ns
        for job, of_image in zip(jobs, predictions, strict=True):
            with self._reporting():
                self._publish(job, of_image, served, inference_ns)

    def _publish(
        self,
        job: _Job,
        predictions: Mapping[str, Prediction],
        served: Served,
        inference_ns: int,
    ) -> None:
        name, msg, arrival_ns = job.received
        camera = self._inputs[name]
        # Not earlier: the camera_info of a live camera often arrives a moment after its image.
        info = job.info or camera.info_for(msg.header, job.rgb)
        intrinsics = None if info is None else camera.camera_of(info, job.rgb)
        frame = Frame(msg.header, job.rgb, intrinsics)
        own = {task: predictions[task] for task in job.tasks}
        sent = served.outputs[name].publish(frame, own, job.wanted)
        end_ns = time.monotonic_ns()
        # An image that came while the one before was processed has waited for that one.
        begin_ns = max(arrival_ns, self._idle_since_ns)
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
        self._node.get_logger().error(text, throttle_duration_sec=5.0)
