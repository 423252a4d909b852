r"""
Detect people with MediaPipe; benchmark/real_pictures.py starts this in MediaPipe's environment.

MediaPipe 0.10.21 needs an old numpy, so it has an environment of its own, outside of the
repository. Packages that are not needed here are left out:

  python3.11 -m venv ~/mediapipe_env
  ~/mediapipe_env/bin/pip install --no-deps mediapipe==0.10.21
  ~/mediapipe_env/bin/pip install 'numpy<2' 'opencv-python-headless<4.12' 'protobuf>=4.25,<5' \
      absl-py attrs flatbuffers matplotlib

Its pose model finds one person in an image, and its segmentation expects one that fills the image.
So both run on the box of each person, with a margin.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any

import cv2
import numpy as np

MARGIN = 0.1  # around a box, as a share of its longer side
LEAST_PX = 512  # smaller cut-outs are enlarged to this
VISIBLE = 0.5
# COCO's 17 joints among MediaPipe's 33 landmarks.
LANDMARKS = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)


def main(request: str, answer: str) -> int:
    """
    Read images and boxes, write joints and mattes.

    :param request: npz with 'NAME.rgb', (H, W, 3) uint8, and 'NAME.boxes', (N, 4): left, top,
        right, bottom in pixels.
    :param answer: npz with 'NAME.joints', (N, 17, 3): u, v and COCO's flag, all 0 for a person who
        was not found; 'NAME.matte', (H, W) float32, 0..1; and 'version'.
    """
    import mediapipe  # here: what needs it not is tested without

    pose = mediapipe.solutions.pose.Pose(static_image_mode=True, model_complexity=1)
    selfie = mediapipe.solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)
    found: dict[str, Any] = {'version': np.array(importlib.metadata.version('mediapipe'))}
    with np.load(request) as asked:
        for name in sorted({key.rpartition('.')[0] for key in asked}):
            rgb, boxes = asked[f'{name}.rgb'], asked[f'{name}.boxes']
            matte = np.zeros(rgb.shape[:2], np.float32)
            people = np.zeros((len(boxes), 17, 3), np.float32)
            for person, box in zip(people, boxes, strict=True):
                left, top, right, bottom = _widened(box, *rgb.shape[:2])
                part = rgb[top:bottom, left:right]
                scale = max(1.0, LEAST_PX / max(part.shape[:2]))
                large = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
                own = cv2.resize(
                    selfie.process(large).segmentation_mask, (right - left, bottom - top)
                )
                np.maximum(matte[top:bottom, left:right], own, matte[top:bottom, left:right])
                landmarks = pose.process(large).pose_landmarks
                if landmarks is not None:
                    person[:] = _joints(landmarks.landmark, left, top, right, bottom, rgb.shape)
            found |= {f'{name}.joints': people, f'{name}.matte': matte}
    np.savez_compressed(answer, **found)
    return 0


def _widened(box: Any, height: int, width: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = (float(side) for side in box)
    margin = MARGIN * max(right - left, bottom - top)
    return (
        max(int(left - margin), 0),
        max(int(top - margin), 0),
        min(int(right + margin), width),
        min(int(bottom + margin), height),
    )


def _joints(
    landmarks: Any, left: int, top: int, right: int, bottom: int, shape: tuple[int, ...]
) -> Any:
    """Turn landmarks in 0..1 of a cut-out into (17, 3) of the image."""
    joints = np.zeros((17, 3), np.float32)
    for joint, index in enumerate(LANDMARKS):
        mark = landmarks[index]
        u = left + mark.x * (right - left) - 0.5
        v = top + mark.y * (bottom - top) - 0.5
        if -0.5 <= u <= shape[1] - 0.5 and -0.5 <= v <= shape[0] - 0.5:
            joints[joint] = u, v, 2 if mark.visibility > VISIBLE else 1
    return joints


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
