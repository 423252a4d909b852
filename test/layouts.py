"""Tiny folders in the layouts of real data sets, with values that a person can check by hand."""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from scipy.io import savemat

from sd_perception_ros.skeleton import JOINTS


def picture(file: Path, height: int = 6, width: int = 8, level: int = 100) -> None:
    """Write a gray picture whose top left pixel is red."""
    rgb = np.full((height, width, 3), level, np.uint8)
    rgb[0, 0] = 255, 0, 0
    write(file, rgb[..., ::-1])


def write(file: Path, levels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(file), levels)


def hdf5(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, 'w') as opened:
        opened['dataset'] = array


def depth_levels(*levels: int) -> np.ndarray:
    """Return (6, 8) uint16 levels: the first row begins with the given ones, the rest is 512."""
    depth = np.full((6, 8), 512, np.uint16)
    depth[0, : len(levels)] = levels
    return depth


def hypersim(root: Path) -> None:
    """Write a sphere around the camera: all of it is 2 m away, and one pixel is unknown."""
    images = root / 'ai_001_001' / 'images'
    geometry = images / 'scene_cam_00_geometry_hdf5'
    distance_m = np.full((768, 1024), 2, np.float16)
    distance_m[10, 10] = np.nan
    hdf5(geometry / 'frame.0003.depth_meters.hdf5', distance_m)
    normals = np.zeros((768, 1024, 3), np.float16)
    normals[:] = 0, 0.6, 0.8  # up and towards the camera, in the authors' axes
    normals[5, 5] = 0, -0.6, -0.8  # the same face, seen from behind
    normals[10, 10] = np.nan
    hdf5(geometry / 'frame.0003.normal_cam.hdf5', normals)
    ids = np.full((768, 1024), 2, np.int16)  # floor
    ids[10, 10] = -1
    hdf5(geometry / 'frame.0003.semantic.hdf5', ids)
    light = np.full((768, 1024, 3), 0.25, np.float16)
    light[:384] = 0
    hdf5(images / 'scene_cam_00_final_hdf5' / 'frame.0003.color.hdf5', light)
    (root / 'metadata_images_split_scene_v1.csv').write_text(
        'scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,'
        'split_partition_name\n'
        'ai_001_001,cam_00,3,True,,train\n'
        'ai_001_001,cam_00,4,False,person,\n'
    )


def vkitti2(root: Path) -> None:
    frames = root / 'Scene01' / 'clone' / 'frames'
    picture(frames / 'rgb' / 'Camera_0' / 'rgb_00007.jpg')
    write(frames / 'depth' / 'Camera_0' / 'depth_00007.png', depth_levels(250, 65535))


def nyuv2(root: Path) -> None:
    """Write three frames, of which the third is the test."""
    images = np.full((3, 3, 8, 6), 100, np.uint8)  # as h5py sees Matlab: N, C, W, H
    images[:, :, 0, 0] = [[255, 0, 0]] * 3
    depths = np.full((3, 8, 6), 2.0, np.float32)
    depths[:, 1, 0] = 0
    depths[:, 2, 0] = [1, 2.5, 3]
    with h5py.File(root / 'nyu_depth_v2_labeled.mat', 'w') as opened:
        opened['images'], opened['rawDepths'] = images, depths
    savemat(root / 'splits.mat', {'trainNdxs': [[1], [2]], 'testNdxs': [[3]]})


def kitti(root: Path) -> None:
    drive = '2011_09_26_drive_0001_sync'
    picture(root / '2011_09_26' / drive / 'image_02' / 'data' / '0000000005.png')
    truth = root / 'train' / drive / 'proj_depth' / 'groundtruth' / 'image_02' / '0000000005.png'
    write(truth, depth_levels(0, 256, 640))


def scannet(root: Path) -> None:
    scene = root / 'scans' / 'scene0000_00'
    for number in (0, 20, 100):
        picture(scene / 'color' / f'{number}.jpg', 12, 16)
        write(scene / 'depth' / f'{number}.png', depth_levels(0, 1500))


def eth3d(root: Path) -> None:
    scene = root / 'courtyard'
    picture(scene / 'images' / 'dslr_images' / 'DSC_0286.JPG')
    depth_m = np.full((6, 8), 4, np.float32)
    depth_m[0, :2] = np.inf, 1.5
    file = scene / 'ground_truth_depth' / 'dslr_images' / 'DSC_0286.JPG'
    file.parent.mkdir(parents=True)
    depth_m.tofile(file)


def diode(root: Path) -> None:
    name = str(root / 'val' / 'indoors' / 'scene_00019' / 'scan_00183' / '00019_00183_indoors_000')
    picture(Path(f'{name}_010.png'))
    depth_m = np.full((6, 8, 1), 3, np.float32)
    mask = np.ones((6, 8))
    mask[0, 1] = 0
    np.save(f'{name}_010_depth.npy', depth_m)
    np.save(f'{name}_010_depth_mask.npy', mask)


def dis5k(root: Path) -> None:
    picture(root / 'DIS-TR' / 'im' / '1#Chair.jpg')
    mask = np.zeros((6, 8), np.uint8)
    mask[:, :4] = 255
    write(root / 'DIS-TR' / 'gt' / '1#Chair.png', mask)


def p3m10k(root: Path) -> None:
    picture(root / 'train' / 'blurred_image' / 'p_0001.jpg')
    alpha = np.zeros((6, 8), np.uint8)
    alpha[:, 3] = 51  # a fifth
    write(root / 'train' / 'mask' / 'p_0001.png', alpha)


def keypoints(**joints: tuple[float, float, int]) -> list[float]:
    """Return COCO's 51 numbers: u, v and flag of each joint, zeros but for the named ones."""
    return [number for name in JOINTS for number in joints.get(name, (0, 0, 0))]


def person(number: int, marks: list[float], **fields: Any) -> dict[str, Any]:
    return {
        'id': number,
        'image_id': 1,
        'category_id': 1,
        'iscrowd': 0,
        'keypoints': marks,
        **fields,
    }


def coco_file(people: list[dict[str, Any]], *names: str) -> str:
    return json.dumps(
        {
            'images': [
                {'id': i, 'file_name': name, 'height': 6, 'width': 8}
                for i, name in enumerate(names, 1)
            ],
            'annotations': people,
            'categories': [{'id': 1, 'name': 'person', 'keypoints': list(JOINTS)}],
        }
    )


def coco(root: Path) -> None:
    """Write two people with joints, the second one larger, one without, and an empty picture."""
    for name in ('000000000001.jpg', '000000000002.jpg'):
        picture(root / 'train2017' / name)
    left = [[-0.5, -0.5, 1.5, -0.5, 1.5, 5.5, -0.5, 5.5]]  # the first two columns
    right = [[6, 0, 8, 0, 8, 6, 6, 6]]  # the last two
    people = [
        person(1, keypoints(nose=(1, 2, 2)), area=12, segmentation=left),
        person(2, keypoints(nose=(3, 2, 2), left_hip=(3, 4, 1)), area=20, segmentation=[]),
        person(3, keypoints(), area=12, segmentation=right),
    ]
    file = root / 'annotations' / 'person_keypoints_train2017.json'
    file.parent.mkdir()
    file.write_text(coco_file(people, '000000000001.jpg', '000000000002.jpg'))


def folder(root: Path) -> None:
    """Write two pictures of other sizes with every truth."""
    for name, height, width in (('a', 6, 8), ('b', 12, 10)):
        picture(root / 'image' / f'{name}.png', height, width)
        depth_mm = np.full((height, width), 2000, np.uint16)
        depth_mm[0, :2] = 0, 65535
        write(root / 'depth' / f'{name}.png', depth_mm)
        normals = np.full((height, width, 3), (128, 128, 1), np.uint8)
        write(root / 'normals' / f'{name}.png', normals[..., ::-1])
        for truth, level in (('labels', 1), ('mask', 255), ('alpha', 51)):
            write(root / truth / f'{name}.png', np.full((height, width), level, np.uint8))
    people = [person(1, keypoints(nose=(3, 2, 2)), area=20)]
    (root / 'keypoints.json').write_text(coco_file(people, 'a.png', 'b.png'))
    (root / 'classes.txt').write_text('grass\npath\n')


LAYOUTS: dict[str, Callable[[Path], None]] = {
    layout.__name__: layout
    for layout in (
        hypersim,
        vkitti2,
        nyuv2,
        kitti,
        scannet,
        eth3d,
        diode,
        dis5k,
        p3m10k,
        coco,
        folder,
    )
}
