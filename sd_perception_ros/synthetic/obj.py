"""Catalogue models as meshes in metres: OBJ and MTL files, parsed once, then cached."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
import posixpath
from typing import Any
import zipfile

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sd_perception_ros.safe_save import atomic_write
from sd_perception_ros.synthetic.assets import Model
from sd_perception_ros.synthetic.meshes import face_normals, Material, Mesh

Int = NDArray[np.int64]
MAX_TRIANGLES = 60000
MAX_TEXTURE_PX = 256
MIN_OPACITY = 0.6  # below: glass, which the ray caster does not support; left out
CACHE_VERSION = 1


def load_mesh(model: Model, cache: Path) -> Mesh | None:
    """
    Load a model in metres; its OBJ is parsed only if it is not in the cache.

    :returns: None if the model has too many triangles, or nothing opaque.
    """
    name = hashlib.sha256(f'{CACHE_VERSION} {model}'.encode()).hexdigest()[:20]
    path = Path(cache) / f'{name}.npz'
    if not path.exists():
        with atomic_write(path) as temporary, temporary.open('wb') as file:
            np.savez(file, **_pack(_parse_model(model)))
    with np.load(path) as arrays:
        return _unpack(arrays)


def _pack(mesh: Mesh | None) -> dict[str, Any]:
    if mesh is None:
        return {'materials': '[]'}
    arrays: dict[str, Any] = {
        'points': mesh.points,
        'uv': mesh.uv,
        'normals': np.round(mesh.normals * 127).astype(np.int8),
        'material': mesh.material,
        'materials': json.dumps([[m.color, m.gloss] for m in mesh.materials]),
    }
    for i, material in enumerate(mesh.materials):
        if material.texture is not None:
            arrays[f'texture{i}'] = material.texture
    return arrays


def _unpack(arrays: Any) -> Mesh | None:
    described = json.loads(str(arrays['materials']))
    if not described:
        return None
    materials = tuple(
        Material(tuple(color), arrays.get(f'texture{i}'), gloss)
        for i, (color, gloss) in enumerate(described)
    )
    normals = arrays['normals'].astype(np.float32)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)
    return Mesh(arrays['points'], arrays['uv'], normals, arrays['material'], materials)


def _parse_model(model: Model) -> Mesh | None:
    with zipfile.ZipFile(model.archive) as archive:
        text = archive.read(model.entry).decode('latin-1')
        if text.count('\nf ') > MAX_TRIANGLES:
            return None
        folder = posixpath.dirname(model.entry)
        points, uv, normals, material, names, libraries = _parse_obj(text)
        described = {}
        for library in libraries:
            described.update(_parse_mtl(archive, folder, library))
    if not len(points) or len(points) > MAX_TRIANGLES:
        return None
    plain = (Material(), 1.0)
    looks = [described.get(name, plain) for name in names] or [plain]
    points, normals = _to_real_size(points, normals, model)
    if model.is_person:
        keep = _first_of_equal_faces(points)
        points, uv, normals, material = points[keep], uv[keep], normals[keep], material[keep]
        normals = _smooth_normals(points)
    opaque = np.array([opacity >= MIN_OPACITY for _, opacity in looks])[material]
    area = np.linalg.norm(face_normals(points), axis=1) > 0.5
    keep = opaque & area & np.isfinite(points).all((1, 2))
    if not keep.any():
        return None
    return Mesh(
        points[keep].astype(np.float32),
        uv[keep].astype(np.float32),
        normals[keep].astype(np.float32),
        material[keep].astype(np.int32),
        tuple(look for look, _ in looks),
    )


def _parse_obj(text: str) -> tuple[Any, Any, Any, Int, list[str], list[str]]:
    """Return corners, texture coordinates, normals, material index, material names, MTL files."""
    values: dict[str, list[str]] = {'v': [], 'vt': [], 'vn': []}
    widths = {'v': 3, 'vt': 2, 'vn': 3}
    corners: list[list[str]] = []
    material: list[int] = []
    names: dict[str, int] = {}
    libraries: list[str] = []
    current = 0
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        kind = words[0]
        if kind in values:
            values[kind].extend([*words[1:], '0', '0'][: widths[kind]])
        elif kind == 'f':
            for i in range(2, len(words) - 1):
                corners.append([words[1], words[i], words[i + 1]])
                material.append(current)
        elif kind == 'usemtl':
            current = names.setdefault(' '.join(words[1:]), len(names))
        elif kind == 'mtllib':
            libraries.append(' '.join(words[1:]))
    v, vt, vn = (
        np.array(values[k], dtype=np.float64).reshape(-1, widths[k]) for k in ('v', 'vt', 'vn')
    )
    index = np.array(
        [[[int(n or 0) for n in (c + '//').split('/')[:3]] for c in face] for face in corners],
        dtype=np.int64,
    ).reshape(-1, 3, 3)
    points = v[_absolute(index[..., 0], len(v))]
    uv = _take(vt, index[..., 1], np.zeros((len(index), 3, 2)))
    flat = np.repeat(face_normals(points)[:, None], 3, axis=1)
    normals = _take(vn, index[..., 2], flat)
    # Faces before the first usemtl share index 0 with the first name: a harmless default.
    return points, uv, normals, np.array(material, np.int64), list(names), libraries


def _absolute(index: Int, count: int) -> Int:
    """Convert OBJ indices, from 1 or negative from the end, to indices from 0."""
    return np.where(index < 0, index + count, index - 1)


def _take(table: Any, index: Int, otherwise: Any) -> Any:
    if not len(table):
        return otherwise
    inside = (index != 0) & (np.abs(index) <= len(table))
    chosen = table[np.where(inside, _absolute(index, len(table)), 0)]
    return np.where(inside[..., None], chosen, otherwise)


def _parse_mtl(
    archive: zipfile.ZipFile, folder: str, library: str
) -> dict[str, tuple[Material, float]]:
    """Material name -> (material, opacity)."""
    path = posixpath.normpath(posixpath.join(folder, library))
    if path not in archive.namelist():
        return {}
    blocks: dict[str, dict[str, list[str]]] = {}
    block: dict[str, list[str]] = {}
    for line in archive.read(path).decode('latin-1').splitlines():
        words = line.split()
        if words and words[0] == 'newmtl':
            block = blocks.setdefault(' '.join(words[1:]), {})
        elif words:
            block[words[0]] = words[1:]
    return {name: _material(archive, posixpath.dirname(path), b) for name, b in blocks.items()}


def _material(
    archive: zipfile.ZipFile, folder: str, block: dict[str, list[str]]
) -> tuple[Material, float]:
    def numbers(name: str, default: list[float]) -> list[float]:
        try:
            return [float(word) for word in block[name][: len(default)]]
        except (KeyError, ValueError):
            return default

    texture = None
    if block.get('map_Kd'):
        image_path = posixpath.normpath(posixpath.join(folder, block['map_Kd'][-1]))
        texture = _read_texture(archive, image_path)
    red, green, blue = (min(max(v, 0.0), 1.0) ** 2.2 for v in numbers('Kd', [0.7, 0.7, 0.7]))
    shine = sum(numbers('Ks', [0.0, 0.0, 0.0])) / 3
    color = (red, green, blue) if texture is None else (1.0, 1.0, 1.0)
    opacity = numbers('d', [1.0])[0]
    return Material(color, texture, min(max(shine, 0.0), 1.0)), opacity


def _read_texture(archive: zipfile.ZipFile, path: str) -> NDArray[np.uint8] | None:
    """Return (h, w, 4) sRGB with alpha; None for a file that is missing or broken."""
    try:
        image = Image.open(io.BytesIO(archive.read(path))).convert('RGBA')
    except (KeyError, UnidentifiedImageError, OSError):
        return None
    shrink = MAX_TEXTURE_PX / max(image.size)
    if shrink < 1:
        size = (max(1, round(image.width * shrink)), max(1, round(image.height * shrink)))
        image = image.resize(size, Image.Resampling.BOX)
    return np.asarray(image, np.uint8)


def _to_real_size(points: Any, normals: Any, model: Model) -> tuple[Any, Any]:
    """Turn the y-up OBJ (front towards +z) into our z-up metres, front towards -y."""
    if model.rotation:
        turn = np.array(model.rotation).reshape(3, 3).T
        points, normals = points @ turn, normals @ turn
    points = points[..., [0, 2, 1]] * [1, -1, 1]
    normals = normals[..., [0, 2, 1]] * [1, -1, 1]
    low, high = points.min((0, 1)), points.max((0, 1))
    scale = np.array(model.size_m) / np.maximum(high - low, 1e-6)
    middle = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    normals = normals / scale
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    return (points - middle) * scale, normals


def _first_of_equal_faces(points: Any) -> Any:
    """Index of one face for each set of three corners: the people are double-sided."""
    key = np.round(points * 1e4).astype(np.int64)
    order = np.lexsort(np.moveaxis(key, 2, 0)[::-1], axis=1)
    key = np.take_along_axis(key, order[..., None], axis=1).reshape(len(key), 9)
    _, first = np.unique(key, axis=0, return_index=True)
    return np.sort(first)


def _smooth_normals(points: Any) -> Any:
    """Corner normals (N, 3, 3): mean of the faces that meet in a corner, weighted by area."""
    area = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    key = np.round(points.reshape(-1, 3) * 1e4).astype(np.int64)
    _, vertex = np.unique(key, axis=0, return_inverse=True)
    total = np.zeros((vertex.max() + 1, 3))
    np.add.at(total, vertex.reshape(-1), np.repeat(area, 3, axis=0))
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    return total[vertex.reshape(-1)].reshape(-1, 3, 3)
