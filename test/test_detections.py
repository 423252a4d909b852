"""People from a detector or from our own segmentation, read in crops: messages and real nodes."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from models import save_sdpose, save_tiny
import numpy as np
import pytest
from ros_helpers import connect, FakeCamera, Peer, picture, Process, results_of, serving
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header, String
from visualization_msgs.msg import Marker

from sd_perception_ros.drawing import draw_people
from sd_perception_ros.engine import Engine
from sd_perception_ros.people.boxes import Box
from sd_perception_ros.people.options import TopDownOptions
from sd_perception_ros.ros.input.pairing import PendingImages, StampedMessages
from sd_perception_ros.ros.messages.detections import (
    boxes_of_detections,
    DETECTIONS,
    read_detections,
)
from sd_perception_ros.ros.messages.people import markers_message, POINT
from sd_perception_ros.skeleton import WHOLE_BODY
from sd_perception_ros.types import Person, Poses

needs_text = pytest.mark.skipif(DETECTIONS is not String, reason='vision_msgs is installed')


def detection(
    x: float, y: float, width: float, height: float, *classes: tuple[str, float]
) -> dict[str, Any]:
    """Return a vision_msgs/Detection2D around (x, y) as a dictionary."""
    results = [{'hypothesis': {'class_id': name, 'score': score}} for name, score in classes]
    center = {'position': {'x': x, 'y': y}, 'theta': 0.0}
    return {'results': results, 'bbox': {'center': center, 'size_x': width, 'size_y': height}}


def message(header: Header, *detections: dict[str, Any]) -> Any:
    """Return the message of the topic, of either type."""
    stamp = {'sec': header.stamp.sec, 'nanosec': header.stamp.nanosec}
    values = {
        'header': {'stamp': stamp, 'frame_id': header.frame_id},
        'detections': list(detections),
    }
    if DETECTIONS is String:
        return String(data=json.dumps(values))
    from vision_msgs.msg import Detection2D, ObjectHypothesisWithPose

    made = DETECTIONS(header=header)
    for found in detections:
        box = Detection2D()
        box.bbox.size_x = float(found['bbox']['size_x'])
        box.bbox.size_y = float(found['bbox']['size_y'])
        box.bbox.center.position.x = float(found['bbox']['center']['position']['x'])
        box.bbox.center.position.y = float(found['bbox']['center']['position']['y'])
        for result in found['results']:
            hypothesis = ObjectHypothesisWithPose()
            hypothesis.hypothesis.class_id = result['hypothesis']['class_id']
            hypothesis.hypothesis.score = result['hypothesis']['score']
            box.results.append(hypothesis)
        made.detections.append(box)
    return made


def test_boxes_are_those_of_people_above_the_minimum_score() -> None:
    header = Header(frame_id='lens')
    header.stamp.sec, header.stamp.nanosec = 3, 4
    sent = message(
        header,
        detection(30, 40, 20, 50, ('person', 0.9)),
        detection(30, 40, 20, 50, ('chair', 0.9)),
        detection(10, 10, 4, 4, ('person', 0.2)),
        detection(10, 10, 4, 4, ('chair', 0.5), ('person', 0.4)),
        detection(50, 50, 8, 8),
        detection(50, 50, 0, 8, ('person', 0.9)),
        detection(float('inf'), 50, 8, 8, ('person', 0.9)),
    )
    own, detections = read_detections(sent)
    assert own == header
    assert boxes_of_detections(detections, ['person'], 0.3) == [
        Box(20, 15, 20, 50, 0.9),
        Box(8, 8, 4, 4, 0.4),
        Box(46, 46, 8, 8, 1.0),
    ]
    assert boxes_of_detections(detections, ['0'], 0.3) == [Box(46, 46, 8, 8, 1.0)]


def test_the_message_of_vision_msgs_is_read_by_its_fields() -> None:
    """As the type has them: header, results[].hypothesis, bbox.center.position, size_x, size_y."""
    position = SimpleNamespace(x=30.0, y=40.0)
    found = SimpleNamespace(
        results=[SimpleNamespace(hypothesis=SimpleNamespace(class_id='person', score=0.75))],
        bbox=SimpleNamespace(
            center=SimpleNamespace(position=position, theta=0.0), size_x=20.0, size_y=50.0
        ),
    )
    header, detections = read_detections(
        SimpleNamespace(header=Header(frame_id='lens'), detections=[found])
    )
    assert header.frame_id == 'lens'
    assert boxes_of_detections(detections, ['person'], 0.3) == [Box(20, 15, 20, 50, 0.75)]


@needs_text
@pytest.mark.parametrize('text', ['', '{}', '[]', '{"header": 3, "detections": []}', 'null'])
def test_a_text_that_is_no_detection_message_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match='expected JSON with the fields of vision_msgs'):
        read_detections(String(data=text))


def test_the_nearest_message_is_used_if_it_is_near_enough() -> None:
    messages: StampedMessages[str] = StampedMessages('/topic', 'max_offset_s', 0.2)
    with pytest.raises(ValueError, match='no message was received on /topic'):
        messages.nearest(0)
    messages.add(1_000_000_000, 'early')
    messages.add(1_300_000_000, 'late')
    assert messages.nearest(1_140_000_000) == 'early'
    assert messages.nearest(1_160_000_000) == 'late'
    with pytest.raises(ValueError, match=r'differ by 0\.300 s, more than'):
        messages.nearest(1_600_000_000)


@given(
    images=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=40),
    messages=st.lists(st.tuples(st.none() | st.integers(0, 9), st.integers(0, 20)), max_size=9),
)
def test_images_that_wait_leave_once_in_their_order_and_in_time(
    images: list[tuple[int, int]], messages: list[tuple[int | None, int]]
) -> None:
    pending: PendingImages[int] = PendingImages(max_wait_ns=5)
    arrivals = sorted(arrival for _, arrival in images)
    stamps = [stamp for stamp, _ in images]
    for number, (stamp, arrival) in enumerate(zip(stamps, arrivals, strict=True)):
        pending.add(stamp, arrival, number)
    left: list[int] = []
    for stamp, now in messages:
        left += pending.take(stamp, now)
        waiting = range(len(left), len(images))
        assert len(pending) == len(waiting) <= 30
        for number in waiting:
            assert now - arrivals[number] < 5
            assert stamp is None or stamps[number] > stamp
    left += pending.take(None, 100)
    assert left == list(range(len(images)))


def whole_body(seed: int = 0) -> Person:
    joints = np.random.default_rng(seed).uniform(5, 45, (133, 3)).astype(np.float32)
    joints[:, 2] = 0.9
    return Person(joints, np.ones(133, bool), 0.9)


def test_the_whole_body_is_drawn_with_its_points() -> None:
    black = np.zeros((480, 640, 3), np.uint8)
    person = whole_body()
    joints = person.joints.copy()
    joints[:] = np.nan
    joints[WHOLE_BODY.index('left_thumb4')] = 300, 200, 0.9
    drawn = draw_people(black, Poses((Person(joints, person.visible, 0.9),), 480, 640))
    assert drawn[200, 300].any()
    assert not drawn[:190].any()


def test_markers_of_the_whole_body_have_small_points_that_vanish_with_the_person() -> None:
    joints_m = np.ones((1, 133, 3), np.float32)
    joints_m[0, 132] = np.nan
    shown = markers_message(joints_m, 0, Header(), 0.06, 0.5)
    by_name = {marker.ns: marker for marker in shown.markers}
    assert len(by_name['joints'].points) == len(by_name['joints'].colors) == 17
    assert len(by_name['points'].points) == len(by_name['points'].colors) == 115
    assert by_name['points'].scale.x < by_name['joints'].scale.x
    gone = markers_message(np.empty((0, 133, 3)), 1, Header(), 0.06, 0.5)
    assert {(m.ns, m.action) for m in gone.markers} == {
        (name, Marker.DELETE) for name in ('joints', 'bones', 'points')
    }


ALONE = '/alone'  # namespace of nodes that run beside that of the fixture


@pytest.fixture(scope='module')
def sdpose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sdpose(tmp_path_factory.mktemp('sdpose'), joints=133)


@pytest.fixture(scope='module')
def node(sdpose: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(
        tmp_path_factory.mktemp('node') / 'log',
        checkpoint=sdpose,
        device='cpu',
        diagnostics_rate_hz=10.0,
    ) as process:
        yield process


def points_of(cloud: PointCloud2) -> np.ndarray:
    return np.frombuffer(bytes(cloud.data), POINT)


def test_two_detected_people_come_back_as_keypoints_of_the_whole_body(
    peer: Peer, camera: FakeCamera, sdpose: Path
) -> None:
    detector = peer.node.create_publisher(DETECTIONS, '/detections', 10)
    assert peer.until(detector.get_subscription_count)
    rgb = picture()
    boxes = [(20.0, 24.0, 16.0, 30.0), (45.0, 20.0, 20.0, 36.0)]

    def send() -> Image:
        """Send the detections before their picture, as a fast detector may."""
        image = camera.image(rgb)
        found = [detection(*box, ('person', 0.9)) for box in boxes]
        detector.publish(message(image.header, *found))
        peer.spin(0.2)
        camera.images.publish(image)
        return image

    sent, [cloud] = results_of(peer, send, {'/human_pose/keypoints': PointCloud2})
    assert cloud.header == sent.header
    points = points_of(cloud)
    assert set(points['person']) == {0, 1}
    assert points['joint'].max() > 100
    engine = Engine.load(str(sdpose), device='cpu')
    around = [Box(x - w / 2, y - h / 2, w, h, 0.9) for x, y, w, h in boxes]
    expected: Any = engine.predict([rgb], boxes=[around])[0]['human_pose']
    for number, person in enumerate(expected.people):
        own = points[points['person'] == number]
        np.testing.assert_allclose(own['u'], person.joints[own['joint'], 0], atol=0.05)
        np.testing.assert_allclose(own['v'], person.joints[own['joint'], 1], atol=0.05)
        np.testing.assert_allclose(own['score'], person.joints[own['joint'], 2], atol=1e-3)


def test_an_image_without_detections_gives_no_people_and_a_warning(
    peer: Peer, camera: FakeCamera
) -> None:
    peer.listen('/human_pose/keypoints', PointCloud2)
    peer.spin(1.0)
    image = camera.image(picture())
    image.header.stamp.sec += 100  # no detection is near
    camera.images.publish(image)
    counters = peer.counters_when(lambda seen: 'human_pose without detections' in seen)
    assert int(counters['human_pose without detections']) >= 1
    assert not peer.received['/human_pose/keypoints']


def test_no_detected_people_give_an_empty_message(peer: Peer, camera: FakeCamera) -> None:
    detector = peer.node.create_publisher(DETECTIONS, '/detections', 10)
    assert peer.until(detector.get_subscription_count)

    def send() -> Image:
        image = camera.image(picture())
        image.header.stamp.sec += 200
        detector.publish(message(image.header, detection(9, 9, 9, 9, ('chair', 0.9))))
        peer.spin(0.2)
        camera.images.publish(image)
        return image

    _, [cloud] = results_of(peer, send, {'/human_pose/keypoints': PointCloud2})
    assert cloud.width == 0


def test_a_picture_waits_for_detections_that_come_50_ms_later(
    sdpose: Path, tmp_path: Path
) -> None:
    """Picture number n has n people: neither nobody, nor those of the picture before."""
    with serving(
        tmp_path / 'log',
        ALONE,
        checkpoint=sdpose,
        device='cpu',
        human_pose__top_down__max_wait_s=10.0,
        human_pose__top_down__max_offset_s=0.001,  # those of its own stamp, or none
    ):
        peer = Peer()
        try:
            camera = FakeCamera(peer, topic=f'{ALONE}/image_raw')
            detector = peer.node.create_publisher(DETECTIONS, f'{ALONE}/detections', 10)
            connect(peer, camera)
            assert peer.until(detector.get_subscription_count)
            rgb, people = picture(), {}

            def send() -> Image:
                image = camera.image(rgb)
                camera.images.publish(image)
                peer.spin(0.05)
                x = [20.0 + 4 * n for n in range(len(people) + 1)]
                found = [detection(left, 24, 16, 30, ('person', 0.9)) for left in x]
                detector.publish(message(image.header, *found))
                people[image.header.stamp.sec, image.header.stamp.nanosec] = len(found)
                return image

            for _ in range(2):
                sent, [cloud] = results_of(
                    peer, send, {f'{ALONE}/human_pose/keypoints': PointCloud2}
                )
                stamp = sent.header.stamp.sec, sent.header.stamp.nanosec
                assert len(set(points_of(cloud)['person'])) == people[stamp]
        finally:
            peer.close()


def test_boxes_from_the_segmentation_of_another_checkpoint(sdpose: Path, tmp_path: Path) -> None:
    """A node whose main checkpoint finds people, and whose human_pose reads crops."""
    heads = {'human_pose': 'light', 'segmentation': 'light'}
    main = save_tiny(tmp_path / 'main', heads)
    engine = Engine.load(str(main), checkpoints={'human_pose': str(sdpose)}, device='cpu')
    assert not engine.needs_boxes
    with serving(
        tmp_path / 'log',
        ALONE,
        checkpoint=main,
        device='cpu',
        human_pose__checkpoint=sdpose,
        human_pose__top_down__boxes='segmentation',
    ) as process:
        peer = Peer()
        try:
            camera = FakeCamera(peer, topic=f'{ALONE}/image_raw')
            connect(peer, camera)
            rgb = picture()
            _, [overlay] = results_of(
                peer, lambda: camera.send(rgb), {f'{ALONE}/human_pose/overlay': Image}
            )
            assert (overlay.height, overlay.width) == rgb.shape[:2]
        finally:
            peer.close()
        assert 'boxes from segmentation' in process.output
        assert f'{ALONE}/detections' not in process.output


def test_a_node_takes_a_second_look(tmp_path: Path) -> None:
    main = save_tiny(tmp_path / 'main', {'human_pose': 'light'})
    with serving(
        tmp_path / 'log',
        ALONE,
        checkpoint=main,
        device='cpu',
        human_pose__top_down__second_look=True,
    ) as process:
        peer = Peer()
        try:
            camera = FakeCamera(peer, topic=f'{ALONE}/image_raw')
            connect(peer, camera)
            rgb = picture()
            _, [cloud] = results_of(
                peer, lambda: camera.send(rgb), {f'{ALONE}/human_pose/keypoints': PointCloud2}
            )
        finally:
            peer.close()
        # The checkpoint is made for 64 pixels: crops of 48 x 64.
        assert 'people in crops of 48 x 64 px, boxes from human_pose' in process.output
    options = TopDownOptions(second_look=True)
    engine = Engine.load(str(main), device='cpu', top_down=options)
    expected: Any = engine.predict([rgb])[0]['human_pose']
    points = points_of(cloud)
    found = [person.joints[np.isfinite(person.joints[:, 0])] for person in expected.people]
    assert len(points) == sum(map(len, found))
    if len(points):
        joints = np.concatenate(found)
        np.testing.assert_allclose(points['u'], joints[:, 0], atol=0.05)
        np.testing.assert_allclose(points['v'], joints[:, 1], atol=0.05)
