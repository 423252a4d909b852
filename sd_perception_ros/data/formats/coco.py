"""COCO keypoints: people and their 17 joints (Lin et al., arXiv 1405.0312)."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.data.dataset import Arrays, FolderDataset, FrameFiles
from sd_perception_ros.data.files import AGAIN, existing, read_rgb
from sd_perception_ros.skeleton import JOINTS


class CocoDataset(FolderDataset):
    """
    Images with at least one person with annotated joints; for evaluation, all images.

    `matte` is 1 within the outlines of people, and NaN for crowds and for people without
    annotated joints. The outlines are too coarse for matting, so it is not in `truths`.
    """

    kind = 'coco'
    layout = 'annotations/person_keypoints_train2017.json and train2017/*.jpg'
    signs = ('annotations/person_keypoints_*.json',)
    splits = ('train2017', 'val2017')
    truths = ('joints',)

    def find(self) -> list[FrameFiles]:
        """List the images with annotated people; for evaluation, all."""
        file = self.folder / 'annotations' / f'person_keypoints_{self.split}.json'
        if not file.is_file():
            return []
        self._people = AnnotatedPeople(file)
        names = self._people.names() if self.measuring else self._people.names_with_joints()
        return [FrameFiles(name, {'image': self.folder / self.split / name}) for name in names]

    def read(self, frame: FrameFiles) -> Arrays:
        """Read an image and its people, the largest first."""
        image = read_rgb(frame.files['image'])
        matte = self._people.matte(frame.key, *image.shape[:2])
        joints = self._people.joints(frame.key)
        bodies = {'bodies': self._people.bodies(frame.key)} if self.measuring else {}
        return {'image': image, 'joints': joints, 'matte': matte, **bodies}

    def notes(self) -> list[str]:
        """Return notes about values that were changed while reading."""
        return self._people.notes()


class AnnotatedPeople:
    """
    A file of annotations in the format of COCO, read with pycocotools.

    :raises OSError: the file is not in this format.
    :raises ValueError: it has other joints.
    """

    def __init__(self, file: Path) -> None:
        from pycocotools.coco import COCO

        self.file = file
        existing(file)
        try:
            content = json.loads(file.read_bytes())
            self._ids: dict[str, str] = {
                str(row['file_name']): str(row['id']) for row in content['images']
            }
            # Exporters write ids as numbers in one list and as strings in another.
            for row in content['images']:
                row['id'], row['file_name'] = str(row['id']), str(row['file_name'])
            for row in content['annotations']:
                row['image_id'] = str(row['image_id'])
                _complete(row)
            with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
                self._coco = COCO()
                self._coco.dataset = content
                self._coco.createIndex()
            named = [c['keypoints'] for c in content.get('categories', []) if 'keypoints' in c]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise OSError(
                f'{file}: expected people with keypoints in the format of COCO ({error!r}); '
                f'{AGAIN}'
            ) from error
        known = set(self._ids.values())
        orphans = [r['image_id'] for r in content['annotations'] if r['image_id'] not in known]
        if orphans:
            raise ValueError(
                f'{file}: expected an image for each annotation, got {len(orphans)} of '
                f"{len(content['annotations'])} with another image_id, such as '{orphans[0]}'; "
                'correct image_id, or remove them'
            )
        self.unknown_joints = sum(row.pop('unknown_joints') for row in content['annotations'])
        for names in named:
            if names is not None and list(names) != list(JOINTS):
                raise ValueError(
                    f'{file}: expected the 17 joints of COCO ({", ".join(JOINTS)}), got '
                    f'{", ".join(map(str, names))}; reorder them, with flag 0 for missing ones'
                )

    def notes(self) -> list[str]:
        """Return notes about values that were changed while reading, a sentence each."""
        if not self.unknown_joints:
            return []
        return [
            f'{self.file}: {self.unknown_joints} joints without finite coordinates are read as '
            'not marked'
        ]

    def names(self) -> list[str]:
        """Return the names of all images, sorted."""
        return sorted(self._ids)

    def names_with_joints(self) -> list[str]:
        """Return the names of images with annotated joints, sorted."""
        return sorted(name for name in self._ids if self._annotated(name))

    def joints(self, name: str) -> NDArray[np.float32]:
        """Return (P, 17, 3) u, v and flag of an image, the largest people first."""
        people = self._annotated(name)
        rows = np.zeros((len(people), len(JOINTS), 3), np.float32)
        for row, person in zip(rows, people, strict=True):
            if len(person['keypoints']) != rows[0].size:
                raise ValueError(
                    f'{self.file}: expected {rows[0].size} numbers for a person in {name}, got '
                    f'{len(person["keypoints"])}; u, v and flag of each of the 17 joints'
                )
            row[:] = np.reshape(person['keypoints'], row.shape)
        rows[rows[..., 2] == 0] = 0
        return rows

    def bodies(self, name: str) -> NDArray[np.float32]:
        """Return (Q, 6) boxes, areas and crowds as in `Sample`, zeros where unknown."""
        others = [row for row in self._rows(name) if not _is_annotated(row)]
        rows = []
        for row in [*self._annotated(name), *others]:
            box = row.get('bbox') or [0] * 4
            if len(box) != 4:
                raise ValueError(
                    f'{self.file}: expected 4 numbers as the bbox of a person in {name} (left, '
                    f'top, width, height), got {len(box)}; correct it, or leave it out'
                )
            if not all(map(_is_finite, box)):
                box = [0] * 4
            rows.append([*box, row['area'], row.get('iscrowd') or 0])
        return np.array(rows, np.float32).reshape(-1, 6)

    def matte(self, name: str, height: int, width: int) -> NDArray[np.float32]:
        """Return (H, W): 1 within outlines of annotated people, NaN within those of others."""
        matte = np.zeros((height, width), np.float32)
        rows = self._rows(name)
        # Annotated people last: they may stand in front of a crowd.
        for row in sorted(rows, key=_is_annotated):
            if row.get('segmentation'):
                outline = self._coco.annToMask(row).astype(bool)
                matte[outline] = 1 if _is_annotated(row) else np.nan
        return matte

    def _annotated(self, name: str) -> list[dict[str, Any]]:
        marked = [row for row in self._rows(name) if _is_annotated(row)]
        return sorted(marked, key=lambda row: -float(row['area']))

    def _rows(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._coco.imgToAnns.get(self._ids.get(name), [])
        return rows


def _complete(row: dict[str, Any]) -> None:
    """Set a missing area, and flags of joints without finite coordinates, to 0."""
    area: Any = row.get('area')
    row['area'] = float(area) if _is_finite(area) else 0.0
    numbers = row.get('keypoints') or []
    if odd := [number for number in numbers if isinstance(number, str | list | dict)]:
        raise TypeError(f'keypoints are 51 numbers in one list, got {odd[0]!r} among them')
    row['unknown_joints'] = 0
    if all(map(_is_finite, numbers)):
        return
    for start in range(0, len(numbers) - 2, 3):
        joint = numbers[start : start + 3]
        if not all(map(_is_finite, joint)):
            row['unknown_joints'] += joint[2] != 0
            numbers[start : start + 3] = [0, 0, 0]


def _is_finite(number: Any) -> bool:
    return isinstance(number, int | float) and math.isfinite(number)


def _is_annotated(row: dict[str, Any]) -> bool:
    return not row.get('iscrowd', 0) and any((row.get('keypoints') or ())[2::3])
