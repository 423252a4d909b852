"""Real nodes as processes, and a test node that talks to them over DDS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import functools
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from forkserver import Child, ForkServer
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from sd_perception_ros.ros.messages.camera_info import info_from_camera
from sd_perception_ros.ros.messages.image import image_message
from sd_perception_ros.ros.node.transport import transport_environment, tuning_environment
from sd_perception_ros.types import Camera

ROOT = Path(__file__).resolve().parents[1]
# So long may anything take before it counts as missing: nothing here measures speed, and a busy
# machine is ten times slower than an idle one.
PATIENCE_S = 180.0


def claim_domain() -> tuple[int, socket.socket]:
    """
    Find a ROS domain that no other tests on this machine use.

    Away from 0, where somebody's robot may be, and not above 101, whose ports the system hands
    out to others.

    :returns: the domain, and the name that is its claim: the system frees it when the process
        ends, however that ends.
    """
    for number in range(100):
        domain = 1 + (os.getpid() + number) % 100
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f'\0sd_perception_ros_test_domain_{domain}')  # a name without a file
        except OSError:
            claim.close()
        else:
            return domain, claim
    raise RuntimeError('all ROS domains from 1 to 100 are in use by tests on this machine')


DOMAIN, _CLAIM = claim_domain()
RELIABLE = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(
    depth=10,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)


def environment() -> dict[str, str]:
    """Make the environment of child processes: this interpreter's ROS, our domain, no network."""
    made = os.environ | {
        'AMENT_PREFIX_PATH': os.environ.get('AMENT_PREFIX_PATH') or sys.prefix,
        'ROS_DOMAIN_ID': str(DOMAIN),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'ROS_PYTHON_CHECK_FIELDS': '1',
        # With what setup.bash of a ROS installation has set.
        'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])),
    }
    made |= transport_environment(made, ROOT / 'config' / 'fastdds.xml')
    return made | tuning_environment(made)


os.environ.update(environment())


@functools.cache
def forkserver() -> ForkServer:
    """Start the server that nodes are forked from, once."""
    return ForkServer(environment())


class Process:
    """
    A command of the package as a child process; its output is collected in a file.

    :param anew: start the interpreter anew, with all its imports, instead of forking.
    :param code: run this Python code instead of a command, where all is imported.
    """

    def __init__(self, log: Path, *arguments: str, anew: bool = False, code: str = '') -> None:
        self._log = log
        command = [sys.executable, '-m', 'sd_perception_ros', *arguments]
        with log.open('wb') as out:
            self.process: subprocess.Popen[bytes] | Child = (
                subprocess.Popen(
                    command, stdout=out, stderr=out, env=environment(), cwd=log.parent
                )
                if anew
                else forkserver().start([*arguments], environment(), log.parent, out, code)
            )

    @property
    def output(self) -> str:
        """Everything the process has written so far."""
        return self._log.read_text()

    def wait_for_output(self, text: str) -> None:
        """Wait until the process has written a text; fail when it ends or time is up."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.output:
            assert self.process.poll() is None, f'ended before {text!r}:\n{self.output}'
            assert time.monotonic() < deadline, f'{text!r} did not come:\n{self.output}'
            time.sleep(0.02)

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f'did not end in {PATIENCE_S} s:\n{self.output}') from None

    def kill(self) -> None:
        """End the process without asking, and remove the shared memory that it leaves behind."""
        self.process.kill()
        self.process.wait()
        remove_orphaned_shared_memory()


class Peer:
    """A node of the test with its own context, spun by the test itself."""

    def __init__(self, name: str = 'test_peer') -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = Node(name, context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self.received: dict[str, list[Any]] = {}

    def listen(self, topic: str, kind: type, qos: QoSProfile = RELIABLE) -> Any:
        """Collect the messages of a topic in `received[topic]`."""
        got = self.received.setdefault(topic, [])
        return self.node.create_subscription(kind, topic, got.append, qos)

    def until(self, condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
        """Spin until a condition holds and return its value; the last value when time is up."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()) and time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.02)
        return value

    def spin(self, duration_s: float) -> None:
        """Spin for some time."""
        self.until(lambda: False, duration_s)

    def next(self, topic: str) -> Any:
        """Wait for a message of a topic that is listened to, and take it out."""
        got = self.received[topic]
        assert self.until(lambda: got), f'nothing came on {topic}'
        return got.pop(0)

    def with_stamp(self, topic: str, image: Image) -> Any:
        """Return the message of a topic that has come with the stamp of a picture, or None."""
        stamp = image.header.stamp
        return next((m for m in self.received[topic] if m.header.stamp == stamp), None)

    def result(self, topic: str, image: Image) -> Any:
        """Wait for the message of a topic with the stamp of a picture."""
        found = self.until(lambda: self.with_stamp(topic, image))
        assert found, f'nothing came on {topic}'
        return found

    def call(self, kind: type, name: str, request: Any, repeatable: bool = False) -> Any:
        """
        Call a service and return the response.

        :param repeatable: the request may be sent again. DDS can lose the response to a client
            that the server has not discovered yet.
        """
        client, future = self.ask(kind, name, request)
        while repeatable and not self.until(future.done, 15.0):
            future = client.call_async(request)
        assert self.until(future.done), f'{name} did not answer'
        self.node.destroy_client(client)
        return future.result()

    def ask(self, kind: type, name: str, request: Any) -> tuple[Any, Any]:
        """Call a service without waiting; return the client and the future response."""
        client = self.node.create_client(kind, name)
        assert self.until(client.service_is_ready), f'no service {name}'
        return client, client.call_async(request)

    def counters(self, name: str = '/perception') -> dict[str, Any]:
        """Wait for the node's next diagnostic; return its values, level, message and second."""
        got = self.received.get('/diagnostics')
        if got is None:
            self.listen('/diagnostics', DiagnosticArray)
            got = self.received['/diagnostics']
        got.clear()
        while True:
            array = self.next('/diagnostics')
            for status in array.status:
                if status.name == name:
                    values = {pair.key: pair.value for pair in status.values}
                    about = {'level': status.level, 'message': status.message}
                    return values | about | {'second': array.header.stamp.sec}

    def counters_when(
        self,
        condition: Callable[[dict[str, Any]], bool],
        name: str = '/perception',
        timeout_s: float = PATIENCE_S,
    ) -> dict[str, Any]:
        """Wait for a diagnostic that meets a condition; the last one when time is up."""
        deadline = time.monotonic() + timeout_s
        while not condition(seen := self.counters(name)) and time.monotonic() < deadline:
            pass
        return seen

    def close(self) -> None:
        """Leave the domain."""
        self._executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


def lens_of(width: int, height: int) -> Camera:
    """
    Make the camera of `FakeCamera`'s pictures, without square pixels and without a centred axis.

    Of 64 x 48 pixels: fx = 32, fy = 40, cx = 28, cy = 27.
    """
    return Camera(width / 2, width * 5 / 8, width * 7 / 16, height * 9 / 16, width, height)


class FakeCamera:
    """Publishes pictures and camera infos that the test makes up."""

    def __init__(self, peer: Peer, qos: QoSProfile = RELIABLE, topic: str = '/image_raw') -> None:
        self.now = lambda: peer.node.get_clock().now().to_msg()
        self.images = peer.node.create_publisher(Image, topic, qos)
        sibling = f'{topic.rpartition("/")[0]}/camera_info'
        self.infos = peer.node.create_publisher(CameraInfo, sibling, qos)

    def image(self, rgb: np.ndarray, frame_id: str = 'lens') -> Image:
        """Make a good message of a picture, stamped now."""
        msg = image_message(rgb, 'rgb8', CameraInfo().header)
        msg.header.frame_id = frame_id
        msg.header.stamp = self.now()
        return msg

    def send(self, rgb: np.ndarray) -> Image:
        """Publish a picture with a good camera info and return its message."""
        msg = self.image(rgb)
        height, width = rgb.shape[:2]
        self.infos.publish(info_from_camera(lens_of(width, height), msg.header))
        self.images.publish(msg)
        return msg


def connect(peer: Peer, camera: FakeCamera) -> None:
    """Wait until the node hears a camera, so that no message of a test gets lost."""
    for publisher in (camera.images, camera.infos):
        assert peer.until(publisher.get_subscription_count), 'the node does not listen'
    peer.spin(0.3)


def results_of(
    peer: Peer, send: Callable[[], Image], topics: Mapping[str, type]
) -> tuple[Image, list[Any]]:
    """
    Send pictures, more and more patiently, until one has a result on every topic.

    The first may get lost while publishers and subscriptions find one another.

    :param send: publishes a picture and returns its message.
    :returns: that message, and the results with its stamp, in the order of the topics.
    """
    for topic, kind in topics.items():
        if topic not in peer.received:
            peer.listen(topic, kind)
        peer.received[topic].clear()
    sent: list[Image] = []

    def results() -> tuple[Image, list[Any]] | None:
        for image in sent:
            found = [peer.with_stamp(topic, image) for topic in topics]
            if all(found):
                return image, found
        return None

    for patience_s in (1, 2, 4, 8, 16, 32, PATIENCE_S):
        sent.append(send())
        if complete := peer.until(results, patience_s):
            return complete
    raise AssertionError(f'no result of {len(sent)} pictures on {" and ".join(topics)}')


def answer_of(
    kind: type, peer: Peer, camera: FakeCamera, topic: str, rgb: np.ndarray
) -> tuple[Image, Any]:
    """Send a picture until a result of it comes back; return both messages."""
    sent, [result] = results_of(peer, lambda: camera.send(rgb), {topic: kind})
    return sent, result


def change(peer: Peer, transition: int, node: str = '/front/perception') -> bool:
    """Ask a lifecycle node for a transition; return whether it was made."""
    request = ChangeState.Request()
    request.transition.id = transition
    return peer.call(ChangeState, f'{node}/change_state', request).success


def state(peer: Peer, node: str = '/front/perception') -> int:
    """Return the state of a lifecycle node."""
    response = peer.call(GetState, f'{node}/get_state', GetState.Request(), repeatable=True)
    return response.current_state.id


def set_parameter(peer: Peer, name: str, value: Any, node: str = '/front/perception') -> str:
    """Set a parameter and return the reason of a refusal."""
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    response = peer.call(SetParameters, f'{node}/set_parameters', request, repeatable=True)
    [result] = response.results
    return '' if result.successful else result.reason


def picture(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Make an (H, W, 3) uint8 picture: a gradient with noise."""
    noise = np.random.default_rng(seed).integers(0, 40, (height, width, 3))
    ramp = np.linspace(0, 200, width)[None, :, None] + np.zeros((height, 1, 3))
    return (ramp + noise).astype(np.uint8)


def pixels(msg: Image) -> np.ndarray:
    """Read an image message as an array, channels as they come."""
    dtype, channels = {
        'rgb8': (np.uint8, 3),
        'bgr8': (np.uint8, 3),
        'mono8': (np.uint8, 1),
        '32FC1': (np.float32, 1),
        '32FC3': (np.float32, 3),
    }[msg.encoding]
    shape = (msg.height, msg.width) if channels == 1 else (msg.height, msg.width, channels)
    return np.frombuffer(msg.data, dtype).reshape(shape)


@contextlib.contextmanager
def running(log: Path, *arguments: str) -> Iterator[Process]:
    """Run a command of the package for the time of a block; it is gone afterwards."""
    process = Process(log, *arguments)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.end()


@contextlib.contextmanager
def serving(log: Path, namespace: str = '/', **parameters: Any) -> Iterator[Process]:
    """
    Run a perception node that listens, for the time of a block; it must end well.

    :param namespace: one of its own for a node that runs beside that of a fixture.
    """
    arguments = (*ros_arguments(**parameters), '-r', f'__ns:={namespace}')
    with running(log, 'perception', *arguments) as process:
        process.wait_for_output('subscribed to /')
        yield process
        assert process.end(signal.SIGINT) == 0
        assert 'Traceback' not in process.output


def remove_orphaned_shared_memory() -> None:
    """Remove Fast DDS files that no living process has mapped."""
    mapped = ''
    for maps in Path('/proc').glob('[0-9]*/maps'):
        with contextlib.suppress(OSError):  # the process ended, or is somebody else's
            mapped += maps.read_text()
    for path in Path('/dev/shm').glob('fastdds_*'):
        if str(path) not in mapped:
            path.unlink(missing_ok=True)


def ros_arguments(**parameters: Any) -> Sequence[str]:
    """Write parameters as ROS arguments; `__` in a name stands for a dot."""
    arguments = ['--ros-args']
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        arguments += ['-p', f'{name.replace("__", ".")}:={text}']
    return arguments
