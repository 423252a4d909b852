"""
Run the node for a long time and look for what grows: memory, threads, open files, latency.

A camera sends 30 images a second, every topic is subscribed to, a slow subscriber holds messages
back, and another one comes and goes. One scene for each runtime, and one with four cameras:

  python benchmark/soak.py --minutes 30 --json benchmark/results/my_machine_soak.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from benchmark.common import about_run, parser, run_command, write  # noqa: E402
from sd_perception_ros.cli.processes import (  # noqa: E402
    node_environment,
    parameter_arguments,
    Processes,
)

DOMAIN = 60 + os.getpid() % 40
PERIOD_NS = 33_333_333  # 30 images a second
STAMPS_FROM_S = 1_000_000_000
FRAME = 'camera_optical_frame'
SAMPLE_S = 5.0
MOST_WARM_MIN = 5.0  # memory may grow for so long
SLOPE_BAR_MIB = 0.5  # a minute
LOST_BAR = 0.01  # of the messages
SLOW_S = 0.5  # the slow subscriber takes so long for a message
VISIT_S = 4.0  # a visitor subscribes for so long


class Scene(NamedTuple):
    """A runtime and a number of cameras."""

    runtime: str
    cameras: tuple[str, ...] = ('',)

    @property
    def name(self) -> str:
        """Name for the table."""
        return f'{self.runtime}, {len(self.cameras)} camera{"s" * (len(self.cameras) > 1)}'


class Sample(NamedTuple):
    """State of the node: minutes since the start, anonymous memory, threads, open files, ms."""

    minutes: float
    memory_mib: float
    threads: int
    open_files: int
    latency_ms: float
    processed: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenes; return 0 if nothing grows and nothing is lost."""
    options = _parser().parse_args(argv)
    if options.role:
        names = options.names or ['']
        visit(names) if options.role == 'visit' else send(names, options.width, options.height)
        return 0
    os.environ.update(node_environment(os.environ) | {'ROS_DOMAIN_ID': str(DOMAIN)})
    scenes = [Scene(runtime) for runtime in options.runtimes]
    if options.cameras > 1:
        scenes.append(Scene(options.runtimes[-1], tuple(f'c{i}' for i in range(options.cameras))))
    results = []
    for scene in scenes:
        results.append(run(scene, options))
        print(table(results[-1]), flush=True)
    whole = {**about_run(), 'checkpoint': options.checkpoint, 'soak': results}
    write(whole, options.json)
    return 0 if all(result['passes'] for result in results) else 1


def run(scene: Scene, options: argparse.Namespace) -> dict[str, Any]:
    """Run one scene."""
    perception = {
        'checkpoint': options.checkpoint,
        'runtime': scene.runtime,
        'diagnostics_rate_hz': 2.0,
        'depth.scale.source': 'fixed',
    }
    if scene.cameras != ('',):
        perception['cameras'] = list(scene.cameras)
    folder = tempfile.TemporaryDirectory()
    with folder as logs, Processes(os.environ, Path(logs)) as nodes:
        pid = nodes.start('perception', parameter_arguments(perception))
        listener = Listener(scene.cameras)
        size = ('--width', str(options.width), '--height', str(options.height))
        others = [start('send', scene, *size), start('visit', scene)]
        try:
            listener.wait_for_node(nodes)
            samples = listener.watch(pid, options.minutes * 60, nodes)
        finally:
            for other in others:
                other.kill()
                other.wait()
            listener.close()
        complaints = [
            line
            for line in (Path(logs) / 'perception.log').read_text(errors='replace').splitlines()
            if '[ERROR]' in line or '[FATAL]' in line or 'Traceback' in line
        ]
    return summarize(scene, samples, listener, complaints)


class Listener:
    """Subscribes to every topic, and samples the node."""

    def __init__(self, cameras: Sequence[str]) -> None:
        import rclpy

        self._cameras = cameras
        self._context = rclpy.Context()
        self.topics = topics_of(cameras)
        self.received = dict.fromkeys(self.topics, 0)
        self.unknown_headers = 0
        self.values: dict[str, str] = {}
        self.began: dict[str, int] = {}
        rclpy.init(context=self._context, domain_id=int(os.environ['ROS_DOMAIN_ID']))
        self._node = rclpy.create_node('soak_listener', context=self._context)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def wait_for_node(self, nodes: Processes) -> None:
        """Wait until the node receives images."""
        while self._count('received') < 1:
            nodes.check()
            time.sleep(0.5)

    def watch(self, pid: int, duration_s: float, nodes: Processes) -> list[Sample]:
        """Sample the node for some time."""
        began_s, samples = time.monotonic(), []
        self.began = {**self.received, 'processed': self._count('processed')}
        while (passed_s := time.monotonic() - began_s) < duration_s:
            nodes.check()
            samples.append(
                Sample(
                    passed_s / 60,
                    _status(pid, 'RssAnon') / 1024,
                    int(_status(pid, 'Threads')),
                    len(os.listdir(f'/proc/{pid}/fd')),
                    float(self.values.get('latency_ms median', 'nan')),
                    self._count('processed'),
                )
            )
            time.sleep(SAMPLE_S)
        return samples

    def lost(self) -> dict[str, float]:
        """Return the share of messages that did not come, for each topic."""
        processed = (self._count('processed') - self.began['processed']) / len(self._cameras)
        return {
            topic: max(0.0, 1 - (count - self.began[topic]) / max(processed, 1.0))
            for topic, count in self.received.items()
        }

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _count(self, name: str) -> int:
        return int(self.values.get(name, 0))

    def _spin(self) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor

        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self._node)
        for topic, kind in self.topics.items():
            self._node.create_subscription(kind, topic, self._counter(topic), 10)
        self._node.create_subscription(DiagnosticArray, '/diagnostics', self._diagnostics, 10)
        while not self._stop.is_set():
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _counter(self, topic: str) -> Callable[[Any], None]:
        def receive(msg: Any) -> None:
            self.received[topic] += 1
            head = msg if hasattr(msg, 'header') else next(iter(msg.markers), None)
            if head is not None and not is_sent(head.header):
                self.unknown_headers += 1

        return receive

    def _diagnostics(self, array: Any) -> None:
        for status in array.status:
            self.values = {pair.key: pair.value for pair in status.values}


def topics_of(cameras: Sequence[str]) -> dict[str, Any]:
    """Return every topic of the node with its type; the scan needs a frame."""
    from sd_perception_ros.ros.output.outputs import OUTPUTS

    return {
        _topic(camera, output.topic): output.msg_type
        for camera in cameras
        for output in OUTPUTS
        if output.topic != 'scan'
    }


def stamp_of(index: int) -> tuple[int, int]:
    """Return seconds and nanoseconds of the stamp of an image; a header tells its image."""
    return divmod(STAMPS_FROM_S * 1_000_000_000 + index * PERIOD_NS, 1_000_000_000)


def is_sent(header: Any) -> bool:
    """Return whether a header is that of an image that was sent."""
    since_ns = (header.stamp.sec - STAMPS_FROM_S) * 1_000_000_000 + header.stamp.nanosec
    return header.frame_id == FRAME and since_ns >= 0 and since_ns % PERIOD_NS == 0


# ---- Other processes, so that they do not slow the listener down ----------------------------


def send(cameras: Sequence[str], width: int, height: int) -> None:
    """Send 30 images a second of each camera, until the process is ended."""
    import rclpy
    from sensor_msgs.msg import CameraInfo, Image

    from sd_perception_ros.geometry.pinhole import camera_from_fov
    from sd_perception_ros.ros.messages.camera_info import info_from_camera
    from sd_perception_ros.ros.messages.image import image_message
    from sd_perception_ros.ros.replay.sources import open_source

    rclpy.init()
    node = rclpy.create_node('soak_camera')
    rgb = cv2.resize(open_source('skimage').frame(1).rgb, (width, height))
    header = CameraInfo().header
    header.frame_id = FRAME
    images = [
        image_message(np.ascontiguousarray(np.roll(rgb, 7 * i, 1)), 'rgb8', header)
        for i in range(8)
    ]
    info = info_from_camera(camera_from_fov(width, height, 60.0), header)
    publishers = [
        (
            node.create_publisher(Image, _topic(camera, 'image_raw'), 5),
            node.create_publisher(CameraInfo, _topic(camera, 'camera_info'), 5),
        )
        for camera in cameras
    ]
    next_s = time.monotonic()
    for index in range(10**9):
        image = images[index % len(images)]
        stamp = image.header.stamp
        stamp.sec, stamp.nanosec = stamp_of(index)
        info.header.stamp = stamp
        for image_publisher, info_publisher in publishers:
            info_publisher.publish(info)
            image_publisher.publish(image)
        next_s = max(next_s + PERIOD_NS / 1e9, time.monotonic())
        time.sleep(max(0.0, next_s - time.monotonic()))


def visit(cameras: Sequence[str]) -> None:
    """Subscribe slowly to the points, and to one topic after the other for a short time."""
    import rclpy

    rclpy.init()
    node = rclpy.create_node('soak_guests')
    topics = topics_of(cameras)
    points = next(topic for topic in topics if topic.endswith('depth/points'))
    node.create_subscription(topics[points], points, lambda msg: time.sleep(SLOW_S), 10)
    for index in range(10**9):
        topic = list(topics)[index % len(topics)]
        subscription = node.create_subscription(topics[topic], topic, lambda msg: None, 10)
        until_s = time.monotonic() + VISIT_S
        while time.monotonic() < until_s:
            rclpy.spin_once(node, timeout_sec=0.1)
        node.destroy_subscription(subscription)


def start(role: str, scene: Scene, *words: str) -> subprocess.Popen[bytes]:
    """Start `send` or `visit` as a process."""
    command = [sys.executable, __file__, '--role', role, '--names', *filter(None, scene.cameras)]
    return subprocess.Popen([*command, *words], env=os.environ)


def summarize(
    scene: Scene, samples: Sequence[Sample], listener: Listener, complaints: Sequence[str]
) -> dict[str, Any]:
    """Put one scene into a dictionary for the table and the JSON file."""
    return judge(
        {
            'scene': scene.name,
            'minutes': samples[-1].minutes,
            'load_average': os.getloadavg()[0],
            'frames_received': int(listener.values.get('received', 0)),
            'frames_processed': int(listener.values.get('processed', 0)),
            'unknown_headers': listener.unknown_headers,
            'lost': listener.lost(),
            'errors': list(complaints)[:5],
            'samples': [sample._asdict() for sample in samples],
        }
    )


def judge(result: Mapping[str, Any]) -> dict[str, Any]:
    """Add slopes and checks to the measurements of a scene."""
    samples = [Sample(**sample) for sample in result['samples']]
    warm_min = min(MOST_WARM_MIN, result['minutes'] / 2)
    warm = [sample for sample in samples if sample.minutes >= warm_min]
    slope_mib = slope([s.minutes for s in warm], [s.memory_mib for s in warm])
    timed = [sample for sample in warm if np.isfinite(sample.latency_ms)]
    drift_ms = slope([s.minutes for s in timed], [s.latency_ms for s in timed])
    growth = {
        name: getattr(samples[-1], name) - max(getattr(s, name) for s in warm[: len(warm) // 2])
        for name in ('threads', 'open_files')
    }
    worst_lost = max(result['lost'].values())
    checks = {
        f'memory grows by less than {SLOPE_BAR_MIB} MiB a minute': slope_mib < SLOPE_BAR_MIB,
        'no thread more': growth['threads'] <= 0,
        'no open file more': growth['open_files'] <= 0,
        'every header is that of an image that was sent': result['unknown_headers'] == 0,
        f'at most {LOST_BAR:.0%} of the messages of a topic lost': worst_lost <= LOST_BAR,
        'no error in the log': not result['errors'],
    }
    return {
        **result,
        'warm_minutes': warm_min,
        'memory_slope_mib_per_minute': slope_mib,
        'latency_drift_ms_per_minute': drift_ms,
        'worst_lost': worst_lost,
        'checks': checks,
        'passes': all(checks.values()),
    }


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope of the line of least squares; 0 with fewer than 3 points."""
    return float(np.polyfit(x, y, 1)[0]) if len(x) > 2 else 0.0


def table(result: Mapping[str, Any]) -> str:
    """Write one scene for people."""
    first, last = result['samples'][0], result['samples'][-1]
    return '\n'.join(
        [
            '',
            f'{result["scene"]}: {result["minutes"]:.1f} min; load average '
            f'{result["load_average"]:.1f}',
            f'  images received {result["frames_received"]}, processed '
            f'{result["frames_processed"]}',
            f'  anonymous memory {first["memory_mib"]:.0f} -> {last["memory_mib"]:.0f} MiB, '
            f'{result["memory_slope_mib_per_minute"]:+.2f} MiB a minute after '
            f'{result["warm_minutes"]:.1f} min',
            f'  threads {first["threads"]} -> {last["threads"]}, open files '
            f'{first["open_files"]} -> {last["open_files"]}',
            f'  latency {first["latency_ms"]:.0f} -> {last["latency_ms"]:.0f} ms, '
            f'{result["latency_drift_ms_per_minute"]:+.2f} ms a minute',
            f'  lost at most {result["worst_lost"]:.2%} of a topic, unknown headers '
            f'{result["unknown_headers"]}',
            *(
                f'  {"passes" if good else "FAILS "} {what}'
                for what, good in result['checks'].items()
            ),
        ]
    )


def _topic(camera: str, name: str) -> str:
    return f'/{camera}/{name}' if camera else f'/{name}'


def _status(pid: int, field: str) -> float:
    """Return a number of /proc/pid/status; memory is in KiB."""
    lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f'{field}:'))


def _parser() -> argparse.ArgumentParser:
    options = parser(__doc__)
    add = options.add_argument
    add('--minutes', type=float, default=30.0, help='of each scene')
    add(
        '--runtimes',
        nargs='+',
        default=['torch', 'onnxruntime'],
        help='a scene for each, as the parameter runtime',
    )
    add('--cameras', type=int, default=4, help='of the last scene; 1: no such scene')
    add('--checkpoint', default='bundled', help='as the parameter checkpoint')
    add('--width', type=int, default=640, help='width of the image')
    add('--height', type=int, default=480, help='height of the image')
    add('--role', choices=('send', 'visit'), help=argparse.SUPPRESS)  # of a child process
    add('--names', nargs='*', help=argparse.SUPPRESS)
    return options


if __name__ == '__main__':
    run_command(main)
