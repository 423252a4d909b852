"""
Bake a bank of posed, clothed bodies with Anny; rendering then needs neither Anny nor torch.

Anny (https://github.com/naver/anny) has no clothes: the skin is moved outwards along its normals,
depending on the bone of each vertex. Hair is a cap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.safe_save import atomic_write
from sd_perception_ros.synthetic.bodies import BOTTOM, EYES, HAIR, SHOES, SKIN, TOP

Float = NDArray[np.floating[Any]]
Int = NDArray[np.int64]
Rng = np.random.Generator
Turns = dict[str, Float]  # bone: (3, 3) rotation
POSES = ('stand', 'walk', 'sit', 'reach')
TEXTURE_REPEATS = 6
REGIONS = {
    'eyes': ('eye',),
    'head': ('head', 'jaw'),
    'neck': ('neck',),
    'upper arm': ('upperarm', 'shoulder', 'clavicle'),
    'lower arm': ('lowerarm',),
    'hand': ('wrist', 'finger', 'metacarpal'),
    'upper leg': ('upperleg',),
    'lower leg': ('lowerleg',),
    'foot': ('foot', 'toe'),
    'hips': ('root', 'pelvis'),
    'torso': ('spine', 'breast'),
}
PUSH_M = {SKIN: 0.0, TOP: 0.014, BOTTOM: 0.012, SHOES: 0.008, HAIR: 0.025, EYES: 0.0}


@dataclass(frozen=True)
class Body:
    """A body from Anny: (V, 3) points, at rest and posed, and its (17, 3) joints."""

    rest: Float
    points: Float
    joints: Float


class Anny:
    """The body model, loaded once; the first time takes minutes and fills a cache of 790 MB."""

    def __init__(self) -> None:
        import anny
        from anny.keypoints import KeypointsRegressor
        import torch

        self._torch = torch
        self._model = anny.Anny().to(dtype=torch.float32)
        self._keypoints = KeypointsRegressor.coco(self._model)
        self.bones = list(self._model.bone_labels)
        self.faces: Int = np.asarray(self._model.faces)
        corners = np.asarray(self._model.face_texture_coordinate_indices)
        self.uv: Float = np.asarray(self._model.texture_coordinates)[corners]
        weights = np.asarray(self._model.vertex_bone_weights)
        strongest = weights.argmax(1)[:, None]
        bone = np.take_along_axis(np.asarray(self._model.vertex_bone_indices), strongest, 1)[:, 0]
        self.regions = np.array([_region(name) for name in self.bones])[bone]

    def body(self, turns: Turns, shape: dict[str, float]) -> Body:
        """Pose a body of a shape: each of `phenotype_labels` a number 0..1."""
        torch = self._torch
        pose = torch.eye(4)[None, None].repeat(1, len(self.bones), 1, 1)
        for bone, turn in turns.items():
            pose[0, self.bones.index(bone), :3, :3] = torch.from_numpy(turn.astype(np.float32))
        with torch.no_grad():
            made = self._model(pose_parameters=pose, phenotype_kwargs=shape)
            joints = self._keypoints(made)[0, :17].numpy()
        return Body(made['rest_vertices'][0].numpy(), made['vertices'][0].numpy(), joints)

    def random_shape(self, rng: Rng) -> dict[str, float]:
        """Draw an adult or nearly adult person."""
        shape = {name: float(rng.uniform(0.2, 0.8)) for name in self._model.phenotype_labels}
        shape['age'] = float(rng.uniform(0.45, 0.9))
        shape['gender'] = float(rng.integers(2))
        shape['height'] = float(rng.uniform(0.35, 0.7))
        return shape


def bake(file: Path, count: int, seed: int) -> Iterator[int]:
    """Write a bank of bodies, in the format that `Bodies` describes; yields after each body."""
    model, rng = Anny(), np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {name: [] for name in ('points', 'normals', 'part', 'joints')}
    sits = []
    for number in range(count):
        pose = str(rng.choice(POSES))
        body = model.body(random_turns(rng, pose), model.random_shape(rng))
        vertex_part = random_clothes(rng, model.regions, body.rest)
        points = pushed_out(body.points, model.faces, vertex_part)
        middle = np.array(
            [*body.joints[:, :2].mean(0), 0]
        )  # float16 of small numbers is more precise
        rows['points'].append((points - middle).astype(np.float16))
        normals = vertex_normals(points, model.faces)
        rows['normals'].append(np.round(normals * 127).astype(np.int8))
        rows['part'].append(face_parts(vertex_part, model.faces))
        rows['joints'].append((body.joints - middle).astype(np.float32))
        sits.append(pose == 'sit')
        yield number
    arrays: dict[str, Any] = {name: np.stack(values) for name, values in rows.items()}
    arrays['sits'] = np.array(sits)
    arrays['faces'] = model.faces.astype(np.int32)
    arrays['uv'] = (model.uv * TEXTURE_REPEATS).astype(np.float16)
    with atomic_write(file) as temporary, temporary.open('wb') as opened:
        np.savez_compressed(opened, **arrays)


def random_turns(rng: Rng, pose: str) -> Turns:
    """
    Draw the rotations of a pose, in degrees about x (right), y (to the back) and z (up).

    About x, a negative angle swings a hanging limb to the front.
    """
    angles: dict[str, tuple[float, float, float]] = {}
    stride_deg = float(rng.uniform(-30, 30))
    arm_deg, elbow_deg = (110, 110) if pose == 'reach' else (40, 60)
    for side, sign in (('.L', 1), ('.R', -1)):
        if pose == 'sit':
            thigh, shin = -rng.uniform(70, 95), rng.uniform(60, 95)
        elif pose == 'walk':
            thigh = -sign * stride_deg
            shin = rng.uniform(0, 20) + (25 if thigh > 0 else 0)
        else:
            thigh, shin = -rng.uniform(-5, 12), rng.uniform(0, 10)
        angles['upperleg01' + side] = (thigh, 0, 0)
        angles['lowerleg01' + side] = (shin, 0, 0)
        out, up = sign * rng.uniform(-20, 45), -rng.uniform(-25, arm_deg)
        angles['upperarm01' + side] = (up, out, 0)
        angles['lowerarm01' + side] = (-rng.uniform(0, elbow_deg), 0, 0)
    angles['spine03'] = (rng.uniform(-5, 20), 0, 0)
    angles['spine02'] = (0, 0, rng.uniform(-15, 15))
    angles['head'] = (rng.uniform(-10, 20), 0, rng.uniform(-35, 35))
    return {bone: _turn(*degrees) for bone, degrees in angles.items()}


def _turn(x_deg: float, y_deg: float, z_deg: float) -> Float:
    """Return (3, 3): first about y, then z, then x."""
    (a, b, c), (d, e, f) = (fn(np.radians([x_deg, y_deg, z_deg])) for fn in (np.cos, np.sin))
    about_x = np.array([[1, 0, 0], [0, a, -d], [0, d, a]])
    about_y = np.array([[b, 0, e], [0, 1, 0], [-e, 0, b]])
    about_z = np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])
    return about_x @ about_z @ about_y


def random_clothes(rng: Rng, regions: NDArray[np.str_], rest: Float) -> Int:
    """Return skin or a garment for each vertex, (V,); sleeves and trousers vary in length."""
    top, bottom = ['torso', 'upper arm'], ['hips', 'upper leg']
    if rng.random() < 0.6:
        top.append('lower arm')
    if rng.random() > 0.25:
        bottom.append('lower leg')
    part = np.full(len(regions), SKIN, np.int64)
    part[np.isin(regions, top)] = TOP
    part[np.isin(regions, bottom)] = BOTTOM
    part[regions == 'foot'] = SHOES
    part[regions == 'eyes'] = EYES
    head = regions == 'head'
    back = rest[:, 1] > rest[head, 1].mean()
    low, high = rest[head, 2].min(), rest[head, 2].max()
    height = (rest[:, 2] - low) / (high - low)
    lowest = rng.uniform(0.15, 0.5)  # lower end of the hair at the back
    part[head & ((back & (height > lowest)) | (height > 0.86))] = HAIR
    return part


def pushed_out(points: Float, faces: Int, part: Int) -> Float:
    """Move clothed vertices outwards, and less at the seams."""
    push_m = np.array([PUSH_M[int(kind)] for kind in part])
    for _ in range(2):
        total, count = np.zeros(len(points)), np.zeros(len(points))
        for a, b in ((0, 1), (1, 2), (2, 0)):
            np.add.at(total, faces[:, a], push_m[faces[:, b]])
            np.add.at(count, faces[:, a], 1)
        around = total / np.maximum(count, 1)
        push_m = np.where(push_m > 0, (push_m + around) / 2, 0)
    return points + vertex_normals(points, faces) * push_m[:, None]


def vertex_normals(points: Float, faces: Int) -> Float:
    """Return (V, 3) unit normals: means of adjacent faces, weighted by area."""
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    area = np.cross(b - a, c - a)
    normals = np.zeros_like(points)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], area)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)


def face_parts(part: Int, faces: Int) -> NDArray[np.uint8]:
    """Return (F,): the cover of most corners of each triangle."""
    a, b, c = part[faces].T
    return np.where(a == b, a, c).astype(np.uint8)


def _region(bone: str) -> str:
    found = [name for name, starts in REGIONS.items() if bone.startswith(starts)]
    if not found:
        raise ValueError(f"expected a bone of {', '.join(REGIONS)}, got '{bone}'")
    return found[0]
