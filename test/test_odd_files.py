"""Each file of each data set, recording and catalogue, in place of which something else lies."""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
from typing import Any

from layouts import LAYOUTS
import pytest
import torch

from sd_perception_ros.checkpoint.config_file import open_checkpoint
from sd_perception_ros.cli.arguments import _recipe
from sd_perception_ros.data.formats.shards import write_shards
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.git_lfs import GitLfsPointerError
from sd_perception_ros.paths import printable
from sd_perception_ros.ros.replay.sources import open_source, read_camera
from sd_perception_ros.synthetic.assets import read_catalogs
from sd_perception_ros.synthetic.bodies import Bodies
from sd_perception_ros.synthetic.environments import read_environment

POINTER = (
    b'version https://git-lfs.github.com/spec/v1\n'
    b'oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n'
)
# What may lie there after a broken copy, a full disk, a wrong download, another editor.
JUNK = {
    'empty': b'',
    'null': b'null',
    'deep': b'[' * 100_000,
    'open brace': b'{',
    'list': b'[]',
    'page': b'<!DOCTYPE html><html>Sign in</html>',
    'bytes': bytes(range(256)) * 4,
    'other table': b'a,b\n1,2\n',
    'utf-16': 'scene_name,x\n'.encode('utf-16'),
}


def shards(root: Path) -> None:
    """Write the frames of a folder of one's own into a tar file."""
    LAYOUTS['dis5k'](root.parent / 'of_shards')
    whole = open_data([f'dis5k:{root.parent / "of_shards"}'])
    list(write_shards(whole, root, 10))


KINDS = LAYOUTS | {'shards': shards}


def frames(kind: str, folder: Path) -> list[dict[str, torch.Tensor]]:
    """Open a set, check it and read it, as the commands do."""
    dataset = open_data([f'{kind}:{folder}' + (':val' if kind == 'diode' else '')])
    dataset.check()
    return [dict(dataset[index]) for index in range(len(dataset))]


@pytest.mark.parametrize('kind', KINDS)
def test_a_git_lfs_pointer_among_the_files_of_a_set_says_git_lfs_pull(
    kind: str, tmp_path: Path
) -> None:
    folder = tmp_path / 'set'
    folder.mkdir()
    KINDS[kind](folder)
    before = frames(kind, folder)
    told = 0
    for file in [file for file in folder.rglob('*') if file.is_file()]:
        whole = file.read_bytes()
        file.write_bytes(POINTER)
        try:
            after = frames(kind, folder)
        except (OSError, ValueError) as error:
            assert f'{file} is a git-lfs pointer' in str(error)  # noqa: PT017
            assert 'git lfs pull' in str(error)  # noqa: PT017
            told += 1
        else:  # a file that nobody reads
            torch.testing.assert_close(after, before, equal_nan=True)
        file.write_bytes(whole)
    assert told


@pytest.mark.parametrize('junk', JUNK)
@pytest.mark.parametrize('kind', KINDS)
def test_an_empty_or_broken_file_of_a_set_is_blamed_itself(
    kind: str, junk: str, tmp_path: Path
) -> None:
    folder = tmp_path / 'set'
    folder.mkdir()
    KINDS[kind](folder)
    before = frames(kind, folder)
    for file in [file for file in folder.rglob('*') if file.is_file()]:
        whole = file.read_bytes()
        file.write_bytes(JUNK[junk])
        try:
            after = frames(kind, folder)
        except (OSError, ValueError) as error:
            text = str(error)
            # A list of frames without one is reported with its folder.
            assert str(file) in text or str(file.parent) in text, (file, text)
            assert '\n' not in text
        else:
            if file.name != 'classes.txt':
                torch.testing.assert_close(after, before, equal_nan=True)
        file.write_bytes(whole)


def joints(values: Any) -> dict[str, Any]:
    marks = {'id': 1, 'image_id': 1, 'category_id': 1, 'keypoints': values}
    return {
        'images': [{'id': 1, 'file_name': 'a.png'}],
        'annotations': [marks],
        'categories': [{'id': 1, 'name': 'person'}],
    }


ODD_JOINTS: dict[str, tuple[Any, str]] = {
    'no list of images': ({'annotations': []}, r"format of COCO \(KeyError\('images'\)"),
    'null annotations': (joints([]) | {'annotations': None}, 'format of COCO'),
    'null categories': (joints([]) | {'categories': None}, 'format of COCO'),
    'categories of words': (joints([]) | {'categories': ['person']}, 'format of COCO'),
    'list': ([], 'format of COCO'),
    'words': (joints(['x'] * 51), "51 numbers in one list, got 'x' among them"),
    'triples': (joints([[1, 2, 2]] * 17), r'51 numbers in one list, got \[1, 2, 2\]'),
    'joints of numbers': (
        joints([]) | {'categories': [{'id': 1, 'name': 'person', 'keypoints': [1, 2]}]},
        'expected the 17 joints of COCO .* got 1, 2; reorder',
    ),
    'another image': (
        joints([]) | {'images': [{'id': 2, 'file_name': 'a.png'}]},
        'expected an image for each annotation',
    ),
}


@pytest.mark.parametrize('kind', ODD_JOINTS)
def test_odd_keypoint_files_are_refused_with_what_is_odd(kind: str, tmp_path: Path) -> None:
    LAYOUTS['folder'](tmp_path)
    content, words = ODD_JOINTS[kind]
    (tmp_path / 'keypoints.json').write_text(json.dumps(content))
    with pytest.raises((OSError, ValueError), match=words) as caught:
        frames('folder', tmp_path)
    assert 'keypoints.json' in str(caught.value)


def test_a_file_name_of_digits_in_a_keypoint_file_is_a_name(tmp_path: Path) -> None:
    LAYOUTS['folder'](tmp_path)
    file = tmp_path / 'keypoints.json'
    content = json.loads(file.read_text())
    content['images'].append({'id': 7, 'file_name': 7})
    file.write_text(json.dumps(content))
    assert 'joints' in frames('folder', tmp_path)[0]


READERS: dict[str, Callable[[Path], Any]] = {
    'checkpoint.yaml': lambda file: open_checkpoint(str(file)),
    'recipe.yaml': _recipe,
    'film.mp4': lambda file: open_source(str(file)),
    'picture.png': lambda file: open_source(str(file)).frame(0),
    'camera.json': read_camera,
    'sky.exr': read_environment,
    'sky.hdr': read_environment,
    'catalogue.sh3f': lambda file: read_catalogs(file.parent),
    'bodies.npz': lambda file: Bodies(None, file, False),
    'recording.mcap': lambda file: open_data([f'rosbag:{file}']),
    'recording.db3': lambda file: open_data([f'rosbag:{file}']),
}


@pytest.mark.parametrize('name', READERS)
def test_every_other_file_says_git_lfs_pull(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(POINTER)
    with pytest.raises((GitLfsPointerError, ValueError), match='run in its folder: git lfs pull'):
        READERS[name](file)


@pytest.mark.parametrize('junk', JUNK)
@pytest.mark.parametrize('name', READERS)
def test_every_other_file_that_is_broken_is_blamed_in_one_line(
    name: str, junk: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(JUNK[junk])
    with pytest.raises((OSError, ValueError)) as caught:
        READERS[name](file)
    assert printable(file) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_recording_in_a_folder_says_git_lfs_pull(tmp_path: Path) -> None:
    (tmp_path / 'bag_0.mcap').write_bytes(POINTER)
    about = {'rosbag2_bagfile_information': {'storage_identifier': 'mcap'}}
    for metadata in (None, json.dumps(about).encode(), POINTER):
        if metadata is not None:
            (tmp_path / 'metadata.yaml').write_bytes(metadata)
        with pytest.raises(OSError, match='run in its folder: git lfs pull'):
            open_data([f'rosbag:{tmp_path}'])
