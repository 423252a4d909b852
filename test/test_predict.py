"""The command `predict`: pictures in, sheets, colours and values out; wrong input is one line."""

from __future__ import annotations

import json
from pathlib import Path
import resource
import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest

from sd_perception_ros.__main__ import main
from sd_perception_ros.cli.predict.film import Film, SUFFIX
from sd_perception_ros.cli.predict.inputs import find_inputs
from sd_perception_ros.cli.predict.options import node_parameters, options_of
from sd_perception_ros.cli.predict.outputs import metric_values, Values, values_of
from sd_perception_ros.cli.predict.sheet import caption, columns_of
from sd_perception_ros.metric_depth.alignment import Fit, Quality
from sd_perception_ros.metric_depth.estimator import MetricDepth
from sd_perception_ros.ros.options import OutputOptions
from sd_perception_ros.types import DepthMap, LabelMap, NormalMap

ROOM = next(
    (Path(__file__).parents[1] / 'sd_perception_ros/assets/demo_sequence/frames').glob('*.image.*')
)


def make_picture(file: Path, width: int = 64, height: int = 48) -> Path:
    """Write a small picture of the demo."""
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), cv2.resize(cv2.imread(str(ROOM)), (width, height)))
    return file


def predict(*words: object) -> int:
    return main(['predict', '--device', 'cpu', '--long-side-px', '64', *map(str, words)])


def predict_in(
    folder: Path, *words: str, largest_file_bytes: int = resource.RLIM_INFINITY
) -> subprocess.CompletedProcess[str]:
    """Predict depth in a process, into the folder 'out'."""
    limit = (largest_file_bytes, largest_file_bytes)
    options = ['--out', 'out', '--tasks', 'depth', '--device', 'cpu', '--long-side-px', '64']
    return subprocess.run(
        [sys.executable, '-m', 'sd_perception_ros', 'predict', *words, *options],
        cwd=folder,
        env={
            'PYTHONPATH': str(Path(__file__).parents[1]),
            'PYTHONDONTWRITEBYTECODE': '1',  # these files would be cut, too
        },
        # A limit of the size of files fails like a full disk: after some bytes of a file.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        capture_output=True,
        text=True,
        check=False,
    )


def levels(file: Path) -> Any:
    return cv2.imread(str(file), cv2.IMREAD_UNCHANGED)


def record(out: Path, name: str) -> Any:
    return json.loads((out / f'frames/{name}.json').read_text())


def test_a_photograph_becomes_a_sheet_colours_and_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'result'
    assert predict(make_picture(tmp_path / 'photo.png'), '--out', out) == 0
    assert levels(out / 'sheet/photo.png').shape == (2 * (24 + 48), 4 * 64 + 3 * 4, 3)
    assert levels(out / 'depth/color/photo.png').shape == (48, 64, 3)
    relative = levels(out / 'depth/relative/photo.png')
    assert (relative.dtype, relative.shape) == (np.uint16, (48, 64))
    assert levels(out / 'segmentation/labels/photo.png').dtype == np.uint8
    about = record(out, 'photo')
    assert about['outputs']['depth/relative'] == {
        'file': 'depth/relative/photo.png',
        'meaning': 'relative depth, 0 near .. 1 far, up to scale and shift: not metres',
        'unit': '1',
        'bits': 16,
        'value': 'level * 1.52590219e-05 + 0',
        'invalid': 'none: every pixel has a value',
    }
    assert isinstance(about['people'], list)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert said[0].startswith('1 frames predicted in ')


def test_a_run_that_is_repeated_does_only_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = tmp_path / 'out', ('--tasks', 'depth', '--write', 'color')
    for name in ('a', 'b/c'):
        make_picture(tmp_path / f'in/{name}.jpg')
    assert predict(tmp_path / 'in', '--out', out, *words) == 0
    assert sorted(str(file.relative_to(out)) for file in out.rglob('*.png')) == [
        'depth/color/a.png',
        'depth/color/b/c.png',
    ]
    (out / 'frames/b/c.json').unlink()
    (out / 'depth/color/a.png').write_bytes(b'kept')
    assert predict(tmp_path / 'in', '--out', out, *words) == 0
    assert '1 frames predicted' in capsys.readouterr().out.splitlines()[-1]
    assert (out / 'depth/color/a.png').read_bytes() == b'kept'
    assert predict(tmp_path / 'in', '--out', out, *words, '--overwrite') == 0
    assert '2 frames predicted' in capsys.readouterr().out.splitlines()[-1]


def test_results_of_other_options_are_not_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, out = make_picture(tmp_path / 'a.png'), tmp_path / 'out'
    assert predict(picture, '--out', out, '--tasks', 'depth', '--write', 'color') == 0
    assert predict(picture, '--out', out, '--tasks', 'normals', '--write', 'color') == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'an earlier run with another tasks' in error
    assert '--overwrite' in error


def test_an_unreadable_picture_is_one_line_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = make_picture(tmp_path / 'in/whole.png')
    (tmp_path / 'in/cut.png').write_bytes(whole.read_bytes()[:1000])
    (tmp_path / 'in/empty.jpg').touch()
    out = tmp_path / 'out'
    words = ('--tasks', 'depth', '--json', tmp_path / 'summary.json')
    assert predict(tmp_path / 'in', tmp_path / 'none.png', '--out', out, *words) == 1
    errors = [e for e in capsys.readouterr().err.splitlines() if e.startswith('error: ')]
    assert [name in error for name, error in zip(('none', 'cut', 'empty'), errors, strict=True)]
    assert (out / 'sheet/whole.png').is_file()
    counts = json.loads((tmp_path / 'summary.json').read_text())
    assert (counts['frames'], counts['failed']) == (1, 3)
    assert counts['engine_s'] <= counts['wall_s']


def test_a_full_disk_ends_the_run_in_one_line_and_leaves_no_partial_file(tmp_path: Path) -> None:
    for name in 'abc':
        make_picture(tmp_path / f'in/{name}.png', 128, 96)
    done = predict_in(tmp_path, 'in', largest_file_bytes=8192)
    assert done.returncode == 1
    errors = done.stderr.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith('error: out cannot be written (File too large); what is done')
    assert list(tmp_path.rglob('*.tmp')) == []
    assert '0 frames predicted' in done.stdout


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(make_picture(tmp_path / 'a.png'), '--out', '/dev/null/out') == 1
    assert (
        "'/dev/null/out/predict.json' cannot be used" in capsys.readouterr().err.splitlines()[-1]
    )


def test_metres_come_from_the_same_parameters_as_in_the_node(tmp_path: Path) -> None:
    out = tmp_path / 'out'
    file = tmp_path / 'node.yaml'
    file.write_text(
        '/**:\n  ros__parameters:\n    source: demo\n    tasks: [depth]\n'
        '    depth:\n      scale: {source: fixed, scale_m: 4.0, shift_m: 9.0}\n'
    )
    words = ('--params-file', file, '-p', 'depth.scale.shift_m:=1.0', '--data-format', 'npz')
    assert predict(make_picture(tmp_path / 'a.png'), '--out', out, *words) == 0
    depth_m = np.load(out / 'depth/image_rect/a.npz')['values']
    relative = np.load(out / 'depth/relative/a.npz')['values']
    inside = np.isfinite(depth_m)
    np.testing.assert_allclose(depth_m[inside], 1 + 4 * relative[inside], rtol=1e-5)
    assert record(out, 'a')['outputs']['depth/image_rect']['unit'] == 'm'
    assert record(out, 'a')['metric_depth'] == {'source': 'fixed', 'problem': ''}


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['-p', 'depth.scale.sources:=fixed'], "did you mean 'depth.scale.source'?"),
        (['-p', 'camera_height_m:=1'], "did you mean 'depth.scale.camera_height_m'?"),
        (['-p', 'depth.scale.source'], 'expected -p NAME:=VALUE'),
        (['-p', 'depth.scale.source:=lidar'], "no choice 'lidar'"),
        (['-p', 'depth.scale.source:=depth'], 'needs the topic of a sensor'),
        (['--horizontal-fov-deg', '180'], 'less than 180'),
        (['--params-file', 'none.yaml'], 'expected a file at none.yaml'),
        (['--tasks', 'dept'], "'dept'"),
    ],
    ids=' '.join,
)
def test_wrong_options_are_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_picture(tmp_path / 'a.png')
    assert predict('a.png', '--out', 'out', *words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: ')
    assert message in error


def test_parameters_of_a_file_are_those_of_the_node(tmp_path: Path) -> None:
    file = tmp_path / 'perception.yaml'
    file.write_text('perception:\n  ros__parameters:\n    depth.scale: {camera_height_m: 1}\n')
    values = node_parameters(file, ['human_pose.enabled:=false'])
    options = options_of(OutputOptions, values)
    assert options.depth.scale.camera_height_m == 1.0
    assert not options.human_pose.enabled


def test_pictures_of_one_name_keep_apart(tmp_path: Path) -> None:
    files = [
        make_picture(tmp_path / name) for name in ('x/a.png', 'x/a.jpg', 'y/a.png', 'x/b.png')
    ]
    found = find_inputs([*map(str, files), str(files[0])], tmp_path / 'out')
    assert found.problems == []
    assert {name: f.relative_to(tmp_path) for name, f in found.pictures.files.items()} == {
        'a.png': Path('x/a.png'),
        'a.jpg': Path('x/a.jpg'),
        'a.png_2': Path('y/a.png'),
        'b': Path('x/b.png'),
    }


def test_a_folder_is_searched_without_its_results(tmp_path: Path) -> None:
    make_picture(tmp_path / 'b/c.PNG')
    make_picture(tmp_path / 'a.jpg')
    make_picture(tmp_path / 'out/sheet/a.png')
    make_picture(tmp_path / '.cache/a.jpg')
    (tmp_path / 'b/film.MP4').touch()
    found = find_inputs([str(tmp_path)], tmp_path / 'out')
    assert list(found.pictures.files) == ['a', 'b/c']
    assert [video.name for video in found.videos] == ['b/film']
    pattern = find_inputs([str(tmp_path / '**/*.PNG')], tmp_path / 'out')
    assert list(pattern.pictures.files) == ['c']


def test_values_survive_their_levels() -> None:
    relative = np.array([[0.0, 0.25, 1.0]], np.float32)
    (depth,) = values_of('depth', DepthMap(relative))
    assert decoded(depth).tolist() == [[0, 16384, 65535]]
    normal = np.array([[[0.0, -1.0, 0.6]]], np.float32)
    (normals,) = values_of('normals', NormalMap(normal))
    np.testing.assert_allclose(decoded(normals) * (2 / 65535) - 1, normal, atol=2e-5)
    labels = np.array([[0, 7]], np.uint8)
    ids, confidence = values_of('segmentation', LabelMap(labels, labels / np.float32(7)))
    assert decoded(ids).tolist() == [[0, 7]]
    assert decoded(confidence).tolist() == [[0, 65535]]


def test_metres_are_millimetres_and_what_is_no_distance_is_zero() -> None:
    depth_m = np.array([[1.2344, 65.535, 65.6, np.nan, np.inf, -np.inf]], np.float32)
    (metric,) = metric_values(MetricDepth(depth_m, Fit(None, None, Quality())))
    assert decoded(metric).tolist() == [[1234, 65535, 0, 0, 0, 0]]
    assert metric_values(MetricDepth.withheld('no people')) == []


def decoded(values: Values) -> Any:
    pixels = cv2.imdecode(np.frombuffer(values.png(), np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels[..., ::-1] if pixels.ndim == 3 else pixels


def test_sheets_have_few_empty_cells() -> None:
    assert [columns_of(count) for count in range(1, 10)] == [1, 2, 3, 2, 3, 3, 4, 4, 3]


def test_a_legend_that_does_not_fit_is_left_out() -> None:
    red = (255, 0, 0)
    narrow, wide = caption('depth', (('near', red),), 50), caption('depth', (('near', red),), 200)
    assert narrow.shape == (24, 50, 3)
    assert not (narrow == red).all(-1).any()
    assert (wide == red).all(-1).any()


def make_video(file: Path, frames: int = 12, rate_hz: float = 12.0) -> Path:
    """Write a video whose frames are ever brighter."""
    code = cv2.VideoWriter.fourcc(*('MJPG' if file.suffix == '.avi' else 'mp4v'))
    writer = cv2.VideoWriter(str(file), code, rate_hz, (64, 48))
    room = cv2.resize(cv2.imread(str(ROOM)), (64, 48))
    for index in range(frames):
        writer.write(cv2.convertScaleAbs(room, alpha=0.5 + index / frames))
    writer.release()
    return file


def frames_of(file: Path) -> list[Any]:
    capture, frames = cv2.VideoCapture(str(file)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


def test_a_video_becomes_a_video_that_browsers_play_with_every_frame(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    video, out = make_video(tmp_path / 'film.mp4'), tmp_path / 'out'
    assert predict(video, '--out', out, '--tasks', 'depth') == 0
    made = out / f'video/film{SUFFIX}'
    frames = frames_of(made)
    assert len(frames) == 12
    assert frames[0].shape == (24 + 48, 64 + 4 + 64, 3)
    brightness = [frame[24:, :64].mean() for frame in frames]
    assert brightness == sorted(brightness)
    av = pytest.importorskip('av')
    with av.open(str(made)) as opened:
        stream = opened.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ('h264', 'yuv420p')
        assert float(opened.duration / 1e6) == pytest.approx(1.0, abs=0.1)
    capfd.readouterr()
    assert predict(video, '--out', out, '--tasks', 'depth') == 0
    assert capfd.readouterr().out.startswith('0 frames predicted, 1 done before')


def test_the_frames_of_a_video_can_be_files_that_are_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = tmp_path / 'out', ('--tasks', 'depth', '--write', 'data', '--frames', '5')
    video = make_video(tmp_path / 'film.avi')
    assert predict(video, '--out', out, *words) == 0
    files = sorted(out.glob('depth/relative/film/*.png'))
    assert [file.stem for file in files] == [f'{index:06d}' for index in range(5)]
    assert record(out, 'film/000003')['time_s'] == pytest.approx(3 / 12)
    (out / 'frames/film/000002.json').unlink()
    capsys.readouterr()
    assert predict(video, '--out', out, *words) == 0
    assert ', 4 done before;' in capsys.readouterr().out
    assert not (out / 'video').exists()


def test_videos_that_cannot_be_read_are_one_line_each(tmp_path: Path) -> None:
    whole = make_video(tmp_path / 'whole.avi', 40)
    (tmp_path / 'cut.avi').write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    moov_is_lost = make_video(tmp_path / 'lost.mp4').read_bytes()[:2000]
    (tmp_path / 'lost.mp4').write_bytes(moov_is_lost)
    (tmp_path / 'empty.mp4').touch()
    make_video(tmp_path / 'none.avi', 0)
    (tmp_path / 'text.txt').write_text('no video')
    names = ('cut.avi', 'lost.mp4', 'empty.mp4', 'none.avi', 'text.txt', 'whole.avi')
    done = predict_in(tmp_path, *names, '899')
    assert done.returncode == 1
    errors = [e for e in done.stderr.splitlines() if not e.startswith('note: ')]
    for name in (*names[:-1], '/dev/video899'):
        assert [name in error for error in errors].count(True) == 1, (name, errors)
    assert len(errors) == 6
    out = tmp_path / 'out'
    assert len(frames_of(out / f'video/whole{SUFFIX}')) == 40
    assert 0 < len(frames_of(out / f'video/cut{SUFFIX}')) < 40


def test_an_interrupted_video_leaves_no_partial_file(tmp_path: Path) -> None:
    film = Film(tmp_path / 'a/film.mp4', 30.0)
    film.write(np.zeros((48, 64, 3), np.uint8), 0.0)
    film.discard()
    assert list(tmp_path.rglob('*.mp4')) == []
    assert not Film(tmp_path / 'a/empty.mp4', 30.0).finish()


def write_bag(
    bag: Path, plugin: str = 'MCAP', cameras: tuple[str, ...] = ('',), depth_mm: Any = 2000
) -> Path:
    """Record 6 images of each camera, raw, as JPEG, with depth and with intrinsics."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import get_typestore, Stores

    store = get_typestore(Stores.ROS2_KILTED)
    types = store.types
    room = cv2.resize(cv2.imread(str(ROOM)), (64, 48))
    with Writer(bag, version=9, storage_plugin=StoragePlugin[plugin]) as writer:
        for camera in cameras:
            kinds = {
                'image_raw': 'sensor_msgs/msg/Image',
                'image_raw/compressed': 'sensor_msgs/msg/CompressedImage',
                'depth_raw': 'sensor_msgs/msg/Image',
                'camera_info': 'sensor_msgs/msg/CameraInfo',
            }
            topics = {
                name: writer.add_connection(f'{camera}/{name}', kind, typestore=store)
                for name, kind in kinds.items()
            }
            for index in range(6):
                stamp = types['builtin_interfaces/msg/Time'](100, index * 100_000_000)
                header = types['std_msgs/msg/Header'](stamp, 'camera_optical_frame')
                jpeg = cv2.imencode('.jpg', room)[1]
                depth = (
                    np.broadcast_to(depth_mm, (48, 64)).astype(np.uint16).view(np.uint8).ravel()
                )
                image, compressed = types[kinds['image_raw']], types[kinds['image_raw/compressed']]
                messages = {
                    'image_raw': image(header, 48, 64, 'bgr8', 0, 192, room.ravel()),
                    'image_raw/compressed': compressed(header, 'bgr8; jpeg compressed bgr8', jpeg),
                    'depth_raw': image(header, 48, 64, '16UC1', 0, 128, depth),
                    'camera_info': types[kinds['camera_info']](
                        header,
                        48,
                        64,
                        'plumb_bob',
                        np.zeros(5),
                        np.array([60, 0, 31.5, 0, 60, 23.5, 0, 0, 1.0]),
                        np.eye(3).ravel(),
                        np.array([60, 0, 31.5, 0, 0, 60, 23.5, 0, 0, 0, 1.0, 0]),
                        0,
                        0,
                        types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False),
                    ),
                }
                for name, message in messages.items():
                    data = store.serialize_cdr(message, kinds[name])
                    writer.write(topics[name], 10**18 + index * 10**8, data)
    return bag


@pytest.mark.parametrize('plugin', ['MCAP', 'SQLITE3'])
def test_each_colour_topic_of_a_recording_becomes_a_video(plugin: str, tmp_path: Path) -> None:
    bag, out = write_bag(tmp_path / 'run', plugin, ('/front', '/rear')), tmp_path / 'out'
    assert predict(bag, '--out', out, '--tasks', 'depth', '--write', 'video') == 0
    for camera in ('front', 'rear'):
        assert len(frames_of(out / f'video/run/{camera}/image_raw{SUFFIX}')) == 6
    assert len(list(out.rglob(f'*{SUFFIX}'))) == 2


def test_frames_of_a_chosen_topic_keep_the_stamps_of_their_messages(tmp_path: Path) -> None:
    bag, out = write_bag(tmp_path / 'run'), tmp_path / 'out'
    words = ('--tasks', 'depth', '--write', 'data', '--topics', '/image_raw/compressed')
    assert predict(bag, '--out', out, *words) == 0
    assert record(out, 'run/image_raw/compressed/000003')['time_s'] == pytest.approx(100.3)
    assert len(list(out.glob('depth/relative/run/image_raw/compressed/*.png'))) == 6


def test_recordings_that_cannot_be_read_are_one_line_each(tmp_path: Path) -> None:
    whole = next(write_bag(tmp_path / 'whole').glob('*.mcap'))
    (tmp_path / 'cut.mcap').write_bytes(whole.read_bytes()[:-2000])
    (tmp_path / 'empty.db3').touch()
    done = predict_in(tmp_path, 'cut.mcap', 'empty.db3', 'whole', '--write', 'video')
    assert done.returncode == 1
    errors = done.stderr.splitlines()
    assert [e.startswith('error: ') for e in errors if not e.startswith('note: ')] == [True] * 2
    assert 'cut.mcap' in errors[0]
    assert 'empty.db3' in errors[1]
    assert (tmp_path / f'out/video/whole/image_raw{SUFFIX}').is_file()
    done = predict_in(tmp_path, 'whole', '--topics', '/no')
    assert 'expected /no (sensor_msgs/Image' in done.stderr


def messages_of(bag: Path) -> dict[str, list[tuple[int, bytes]]]:
    """{topic: [(time of receipt, CDR)]} of a recording."""
    from rosbags.highlevel import AnyReader

    found: dict[str, list[tuple[int, bytes]]] = {}
    with AnyReader([bag]) as reader:
        for connection, received_ns, data in reader.messages():
            found.setdefault(connection.topic, []).append((received_ns, bytes(data)))
    return found


@pytest.mark.parametrize('plugin', ['MCAP', 'SQLITE3'])
def test_a_recording_has_the_topics_of_the_node_added(plugin: str, tmp_path: Path) -> None:
    from rosbags.highlevel import AnyReader

    bag, out = write_bag(tmp_path / 'run', plugin), tmp_path / 'out'
    words = ('-p', 'depth.scale.source:=fixed', '-p', 'depth.scale.scale_m:=2')
    assert predict(bag, '--out', out, '--tasks', 'depth', *words) == 0
    before, after = messages_of(bag), messages_of(out / 'bag/run')
    assert {topic: after[topic] for topic in before} == before
    received = [received_ns for received_ns, _ in before['/image_raw']]
    added = {'relative', 'color', 'image_rect', 'camera_info', 'points'}
    assert after.keys() - before.keys() == {f'/depth/{name}' for name in added}
    for topic in after.keys() - before.keys():
        assert [received_ns for received_ns, _ in after[topic]] == received, topic
    with AnyReader([out / 'bag/run']) as reader:
        depth = [c for c in reader.connections if c.topic == '/depth/image_rect']
        for index, (connection, _, data) in enumerate(reader.messages(depth)):
            msg: Any = reader.deserialize(data, connection.msgtype)
            assert (msg.encoding, msg.height, msg.width) == ('32FC1', 48, 64)
            assert (msg.header.stamp.sec, msg.header.stamp.nanosec) == (100, index * 10**8)
            assert msg.header.frame_id == 'camera_optical_frame'


def test_metres_of_a_recording_come_from_its_depth_camera(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rosbags.highlevel import AnyReader

    words = ('--tasks', 'depth', '-p', 'depth.scale.source:=depth')
    wall, out = write_bag(tmp_path / 'wall'), tmp_path / 'out'
    assert predict(wall, '--out', out, *words, '--reference', '/scan') == 1
    assert 'expected /scan of sensor_msgs/msg/Image, got /depth_raw' in capsys.readouterr().err
    assert predict(wall, '--out', out, *words) == 0
    # The same depth everywhere confirms no scale, as in the node.
    assert record(out, 'wall')['without_metres'] == {'/image_raw': 6}
    assert '/depth/image_rect' not in messages_of(out / 'bag/wall')
    # A depth camera that sees what the model predicts, times 3 m, plus 1 m.
    picture = make_picture(tmp_path / 'room.png')
    assert predict(picture, '--out', tmp_path / 'relative', '--data-format', 'npz') == 0
    relative = np.load(tmp_path / 'relative/depth/relative/room.npz')['values']
    bag = write_bag(tmp_path / 'run', depth_mm=1000 + 3000 * relative)
    assert predict(bag, '--out', out, *words) == 0
    assert record(out, 'run')['without_metres'] == {'/image_raw': 0}
    with AnyReader([out / 'bag/run']) as reader:
        depth = [c for c in reader.connections if c.topic == '/depth/image_rect']
        messages: list[Any] = [
            reader.deserialize(m, c.msgtype) for c, _, m in reader.messages(depth)
        ]
    assert len(messages) == 6
    depth_m = np.frombuffer(messages[-1].data, np.float32).reshape(48, 64)
    inside = np.isfinite(depth_m)
    assert inside.mean() > 0.8
    np.testing.assert_allclose(depth_m[inside], (1 + 3 * relative)[inside], atol=0.05)


def test_several_cameras_have_their_namespaces_and_a_taken_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, out = write_bag(tmp_path / 'run', cameras=('/front', '/rear')), tmp_path / 'out'
    assert predict(bag, '--out', out, '--tasks', 'depth') == 0
    labelled = out / 'bag/run'
    assert {'/front/depth/relative', '/rear/depth/relative'} <= messages_of(labelled).keys()
    words = ('--topics', '/front/image_raw', '--tasks', 'segmentation')
    again = tmp_path / 'again'
    assert predict(labelled, '--out', again, *words) == 0
    assert len(messages_of(again / 'bag/run')['/segmentation/label_info']) == 1
    twice = tmp_path / 'twice'
    assert predict(again / 'bag/run', '--out', twice, *words) == 1
    assert 'it has /segmentation/color already' in capsys.readouterr().err
    assert predict(again / 'bag/run', '--out', twice, *words, '--namespace', 'b') == 0
    assert '/b/segmentation/labels' in messages_of(twice / 'bag/run')
    assert list(twice.glob('bag/.*')) == []
