"""Metric depth of the node: it follows a reference, or stops with a diagnostic."""

from __future__ import annotations

from collections.abc import Iterator
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from geometry_msgs.msg import TransformStamped
import numpy as np
import pytest
from ros_helpers import (
    answer_of,
    connect,
    FakeCamera,
    Peer,
    picture,
    pixels,
    Process,
    RELIABLE,
    results_of,
    serving,
)
from sensor_msgs.msg import CameraInfo, Image, LaserScan
from std_msgs.msg import Header

from sd_perception_ros.config import build
from sd_perception_ros.engine import Engine
from sd_perception_ros.geometry.pinhole import resize_camera
from sd_perception_ros.metric_depth.estimator import (
    depth_task,
    MetricDepth,
    MetricDepthEstimator,
    missing_tasks,
)
from sd_perception_ros.metric_depth.options import ScaleOptions
from sd_perception_ros.ros.frame import CameraFrame
from sd_perception_ros.ros.input import transforms
from sd_perception_ros.ros.input.reference import ReferenceInput
from sd_perception_ros.ros.input.transforms import Transforms
from sd_perception_ros.ros.messages.camera_info import info_from_camera, lens_from_info
from sd_perception_ros.ros.messages.image import image_message, millimetres
from sd_perception_ros.ros.options import OutputOptions
from sd_perception_ros.ros.output.results import FrameResult, metric_depth_image
from sd_perception_ros.skeleton import INDEX
from sd_perception_ros.tasks import make_task
from sd_perception_ros.types import (
    Camera,
    DepthMap,
    DisparityMap,
    LabelMap,
    NormalMap,
    Person,
    Poses,
)

# Non-square pixels, and a principal point off the centre.
CAMERA = Camera(fx=40.0, fy=32.0, cx=29.0, cy=22.0, width=64, height=48)


# ---- A real node --------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def node(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Process]:
    with serving(
        tmp_path_factory.mktemp('node') / 'log',
        checkpoint=tiny_checkpoint,
        device='cpu',
        diagnostics_rate_hz=10.0,
        depth__scale__source='depth',
        rectify=True,
    ) as process:
        yield process


class Rig:
    """A camera and a depth sensor, registered to it."""

    def __init__(self, peer: Peer) -> None:
        self.peer, self.camera = peer, FakeCamera(peer)
        self.depth = peer.node.create_publisher(Image, '/reference/depth', RELIABLE)
        self.infos = peer.node.create_publisher(CameraInfo, '/reference/camera_info', RELIABLE)
        connect(peer, self.camera)
        for publisher in (self.depth, self.infos):
            assert peer.until(publisher.get_subscription_count)
        for topic, kind in (('/depth/image_rect', Image), ('/depth/relative', Image)):
            peer.listen(topic, kind)
        peer.spin(0.3)

    def relative(self, rgb: np.ndarray) -> np.ndarray:
        """Return the relative depth of an image from the node."""
        return pixels(answer_of(Image, self.peer, self.camera, '/depth/relative', rgb)[1])

    def distorted_info(self, image: Image) -> CameraInfo:
        """Make the info of a distorting lens, with another focal length after rectification."""
        info = info_from_camera(CAMERA, image.header)
        info.d = [-0.3, 0.1, 0.0, 0.0, 0.0]
        info.p = [28.0, 0.0, 31.0, 0.0, 0.0, 26.0, 24.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        return info

    def send_frame(self, rgb: np.ndarray, depth_m: np.ndarray, **header: Any) -> tuple[Any, Any]:
        """Send depth and image with one stamp; return relative and metric depth, None: none."""
        for got in self.peer.received.values():
            got.clear()
        image = self.camera.image(rgb)
        stamp = header.get('stamp', image.header.stamp)
        reference = Header(frame_id=header.get('frame_id', 'lens'), stamp=stamp)
        self.depth.publish(image_message(depth_m.astype(np.float32), '32FC1', reference))
        self.camera.infos.publish(info_from_camera(CAMERA, image.header))
        self.peer.spin(0.3)
        self.camera.images.publish(image)
        relative = self.peer.result('/depth/relative', image)
        self.peer.until(lambda: self.peer.with_stamp('/depth/image_rect', image), 0.7)
        return relative, self.peer.with_stamp('/depth/image_rect', image)

    def metres(self, rgb: np.ndarray, depth_m: np.ndarray) -> Image:
        """Send frames until metric depth arrives: an image may overtake its reference."""
        for _ in range(20):
            if (metric := self.send_frame(rgb, depth_m)[1]) is not None:
                return metric
        raise AssertionError('no metres')

    def problem(self, words: str, rgb: np.ndarray, depth_m: np.ndarray, **header: Any) -> dict:
        """Send frames until a diagnostic has these words; return the last diagnostic."""
        for _ in range(20):
            assert self.send_frame(rgb, depth_m, **header)[1] is None
            if words in (counters := self.peer.counters()).get('metric depth', ''):
                break
        return counters


@pytest.fixture
def rig(peer: Peer) -> Rig:
    return Rig(peer)


def test_metric_depth_follows_the_reference(rig, peer):
    rgb = picture()
    depth_m = 4 * rig.relative(rgb) + 1
    sparse = np.where(np.random.default_rng(0).random(depth_m.shape) < 0.2, depth_m, np.nan)
    found = pixels(rig.metres(rgb, sparse))
    inside = np.isfinite(found)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(found[inside], depth_m[inside], rtol=0.02)
    counters = peer.counters_when(lambda seen: 'references: inliers' in seen)
    assert counters['metric depth source'] == 'depth'
    assert float(counters['references: inliers']) > 0.95


def test_an_image_is_rectified_and_depth_has_the_rectified_camera_info(rig, peer, tiny_checkpoint):
    rgb = picture(seed=4)
    info = rig.distorted_info(rig.camera.image(rgb))
    straight = lens_from_info(info, 64, 48).rectify(rgb)
    engine = Engine.load(str(tiny_checkpoint), device='cpu')
    expected = engine.predict([straight], ['depth'])[0]['depth'].values

    def send() -> Image:
        image = rig.camera.image(rgb)
        depth_m = (4 * expected + 1).astype(np.float32)
        rig.depth.publish(image_message(depth_m, '32FC1', image.header))
        rig.camera.infos.publish(rig.distorted_info(image))
        peer.spin(0.3)
        rig.camera.images.publish(image)
        return image

    topics = {'/depth/relative': Image, '/depth/camera_info': CameraInfo}
    for _ in range(20):  # an image that overtakes its info is matched with the previous info
        image, (relative, published) = results_of(peer, send, topics)
        if published.k[0] == 28:
            break
    np.testing.assert_allclose(pixels(relative), expected, atol=1e-3)
    assert (published.header, list(published.d)) == (image.header, [0.0] * 5)
    assert published.k.tolist() == [28.0, 0.0, 31.0, 0.0, 26.0, 24.0, 0.0, 0.0, 1.0]
    assert published.p.tolist() == info.p.tolist()


WRONG = {
    'wrong size': (
        lambda depth_m, rgb: (depth_m[:24], {}),
        '64 x 24 pixels and the image 64 x 48',
    ),
    'wrong stamp': (
        lambda depth_m, rgb: (depth_m, {'stamp': Header().stamp}),
        'the stamps of the image and of the nearest message',
    ),
    'another camera': (
        lambda depth_m, rgb: (depth_m, {'frame_id': 'other'}),
        "is in frame 'other' and the image in 'lens'",
    ),
    'nothing known': (
        lambda depth_m, rgb: (np.full_like(depth_m, np.nan), {}),
        '0 references, at least 40 are needed',
    ),
    'all equal': (
        lambda depth_m, rgb: (np.full_like(depth_m, 3.0), {}),
        'values of /reference/depth are 3 m: it measures nothing',
    ),
    'whole millimetres': (
        lambda depth_m, rgb: (np.round(depth_m * 1000), {}),
        'they are probably millimetres',
    ),
    'fractions of millimetres': (
        lambda depth_m, rgb: (depth_m * 1000, {}),
        '100% of the depths of /reference/depth lie outside depth.min_range_m 0 and '
        'depth.max_range_m 100',
    ),
    'centimetres': (
        lambda depth_m, rgb: (depth_m * 100, {}),
        'lie outside depth.min_range_m 0 and depth.max_range_m 100',
    ),
    'kilometres': (
        lambda depth_m, rgb: (depth_m / 1000, {}),
        'm: 32FC1 is in metres (REP 118); the sensor sends another unit',
    ),
    'another scene': (
        lambda depth_m, rgb: (
            np.random.default_rng(0).permutation(depth_m.ravel()).reshape(48, 64),
            {},
        ),
        'the references',
    ),
}


@pytest.mark.parametrize('kind', WRONG)
def test_a_wrong_reference_stops_only_metric_depth(rig, kind):
    make, words = WRONG[kind]
    rgb = picture(seed=1)
    depth_m = 4 * rig.relative(rgb) + 1
    wrong, header = make(depth_m, rgb)
    counters = rig.problem(words, rgb, wrong, **header)
    assert words in counters['metric depth']
    assert int(counters['metric depth withheld']) > 0
    assert rig.metres(rgb, depth_m)


def test_a_frozen_reference_stops_metric_depth_when_the_image_changes(rig):
    rgb = picture(seed=2)
    depth_m = 4 * rig.relative(rgb) + 1
    assert rig.metres(rgb, depth_m)
    assert rig.metres(rgb, depth_m)
    moved = np.roll(rgb, 9, axis=1)
    words = 'repeats the same data while the camera image changes'
    assert words in rig.problem(words, moved, depth_m)['metric depth']


# ---- Sources, without a process -----------------------------------------------------------------


@pytest.fixture
def lone_peer() -> Iterator[Peer]:
    made = Peer('lone')
    yield made
    made.close()


def header(seconds: int = 5, frame_id: str = 'lens') -> Header:
    made = Header(frame_id=frame_id)
    made.stamp.sec = seconds
    return made


def relative_map() -> np.ndarray:
    rows = np.linspace(0.9, 0.1, 48)[:, None] + np.linspace(0, 0.05, 64)[None]
    return rows.astype(np.float32)


def metric(options: dict[str, Any], relative: np.ndarray, **others: Any) -> MetricDepth:
    """Compute the metric depth of one frame."""
    scale = build(ScaleOptions, options)
    task = 'disparity' if scale.from_task == 'disparity' else 'depth'
    kind = DisparityMap if task == 'disparity' else DepthMap
    predictions = {task: kind(relative), **others}
    names = make_task('segmentation').class_names
    return MetricDepthEstimator(scale, predictions, names).update(predictions, CAMERA, 5.0)


def test_disparity_is_scaled_as_one_over_depth():
    fixed = {'source': 'fixed', 'from_task': 'disparity', 'scale_m': 0.5, 'shift_m': 0.25}
    made = metric(fixed, np.full((48, 64), 0.5, np.float32))
    np.testing.assert_allclose(made.depth_m, 2.0)


def test_the_ground_gives_metric_depth_and_needs_normals():
    """The floor is 1 m below a camera that looks straight ahead; depth is 4 * relative + 1."""
    v = (np.arange(48) - CAMERA.cy) / CAMERA.fy
    depth_m = np.where(v > 0.22, 1 / np.maximum(v, 0.22), 1 / 0.22)[:, None] + np.zeros(64)
    relative = ((depth_m - 1) / 4).astype(np.float32)
    normals = np.zeros((48, 64, 3), np.float32)
    normals[v > 0.22] = (0, -1, 0)
    normals[v <= 0.22] = (0, 0, -1)
    ground = {'source': 'ground', 'camera_height_m': 1.0}
    made = metric(ground, relative, normals=NormalMap(normals)).depth_m
    inside = np.isfinite(made)
    assert inside.mean() > 0.9
    np.testing.assert_allclose(made[inside], depth_m[inside], rtol=0.01)
    options = build(ScaleOptions, ground)
    assert depth_task(options, ['depth']) == ''
    assert "source 'ground' needs the task normals, which" in missing_tasks(options, ['depth'])
    assert 'normals and depth or disparity' in missing_tasks(options, ['human_pose'])
    assert missing_tasks(options, ['disparity', 'normals']) == ''
    assert missing_tasks(build(ScaleOptions, {}), ['human_pose']) == ''
    assert depth_task(options, ['depth', 'normals']) == 'depth'
    every = ('depth', 'disparity', 'normals', 'segmentation', 'matting')
    assert MetricDepthEstimator(options, every).tasks == {'depth', 'normals', 'segmentation'}


def test_a_table_that_is_detected_as_ground_gives_no_metric_depth():
    """
    Left: a table 0.4 m below the camera; right: the floor 1 m below it.

    The segmentation labels the table as floor: with a camera height of 1 m, the table would be
    2.5 times too far away, and the true floor, a third of the image, clearly below it.
    """
    v = (np.arange(48) - CAMERA.cy) / CAMERA.fy
    low = np.broadcast_to(v[:, None] > 0.22, (48, 64))
    is_table = low & (np.arange(64) < 40)
    depth_m = np.where(is_table, 0.4, 1.0) / np.maximum(v, 0.22)[:, None]
    relative = ((depth_m - 0.2) / 6).astype(np.float32)
    normals = np.where(low[..., None], (0, -1, 0), (0, 0, -1)).astype(np.float32)
    names = make_task('segmentation').class_names
    ground = {'source': 'ground', 'camera_height_m': 1.0}

    def made(floor: np.ndarray) -> np.ndarray | None:
        labels = np.where(floor, names.index('floor'), names.index('wall')).astype(np.uint8)
        sure = np.ones((48, 64), np.float32)
        others = {'normals': NormalMap(normals), 'segmentation': LabelMap(labels, sure)}
        return metric(ground, relative, **others).depth_m

    assert made(is_table) is None
    right = made(low & ~is_table)
    inside = np.isfinite(right)
    assert inside.mean() > 0.9
    np.testing.assert_allclose(right[inside], depth_m[inside], rtol=0.01)


def test_a_person_gives_metric_depth():
    """80 px from eyes to ankles are farther than by the initial scale: all depth is multiplied."""
    joints = np.full((17, 3), np.nan, np.float32)
    for name, u, v in (
        ('left_eye', 33, 4),
        ('right_eye', 31, 4),
        ('left_ankle', 33, 40),
        ('right_ankle', 31, 40),
    ):
        joints[INDEX[name]] = u, v, 0.9
    poses = Poses((Person(joints, np.isfinite(joints[:, 0]), 0.9),), 48, 64)
    person = {'source': 'person', 'scale_m': 2.0, 'shift_m': 1.0}
    made = metric(person, np.full((48, 64), 0.5, np.float32), human_pose=poses)
    np.testing.assert_allclose(made.depth_m, 32 * 0.897 * 1.7 / 36, rtol=1e-5)
    assert metric(person, relative_map(), human_pose=Poses((), 48, 64)).depth_m is None


def test_millimetres_are_integers_and_zero_where_unknown():
    depth_m = np.array([[1.2345, np.nan, np.inf, -np.inf, 70.0]], np.float32)
    assert millimetres(depth_m).tolist() == [[1234, 0, 0, 0, 0]]
    options = build(OutputOptions, {'depth': {'encoding': '16UC1'}})
    wall_m = np.full((48, 64), 1.0, np.float32)
    result = FrameResult(CameraFrame(header(), picture(), CAMERA), {}, {}, options, wall_m)
    image = metric_depth_image(result, 'depth')
    assert (image.encoding, image.step, image.header) == ('16UC1', 128, header())
    assert set(np.frombuffer(image.data, np.uint16)) == {1000}


def received(
    peer: Peer, options: dict[str, Any], *messages: tuple[type, str, Any]
) -> ReferenceInput:
    """Return a reference input that has received messages over DDS."""
    listener = ReferenceInput(peer.node, build(ScaleOptions, options), Transforms(peer.node))
    for kind, topic, message in messages:
        peer.listen(topic, kind)
        publisher = peer.node.create_publisher(kind, topic, RELIABLE)
        assert peer.until(lambda p=publisher: p.get_subscription_count() >= 2)
        publisher.publish(message)
        assert peer.next(topic)  # the listener has it at the same time, or soon after
    peer.spin(0.3)
    return listener


def test_a_depth_image_of_another_size_needs_its_camera_info(lone_peer):
    """Half the size of the same view: every pixel maps to its place in the image."""
    half = resize_camera(CAMERA, 32, 24)
    depth_m = np.full((24, 32), 3.0, np.float32)
    depth_m[0, 0] = 4.0  # a sensor that measures has no equal values
    depth = image_message(depth_m, '32FC1', header())
    info = info_from_camera(half, header())
    listener = received(
        lone_peer,
        {'source': 'depth'},
        (CameraInfo, '/reference/camera_info', info),
        (Image, '/reference/depth', depth),
    )
    measurement = listener.find(CameraFrame(header(), picture(), CAMERA))
    assert len(measurement.references) > 0.9 * 24 * 32
    assert set(measurement.references.depth_m.tolist()) <= {3.0, 4.0}
    with pytest.raises(ValueError, match='32 x 24 pixels and the image 64 x 48'):
        listener.find(CameraFrame(header(), picture(), None))


def test_a_scan_is_projected_by_its_mounting(lone_peer):
    """0.5 m below the camera, a wall 2 m ahead: 0.5 / 2 * 32 = 8 px below the centre."""
    scan = LaserScan(header=header(frame_id='laser'), angle_min=-0.3, angle_increment=0.01)
    scan.range_min, scan.range_max = 0.1, 10.0
    angles = -0.3 + 0.01 * np.arange(61)
    scan.ranges = [*(2 / np.cos(angles[:60])).tolist(), 11.0]
    listener = received(
        lone_peer,
        {'source': 'scan', 'scan_mounting': {'z_m': -0.5}},
        (LaserScan, '/reference/scan', scan),
    )
    references = listener.find(CameraFrame(header(), picture(), CAMERA)).references
    assert set(references.rows.tolist()) == {30}
    np.testing.assert_allclose(references.depth_m, 2.0, rtol=1e-4)
    assert len(references) == 60
    with pytest.raises(ValueError, match='needs the camera_info'):
        listener.find(CameraFrame(header(), picture(), None))


def test_missing_messages_and_messages_of_another_time_are_reported(lone_peer):
    listener = received(lone_peer, {'source': 'depth'})
    with pytest.raises(ValueError, match='no message was received on /reference/depth'):
        listener.find(CameraFrame(header(), picture(), CAMERA))
    depth = image_message(relative_map() + 1, '32FC1', header())
    listener = received(lone_peer, {'source': 'depth'}, (Image, '/reference/depth', depth))
    listener.find(CameraFrame(header(5), picture(), CAMERA))
    with pytest.raises(
        ValueError,
        match=r'differ by 1.000 s, more than .*max_offset_s = 0.05',
    ):
        listener.find(CameraFrame(header(6), picture(), CAMERA))
    listener.reset()
    with pytest.raises(ValueError, match='no message was received'):
        listener.find(CameraFrame(header(5), picture(), CAMERA))


# ---- Transforms ---------------------------------------------------------------------------------


class KnownTransform:
    """Replaces the buffer of tf2, for which there is no wheel."""

    def __init__(self, **options: Any) -> None:
        self.found = TransformStamped()
        self.found.transform.translation.x = 1.0
        self.found.transform.rotation.z = self.found.transform.rotation.w = math.sqrt(0.5)

    def lookup_transform(self, target: str, source: str, time: Any) -> TransformStamped:
        if source != 'lens':
            raise LookupError(f'no frame {source}')
        return self.found


@pytest.fixture
def with_tf(monkeypatch: pytest.MonkeyPatch) -> Transforms:
    monkeypatch.setattr(transforms, 'Buffer', KnownTransform, raising=False)
    monkeypatch.setattr(transforms, 'TransformListener', lambda *_: None, raising=False)
    monkeypatch.setattr(transforms, 'TransformException', LookupError, raising=False)
    monkeypatch.setattr(transforms, 'Time', SimpleNamespace(from_msg=lambda s: s), raising=False)
    monkeypatch.setattr(Transforms, 'has_tf', True)
    return Transforms(None)


def test_a_transform_of_tf2_has_rotation_and_translation(with_tf):
    """A quarter turn to the left, then 1 m forward."""
    place = with_tf.lookup('base_link', header())
    np.testing.assert_allclose(place.apply(np.array([[2.0, 0.0, 0.5]])), [[1, 2, 0.5]], atol=1e-9)
    same = with_tf.lookup('lens', header())
    assert same.apply(np.array([[2.0, 0.0, 0.5]])).tolist() == [[2.0, 0.0, 0.5]]


def test_a_missing_transform_is_reported(with_tf):
    with pytest.raises(ValueError, match="no transform from 'other' to 'base_link'"):
        with_tf.lookup('base_link', header(frame_id='other'))
