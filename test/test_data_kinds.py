"""Every kind of data, read from tiny folders in its own layout."""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import h5py
from layouts import coco_file, depth_levels, keypoints, LAYOUTS, person, picture, write
import numpy as np
from PIL import Image
import pytest
import torch

from sd_perception_ros.cli import data as data_command
from sd_perception_ros.cli.data_checks import check_truths
from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.data.files import read_alpha, read_rgb
from sd_perception_ros.data.formats import dataset_class, KINDS
from sd_perception_ros.data.formats.hypersim import camera_rays, to_depth_m
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.skeleton import INDEX
from sd_perception_ros.tasks import make_task

# Files without a picture's end, a file's length in its head, or numpy's: found when they are read.
BY_HEAD = {'.json', '.csv', '.mat', '.txt', '.npy'}


def made(kind: str, folder: Path, split: str = '') -> Dataset:
    folder.mkdir(exist_ok=True)
    LAYOUTS[kind](folder)
    return open_data([f'{kind}:{folder}{split}'])


@pytest.mark.parametrize('kind', LAYOUTS)
def test_a_folder_is_recognized_by_its_files(kind: str, tmp_path: Path) -> None:
    LAYOUTS[kind](tmp_path)
    folder = f'{tmp_path}'
    if kind == 'diode':  # no train in this one
        folder = f'{kind}:{tmp_path}:val'
    dataset = open_data([folder])
    assert type(dataset) is dataset_class(kind)
    dataset.check()


@pytest.mark.parametrize('kind', LAYOUTS)
def test_a_sample_follows_the_conventions_of_types_py(kind: str, tmp_path: Path) -> None:
    dataset = made(kind, tmp_path, ':val' if kind == 'diode' else '')
    sample = dataset[0]
    height, width = sample['image'].shape[-2:]
    assert set(dataset.truths) <= sample.keys()
    assert all(value.dtype == torch.float32 for value in sample.values())
    channels = {'image': 3, 'normals': 3}
    for name, value in sample.items():
        if name != 'joints':
            assert value.shape == (1, channels.get(name, 1), height, width), name
    torch.testing.assert_close(dataset.image(0), sample['image'])
    assert -1 <= sample['image'].min() <= sample['image'].max() <= 1
    if kind != 'hypersim':
        red, green, blue = sample['image'][0, :, 0, 0]
        assert red > max(green, blue)
    if 'depth_m' in sample:
        depth_m = sample['depth_m']
        assert ((depth_m > 0) | depth_m.isnan()).all()
        assert not torch.isneginf(depth_m).any()


@pytest.mark.parametrize('kind', LAYOUTS)
def test_a_missing_or_truncated_file_is_named_before_a_training(kind: str, tmp_path: Path) -> None:
    dataset = made(kind, tmp_path, ':val' if kind == 'diode' else '')
    for file in {file for frame in dataset.frames for file in frame.files.values()}:
        whole = file.read_bytes()
        if file.suffix not in BY_HEAD and 'ground_truth_depth' not in file.parts:
            file.write_bytes(whole[: len(whole) // 2])
            with pytest.raises(
                OSError, match=r'expected a complete file.* copy or download it again'
            ):
                dataset.check()
            with pytest.raises(OSError, match=file.name):
                [dataset[index] for index in range(len(dataset))]
        file.unlink()
        with pytest.raises(OSError, match=file.name):
            dataset.check()
        file.write_bytes(whole)
    dataset.check()


@pytest.mark.parametrize('kind', KINDS)
def test_an_empty_folder_says_what_was_expected(kind: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f'expected .* {tmp_path}'):
        open_data([f'{kind}:{tmp_path}'])


def test_hypersim_distances_along_rays_become_depth_along_the_axis(tmp_path: Path) -> None:
    depth_m = made('hypersim', tmp_path)[0]['depth_m'][0, 0]
    # A sphere of 2 m around a camera of 886.81 px: in the middle, half a pixel beside the axis,
    # depth is distance; in the corner it is shorter by the cosine of the ray's angle.
    assert depth_m[383, 511].item() == pytest.approx(2, abs=1e-5)
    corner = math.hypot(511.5 / 886.81, 383.5 / 886.81, 1)
    assert depth_m[0, 0].item() == pytest.approx(2 / corner, abs=1e-5)
    assert depth_m[0, 0].item() == pytest.approx(1.6224, abs=1e-4)
    assert depth_m[10, 10].isnan()


def test_hypersim_normals_are_in_the_optical_frame_and_face_the_camera(tmp_path: Path) -> None:
    normals = made('hypersim', tmp_path)[0]['normals'][0]
    for place in ((100, 100), (5, 5)):  # the second one is seen from behind
        torch.testing.assert_close(
            normals[:, place[0], place[1]], torch.tensor([0, -0.6, -0.8]), atol=1e-3, rtol=0
        )
    assert normals[:, 10, 10].tolist() == [0, 0, 0]


def test_hypersim_classes_start_at_the_wall_and_unknown_is_255(tmp_path: Path) -> None:
    dataset = made('hypersim', tmp_path)
    labels = dataset[0]['labels'][0, 0]
    assert dataset.classes[int(labels[0, 0])] == 'floor'
    assert labels[10, 10] == 255


def test_hypersim_images_have_the_tone_mapping_of_the_authors(tmp_path: Path) -> None:
    image = made('hypersim', tmp_path)[0]['image'][0, 0]
    # The 90th percentile becomes 0.8 of white, 204 of 255, and -1 .. 1 has it at 0.6.
    assert image[700, 500].item() == pytest.approx(0.6, abs=1e-6)
    assert image[100, 500].item() == -1


def test_a_tilted_hypersim_camera_has_its_own_rays() -> None:
    usual = camera_rays(3, 4)
    assert usual[1, 1, 1] == 0  # the middle row looks straight ahead
    assert (usual[..., 2] == 1).all()
    assert usual[0, 3, 0] > 0 > usual[0, 0, 0]
    assert usual[0, 0, 1] < 0 < usual[2, 0, 1]  # y points down
    shifted = np.diag([math.tan(math.pi / 6), 0.25, -1.0])
    shifted[1, 2] = 0.5  # the middle row looks up by half a metre a metre
    rays = camera_rays(3, 4, shifted)
    assert rays[1, 1].tolist() == pytest.approx([usual[1, 1, 0], -0.5, 1])
    distance_m = np.ones((3, 4), np.float32)
    ray = math.hypot(float(usual[1, 1, 0]), 0.5, 1)
    assert to_depth_m(distance_m, rays)[1, 1] == pytest.approx(1 / ray)


def test_hypersim_without_its_split_file_says_where_to_get_it(tmp_path: Path) -> None:
    LAYOUTS['hypersim'](tmp_path)
    assert len(open_data([f'hypersim:{tmp_path}:train'])) == 1
    with pytest.raises(FileNotFoundError, match='expected ai_VVV_NNN'):
        open_data([f'hypersim:{tmp_path}:test'])
    (tmp_path / 'metadata_images_split_scene_v1.csv').unlink()
    with pytest.raises(FileNotFoundError, match=r'split of the authors .*:all'):
        open_data([f'hypersim:{tmp_path}'])
    assert len(open_data([f'hypersim:{tmp_path}:all'])) == 1


def first_depths(dataset: Dataset) -> list[float]:
    return dataset[0]['depth_m'][0, 0, 0, :3].tolist()


def test_virtual_kitti_depth_is_in_centimetres_and_its_sky_infinitely_far(tmp_path: Path) -> None:
    dataset = made('vkitti2', tmp_path)
    assert first_depths(dataset) == pytest.approx([2.5, math.inf, 5.12])
    assert dataset.key(0) == 'Scene01/clone/Camera_0/rgb_00007'


def test_depth_from_80_m_on_streets_and_65_m_in_rooms_on_is_infinite(
    tmp_path: Path,
) -> None:
    LAYOUTS['vkitti2'](tmp_path)
    [file] = tmp_path.rglob('depth_00007.png')
    levels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    levels[0, :3] = 7999, 8000, 30000
    cv2.imwrite(str(file), levels)
    dataset = open_data([f'vkitti2:{tmp_path}'])
    assert first_depths(dataset) == pytest.approx([79.99, math.inf, math.inf])
    # A street to its end: what is near still takes the whole range of a target.
    depth = make_task('depth').target(
        {
            'depth_m': torch.tensor([10.0, 40, math.inf, math.inf])
            .view(1, 1, 1, 4)
            .expand(1, 1, 8, 4)
        }
    )[0]
    assert depth[0, 0, 0].tolist() == pytest.approx([-1, 1, 1, 1])
    rays = camera_rays(2, 2)
    assert to_depth_m(np.full((2, 2), 100, np.float32), rays).min() == math.inf


def test_virtual_kitti_may_be_in_the_folders_of_its_archives(tmp_path: Path) -> None:
    LAYOUTS['vkitti2'](tmp_path)
    for what in ('rgb', 'depth'):
        target = tmp_path / f'vkitti_2.0.3_{what}' / 'Scene01' / 'clone' / 'frames'
        target.mkdir(parents=True)
        (tmp_path / 'Scene01' / 'clone' / 'frames' / what).rename(target / what)
    dataset = open_data([str(tmp_path)])
    dataset.check()
    assert first_depths(dataset) == pytest.approx([2.5, math.inf, 5.12])


def test_nyu_frames_are_upright_and_holes_of_the_sensor_are_unknown(tmp_path: Path) -> None:
    dataset = made('nyuv2', tmp_path)
    assert dataset[1]['image'].shape == (1, 3, 6, 8)
    assert dataset[1]['depth_m'][0, 0, 0, :3].tolist() == pytest.approx(
        [2, math.nan, 2.5], nan_ok=True
    )
    assert [len(open_data([f'nyuv2:{tmp_path}:{split}'])) for split in ('train', 'test')] == [2, 1]
    assert open_data([f'nyuv2:{tmp_path}:test']).key(0) == '0002'
    assert open_data([f'nyuv2:{tmp_path}:test']).fingerprint() != dataset.fingerprint()


def test_a_truncated_matlab_file_is_named(tmp_path: Path) -> None:
    LAYOUTS['nyuv2'](tmp_path)
    file = tmp_path / 'nyu_depth_v2_labeled.mat'
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(OSError, match=r'nyu_depth_v2_labeled.mat: expected .* download it again'):
        open_data([f'nyuv2:{tmp_path}'])


def test_kitti_depth_is_in_256ths_of_a_metre_and_0_unknown(tmp_path: Path) -> None:
    dataset = made('kitti', tmp_path)
    assert first_depths(dataset) == pytest.approx([math.nan, 1, 2.5], nan_ok=True)


def test_a_list_of_kitti_images_is_a_split_of_those_with_depth(tmp_path: Path) -> None:
    LAYOUTS['kitti'](tmp_path)
    drive = '2011_09_26/2011_09_26_drive_0001_sync/image_02/data'
    (tmp_path / 'eigen.txt').write_text(
        f'{drive}/0000000005.png anything 721.5\n{drive}/0000000006.png None 721.5\n'
    )
    assert open_data([f'kitti:{tmp_path}:eigen']).key(0).endswith('image_02/0000000005')
    assert len(open_data([f'kitti:{tmp_path}:eigen'])) == 1


def test_scannet_frames_are_sorted_and_images_have_the_size_of_their_depth(
    tmp_path: Path,
) -> None:
    dataset = made('scannet', tmp_path)
    assert [dataset.key(i) for i in range(3)] == [f'scene0000_00/{i}' for i in (0, 20, 100)]
    assert dataset[0]['image'].shape == (1, 3, 6, 8)
    assert first_depths(dataset) == pytest.approx([math.nan, 1.5, 0.512], nan_ok=True)
    (tmp_path / 'frames.txt').write_text(
        'scene0000_00/color/000020.jpg scene0000_00/depth/000020.png\nscene0000_00/color/0.jpg\n'
    )
    chosen = open_data([f'scannet:{tmp_path}:frames'])
    assert [chosen.key(i) for i in range(len(chosen))] == ['scene0000_00/0', 'scene0000_00/20']
    (tmp_path / 'mine.txt').write_text('scene0707_00\n')
    with pytest.raises(FileNotFoundError, match='expected sceneXXXX_XX'):
        open_data([f'scannet:{tmp_path}:mine'])


def test_eth3d_depth_has_no_header_and_infinity_is_unknown(tmp_path: Path) -> None:
    dataset = made('eth3d', tmp_path)
    assert first_depths(dataset) == pytest.approx([math.nan, 1.5, 4], nan_ok=True)
    file = dataset.frames[0].files['depth_m']
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(OSError, match=r'expected 8 x 6 numbers of 4 bytes.* got 188 bytes'):
        dataset[0]


def test_exif_orientation_is_ignored_in_public_data_and_applied_to_own_images(
    tmp_path: Path,
) -> None:
    upright = np.zeros((6, 8, 3), np.uint8)
    upright[0] = 255  # a white upper edge
    orientation = Image.Exif()
    orientation[0x0112] = 6  # turn it to the right by a quarter
    file = tmp_path / 'image' / 'a.jpg'
    file.parent.mkdir()
    Image.fromarray(upright).save(file, exif=orientation, quality=100, subsampling=0)
    assert read_rgb(file).shape == (6, 8, 3)
    turned = open_data([f'folder:{tmp_path}']).image(0)
    assert turned.shape == (1, 3, 8, 6)
    assert turned[0, 0, :, -1].min() > 0.8  # the white edge is at the right now
    assert turned[0, 0, :, 0].max() < -0.8


def test_diode_depth_is_known_where_its_mask_is_set(tmp_path: Path) -> None:
    dataset = made('diode', tmp_path, ':val')
    assert first_depths(dataset) == pytest.approx([3, math.nan, 3], nan_ok=True)
    assert len(open_data([f'diode:{tmp_path}:val/indoors'])) == 1
    with pytest.raises(FileNotFoundError):
        open_data([f'diode:{tmp_path}:val/outdoor'])


def test_dis5k_and_p3m_have_the_alpha_of_each_pixel(tmp_path: Path) -> None:
    thing = made('dis5k', tmp_path / 'dis')[0]['foreground'][0, 0, 0]
    assert thing.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    people = made('p3m10k', tmp_path / 'p3m')[0]['matte'][0, 0, 0]
    assert people.tolist() == pytest.approx([0, 0, 0, 0.2, 0, 0, 0, 0])


def test_coco_has_the_largest_person_first_and_leaves_out_images_without_joints(
    tmp_path: Path,
) -> None:
    dataset = made('coco', tmp_path)
    assert len(dataset) == 1
    joints = dataset[0]['joints'][0]
    assert joints.shape == (2, 17, 3)
    assert joints[0, INDEX['left_hip']].tolist() == [3, 4, 1]
    assert joints[1, INDEX['nose']].tolist() == [1, 2, 2]
    assert joints[1].count_nonzero() == 3


def test_for_evaluation_coco_has_every_image_and_the_outlines_of_all_people(
    tmp_path: Path,
) -> None:
    LAYOUTS['coco'](tmp_path)
    dataset = open_data([f'coco:{tmp_path}'], measuring=True)
    assert [dataset[i]['joints'].shape[1] for i in range(len(dataset))] == [2, 0]
    bodies = dataset[0]['bodies'][0]
    assert bodies[:, 4:].tolist() == [[20, 0], [12, 0], [12, 0]]  # as the joints are, then others
    assert dataset[1]['bodies'].shape == (1, 0, 6)


def test_for_evaluation_own_images_have_outlines_of_people_too(tmp_path: Path) -> None:
    LAYOUTS['folder'](tmp_path)
    dataset = open_data([f'folder:{tmp_path}'], measuring=True)
    assert dataset[0]['bodies'][0, :, 4:].tolist() == [[20, 0]]
    assert dataset[1]['bodies'].shape == (1, 0, 6)
    assert 'bodies' not in open_data([f'folder:{tmp_path}'])[0]


def test_an_invalid_box_is_an_error_with_its_image(tmp_path: Path) -> None:
    LAYOUTS['coco'](tmp_path)
    [file] = (tmp_path / 'annotations').glob('*.json')
    file.write_text(file.read_text().replace('"area": 20', '"area": 20, "bbox": [1, 2, 3]'))
    with pytest.raises(ValueError, match=r'expected 4 numbers as the bbox .*1.jpg .* got 3'):
        open_data([f'coco:{tmp_path}'], measuring=True)[0]


def test_unlabelled_people_are_unknown_in_coco(tmp_path: Path) -> None:
    matte = made('coco', tmp_path)[0]['matte'][0, 0, 3]
    assert matte[:2].tolist() == [1, 1]
    assert matte[3:6].tolist() == [0, 0, 0]
    assert matte[6:].isnan().all()


def test_annotations_of_other_joints_are_refused(tmp_path: Path) -> None:
    LAYOUTS['coco'](tmp_path)
    file = tmp_path / 'annotations' / 'person_keypoints_train2017.json'
    file.write_text(file.read_text().replace('left_hip', 'tail'))
    with pytest.raises(ValueError, match=r'expected the 17 joints of COCO .* tail'):
        open_data([f'coco:{tmp_path}'])
    file.write_text(file.read_text()[:50])
    with pytest.raises(OSError, match=r'train2017.json: expected people .* download it again'):
        open_data([f'coco:{tmp_path}'])


def test_a_folder_of_own_images_has_the_ground_truth_of_its_folders(tmp_path: Path) -> None:
    dataset = made('folder', tmp_path)
    assert dataset.truths == ('depth_m', 'normals', 'labels', 'foreground', 'matte', 'joints')
    assert dataset.classes == ('grass', 'path')
    sample = dataset[0]
    assert sample['depth_m'][0, 0, 0, :3].tolist() == pytest.approx(
        [math.nan, math.inf, 2], nan_ok=True
    )
    assert sample['normals'][0, :, 0, 0].tolist() == [0, 0, -1]
    assert sample['labels'].unique().tolist() == [1]
    assert sample['matte'].unique().tolist() == pytest.approx([0.2])
    assert sample['joints'][0, 0, INDEX['nose']].tolist() == [3, 2, 2]
    assert dataset[1]['joints'].shape == (1, 0, 17, 3)
    for folder in ('mask', 'alpha', 'labels'):
        for file in (tmp_path / folder).glob('*'):
            file.unlink()
        (tmp_path / folder).rmdir()
    (tmp_path / 'keypoints.json').unlink()
    assert open_data([str(tmp_path)]).truths == ('depth_m', 'normals')


def test_a_folder_with_names_that_do_not_match_is_refused(tmp_path: Path) -> None:
    LAYOUTS['folder'](tmp_path)
    (tmp_path / 'keypoints.json').write_text(coco_file([], 'a.png', 'images/b.png'))
    with pytest.raises(ValueError, match=r'without people; 1 are not, such as b.png: correct'):
        open_data([f'folder:{tmp_path}'])
    (tmp_path / 'keypoints.json').unlink()
    (tmp_path / 'classes.txt').unlink()
    with pytest.raises(ValueError, match=r'classes.txt: expected the names of classes 0, 1, '):
        open_data([f'folder:{tmp_path}'])


def test_a_jpeg_may_have_a_video_appended_and_a_thumbnail_inside(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    small, large = (cv2.imencode('.jpg', p)[1].tobytes() for p in (pixels[:8, :8], pixels))
    preview = b'\xff\xe1' + (len(small) + 2).to_bytes(2, 'big') + small
    file = tmp_path / 'phone.jpg'
    file.write_bytes(large[:2] + preview + large[2:] + bytes(5000))
    assert read_rgb(file).shape == (48, 64, 3)
    file.write_bytes((large[:2] + preview + large[2:])[:-400])
    with pytest.raises(OSError, match='expected a complete file, but its end is missing'):
        read_rgb(file)


def test_a_file_name_that_is_not_utf_8_is_read_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / os.fsdecode(b's\xe9t')  # Latin-1
    picture(tmp_path / 'a.png')
    picture(tmp_path / 'depth.png')
    write(tmp_path / 'depth.png', depth_levels(0))
    for name in ('image', 'depth'):
        (folder / name).mkdir(parents=True)
    name = os.fsdecode(b'\xfc.png')
    (tmp_path / 'a.png').rename(folder / 'image' / name)
    (tmp_path / 'depth.png').rename(folder / 'depth' / name)
    out = folder / 'sheet.png'
    assert data_command.main(['inspect', '--data', str(folder), '--out', str(out)]) == 0
    assert read_rgb(out).ndim == 3
    printed = capsys.readouterr().out
    assert rf'folder:{tmp_path}/s\xe9t: 1 frames with depth_m' in printed
    dataset = open_data([str(folder)])
    assert dataset.key(0) == r'\xfc.png'
    assert len(dataset.fingerprint()) == 16
    (folder / 'image' / name).write_bytes(b'nothing')
    with pytest.raises(OSError, match=r'\\xfc.png: expected an image; copy') as error:
        dataset[0]
    str(error.value).encode()


def test_webp_under_the_name_of_a_jpeg_is_read_and_heic_is_named(tmp_path: Path) -> None:
    file = tmp_path / 'image' / 'a.jpg'
    picture(file.with_suffix('.webp'))
    data = file.with_suffix('.webp').read_bytes()
    file.write_bytes(data)
    assert read_rgb(file).shape == (6, 8, 3)
    file.write_bytes(data[:-8])
    with pytest.raises(OSError, match=r'a.jpg: expected a complete file, but its end is missing'):
        read_rgb(file)
    file.write_bytes(b'\0\0\0\x18ftypheic' + bytes(100))
    with pytest.raises(OSError, match=r'a.jpg: expected an image such as .* got HEIC; convert it'):
        read_rgb(file)


@pytest.mark.parametrize('kind', LAYOUTS)
def test_companion_files_of_macos_are_ignored(kind: str, tmp_path: Path) -> None:
    split = ':val' if kind == 'diode' else ''
    before = made(kind, tmp_path, split)
    for file in [file for file in tmp_path.rglob('*') if file.is_file()]:
        file.with_name(f'._{file.name}').write_bytes(b'\0\x05\x16\x07')
    after = open_data([f'{kind}:{tmp_path}{split}'])
    assert [after.key(i) for i in range(len(after))] == [before.key(i) for i in range(len(before))]
    after.check()


@pytest.mark.parametrize(('bits', 'most'), [(1, 1), (2, 3), (4, 15)])
def test_class_ids_of_few_bits_and_of_a_palette_are_ids(
    bits: int, most: int, tmp_path: Path
) -> None:
    ids = np.tile(np.arange(8, dtype=np.uint8) % (most + 1), (6, 1))
    picture(tmp_path / 'image' / 'a.png')
    file = tmp_path / 'labels' / 'a.png'
    file.parent.mkdir()
    (tmp_path / 'classes.txt').write_text('\n'.join(f'class {i}' for i in range(16)))
    grey = [cv2.IMWRITE_PNG_BILEVEL, 1] if bits == 1 else []
    palette = Image.fromarray(ids, 'P')
    palette.putpalette([200, 10, 10, 0, 90, 0] + [7] * 762)
    palette.save(file, bits=bits)
    assert file.read_bytes()[24] == bits
    assert open_data([str(tmp_path)])[0]['labels'][0, 0].tolist() == ids.tolist()
    if grey:
        assert cv2.imwrite(str(file), ids, grey)
        assert file.read_bytes()[24:26] == bytes([1, 0])
        assert open_data([str(tmp_path)])[0]['labels'][0, 0].tolist() == ids.tolist()


def test_class_ids_without_a_name_are_refused_with_their_file(tmp_path: Path) -> None:
    LAYOUTS['folder'](tmp_path)
    ids = np.full((6, 8), 255, np.uint8)
    ids[0, :4] = 0, 1, 2, 9
    write(tmp_path / 'labels' / 'a.png', ids)
    with pytest.raises(
        ValueError, match=r'labels/a.png: expected class ids 0 to 1 .* got 2, 9 in 2 pixels'
    ):
        open_data([str(tmp_path)])[0]


def test_the_matte_of_a_cut_out_is_its_alpha_channel(tmp_path: Path) -> None:
    rgba = np.zeros((2, 4, 4), np.uint8)
    rgba[0, :, 3] = 0, 51, 255, 255
    file = tmp_path / 'a.png'
    for color in ((0, 0, 0), (10, 60, 200)):  # black, and coloured
        rgba[..., :3] = color
        write(file, rgba)
        assert read_alpha(file)[0].tolist() == pytest.approx([0, 0.2, 1, 1])
    rgba[..., :3] = np.arange(4)[:, None]
    write(file, rgba)
    with pytest.raises(ValueError, match=r'a.png: expected shares .* uint8 of shape \(2, 4, 4'):
        read_alpha(file)
    rgba[..., 3] = 255
    write(file, rgba)
    assert (read_alpha(file)[0] * 255).tolist() == pytest.approx([0, 1, 2, 3])


def test_tiff_is_read_and_unreadable_images_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / 'image' / 'a.tif')
    picture(tmp_path / 'image' / 'b.TIFF')
    for name in 'ab':
        write(tmp_path / 'depth' / f'{name}.tif', depth_levels(0, 2000))
    dataset = open_data([str(tmp_path)])
    assert [dataset.key(i) for i in range(len(dataset))] == ['a.tif', 'b.TIFF']
    assert dataset[0]['image'][0, :, 0, 0].tolist() == [1, -1, -1]
    assert dataset[1]['depth_m'][0, 0, 0, 1].item() == 2
    for name in ('c.HEIC', 'd.gif'):
        (tmp_path / 'image' / name).write_bytes(b'something')
    with pytest.raises(ValueError, match=r'got 2 of other kinds, such as c.HEIC; convert'):
        open_data([str(tmp_path)])


def test_a_null_area_and_joints_without_finite_numbers_are_unknown_and_counted(
    tmp_path: Path,
) -> None:
    LAYOUTS['folder'](tmp_path)
    marks = keypoints(nose=(3, 2, 2), left_hip=(4, 5, 2), right_hip=(5, 5, 1))
    people = [person(1, marks, area=None), person(1, keypoints(nose=(1, 2, 2)), area=math.nan)]
    hip = 3 * INDEX['left_hip']
    for wrong in (math.nan, None):
        people[0]['keypoints'][hip] = wrong
        (tmp_path / 'keypoints.json').write_text(coco_file(people, 'a.png', 'b.png'))
        dataset = open_data([f'folder:{tmp_path}'], measuring=True)
        joints = dataset[0]['joints'][0]
        assert joints[0, INDEX['nose']].tolist() == [3, 2, 2]
        assert joints[0, INDEX['left_hip']].tolist() == [0, 0, 0]
        assert joints[0, INDEX['right_hip']].tolist() == [5, 5, 1]
        assert dataset[0]['bodies'][0, :, 4].tolist() == [0, 0]
        [note] = dataset.notes()
        assert note.endswith(
            'keypoints.json: 1 joints without finite coordinates are read as not marked'
        )


def test_ids_of_images_match_as_numbers_and_as_strings(tmp_path: Path) -> None:
    LAYOUTS['folder'](tmp_path)
    file = tmp_path / 'keypoints.json'
    text = file.read_text()
    assert open_data([str(tmp_path)])[0]['joints'].shape == (1, 1, 17, 3)
    file.write_text(text.replace('"image_id": 1', '"image_id": "1"'))
    assert open_data([str(tmp_path)])[0]['joints'].shape == (1, 1, 17, 3)
    file.write_text(text.replace('"image_id": 1', '"image_id": "a"'))
    with pytest.raises(ValueError, match=r"got 1 of 1 with another image_id, such as 'a'; corr"):
        open_data([str(tmp_path)])


@pytest.mark.parametrize(
    ('truth', 'levels', 'words'),
    [
        ('depth', np.zeros((6, 8), np.uint16), 'expected known depth_m, got none in 2 frames'),
        ('labels', np.full((6, 8), 255, np.uint8), 'expected known labels, got none in 2 frames'),
        ('mask', np.eye(6, 8, dtype=np.uint8), 'foreground from 0 to 255, got at most 1 in 2'),
        ('alpha', np.eye(6, 8, dtype=np.uint8), 'matte from 0 to 255, got at most 1 in 2 frames'),
    ],
)
def test_inspect_and_the_check_before_a_training_refuse_useless_ground_truth(
    truth: str,
    levels: np.ndarray,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in 'ab':
        picture(tmp_path / 'image' / f'{name}.png')
        write(tmp_path / truth / f'{name}.png', levels)
    if truth == 'labels':
        (tmp_path / 'classes.txt').write_text('grass\npath\n')
    sheet = str(tmp_path / 'sheet.png')
    assert data_command.main(['inspect', '--data', str(tmp_path), '--out', sheet]) == 1
    assert words in capsys.readouterr().err
    dataset = open_data([str(tmp_path)])
    with pytest.raises(ValueError, match=words):
        check_truths(dataset, dataset.truths)
    known = levels * 255 if truth in ('mask', 'alpha') else np.ones_like(levels)
    write(tmp_path / truth / 'b.png', known)
    check_truths(dataset, dataset.truths)
    printed = capsys.readouterr().out
    assert ('note: 1 of 2 frames read have no known' in printed) == (truth in ('depth', 'labels'))


def test_an_image_header_of_60000_x_60000_gives_one_error_line(tmp_path: Path) -> None:
    data = cv2.imencode('.bmp', np.zeros((4, 4, 3), np.uint8))[1]
    data[18:26].view('<i4')[:] = 60_000
    (tmp_path / 'image').mkdir()
    (tmp_path / 'image' / 'a.bmp').write_bytes(data.tobytes())
    with pytest.raises(OSError, match=r'a.bmp: expected an image that OpenCV can decode'):
        open_data([str(tmp_path)])[0]


def test_a_folder_of_own_images_may_have_npy_files(tmp_path: Path) -> None:
    picture(tmp_path / 'image' / 'a.jpg')
    (tmp_path / 'depth').mkdir()
    (tmp_path / 'normals').mkdir()
    depth_m = np.full((6, 8), 2.5)
    depth_m[0, :3] = 0, -1, np.inf
    np.save(tmp_path / 'depth' / 'a.npy', depth_m)
    np.save(tmp_path / 'normals' / 'a.npy', np.tile([0.0, 0.0, -5.0], (6, 8, 1)))
    sample = open_data([str(tmp_path)])[0]
    assert sample['depth_m'][0, 0, 0, :4].tolist() == pytest.approx(
        [math.nan, math.nan, math.inf, 2.5], nan_ok=True
    )
    assert sample['normals'][0, :, 3, 3].tolist() == [0, 0, -1]


def test_ground_truth_of_another_kind_or_size_is_refused_with_its_file(tmp_path: Path) -> None:
    LAYOUTS['folder'](tmp_path)
    picture(tmp_path / 'depth' / 'a.png')
    with pytest.raises(ValueError, match=r'depth/a.png: expected millimetres .* 16 bits'):
        open_data([str(tmp_path)])[0]
    LAYOUTS['folder'](tmp_path)
    picture(tmp_path / 'image' / 'a.png', 12, 8)
    with pytest.raises(ValueError, match=r'depth/a.png: expected depth_m of 8 x 12 pixels'):
        open_data([str(tmp_path)])[0]


def test_a_person_of_too_few_numbers_is_refused(tmp_path: Path) -> None:
    LAYOUTS['folder'](tmp_path)
    marks = keypoints(nose=(3, 2, 2))[:-3]
    (tmp_path / 'keypoints.json').write_text(coco_file([person(1, marks)], 'a.png', 'b.png'))
    with pytest.raises(ValueError, match=r'keypoints.json: expected 51 numbers .* a.png, got 48'):
        open_data([str(tmp_path)])[0]


def test_an_hdf5_file_of_something_else_is_refused(tmp_path: Path) -> None:
    dataset = made('hypersim', tmp_path)
    file = dataset.frames[0].files['labels']
    file.unlink()
    with h5py.File(file, 'w') as opened:
        opened['other'] = 1
    with pytest.raises(
        OSError, match=r"semantic.hdf5: expected an HDF5 file with an array 'dataset'"
    ):
        dataset[0]


def test_a_pickle_inside_a_npy_file_is_not_read(tmp_path: Path) -> None:
    dataset = made('diode', tmp_path, ':val')
    np.save(dataset.frames[0].files['depth_m'], np.array({'a': 1}, dtype=object))
    with pytest.raises(OSError, match='expected an array of numpy'):
        dataset[0]
