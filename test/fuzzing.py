"""
Property-based fuzzing of running nodes over DDS: messages, what may come of them, and the checks.

Used by test_fuzzing.py (the same examples each time) and benchmark/fuzz.py (thousands).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
import contextlib
import io
import math
from pathlib import Path
import re
from typing import Any

import cv2
from hypothesis import given, HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
import numpy as np
import PIL.Image
from ros_helpers import lens_of, Peer, picture, pixels, Process, RELIABLE, ros_arguments, running
from sensor_msgs.msg import (
    CameraInfo,
    CompressedImage,
    Image,
    LaserScan,
    PointCloud2,
    RegionOfInterest,
)
from std_msgs.msg import Header

from sd_perception_ros.ros.messages.camera_info import info_from_camera
from sd_perception_ros.ros.messages.image import image_message

TOPICS = {
    'depth/relative': Image,
    'depth/image_rect': Image,
    'depth/points': PointCloud2,
    'depth/camera_info': CameraInfo,
}
SCALE_M, SHIFT_M = 4.0, 1.0
MAX_PIXELS = 20_000
HEIGHT, WIDTH = 48, 64
# Bytes of a pixel, data as a multiple of step x height, and divisors of width and height: written
# down here again, from sensor_msgs and the kernel's pages of the YUV formats.
READABLE = {
    **dict.fromkeys(('mono8', '8UC1'), (1, 1.0, 1, 1)),
    **dict.fromkeys(('rgb8', 'bgr8', '8UC3'), (3, 1.0, 1, 1)),
    **dict.fromkeys(('rgba8', 'bgra8', '8UC4'), (4, 1.0, 1, 1)),
    'mono16': (2, 1.0, 1, 1),
    **dict.fromkeys(('rgb16', 'bgr16', '16UC3'), (6, 1.0, 1, 1)),
    **dict.fromkeys(('rgba16', 'bgra16', '16UC4'), (8, 1.0, 1, 1)),
    **{f'bayer_{p}8': (1, 1.0, 1, 1) for p in ('rggb', 'bggr', 'gbrg', 'grbg')},
    **{f'bayer_{p}16': (2, 1.0, 1, 1) for p in ('rggb', 'bggr', 'gbrg', 'grbg')},
    **dict.fromkeys(('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'), (2, 1.0, 2, 1)),
    **dict.fromkeys(('nv12', 'nv21'), (1, 1.5, 2, 2)),
    'nv24': (1, 3.0, 1, 1),
}
OTHERS = ('16UC1', '32FC1', '32FC3', '8SC1', '8UC2', '64FC4', 'rgb9', 'nv16', 'RGB8', '', 'é')
NUMBERS = (0.0, 1.0, -1.0, 4.0, 35.0, 1e-30, 1e30, math.nan, math.inf, 1000.0)


class Target:
    """A running node, and what it has answered."""

    def __init__(
        self, peer: Peer, process: Process, name: str, publishers: dict[str, Any]
    ) -> None:
        self.peer, self.process, self.name = peer, process, name
        self.seen: Counter[str] = Counter()
        self.images = 0
        self._publishers = publishers
        self._sent, self._stamp = 0, 0
        for topic, kind in TOPICS.items():
            peer.listen(self.topic(topic), kind)
        for publisher in publishers.values():
            assert peer.until(publisher.get_subscription_count)
        self._counters: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        self._warm_up()

    def topic(self, name: str) -> str:
        """Return the full name of a topic."""
        return f'/{self.name}/{name}'

    def header(self) -> Header:
        """Make a header of its own stamp and frame: no info of another example can fit."""
        self._stamp += 1
        made = Header(frame_id=f'lens{self._stamp}')
        made.stamp.sec = self._stamp
        return made

    def send(self, **messages: Any) -> dict[str, Any]:
        """
        Publish messages, the image last, and wait until the node is through with the image.

        :returns: {topic: message} of the results.
        """
        names = list(messages)
        for name in names:
            self._publishers[name].publish(messages[name])
            self.peer.spin(0.0 if name == names[-1] else 0.02)
        self._sent += 1
        self.images += 1
        before = self._counters
        for topic in TOPICS:
            self.peer.received[self.topic(topic)].clear()
        now = self._wait()
        refused = dropped(now) - dropped(before)
        done = int(now['processed']) - int(before['processed'])
        assert (refused, done) in ((1, 0), (0, 1)), f'{refused} dropped, {done} processed'
        sent = int(now['published']) - int(before['published'])
        counts = [self.peer.received[self.topic(topic)] for topic in TOPICS]
        came = self.peer.until(lambda: sum(map(len, counts)) >= sent)
        assert came, f'{sum(map(len, counts))} of {sent} results came'
        results = {topic: got[0] for topic, got in zip(TOPICS, counts, strict=True) if got}
        assert all(len(got) < 2 for got in counts)
        if refused:
            assert not results, 'results of a picture that was refused'
            assert now['last error'], 'a refusal without a reason'
            self.seen[f'refused: {kind_of(now["last error"])}'] += 1
        else:
            self.seen['processed'] += 1
        withheld = int(now.get('metric depth withheld', 0)) - int(
            before.get('metric depth withheld', 0)
        )
        if withheld:
            assert now['metric depth'] not in ('', 'good'), 'metres withheld without a reason'
            self.seen[f'no metres: {kind_of(now["metric depth"])}'] += 1
        self._counters, self.last = now, results
        return results

    def _wait(self) -> dict[str, Any]:
        def through(seen: dict[str, Any]) -> bool:
            ended = int(seen.get('processed', 0)) + dropped(seen)
            return int(seen.get('received', 0)) == self._sent == ended

        now = self.peer.counters_when(through, f'/{self.name}/perception')
        assert through(now), (
            f'message {self._sent} has no end: {now}\n{self.process.output[-2000:]}'
        )
        return now

    def _warm_up(self) -> None:
        """Send pictures until results come: publishers and subscriptions find one another."""
        header = self.header()
        first = next(n for n in self._publishers if n.startswith('image'))
        make = jpeg if first == 'image_compressed' else good_image
        for _ in range(50):
            header = self.header()
            self._publishers[first].publish(make(header))
            self._sent += 1
            if self.peer.until(lambda: self.peer.received[self.topic('depth/relative')], 0.5):
                break
        assert self.peer.received[self.topic('depth/relative')], 'the node does not answer'
        self.peer.spin(0.5)
        self._counters = self.peer.counters(f'/{self.name}/perception')
        self._sent = int(self._counters['received'])


def kind_of(reason: str) -> str:
    """Return the beginning of a reason, with N for its numbers."""
    return re.sub(r'-?\d[\d.e+]*', 'N', reason)[:70]


def dropped(counters: dict[str, Any]) -> int:
    """Count the images that were dropped, for any reason."""
    return sum(int(counters[name]) for name in counters if name.startswith('dropped'))


# ---- What is sent -------------------------------------------------------------------------------


def good_image(header: Header, seed: int = 0) -> Image:
    return image_message(picture(HEIGHT, WIDTH, seed), 'rgb8', header)


def jpeg(header: Header) -> CompressedImage:
    data = cv2.imencode('.jpg', picture(HEIGHT, WIDTH))[1].tobytes()
    return CompressedImage(header=header, format='jpeg', data=data)


@st.composite
def images(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the fields of an Image: most are good but for one of them."""
    encoding = draw(st.sampled_from([*READABLE, *OTHERS]))
    size, factor, across, down = READABLE.get(encoding, (1, 1.0, 1, 1))
    width = draw(st.integers(1, 24)) * (across if draw(st.booleans()) else 1)
    height = draw(st.integers(1, 24)) * (down if draw(st.booleans()) else 1)
    step = width * size + draw(st.sampled_from([0, 0, 0, 1, 7, 64]))
    length = math.ceil(step * height * factor)
    wrong = draw(st.sampled_from(['', '', '', 'data', 'step', 'size', 'huge']))
    if wrong == 'data':
        length = max(length + draw(st.sampled_from([-1, 1, -step, step, 100, -length])), 0)
    elif wrong == 'step':
        step = draw(st.sampled_from([0, 1, step - 1, step + 1, 2**32 - 1]))
    elif wrong == 'size':
        width, height = draw(st.sampled_from([(0, height), (width, 0), (height, width)]))
    elif wrong == 'huge':
        width, height = 2**32 - 1, draw(st.sampled_from([1, height, 2**32 - 1]))
    values = np.random.default_rng(draw(st.integers(0, 99)))
    high = draw(st.sampled_from([1, 4, 256]))
    return {
        'encoding': encoding,
        'width': width,
        'height': height,
        'step': step,
        'is_bigendian': draw(st.sampled_from([0, 1])),
        'data': values.integers(0, high, length, np.uint8).tobytes()
        if high < 256
        else (values.bytes(length)),
    }


def is_good(fields: dict[str, Any]) -> bool:
    """Return whether an Image describes its data and can be read."""
    if fields['encoding'] not in READABLE:
        return False
    size, factor, across, down = READABLE[fields['encoding']]
    width, height, step = fields['width'], fields['height'], fields['step']
    return (
        0 < width * height <= MAX_PIXELS
        and step >= width * size
        and len(fields['data']) == round(step * height * factor)
        and width % across == 0
        and height % down == 0
    )


@st.composite
def camera_infos(draw: st.DrawFn) -> dict[str, Any]:
    """Draw what is changed in a good CameraInfo: nothing, or one or two fields."""
    number = st.sampled_from(NUMBERS)
    changes: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(['k', 'p', 'r', 'd', 'size', 'roi']), max_size=2)):
        if name == 'd':
            changes['d'] = draw(st.lists(number, max_size=14))
            changes['distortion_model'] = draw(
                st.sampled_from(['', 'plumb_bob', 'none', 'equidistant', 'mystery'])
            )
        elif name == 'size':
            changes['width'] = draw(st.sampled_from([0, 1, 64, 640, 2**32 - 1]))
        elif name == 'roi':
            side = st.sampled_from([0, 1, 8, 2**32 - 1])
            changes['roi'] = RegionOfInterest(
                x_offset=draw(side), y_offset=draw(side), width=draw(side), height=draw(side)
            )
        else:
            changes[name] = draw(st.integers(0, 8)), draw(number)
    return changes


def changed_info(changes: dict[str, Any], width: int, height: int, header: Header) -> CameraInfo:
    """Make a good info of an image, and change it."""
    width, height = (min(max(size, 1), 10_000) for size in (width, height))
    info = info_from_camera(lens_of(width, height), header)
    for name, value in changes.items():
        if name in ('k', 'p', 'r'):
            getattr(info, name)[value[0]] = value[1]
        else:
            setattr(info, name, value)
    return info


@st.composite
def compressed(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a CompressedImage: a good file, often damaged, with any format."""
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    kind = draw(st.sampled_from(['JPEG', 'JPEG', 'JPEG', 'PNG', 'WebP', 'BMP', 'TIFF']))
    mode = draw(st.sampled_from(['RGB', 'L']))
    file = io.BytesIO()
    made = PIL.Image.fromarray(picture(height, width, draw(st.integers(0, 9)))).convert(mode)
    if kind == 'JPEG':
        made.save(file, kind, quality=draw(st.sampled_from([30, 80, 95])))
    else:
        made.save(file, kind)
    data = bytearray(file.getvalue())
    damage = draw(st.sampled_from(['', '', 'cut', 'ended', 'flip', 'noise', 'empty']))
    start = len(data) // 3 if draw(st.booleans()) else 0  # behind the headers, or anywhere
    at = draw(st.integers(start, len(data) - 1))
    if damage == 'cut':
        data = data[:at]
    elif damage == 'ended':
        data = data[:at] + b'\xff\xd9'
    elif damage == 'flip':
        data[at] ^= 1 << draw(st.integers(0, 7))
    elif damage == 'noise':
        data = data[:at] + draw(st.binary(min_size=1, max_size=200)) + data[at:]
    elif damage == 'empty':
        data = bytearray()
    format_ = draw(
        st.sampled_from(
            [
                kind.lower(),
                '',
                'bgr8; jpeg compressed bgr8',
                'bayer_grbg8; jpeg compressed ',
                'mono8; jpeg compressed ',
                'rgb8; jpeg compressed rgb8',
                '16UC1; png compressed ',
                '16UC1; compressedDepth png',
                'h264',
            ]
        )
    )
    return {
        'data': bytes(data),
        'format': format_,
        'size': (height, width),
        'kind': kind,
        # The last bytes may hold nothing but padding.
        'damage': 'hardly' if damage == 'ended' and at >= len(file.getvalue()) - 6 else damage,
    }


WRONG_DEPTHS = {
    'good': lambda m: m,
    'millimetres': lambda m: m * 1000,
    'whole millimetres': lambda m: np.round(m * 1000),
    'centimetres': lambda m: m * 100,
    'kilometres': lambda m: m / 1000,
    'constant': lambda m: np.full_like(m, 2.5),
    'nothing': lambda m: np.full_like(m, np.nan),
    'infinite': lambda m: np.full_like(m, np.inf),
    'upside down': lambda m: m[::-1, ::-1],
    'shuffled': lambda m: np.random.default_rng(0).permutation(m.ravel()).reshape(m.shape),
    'disparity': lambda m: 1 / m,
    'half': lambda m: m[: len(m) // 2],
    'negative': lambda m: -m,
}


# ---- What may come of it ------------------------------------------------------------------------


def check_results(
    results: dict[str, Any], header: Header, height: int, width: int, info: CameraInfo | None
) -> None:
    """Check that results are of the picture's header and size, and of the camera's geometry."""
    relative = results['depth/relative']
    for message in results.values():
        assert message.header == header
    assert (relative.height, relative.width, relative.encoding) == (height, width, '32FC1')
    assert relative.step * relative.height == len(relative.data)
    values = pixels(relative)
    assert ((values >= 0) & (values <= 1)).all()
    metric = results.get('depth/image_rect')
    if metric is not None:
        assert (metric.height, metric.width, metric.encoding) == (height, width, '32FC1')
        depth_m = pixels(metric)
        finite = np.isfinite(depth_m)
        assert ((depth_m[finite] >= 0) & (depth_m[finite] <= 100)).all()
    cloud, told = results.get('depth/points'), results.get('depth/camera_info')
    assert (cloud is None) == (told is None)
    if cloud is None or told is None:
        return
    assert info is not None, 'points without a camera_info'
    assert metric is not None
    check_geometry(cloud, told, info, height, width)


def check_geometry(
    cloud: PointCloud2, told: CameraInfo, info: CameraInfo, height: int, width: int
) -> None:
    """Check points and published intrinsics against K, binning and region of the input."""
    assert (cloud.height, cloud.width, told.height, told.width) == (height, width) * 2
    fx, fy, cx, cy = info.k[0], info.k[4], info.k[2], info.k[5]
    assert np.isfinite([fx, fy, cx, cy]).all()
    assert 0.1 <= fx / info.width <= 50
    assert 0.1 <= fy / info.height <= 50
    roi = info.roi
    assert roi.x_offset + (roi.width or info.width) <= info.width
    assert roi.y_offset + (roi.height or info.height) <= info.height
    cx, cy = cx - roi.x_offset, cy - roi.y_offset
    np.testing.assert_allclose(told.k, [fx, 0, cx, 0, fy, cy, 0, 0, 1], rtol=1e-6)
    points = np.frombuffer(cloud.data, np.float32).reshape(height, width, -1)
    rows, columns = np.nonzero(np.isfinite(points[..., 2]))
    x, y, z = points[rows, columns, :3].T
    np.testing.assert_allclose(x / z * fx + cx, columns, atol=0.02)
    np.testing.assert_allclose(y / z * fy + cy, rows, atol=0.02)


class Fuzzer:
    """Four nodes: raw and compressed pictures, and metres from a depth image and from a scan."""

    def __init__(self, peer: Peer, processes: dict[str, Process]) -> None:
        kinds = {
            'image': (Image, 'image_raw'),
            'image_compressed': (CompressedImage, 'image_raw/compressed'),
            'info': (CameraInfo, 'camera_info'),
            'depth': (Image, 'reference/depth'),
            'scan': (LaserScan, 'reference/scan'),
        }
        uses = {
            'raw': ('info', 'image'),
            'jpeg': ('info', 'image_compressed'),
            'depth': ('info', 'depth', 'image'),
            'scan': ('info', 'scan', 'image'),
        }
        self.targets = {
            name: Target(
                peer,
                process,
                name,
                {
                    use: peer.node.create_publisher(
                        kinds[use][0], f'/{name}/{kinds[use][1]}', RELIABLE
                    )
                    for use in uses[name]
                },
            )
            for name, process in processes.items()
        }
        self._relative_of: dict[int, np.ndarray] = {}

    def image(self, fields: dict[str, Any], changes: dict[str, Any]) -> None:
        """Send an Image and its CameraInfo, both with anything in them."""
        target = self.targets['raw']
        header = target.header()
        info = changed_info(changes, fields['width'], fields['height'], header)
        message = Image(header=header, **fields)
        results = target.send(info=info, image=message)
        assert bool(results) == is_good(fields), (
            f'{"accepted" if results else "refused"}: {short(fields)}'
        )
        if results:
            check_results(results, header, fields['height'], fields['width'], info)

    def jpeg(self, fields: dict[str, Any]) -> None:
        """Send a CompressedImage with damage."""
        target, (height, width) = self.targets['jpeg'], fields['size']
        header = target.header()
        info = changed_info({}, width, height, header)
        message = CompressedImage(header=header, format=fields['format'], data=fields['data'])
        results = target.send(info=info, image_compressed=message)
        depth = fields['format'].startswith('16UC1')
        if not fields['damage']:
            assert bool(results) == (not depth), short(fields)
        if fields['kind'] in ('JPEG', 'PNG') and fields['damage'] in ('cut', 'ended', 'empty'):
            complete = fields['kind'] == 'PNG' and fields['damage'] == 'ended'
            assert not results or complete, f'accepted: {short(fields)}'
        if results:
            with contextlib.suppress(OSError, SyntaxError):
                width, height = PIL.Image.open(io.BytesIO(fields['data'])).size
            check_results(results, header, height, width, info)

    def depth(self, kind: str, change: dict[str, Any], seed: int) -> None:
        """Send a depth image in any unit, form and view: metres are right or do not come."""
        target = self.targets['depth']
        header = target.header()
        relative = self._relative(target, seed)
        truth_m = SCALE_M * relative + SHIFT_M
        noise = np.random.default_rng(target.header().stamp.sec)
        reference_m = WRONG_DEPTHS[kind](truth_m * noise.normal(1, 0.003, truth_m.shape))
        message = image_message(np.float32(reference_m), '32FC1', header)
        if change.get('encoding') == '16UC1':
            with np.errstate(invalid='ignore'):
                values = np.nan_to_num(reference_m * 1000, posinf=0).clip(0, 65535)
            message = image_message(values.astype(np.uint16), '16UC1', header)
            change = {}
        for name, value in change.items():
            setattr(message, name, value)
        info = changed_info({}, WIDTH, HEIGHT, header)
        results = target.send(info=info, depth=message, image=good_image(header, seed))
        check_results(results, header, HEIGHT, WIDTH, info)
        check_metres(results, truth_m, f'{kind} {change}')

    def scan(self, change: dict[str, Any], factor: float, seed: int) -> None:
        """Send a laser scan with anything in its fields: metres are right or do not come."""
        target = self.targets['scan']
        header = target.header()
        relative = self._relative(target, seed)
        truth_m = SCALE_M * relative + SHIFT_M
        lens = lens_of(WIDTH, HEIGHT)
        angles = np.linspace(-0.7, 0.7, 90)
        columns = np.round(lens.cx - lens.fx * np.tan(angles)).astype(int).clip(0, WIDTH - 1)
        ranges = truth_m[round(lens.cy), columns] / np.cos(angles) * factor
        noise = np.random.default_rng(header.stamp.sec).normal(1, 0.003, len(ranges))
        scan = LaserScan(header=header, angle_min=-0.7, angle_max=0.7, range_max=30.0)
        scan.angle_increment = 1.4 / 89
        scan.ranges = (ranges * noise).tolist()
        for name, value in change.items():
            setattr(scan, name, value)
        info = changed_info({}, WIDTH, HEIGHT, header)
        results = target.send(info=info, scan=scan, image=good_image(header, seed))
        check_results(results, header, HEIGHT, WIDTH, info)
        check_metres(results, truth_m, f'scan times {factor} {change}')

    def metres(self, name: str) -> bool:
        """Return whether the last picture of a node had metres."""
        return bool(self.targets[name].last.get('depth/image_rect'))

    def _relative(self, target: Target, seed: int) -> np.ndarray:
        """Ask a node for the relative depth of a picture, once."""
        if seed not in self._relative_of:
            results = target.send(image=good_image(target.header(), seed))
            self._relative_of[seed] = pixels(results['depth/relative'])
        return self._relative_of[seed]


def check_metres(results: dict[str, Any], truth_m: np.ndarray, what: str) -> None:
    """Check that metres are near the truth, if there are any."""
    metric = results.get('depth/image_rect')
    if metric is None:
        return
    depth_m = pixels(metric)
    finite = np.isfinite(depth_m)
    assert finite.any(), f'metres without a single distance: {what}'
    error = np.median(np.abs(depth_m[finite] / truth_m[finite] - 1))
    assert error < 0.25, f'metres are wrong by {error:.0%}: {what}'


def short(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields for an error text, with the number of bytes instead of the data."""
    return fields | {'data': f'{len(fields["data"])} bytes'}


# What each method of `Fuzzer` draws.
DRAWN: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    'image': {'fields': images(), 'changes': camera_infos()},
    'jpeg': {'fields': compressed()},
    'depth': {
        'kind': st.sampled_from(sorted(WRONG_DEPTHS)),
        'change': st.sampled_from(
            [{}, {}, {}, {'encoding': '16UC1'}, {'step': 1}, {'width': 63}, {'data': b''}]
        ),
        'seed': st.integers(0, 2),
    },
    'scan': {
        'change': st.dictionaries(
            st.sampled_from(
                ['angle_min', 'angle_max', 'angle_increment', 'range_min', 'range_max']
            ),
            st.sampled_from([0.0, 1.0, -1.0, 57.3, 1e30, math.nan, math.inf]),
            max_size=2,
        ),
        'factor': st.sampled_from([1.0, 1.0, 100.0, 1000.0, 0.001]),
        'seed': st.integers(0, 2),
    },
}


def fuzz(fuzzer: Fuzzer, name: str, count: int, number: int | None = None) -> None:
    """
    Send drawn messages and check what comes of them.

    :param name: key of `DRAWN`, a method of `Fuzzer`.
    :param number: seed; None: the same examples each time.
    """

    def check(**drawn: Any) -> None:
        getattr(fuzzer, name)(**drawn)

    options = settings(
        deadline=None,
        derandomize=number is None,
        max_examples=count,
        # No search for a smaller example: each is a message over DDS.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    drawing = options(given(**DRAWN[name])(check))
    (drawing if number is None else seed(number)(drawing))()


@contextlib.contextmanager
def fuzzed_nodes(folder: Path, checkpoint: Path) -> Iterator[Fuzzer]:
    """Run the nodes for the time of a block; all must be alive at its end."""
    options: dict[str, Any] = {
        'checkpoint': checkpoint,
        'device': 'cpu',
        'threads': 1,
        'diagnostics_rate_hz': 50.0,
        'max_pixels': MAX_PIXELS,
        'drop_duplicate_stamps': False,
        'depth__scale__source': 'fixed',
        'depth__scale__scale_m': SCALE_M,
        'depth__scale__shift_m': SHIFT_M,
    }
    others = {
        'raw': {},
        'jpeg': {'image_transport': 'compressed'},
        'depth': {'depth__scale__source': 'depth'},
        'scan': {'depth__scale__source': 'scan'},
    }
    with contextlib.ExitStack() as stack:
        processes = {
            name: stack.enter_context(
                running(
                    folder / name,
                    'perception',
                    *ros_arguments(**options | other),
                    '-r',
                    f'__ns:=/{name}',
                )
            )
            for name, other in others.items()
        }
        for name, process in processes.items():
            process.wait_for_output(f'subscribed to /{name}/image_raw')
        peer = Peer('fuzzer')
        try:
            fuzzer = Fuzzer(peer, processes)
            yield fuzzer
        finally:
            peer.close()
        for process in processes.values():
            assert process.process.poll() is None, f'a node ended:\n{process.output[-2000:]}'
            assert process.end() == 0
            assert 'Traceback' not in process.output
