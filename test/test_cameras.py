"""Several cameras in one node: their frames run together, and come back under their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ros_helpers import connect, FakeCamera, Peer, picture, pixels, Process, serving
from sensor_msgs.msg import Image

from sd_perception_ros.config import build
from sd_perception_ros.engine import Engine
from sd_perception_ros.ros.cameras import Streams
from sd_perception_ros.ros.input.transforms import Frames
from sd_perception_ros.ros.node.diagnostics import Statistics
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


def test_each_camera_gets_its_own_depth_under_its_name(
    peer: Peer, cameras: dict[str, FakeCamera], tiny_checkpoint: Path
) -> None:
    engine = Engine.load(str(tiny_checkpoint), device='cpu')
    pictures = {'front': picture(48, 64, seed=1), 'rear': picture(32, 40, seed=2)}
    for _ in range(20):  # a message may get lost on a busy machine
        for name in cameras:
            peer.received[f'/{name}/depth/relative'].clear()
        stamps = {name: cameras[name].send(rgb).header.stamp for name, rgb in pictures.items()}
        got = {name: peer.received[f'/{name}/depth/relative'] for name in cameras}
        if peer.until(lambda g=got: all(g.values()), 2.0):
            break
    for name, rgb in pictures.items():
        answer = got[name][-1]
        assert answer.header.stamp == stamps[name]
        expected = engine.predict([rgb], ['depth'])[0]['depth'].values
        np.testing.assert_allclose(pixels(answer), expected, atol=1e-4)


def test_a_bad_picture_of_one_camera_costs_the_other_nothing(
    peer: Peer, cameras: dict[str, FakeCamera]
) -> None:
    broken = cameras['front'].image(picture())
    broken.encoding = 'no such encoding'
    for _ in range(20):
        cameras['front'].images.publish(broken)
        cameras['rear'].send(picture())
        if peer.until(lambda: peer.received['/rear/depth/relative'], 2.0):
            break
    assert peer.received['/rear/depth/relative']
    assert not peer.received['/front/depth/relative']


@pytest.mark.parametrize('names', [['front', 'front'], ['front/left'], [''], ['2nd']])
def test_names_of_cameras_that_no_topic_can_have_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r'cameras must be different names .*, got'):
        InputOptions(cameras=names)


def test_metres_from_one_mounting_are_refused_for_two_cameras() -> None:
    outputs = build(OutputOptions, {'depth': {'scale': {'source': 'ground'}}}, 'test')
    Streams(InputOptions(cameras=['front']), outputs, Statistics())
    with pytest.raises(ValueError, match='one mounting for 2 cameras; run one node for each'):
        Streams(InputOptions(cameras=['front', 'rear']), outputs, Statistics())


@pytest.mark.skipif(Frames.has_tf, reason='tf2 knows where each camera is')
def test_scans_without_tf_are_refused_for_two_cameras() -> None:
    outputs = build(OutputOptions, {'scan': {'frame_id': 'base_scan'}}, 'test')
    with pytest.raises(ValueError, match=r'scan\.frame without tf2 has one mounting'):
        Streams(InputOptions(cameras=['front', 'rear']), outputs, Statistics())
