"""Procedural textures (all tile without a seam) and skies; every one is new for each scene."""

from __future__ import annotations

from collections.abc import Callable
import colorsys
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
import skimage.data

from sd_perception_ros.synthetic.meshes import Material

Float = NDArray[np.floating[Any]]
Rng = np.random.Generator
SIZE_PX = 256


def random_color(rng: Rng, low: float = 0.15, high: float = 0.9) -> Float:
    """Return a mostly muted sRGB colour, (3,), of a value between `low` and `high`."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.beta(1.2, 3.0), rng.uniform(low, high))
    return np.array(rgb, np.float32)


def wood_color(rng: Rng) -> Float:
    """Return an sRGB colour of wood, (3,)."""
    hue, value = rng.uniform(0.04, 0.11), rng.uniform(0.2, 0.8)
    return np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.25, 0.65), value), np.float32)


def noise(rng: Rng, cells: int = 4, octaves: int = 4, size_px: int = SIZE_PX) -> Float:
    """Return (size, size) fractal noise that tiles, mean 0, about -1..1."""
    total: Float = np.zeros((size_px, size_px), np.float32)
    for octave in range(octaves):
        count = min(cells * 2**octave, size_px)
        grid = rng.standard_normal((count, count)).astype(np.float32)
        grid = np.pad(grid, 2, mode='wrap')
        step = size_px / count
        large = cv2.resize(grid, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        margin = round(2 * step)
        total += large[margin : margin + size_px, margin : margin + size_px] * 0.55**octave
    return total / max(float(total.std()) * 2, 1e-6)


def flat(rng: Rng, color: Float) -> Float:
    """Plaster: one colour with faint stains."""
    return color * (1 + rng.uniform(0.0, 0.06) * noise(rng, 3, 5)[..., None])


def speckled(rng: Rng, color: Float) -> Float:
    """Terrazzo, carpet or concrete: fine grain over stains."""
    white = rng.standard_normal((SIZE_PX, SIZE_PX)).astype(np.float32)
    grain = cv2.GaussianBlur(np.pad(white, 4, mode='wrap'), (0, 0), 0.8)[4:-4, 4:-4]
    return color * (1 + rng.uniform(0.1, 0.5) * grain + 0.08 * noise(rng, 4, 4))[..., None]


def planks(rng: Rng, color: Float) -> Float:
    """Boards with grain along u; every board has its own shade."""
    rows, length = int(rng.integers(4, 9)), int(rng.integers(1, 3))
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX] / SIZE_PX
    row = (y * rows).astype(int)
    column = ((x + rng.random(rows)[row]) * length).astype(int) % length
    shade = 1 + rng.normal(0, 0.12, (rows, length))[row, column]
    grain = cv2.resize(noise(rng, 32, 3), (SIZE_PX * 4, SIZE_PX))[:, :SIZE_PX]
    grain = 0.5 * (grain + grain[:, ::-1])  # equal at both ends, so that it tiles
    edge = np.abs(y * rows - np.round(y * rows)) < 0.02
    ends = (x + rng.random(rows)[row]) * length % 1 < 0.01
    value = shade * (1 + 0.12 * grain) * np.where(edge | ends, 0.55, 1)
    return (color * value[..., None]).astype(np.float32)


def tiles(rng: Rng, color: Float) -> Float:
    """Square tiles with joints; sometimes two colours as a checker board."""
    count = int(rng.choice([2, 4]))
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX] / SIZE_PX * count
    joint = (np.minimum(x % 1, y % 1) < rng.uniform(0.01, 0.04)) * 1.0
    shade = 1 + rng.normal(0, 0.05, (count, count))[y.astype(int), x.astype(int)]
    base = np.broadcast_to(color, (SIZE_PX, SIZE_PX, 3)).copy()
    if rng.random() < 0.4:
        base[(y.astype(int) + x.astype(int)) % 2 == 1] = random_color(rng)
    base = base * (shade * (1 + 0.05 * noise(rng, 3, 4)))[..., None]
    joint_color = random_color(rng, 0.2, 0.9)
    return (base * (1 - joint[..., None]) + joint_color * joint[..., None]).astype(np.float32)


def bricks(rng: Rng, color: Float) -> Float:
    """Bricks in running bond, with mortar."""
    rows, columns = 8, 4
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX] / SIZE_PX
    row = (y * rows).astype(int)
    u = x * columns + 0.5 * (row % 2)
    joint = (y * rows % 1 < 0.12) | (u % 1 < 0.06)
    shade = 1 + rng.normal(0, 0.13, (rows, columns))[row, u.astype(int) % columns]
    value = (shade * (1 + 0.1 * noise(rng, 16, 3)))[..., None]
    return np.where(joint[..., None], random_color(rng, 0.4, 0.8), color * value)


def stripes(rng: Rng, color: Float) -> Float:
    """Wallpaper or cloth with stripes along v."""
    count = int(rng.integers(2, 12))
    phase = np.arange(SIZE_PX) / SIZE_PX * count % 1
    other = np.clip(color + rng.uniform(-0.3, 0.3, 3), 0.03, 0.97)
    line = np.where((phase < rng.uniform(0.2, 0.7))[:, None], color, other)
    return np.broadcast_to(line, (SIZE_PX, SIZE_PX, 3)).astype(np.float32)


def ornament(rng: Rng, color: Float) -> Float:
    """Carpet or wallpaper: a symmetric pattern from thresholded noise."""
    field = noise(rng, int(rng.integers(3, 9)), 2)
    field = field + field[::-1] + field[:, ::-1] + field[::-1, ::-1]
    field = field + field.T
    level = np.digitize(field, np.quantile(field, [0.35, 0.6, 0.85]))
    palette = np.stack([color, *(random_color(rng) for _ in range(3))])
    return palette[level] * (1 + 0.06 * noise(rng, 32, 2))[..., None]


def painting(rng: Rng, color: Float) -> Float:
    """Painting: layers of soft blobs in a few colours."""
    picture = np.broadcast_to(color, (SIZE_PX, SIZE_PX, 3)).astype(np.float32)
    slope = np.linspace(-1.5, 1.5, SIZE_PX, dtype=np.float32)[:, None] * rng.choice([0, 1])
    for _ in range(int(rng.integers(2, 6))):
        field = noise(rng, int(rng.integers(1, 5)), 5) + slope
        mask = np.clip((field - rng.uniform(-0.6, 0.8)) * rng.uniform(2, 30), 0, 1)[..., None]
        picture = picture * (1 - mask) + random_color(rng, 0.1, 1.0) * mask
    return picture


@cache
def _photo(name: str) -> Float:
    """Return one of the CC0 material images of scikit-image: (SIZE, SIZE), mean 1, tiling."""
    large = np.asarray(getattr(skimage.data, name)(), np.float32)
    gray: Any = cv2.resize(large, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(gray, (0, 0), 24)
    gray = gray / smooth
    ramp = np.clip(np.linspace(0, 8, SIZE_PX), 0, 1).astype(np.float32)
    for _ in range(2):  # cross-fade the borders with the image shifted by half its size
        shifted = np.roll(gray, SIZE_PX // 2, axis=1)
        weight = np.minimum(ramp, ramp[::-1])
        gray = (gray * weight + shifted * (1 - weight)).T
    return gray / gray.mean()


def photo(rng: Rng, color: Float) -> Float:
    """Grass, gravel or brick from a photograph, in any colour."""
    gray = _photo(str(rng.choice(['grass', 'gravel', 'brick'])))
    return color * (gray ** rng.uniform(0.6, 1.3))[..., None]


def grass(rng: Rng, color: Float) -> Float:
    """Lawn; the colour given is only a shade."""
    hue, saturation = rng.uniform(0.17, 0.33), rng.uniform(0.3, 0.7)
    green = np.array(colorsys.hsv_to_rgb(hue, saturation, 0.2 + 0.4 * float(color.mean())))
    value = _photo('grass') * (1 + 0.15 * noise(rng, 3, 3))
    return (green * value[..., None]).astype(np.float32)


def gravel(rng: Rng, color: Float) -> Float:
    """Gravel or asphalt, nearly grey."""
    gray = 0.7 * float(color.mean()) + 0.3 * color
    return gray * (_photo('gravel') ** rng.uniform(0.4, 1.2))[..., None]


Pattern = Callable[[Rng, Float], Float]
FLOORS: tuple[Pattern, ...] = (planks, planks, tiles, speckled, ornament, flat, photo)
WALLS: tuple[Pattern, ...] = (flat, flat, flat, flat, speckled, stripes, bricks, ornament, planks)
GROUNDS: tuple[Pattern, ...] = (grass, grass, gravel, tiles, speckled, bricks, photo)
FACADES: tuple[Pattern, ...] = (flat, bricks, bricks, speckled, planks, photo)
CLOTHS: tuple[Pattern, ...] = (ornament, stripes, speckled, flat)


def material(
    rng: Rng, patterns: tuple[Pattern, ...], color: Float, gloss: float = 0.0
) -> Material:
    """Make a material with one of the patterns."""
    pattern = patterns[int(rng.integers(len(patterns)))]
    return textured(pattern(rng, color), gloss)


def textured(srgb: Float, gloss: float = 0.0) -> Material:
    """Make a material from an (h, w, 3) sRGB image, 0..1."""
    pixels = (np.clip(srgb, 0.02, 0.98) * 255).astype(np.uint8)
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    return Material((1.0, 1.0, 1.0), np.concatenate([pixels, alpha], -1), gloss)


def plain(srgb: Float, gloss: float = 0.0) -> Material:
    """Make a material of one sRGB colour."""
    red, green, blue = (float(v) ** 2.2 for v in np.clip(srgb, 0.02, 0.98))
    return Material((red, green, blue), None, gloss)


def sky(rng: Rng) -> Callable[[Float], Float]:
    """
    Make a sky: gradient, haze, clouds.

    :returns: a function from (N, 3) unit directions, z up, to (N, 3) linear RGB.
    """
    hue = rng.uniform(0.54, 0.62)
    zenith = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.1, 0.75), rng.uniform(0.4, 0.9)))
    haze = np.array(colorsys.hsv_to_rgb(rng.uniform(0.05, 0.6), rng.uniform(0, 0.2), 0.95))
    kind = rng.random()
    if kind < 0.25:  # overcast: hardly any colour
        zenith = haze * rng.uniform(0.8, 1.0)
    elif kind < 0.35:  # a low sun
        haze = np.array(colorsys.hsv_to_rgb(rng.uniform(0.03, 0.1), rng.uniform(0.2, 0.7), 1.0))
    clouds, cover = noise(rng, 4, 6), rng.uniform(-0.5, 1.2)
    sharpness, white = rng.uniform(1, 4), rng.uniform(0.8, 1.0)

    def look(direction: Float) -> Float:
        up = np.maximum(direction[:, 2:], 0.0)
        color = haze + (zenith - haze) * np.clip(up * 1.6, 0, 1) ** 0.5
        plane = direction[:, :2] / (up + 0.15)  # clouds lie on a plane: they shrink with distance
        y, x = (plane.T * 60).astype(int) % SIZE_PX
        mask = np.clip((clouds[y, x] - cover) * sharpness + 0.5, 0, 1)[:, None]
        mask = mask * np.clip(up * 8, 0, 1)
        color = color * (1 - mask) + white * (1 - 0.3 * mask) * mask
        return (color**2.2).astype(np.float32)

    return look
