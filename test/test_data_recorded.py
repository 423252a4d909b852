"""Recordings and shards as data, and the command that looks at data and writes shards."""

from __future__ import annotations

import json
import math
from pathlib import Path
import struct
from typing import Any

import cv2
from layouts import LAYOUTS
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
import torch
import webdataset

from sd_perception_ros.cli import data as data_command
from sd_perception_ros.data.formats.shards import write_shards
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.data.statistics import DataStatistics
from sd_perception_ros.image_encodings import ENCODINGS, image_to_rgb

TYPES = get_typestore(Stores.ROS2_JAZZY)
COLOR, DEPTH = '/camera/color/image_raw', '/camera/aligned_depth_to_color/image_raw'
K = np.array([5, 0, 3.5, 0, 5, 2.5, 0, 0, 1], np.float64)


def header(stamp_ns: int) -> Any:
    stamp = TYPES.types['builtin_interfaces/msg/Time'](stamp_ns // 10**9, stamp_ns % 10**9)
    return TYPES.types['std_msgs/msg/Header'](stamp, 'camera')


def image(stamp_ns: int, encoding: str, levels: np.ndarray, pad: int = 0) -> Any:
    rows = np.ascontiguousarray(levels).view(np.uint8).reshape(levels.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, pad)))
    return TYPES.types['sensor_msgs/msg/Image'](
        header(stamp_ns), *levels.shape[:2], encoding, 0, rows.shape[1], rows.ravel()
    )


def compressed(stamp_ns: int, format_: str, data: np.ndarray) -> Any:
    return TYPES.types['sensor_msgs/msg/CompressedImage'](header(stamp_ns), format_, data)


def camera_info(stamp_ns: int, k: np.ndarray, width: int = 8) -> Any:
    roi = TYPES.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    return TYPES.types['sensor_msgs/msg/CameraInfo'](
        header(stamp_ns),
        6,
        width,
        'plumb_bob',
        np.zeros(5),
        k,
        np.eye(3).ravel(),
        np.zeros(12),
        0,
        0,
        roi,
    )


def record(
    bag: Path, topics: dict[str, list[Any]], storage: StoragePlugin = StoragePlugin.MCAP
) -> Path:
    """Record messages; each arrives a millisecond after its stamp."""
    with Writer(bag, version=9, storage_plugin=storage) as writer:
        for topic, messages in topics.items():
            kind = messages[0].__msgtype__
            connection = writer.add_connection(topic, kind, typestore=TYPES)
            for message in messages:
                stamp = message.header.stamp
                received = stamp.sec * 10**9 + stamp.nanosec + 10**6
                writer.write(connection, received, TYPES.serialize_cdr(message, kind))
    return bag


def bgr() -> np.ndarray:
    levels = np.full((6, 8, 3), 100, np.uint8)
    levels[0, 0] = 0, 0, 255
    return levels


def depth_mm() -> np.ndarray:
    levels = np.full((6, 8), 1500, np.uint16)
    levels[0, 0] = 0
    return levels


def rgbd(first: int = 10**9) -> dict[str, list[Any]]:
    """Return three pictures at 10 Hz, of which two have depth, a few milliseconds later."""
    stamps = [first + i * 10**8 for i in range(3)]
    return {
        COLOR: [image(stamp, 'bgr8', bgr(), pad=3) for stamp in stamps],
        DEPTH: [image(stamp + 5 * 10**6, '16UC1', depth_mm()) for stamp in stamps[1:]],
        '/camera/color/camera_info': [camera_info(stamp, K) for stamp in stamps],
        '/camera/aligned_depth_to_color/camera_info': [camera_info(stamps[0], K)],
    }


@pytest.mark.parametrize('storage', StoragePlugin)
def test_a_recording_has_images_with_depth_of_the_same_time(
    storage: StoragePlugin, tmp_path: Path
) -> None:
    bag = record(tmp_path / 'bag', rgbd(), storage)
    dataset = open_data([str(bag)])
    dataset.check()
    assert dataset.name == f'rosbag:{bag}'
    assert [dataset.key(i) for i in range(len(dataset))] == ['1105000000', '1205000000']
    sample = dataset[1]
    assert sample['image'][0, :, 0, 0].tolist() == pytest.approx([1, -1, -1])
    assert sample['depth_m'][0, 0, 0, :2].tolist() == pytest.approx([math.nan, 1.5], nan_ok=True)
    assert open_data([str(bag)]).fingerprint() == dataset.fingerprint()


def test_depth_in_metres_keeps_infinity_and_too_near_is_unknown(tmp_path: Path) -> None:
    depth_m = np.full((6, 8), 2.5, np.float32)
    depth_m[0, :3] = math.nan, -math.inf, math.inf
    topics = rgbd() | {DEPTH: [image(10**9, '32FC1', depth_m)]}
    values = open_data([str(record(tmp_path / 'bag', topics))])[0]['depth_m'][0, 0, 0, :4]
    expected = [math.nan, math.nan, math.inf, 2.5]
    assert values.tolist() == pytest.approx(expected, nan_ok=True)


def test_compressed_images_and_depth_are_read(tmp_path: Path) -> None:
    _, png = cv2.imencode('.png', bgr())
    _, depth = cv2.imencode('.png', depth_mm())
    head = np.frombuffer(struct.pack('<iff', 0, 0.0, 0.0), np.uint8)
    topics = {
        '/rgb/compressed': [compressed(10**9, 'rgb8; png compressed bgr8', png.ravel())],
        '/depth/compressedDepth': [
            compressed(10**9, '16UC1; compressedDepth png', np.concatenate([head, depth.ravel()]))
        ],
    }
    sample = open_data([str(record(tmp_path / 'bag', topics))])[0]
    assert sample['image'][0, :, 0, 0].tolist() == pytest.approx([1, -1, -1])
    assert sample['depth_m'][0, 0, 0, :2].tolist() == pytest.approx([math.nan, 1.5], nan_ok=True)


def test_quantized_depth_is_the_inverse_of_its_levels(tmp_path: Path) -> None:
    levels = np.full((6, 8), 600, np.uint16)
    levels[0, 0] = 0
    _, png = cv2.imencode('.png', levels)
    head = np.frombuffer(struct.pack('<iff', 0, 1000.0, 100.0), np.uint8)
    message = compressed(10**9, '32FC1; compressedDepth', np.concatenate([head, png.ravel()]))
    topics = {COLOR: rgbd()[COLOR], '/depth/compressedDepth': [message]}
    values = open_data([str(record(tmp_path / 'bag', topics))])[0]['depth_m'][0, 0, 0, :2]
    assert values.tolist() == pytest.approx([math.nan, 1000 / (600 - 100)], nan_ok=True)


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_a_recording_may_have_every_encoding_of_the_node(encoding: str, tmp_path: Path) -> None:
    item_bytes, channels, _, chroma, _ = ENCODINGS[encoding]
    rows = round(6 * (1 + chroma))  # a plane of colour behind the picture
    levels = np.random.default_rng(0).integers(0, 256, (rows, 8 * channels * item_bytes), np.uint8)
    message = TYPES.types['sensor_msgs/msg/Image'](
        header(10**9), 6, 8, encoding, 0, levels.shape[1], levels.ravel()
    )
    topics = {COLOR: [message], DEPTH: [image(10**9, '16UC1', depth_mm())]}
    bag = record(tmp_path / 'bag', topics)
    picture = open_data([f'rosbag:{bag}:{COLOR},{DEPTH}'])[0]['image'][0]
    expected = torch.from_numpy(image_to_rgb(message).copy()).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(picture, expected)


def test_of_several_cameras_two_topics_are_chosen(tmp_path: Path) -> None:
    topics = rgbd() | {'/rear/image_raw': [image(10**9, 'mono8', depth_mm().astype(np.uint8))]}
    bag = record(tmp_path / 'bag', topics)
    with pytest.raises(ValueError, match=r'expected one image topic .* /rear/image_raw'):
        open_data([str(bag)])
    assert len(open_data([f'rosbag:{bag}:{COLOR},{DEPTH}'])) == 2
    with pytest.raises(ValueError, match=r"expected two topics as 'image,depth', got '/front'"):
        open_data([f'rosbag:{bag}:/front'])


def test_depth_that_is_not_registered_is_refused(tmp_path: Path) -> None:
    other = camera_info(10**9, K * 2)
    topics = rgbd() | {'/camera/aligned_depth_to_color/camera_info': [other]}
    with pytest.raises(
        ValueError, match=r'expected depth registered to its image, .* aligned_depth_to_color'
    ):
        open_data([str(record(tmp_path / 'bag', topics))])


def test_topics_without_common_stamps_are_refused(tmp_path: Path) -> None:
    topics = rgbd() | {DEPTH: rgbd(10**12)[DEPTH]}
    with pytest.raises(
        OSError, match=r'within 20 ms of each other, found 3 and 2 without such pairs'
    ):
        open_data([str(record(tmp_path / 'bag', topics))])


@pytest.mark.parametrize('storage', StoragePlugin)
def test_files_of_a_recording_without_metadata_are_read(
    storage: StoragePlugin, tmp_path: Path
) -> None:
    bag = record(tmp_path / 'bag', rgbd(), storage)
    expected = open_data([str(bag)]).fingerprint()
    metadata = bag / 'metadata.yaml'
    name = 'mcap' if storage is StoragePlugin.MCAP else 'sqlite3'
    assert f'storage_identifier: {name}' in metadata.read_text()
    metadata.write_text(metadata.read_text().replace(f'identifier: {name}', "identifier: ''"))
    assert open_data([f'rosbag:{bag}']).fingerprint() == expected
    metadata.unlink()
    [file] = bag.iterdir()
    for word in (f'{bag}', f'{file}', f'rosbag:{file}'):
        dataset = open_data([word])
        assert dataset.fingerprint() == expected
        assert dataset[1]['depth_m'][0, 0, 0, 1].item() == pytest.approx(1.5)
    record(tmp_path / 'next', rgbd(10**12), storage)
    (tmp_path / 'next' / file.name.replace('bag', 'next')).rename(bag / f'next{file.suffix}')
    assert len(open_data([str(bag)])) == 4  # a recording in two files


def test_a_recording_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    bag = record(tmp_path / 'bag', rgbd())
    (bag / 'metadata.yaml').write_text('{')
    with pytest.raises(OSError, match=r'metadata.yaml: expected the metadata .* bag reindex'):
        open_data([str(bag)])
    (bag / 'metadata.yaml').unlink()
    [file] = bag.iterdir()
    for content in (b'', b'nothing'):
        file.write_bytes(content)
        with pytest.raises(OSError, match=r'bag.mcap: expected a complete recording'):
            open_data([str(bag)])
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r'expected a recording in .* found none'):
        open_data([f'rosbag:{bag}'])


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Path, Path]:
    """Return a folder of two pictures with every truth, and its shards of one each."""
    LAYOUTS['folder'](tmp_path / 'mine')
    dataset = open_data([str(tmp_path / 'mine')])
    assert list(write_shards(dataset, tmp_path / 'shards', 1)) == [1, 2]
    return tmp_path / 'mine', tmp_path / 'shards'


def test_shards_have_the_samples_of_their_source(shards: tuple[Path, Path]) -> None:
    original, written = (open_data([str(folder)]) for folder in shards)
    written.check()
    assert (written.truths, written.classes) == (original.truths, original.classes)
    for index in range(2):
        expected, got = original[index], written[index]
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            exact = name in ('image', 'depth_m', 'labels', 'joints')
            tolerance = 0 if exact else 5e-4  # half precision
            torch.testing.assert_close(
                got[name], value, atol=tolerance, rtol=0, equal_nan=True, msg=name
            )


def test_webdataset_itself_reads_the_shards(shards: tuple[Path, Path]) -> None:
    files = [str(file) for file in sorted(shards[1].glob('*.tar'))]
    assert [Path(file).name for file in files] == ['000000.tar', '000001.tar']
    read = list(webdataset.WebDataset(files, shardshuffle=False).decode('rgb8'))
    assert [sample['__key__'] for sample in read] == ['00000000', '00000001']
    assert read[1]['image.png'].shape == (12, 10, 3)
    assert read[1]['depth_m.npy'].shape == (12, 10)


def test_truncated_and_missing_shards_are_named(shards: tuple[Path, Path]) -> None:
    file = shards[1] / '000001.tar'
    whole = file.read_bytes()
    file.write_bytes(whole[:700])
    with pytest.raises(OSError, match=r'000001.tar: expected a complete tar file'):
        open_data([str(shards[1])])
    file.unlink()
    with pytest.raises(OSError, match=r'expected 2 frames in its tar files, .* got 1'):
        open_data([str(shards[1])])


def test_existing_shards_are_not_overwritten(shards: tuple[Path, Path]) -> None:
    with pytest.raises(OSError, match='holds shards; choose another folder'):
        next(write_shards(open_data([str(shards[0])]), shards[1], 1))


def test_only_tar_files_of_an_interrupted_run_are_replaced(
    shards: tuple[Path, Path], tmp_path: Path
) -> None:
    dataset, downloads = open_data([str(shards[0])]), tmp_path / 'downloads'
    downloads.mkdir()
    (downloads / '000000.tar').write_bytes(b'of somebody')
    with pytest.raises(OSError, match=r'holds 000000.tar, which is not ours; choose another'):
        next(write_shards(dataset, downloads, 1))
    assert (downloads / '000000.tar').read_bytes() == b'of somebody'
    stopped = write_shards(dataset, tmp_path / 'new', 1)
    next(stopped)
    stopped.close()
    assert list(write_shards(dataset, tmp_path / 'new', 2)) == [1, 2]
    assert [file.name for file in (tmp_path / 'new').glob('*.tar')] == ['000000.tar']
    assert len(open_data([str(tmp_path / 'new')])) == 2


def test_the_command_writes_shards_of_one_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LAYOUTS['folder'](tmp_path / 'mine')
    words = ['shards', '--data', str(tmp_path / 'mine'), '--out', str(tmp_path / 'shards')]
    assert data_command.main([*words, '--frame-size', '24x16']) == 0
    assert f'--data shards:{tmp_path}/shards' in capsys.readouterr().out
    sample = open_data([f'shards:{tmp_path}/shards'])[1]
    assert {v.shape[-2:] for n, v in sample.items() if n != 'joints'} == {(16, 24)}
    assert json.loads((tmp_path / 'shards' / 'dataset.json').read_text())['frames'] == 2


def test_inspect_draws_every_ground_truth_and_prints_its_statistics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LAYOUTS['folder'](tmp_path / 'mine')
    sheet = tmp_path / 'sheets' / 'mine.png'
    assert (
        data_command.main(['inspect', '--data', str(tmp_path / 'mine'), '--out', str(sheet)]) == 0
    )
    out = capsys.readouterr().out
    assert f'folder:{tmp_path}/mine: 2 frames with depth_m, normals, labels' in out
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if line.startswith('  '))
    assert lines['image'].startswith('8x6, 10x12; mean red 10')
    assert lines['depth_m'] == (
        '2.00 .. 2.00 m, median 2.00 m; known 98.8 %, 1.2 % of all pixels beyond the range'
    )
    assert lines['normals'] == 'mean (+0.00, +0.00, -1.00), z forward in 0.0 %; known 100.0 %'
    assert lines['labels'] == 'path 100.0 %; known 100.0 %'
    assert lines['foreground'] == 'covers 100.0 %, soft 0.0 %; known 100.0 %'
    assert lines['matte'] == 'covers 20.0 %, soft 100.0 %; known 100.0 %'
    assert lines['joints'] == (
        '0 .. 1 people per image, mean 0.5; of their joints 5.9 % annotated, 5.9 % visible'
    )
    pixels = cv2.imread(str(sheet))
    # Two rows of 24 + 192 pixels; seven cells of a picture of 8 x 6, 4 px apart.
    assert pixels.shape == (2 * 216, 7 * 256 + 6 * 4, 3)
    unknown = pixels[24 : 24 + 8, 260 : 260 + 8, 0]  # the top left of the depth: squares of 4
    assert unknown.tolist() == np.kron([[50, 110], [110, 50]], np.ones((4, 4))).tolist()


def test_inspect_names_every_broken_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LAYOUTS['folder'](tmp_path / 'mine')
    file = tmp_path / 'mine' / 'alpha' / 'b.png'
    file.write_bytes(file.read_bytes()[:-20])
    words = ['inspect', '--data', str(tmp_path / 'mine'), '--out', str(tmp_path / 'sheet.png')]
    with pytest.raises(OSError, match=r'alpha/b.png: expected a complete file'):
        data_command.main(words)
    assert data_command.main([*words, '--read', '0']) == 1
    errors = capsys.readouterr().err
    assert 'b.png: ' in errors
    assert 'alpha/b.png: expected a complete file' in errors
    assert 'error: 1 of 2 frames are broken' in errors


def test_statistics_without_known_values_have_no_numbers() -> None:
    statistics = DataStatistics()
    nothing = torch.full((1, 1, 2, 2), math.nan)
    statistics.add(
        {
            'image': torch.zeros(1, 3, 2, 2),
            'depth_m': nothing,
            'matte': nothing,
            'normals': torch.zeros(1, 3, 2, 2),
            'labels': torch.full((1, 1, 2, 2), 255.0),
            'joints': torch.zeros(1, 0, 17, 3),
        }
    )
    lines = statistics.lines()
    assert lines['depth_m'] == lines['matte'] == lines['normals'] == 'known 0.0 %'
    assert lines['labels'] == 'known 0.0 %'
    assert lines['joints'].startswith('0 .. 0 people')
