"""
Measure what the perception node adds to inference, and whether messages get lost.

A camera process sends VGA rgb8 at 10 Hz, a perception process turns it into every output, and
this process subscribes to all of them:

  python benchmark/node_overhead.py --seconds 20 --json benchmark/results/my_machine.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import contextlib
import json
import os
from pathlib import Path
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402

from sd_perception_ros.cli.up import node_environment, start, stop_all  # noqa: E402

DOMAIN = 60 + os.getpid() % 40
WIDTH, HEIGHT, RATE_HZ = 640, 480, 10
BAR_MS = 15.0


class Listener:
    """Subscribes to every output and notes how late each message is."""

    def __init__(self) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        from sd_perception_ros.ros.outputs import OUTPUTS

        rclpy.init(domain_id=DOMAIN)
        self.node = rclpy.create_node('benchmark')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.latency_ms: dict[str, list[float]] = {}
        self.values: dict[str, str] = {}
        for output in OUTPUTS:
            if output.task in ('depth', 'normals'):
                self._listen(output.kind, output.topic)
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._diagnostic, 10)

    def spin(self, duration_s: float) -> None:
        """Receive for some time."""
        deadline = time.monotonic() + duration_s
        while time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.05)

    def _listen(self, kind: type, topic: str) -> None:
        late = self.latency_ms.setdefault(topic, [])

        def receive(msg: Any) -> None:
            now = self.node.get_clock().now().nanoseconds
            stamp = msg.header.stamp
            late.append((now - stamp.sec * 1_000_000_000 - stamp.nanosec) / 1e6)

        self.node.create_subscription(kind, topic, receive, 10)

    def _diagnostic(self, array: Any) -> None:
        for status in array.status:
            self.values = {pair.key: pair.value for pair in status.values}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the measurement; return 0 when nothing was lost and the overhead is under the bar."""
    options = _parser().parse_args(argv)
    os.environ.update(node_environment(os.environ) | {'ROS_DOMAIN_ID': str(DOMAIN)})
    frames = options.seconds * RATE_HZ
    with tempfile.TemporaryDirectory() as folder:
        _write_pictures(Path(folder), frames)
        listener = measure(Path(folder), frames, options)
    result = summarize(listener, frames)
    print(table(result))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + '\n')
    return 0 if result['passes'] else 1


def measure(pictures: Path, frames: int, options: argparse.Namespace) -> Listener:
    """Run both nodes on the pictures and listen until the last result."""
    children: list[subprocess.Popen[bytes]] = []
    perception = [
        *('-p', f'checkpoint:={options.checkpoint}', '-p', f'device:={options.device}'),
        *('-p', f'long_side_px:={options.long_side_px}', '-p', f'threads:={options.threads}'),
        *('-p', 'depth.scale.source:=fixed', '-p', 'diagnostics_rate_hz:=5.0'),
    ]
    camera = [
        *('-p', f'source:={pictures}', '-p', 'loop:=false', '-p', f'rate_hz:={RATE_HZ}.0'),
        *('-p', 'wait_for_subscribers:=true'),
    ]
    try:
        listener = Listener()
        children.append(start(['perception', '--ros-args', *perception], os.environ))
        while not listener.node.count_publishers('depth/points'):
            listener.spin(0.2)
            if children[0].poll() is not None:
                raise SystemExit('the perception node ended; see its message above')
        listener.spin(2.0)
        children.append(start(['camera', '--ros-args', *camera], os.environ))
        while children[1].poll() is None:
            listener.spin(0.2)
        listener.spin(3.0)
    finally:
        stop_all(children)
    return listener


def summarize(listener: Listener, sent: int) -> dict[str, Any]:
    """Put the measurement into a dictionary for the table and the JSON file."""
    values = listener.values
    received, processed = (int(values.get(name, 0)) for name in ('received', 'processed'))
    overhead_ms = float(values.get('overhead_ms median', 'nan'))
    lost = {topic: processed - len(late) for topic, late in listener.latency_ms.items()}
    return {
        'machine': f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores',
        'commit': _commit(),
        'load_average': os.getloadavg()[0],
        'frame': f'{WIDTH} x {HEIGHT} rgb8 at {RATE_HZ} Hz',
        'sent': sent,
        'received': received,
        'input_lost': sent - received,
        'processed': processed,
        'outputs_lost': lost,
        'times_ms': {name: float(text) for name, text in values.items() if '_ms ' in name},
        'end_to_end_ms': {
            topic: {'median': statistics.median(late), 'p95': _p95(late)}
            for topic, late in listener.latency_ms.items()
            if late
        },
        'passes': sent == received and not any(lost.values()) and overhead_ms < BAR_MS,
    }


def table(result: dict[str, Any]) -> str:
    """Write the result for people."""
    times = result['times_ms']
    lines = [
        f'{result["frame"]}, all outputs subscribed; load average {result["load_average"]:.1f}',
        '',
        f'  camera sent {result["sent"]}, node received {result["received"]}, '
        f'lost {result["input_lost"]}; processed {result["processed"]} (newest first)',
        '',
        f'  {"time, ms":28}{"median":>10}{"p95":>10}',
    ]
    for name in ('overhead', 'inference', 'waiting', 'latency'):
        median, p95 = (times.get(f'{name}_ms {kind}', float('nan')) for kind in ('median', 'p95'))
        lines.append(f'  {_MEANING[name]:28}{median:10.1f}{p95:10.1f}')
    lines += ['', f'  {"end to end, ms":28}{"median":>10}{"p95":>10}{"lost":>8}']
    for topic, lost in result['outputs_lost'].items():
        late = result['end_to_end_ms'].get(topic, {'median': float('nan'), 'p95': float('nan')})
        lines.append(f'  {topic:28}{late["median"]:10.1f}{late["p95"]:10.1f}{lost:8}')
    verdict = 'passes' if result['passes'] else 'FAILS'
    bar = f'no input lost, no output lost, node overhead under {BAR_MS:g} ms'
    return '\n'.join([*lines, '', *EXPLANATION, '', f'  {verdict}: {bar}'])


EXPLANATION = (
    '  inference      Engine.predict: to a tensor and the device, resize, network, resize to the',
    "                 picture's size, decode into depth and normals",
    '  node overhead  the rest of a frame on the worker thread: message to picture, camera,',
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


def _write_pictures(folder: Path, count: int) -> None:
    """Make links to one VGA picture, so that the camera's count of frames is known."""
    from sd_perception_ros.ros.sources import open_source

    rgb = cv2.resize(open_source('skimage').shot(1).rgb, (WIDTH, HEIGHT))
    cv2.imwrite(str(folder / 'picture.bmp'), rgb[..., ::-1])
    for index in range(1, count):
        (folder / f'{index:06}.bmp').symlink_to('picture.bmp')


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def _commit() -> str:
    with contextlib.suppress(OSError):
        command = ['git', 'rev-parse', '--short', 'HEAD']
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return ''


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--seconds', type=int, default=20, help='how long the camera sends')
    add('--checkpoint', default='bundled', help='as the parameter checkpoint')
    add('--device', default='auto', help='as the parameter device')
    add('--long-side-px', type=int, default=0, help='as the parameter long_side_px')
    add('--threads', type=int, default=0, help='as the parameter threads')
    add('--json', type=Path, help='also write the result to this file')
    return parser


if __name__ == '__main__':
    sys.exit(main())
