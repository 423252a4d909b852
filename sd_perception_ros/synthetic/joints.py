"""
Joints of people: in the models, and in images.

The joints of the catalogue's people (people_joints.json: model, then 17 rows of x, y, z in metres
in the frame of the mesh) were triangulated from MediaPipe's detections in rendered views all
around each model; the median error is 1.4 to 5 pixels in views of 320 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.synthetic.scene import Scene, View

Float = NDArray[np.floating[Any]]
HIDDEN, VISIBLE = 1, 2  # flags of COCO; 0 is outside the image
NEAREST_M = 0.05
SKIN_M = 0.15  # largest depth of a joint inside the body


@dataclass(frozen=True)
class Figure:
    """
    A person in an image.

    :ivar joints: (17, 3) u and v in pixels, and COCO's flag; zeros if outside.
    :ivar joints_m: (17, 3) in the optical frame.
    """

    joints: Float
    joints_m: Float


def catalog_joints() -> dict[str, Float]:
    """Return the (17, 3) joints, metres, of the catalogue's people, by the key of the model."""
    text = Path(__file__).with_name('people_joints.json').read_text(encoding='utf-8')
    return {key: np.array(rows, np.float32) for key, rows in json.loads(text).items()}


def figures(scene: Scene, view: View, people: Sequence[Float]) -> list[Figure]:
    """
    Find the people with at least one joint in the image, nearest first.

    A joint is visible if the ray to it first hits the skin of the same person close to the joint,
    or nothing. A joint behind another part of the body (a nose seen from behind) is hidden.

    :param people: (17, 3) world joints of each person, by person number.
    """
    camera = view.camera
    size = np.array([camera.width, camera.height])
    found = []
    for number, joints in enumerate(people):
        towards = (joints - view.position_m).astype(np.float32)
        optical = towards @ view.rotation()
        depth_m = optical[:, 2]
        ahead = depth_m > NEAREST_M
        scale = np.array([camera.fx, camera.fy]) / np.where(ahead, depth_m, 1)[:, None]
        pixels = optical[:, :2] * scale + (camera.cx, camera.cy)
        # A pixel extends half a pixel around its centre.
        inside = ahead & (np.abs(pixels - (size - 1) / 2) <= size / 2).all(1)
        if not inside.any():
            continue
        hits = scene.trace(view.position_m, towards)
        same = (hits.triangle >= 0) & (scene.person[hits.triangle] == number)
        skin = same & ((1 - hits.scale) * depth_m <= SKIN_M)
        flag = np.where(skin | (hits.scale >= 1), VISIBLE, HIDDEN)
        marked = np.c_[pixels, flag] * inside[:, None]
        found.append(Figure(marked.astype(np.float32), optical))
    return sorted(found, key=lambda figure: float(figure.joints_m[:, 2].mean()))
