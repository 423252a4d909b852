"""
Measure the node over ROS: latency, jitter, rate, processor, memory and lost messages.

A camera process sends images, a perception process publishes results, and this process subscribes
to them, in several scenes one after the other:

  python benchmark/through_ros.py --seconds 20 --json benchmark/results/my_machine_ros.json
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
import os
from pathlib import Path
import statistics
import sys
import tempfile
import time
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import psutil  # noqa: E402

from benchmark.common import about_run, parser, run_command, write  # noqa: E402
from sd_perception_ros.cli.processes import (  # noqa: E402
    node_environment,
    parameter_arguments,
    Processes,
)

DOMAIN = 60 + os.getpid() % 40
MEDIAN_BAR_MS, P99_BAR_MS = 10.0, 25.0  # of the node's own overhead, in the first scene
RATE_BARS_HZ = {'torch': 6.0}  # with all tasks; another runtime must reach the one below
BEST_RATE_BAR_HZ = 10.0


class Scene(NamedTuple):
    """What the camera sends and what is subscribed to."""

    name: str
    width: int
    height: int
    rate_hz: int
    topics: tuple[str, ...]  # empty: every topic of every task
    holds_rate: bool = False  # whether the rate of results has a bar, not the overhead


# What a navigating robot listens to.
ROBOT = ('depth/image_rect', 'depth/points', 'segmentation/mask', 'human_pose/markers')
SCENES = (
    Scene('VGA, what a robot needs', 640, 480, 10, ROBOT),
    Scene('VGA, every output', 640, 480, 5, ()),
    Scene('every output, camera faster than the node', 256, 192, 30, (), True),
    Scene('720p, what a robot needs', 1280, 720, 5, ROBOT),
)


class Listener:
    """Subscribes to every output, and records the latency of each message."""

    def __init__(self, topics: Collection[str]) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        from sd_perception_ros.ros.output.outputs import OUTPUTS

        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=DOMAIN)
        self.node = rclpy.create_node('benchmark', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.latency_ms: dict[str, list[float]] = {}
        self.arrivals_s: dict[str, list[float]] = {}
        self.usage: list[tuple[float, float]] = []  # (processor seconds, MiB) of the node
        self.values: dict[str, str] = {}
        for output in OUTPUTS:
            if output.topic in topics or not (topics or output.topic == 'scan'):  # needs a frame
                self._listen(output.msg_type, output.topic)
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._diagnostic, 10)

    def spin(self, duration_s: float) -> None:
        """Receive for some time."""
        deadline = time.monotonic() + duration_s
        while time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        """Leave the network."""
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.shutdown()

    def _listen(self, kind: type, topic: str) -> None:
        late = self.latency_ms.setdefault(topic, [])
        arrivals = self.arrivals_s.setdefault(topic, [])

        def receive(msg: Any) -> None:
            now = self.node.get_clock().now().nanoseconds
            arrivals.append(time.monotonic())
            head = msg if hasattr(msg, 'header') else next(iter(msg.markers), None)
            if head is None:  # nobody is there, and a list of nothing bears no stamp
                return
            stamp = head.header.stamp
            late.append((now - stamp.sec * 1_000_000_000 - stamp.nanosec) / 1e6)

        self.node.create_subscription(kind, topic, receive, 10)

    def _diagnostic(self, array: Any) -> None:
        for status in array.status:
            self.values = {pair.key: pair.value for pair in status.values}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenes; return 0 if nothing was lost and every target is met."""
    options = _parser().parse_args(argv)
    os.environ.update(node_environment(os.environ) | {'ROS_DOMAIN_ID': str(DOMAIN)})
    results = []
    for scene in SCENES:
        with tempfile.TemporaryDirectory() as folder:
            _write_pictures(Path(folder), scene, options.seconds * scene.rate_hz)
            listener = measure(Path(folder), scene, options)
        results.append(summarize(listener, scene, options.seconds, options.runtime))
        print(table(results[-1]))
        listener.close()
    print('\n'.join(['', *EXPLANATION]))
    whole = {
        **about_run(),
        'checkpoint': options.checkpoint,
        'runtime': options.runtime,
        'scenes': results,
    }
    write(whole, options.json)
    return 0 if all(result['passes'] for result in results) else 1


def measure(pictures: Path, scene: Scene, options: argparse.Namespace) -> Listener:
    """Run both nodes on the images and listen until the last result."""
    perception = {
        'checkpoint': options.checkpoint,
        'device': options.device,
        'runtime': options.runtime,
        'threads': options.threads,
        'long_side_px': options.long_side_px,
        'diagnostics_rate_hz': 5.0,
        **METRES,
    }
    camera = {
        'source': str(pictures),
        'loop': False,
        'rate_hz': float(scene.rate_hz),
        'wait_for_subscribers': True,
    }
    listener = Listener(scene.topics)
    with Processes(os.environ) as nodes:
        process = psutil.Process(nodes.start('perception', parameter_arguments(perception)))
        while not listener.node.count_publishers('depth/points'):
            listener.spin(0.2)
            if nodes.ended():
                raise SystemExit('the perception node ended; see its message above')
        listener.spin(2.0)
        nodes.start('camera', parameter_arguments(camera))
        while not nodes.ended('camera'):
            listener.spin(0.2)
            used = process.cpu_times()
            memory_mib = process.memory_info().rss / 2**20
            listener.usage.append((used.user + used.system, memory_mib))
        listener.spin(3.0)
    return listener


def summarize(listener: Listener, scene: Scene, seconds: int, runtime: str) -> dict[str, Any]:
    """Put one scene into a dictionary for the table and the JSON file."""
    values = listener.values
    sent = seconds * scene.rate_hz
    received, processed = (int(values.get(name, 0)) for name in ('received', 'processed'))
    lost = {topic: processed - len(times) for topic, times in listener.arrivals_s.items()}
    topics = {
        topic: _topic(late, listener.arrivals_s[topic])
        for topic, late in listener.latency_ms.items()
        if late
    }
    rate_hz = max((topic['rate_hz'] for topic in topics.values()), default=0.0)
    overhead = [float(values.get(f'overhead_ms {kind}', 'nan')) for kind in ('median', 'p99')]
    checks = {'no input lost': sent == received, 'no output lost': not any(lost.values())}
    if scene.holds_rate:
        bar_hz = RATE_BARS_HZ.get(runtime, BEST_RATE_BAR_HZ)
        checks = {f'at least {bar_hz:g} results a second': rate_hz >= bar_hz}
    elif scene.topics and scene.width == 640:
        checks[f'overhead under {MEDIAN_BAR_MS:g} ms, median'] = overhead[0] < MEDIAN_BAR_MS
        checks[f'overhead under {P99_BAR_MS:g} ms, p99'] = overhead[1] < P99_BAR_MS
    began, ended = (listener.usage[0], listener.usage[-1]) if listener.usage else ((0, 0),) * 2
    return {
        'scene': scene.name,
        'frame': f'{scene.width}x{scene.height} rgb8 at {scene.rate_hz} Hz',
        'load_average': os.getloadavg()[0],
        'sent': sent,
        'received': received,
        'processed': processed,
        'outputs_lost': lost,
        'rate_hz': rate_hz,
        'processor_cores': (ended[0] - began[0]) / seconds,
        'memory_mib': max((mib for _, mib in listener.usage), default=0.0),
        'times_ms': {name: float(text) for name, text in values.items() if '_ms ' in name},
        'topics': topics,
        'checks': checks,
        'passes': all(checks.values()),
    }


def table(result: dict[str, Any]) -> str:
    """Write one scene for people."""
    times = result['times_ms']
    lines = [
        '',
        f'{result["scene"]}: {result["frame"]}; load average {result["load_average"]:.1f}',
        f'  sent {result["sent"]}, received {result["received"]}, processed '
        f'{result["processed"]}; {result["rate_hz"]:.1f} results a second, '
        f'{result["processor_cores"]:.2f} cores, {result["memory_mib"]:.0f} MiB',
        f'  {"time, ms":28}{"median":>10}{"p95":>10}{"p99":>10}',
    ]
    for name in ('overhead', 'inference', 'waiting', 'latency'):
        figures = (times.get(f'{name}_ms {kind}', float('nan')) for kind in KINDS)
        lines.append(f'  {_MEANING[name]:28}' + ''.join(f'{value:10.1f}' for value in figures))
    lines += [f'  {"end to end, ms":28}{"median":>10}{"p95":>10}{"jitter":>10}{"lost":>8}']
    for topic, lost in result['outputs_lost'].items():
        late = result['topics'].get(topic, {})
        figures = (late.get(kind, float('nan')) for kind in ('median_ms', 'p95_ms', 'jitter_ms'))
        lines.append(
            f'  {topic:28}' + ''.join(f'{value:10.1f}' for value in figures) + f'{lost:8}'
        )
    return '\n'.join(
        lines
        + [f'  {"passes" if good else "FAILS "} {what}' for what, good in result['checks'].items()]
    )


def _topic(late_ms: Sequence[float], arrivals_s: Sequence[float]) -> dict[str, float]:
    """Return latency, its jitter (its standard deviation), and messages a second of a topic."""
    span_s = arrivals_s[-1] - arrivals_s[0]
    return {
        'median_ms': statistics.median(late_ms),
        'p95_ms': _p95(late_ms),
        'jitter_ms': statistics.pstdev(late_ms),
        'rate_hz': (len(arrivals_s) - 1) / span_s if span_s else 0.0,
    }


KINDS = ('median', 'p95', 'p99')
METRES = {'depth.scale.source': 'fixed'}
EXPLANATION = (
    '  inference      Engine.predict: to a tensor and the device, resize, network, resize to the',
    "                 image's size, decode",
    '  node overhead  the rest of a frame on the worker thread: message to image, camera,',
    '                 colours, metres, points, filling and publishing every message',
    '  waiting        from the arrival until the worker has ended the frame before',
    '  lost           frames processed, less messages that arrived here',
)
_MEANING = {
    'overhead': 'node overhead',
    'inference': 'inference',
    'waiting': 'waiting for the worker',
    'latency': 'arrival to last publish',
}


def _write_pictures(folder: Path, scene: Scene, count: int) -> None:
    """Make links to one image, so that the camera's count of frames is known."""
    from sd_perception_ros.ros.replay.sources import open_source

    rgb = cv2.resize(open_source('skimage').frame(1).rgb, (scene.width, scene.height))
    cv2.imwrite(str(folder / 'picture.bmp'), rgb[..., ::-1])
    for index in range(1, count):
        (folder / f'{index:06}.bmp').symlink_to('picture.bmp')


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def _parser() -> argparse.ArgumentParser:
    options = parser(__doc__)
    add = options.add_argument
    add('--seconds', type=int, default=20, help='how long the camera sends in a scene')
    add('--checkpoint', default='bundled', help='as the parameter checkpoint')
    add('--device', default='auto', help='as the parameter device')
    add('--long-side-px', type=int, default=0, help='as the parameter long_side_px')
    add('--runtime', default='torch', help='as the parameter runtime')
    add('--threads', type=int, default=0, help='as the parameter threads')
    return options


if __name__ == '__main__':
    run_command(main)
