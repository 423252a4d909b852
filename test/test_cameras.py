"""Several cameras in one node: one batch, and topics with the names of the cameras."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
    results_of,
    serving,
)
from sensor_msgs.msg import Image

from sd_perception_ros.config import build
from sd_perception_ros.engine import Engine
from sd_perception_ros.ros.cameras import CameraInputs
from sd_perception_ros.ros.input.transforms import Transforms
from sd_perception_ros.ros.node.diagnostics import NodeStatistics
from sd_perception_ros.ros.options import InputOptions, OutputOptions


@pytest.fixture(scope='module')
def node(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(
        tmp_path_factory.mktemp('node') / 'log',
        checkpoint=tiny_checkpoint,
        device='cpu',
        cameras='[front, rear]',
        diagnostics_rate_hz=10.0,
    ) as process:
        yield process


@pytest.fixture
def cameras(peer: Peer) -> dict[str, FakeCamera]:
    made = {name: FakeCamera(peer, topic=f'/{name}/image_raw') for name in ('front', 'rear')}
    for name, camera in made.items():
        peer.listen(f'/{name}/depth/relative', Image)
        connect(peer, camera)
    return made


def test_depth_of_each_camera_is_published_under_its_name(
    peer: Peer, cameras: dict[str, FakeCamera], tiny_checkpoint: Path
) -> None:
    engine = Engine.load(str(tiny_checkpoint), device='cpu')
    pictures = {'front': picture(48, 64, seed=1), 'rear': picture(32, 40, seed=2)}
    for name, rgb in pictures.items():  # all have discovered each other
        answer_of(Image, peer, cameras[name], f'/{name}/depth/relative', rgb)
    sent = {name: cameras[name].send(rgb) for name, rgb in pictures.items()}
    for name, rgb in pictures.items():
        answer = peer.result(f'/{name}/depth/relative', sent[name])
        expected = engine.predict([rgb], ['depth'])[0]['depth'].values
        np.testing.assert_allclose(pixels(answer), expected, atol=1e-4)


def test_a_bad_image_of_one_camera_does_not_affect_the_other(
    peer: Peer, cameras: dict[str, FakeCamera]
) -> None:
    broken = cameras['front'].image(picture())
    broken.encoding = 'no such encoding'

    def send() -> Image:
        cameras['front'].images.publish(broken)
        return cameras['rear'].send(picture())

    results_of(peer, send, {'/rear/depth/relative': Image})
    assert not peer.received['/front/depth/relative']


@pytest.mark.parametrize('names', [['front', 'front'], ['front/left'], [''], ['2nd']])
def test_camera_names_that_are_no_topic_names_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r'cameras must be unique names .*, got'):
        InputOptions(cameras=names)


def test_one_mounting_for_two_cameras_is_refused() -> None:
    outputs = build(OutputOptions, {'depth': {'scale': {'source': 'ground'}}}, 'test')
    CameraInputs(InputOptions(cameras=['front']), outputs, NodeStatistics())
    with pytest.raises(ValueError, match='one mounting for 2 cameras; run one node for each'):
        CameraInputs(InputOptions(cameras=['front', 'rear']), outputs, NodeStatistics())


@pytest.mark.skipif(Transforms.has_tf, reason='tf2 has the pose of each camera')
def test_scans_of_two_cameras_without_tf_are_refused() -> None:
    outputs = build(OutputOptions, {'scan': {'frame_id': 'base_scan'}}, 'test')
    with pytest.raises(ValueError, match=r'scan\.frame_id without tf2 has one mounting'):
        CameraInputs(InputOptions(cameras=['front', 'rear']), outputs, NodeStatistics())
