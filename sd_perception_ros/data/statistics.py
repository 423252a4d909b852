"""Statistics of a data set: one line for the images and for each ground truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Sample

MOST_PIXELS = 4096  # pixels of a frame: enough for quantiles over thousands of frames

SHARES = ('foreground', 'matte')
LEAST_TOP = 1.5 / 255  # a mask of 0 and 255 reaches 1, a mask of 0 and 1 only 1 / 255
# (C, N) pixels of a frame -> (N,) bool.
_KNOWN: Mapping[str, Callable[[NDArray[np.float32]], NDArray[np.bool_]]] = {
    'depth_m': lambda pixels: ~np.isnan(pixels[0]),
    'normals': lambda pixels: np.linalg.norm(pixels, axis=0) > 0.5,
    'labels': lambda pixels: pixels[0] != 255,
    'foreground': lambda pixels: ~np.isnan(pixels[0]),
    'matte': lambda pixels: ~np.isnan(pixels[0]),
}


class DataStatistics:
    """
    Collects statistics of frames.

    :param classes: names of the class ids, if known.
    """

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self.classes = tuple(classes)
        self.sizes: set[tuple[int, int]] = set()
        self.frames = 0
        self.people: list[int] = []
        self.flags: list[NDArray[np.float32]] = []
        self.values: dict[str, list[NDArray[np.float32]]] = {}

    def add(self, sample: Sample) -> None:
        """Add a frame, a batch of one."""
        self.frames += 1
        height, width = sample['image'].shape[-2:]
        self.sizes.add((width, height))
        for name, value in sample.items():
            if name == 'joints':
                people = value[0].numpy()
                people = people[(people[..., 2] > 0).any(1)]
                self.people.append(len(people))
                self.flags.append(people[..., 2])
                continue
            pixels = value[0].flatten(1).numpy()
            step = max(pixels.shape[1] // MOST_PIXELS, 1)
            self.values.setdefault(name, []).append(pixels[:, ::step])

    def lines(self) -> dict[str, str]:
        """Return a line of text for each name in the samples; empty without any."""
        describers: Mapping[str, Callable[[NDArray[np.float32]], str]] = {
            'image': self._image,
            'depth_m': _depth,
            'normals': _normals,
            'labels': self._labels,
            'foreground': _share,
            'matte': _share,
        }
        lines = {
            name: describe(np.concatenate(self.values[name], 1))
            for name, describe in describers.items()
            if name in self.values
        }
        if self.people:
            lines['joints'] = _joints(self.people, np.concatenate(self.flags))
        return lines

    def faults(self) -> dict[str, str]:
        """Return {ground truth: why it cannot be used}, by the added frames."""
        faults = {}
        for name, frames in self.values.items():
            if name not in _KNOWN:
                continue
            counts = [int(_KNOWN[name](pixels).sum()) for pixels in frames]
            if not any(counts):
                faults[name] = (
                    f'expected known {name}, got none in {len(frames)} frames read; check its '
                    'files and units (docs/data.md)'
                )
            elif name in SHARES and 0 < max(np.nanmax(p, initial=0) for p in frames) < LEAST_TOP:
                faults[name] = (
                    f'expected {name} from 0 to 255, got at most 1 in {len(frames)} frames read: '
                    'a mask of 0 and 1 would be read as 0.4 % grey; multiply its files by 255'
                )
        return faults

    def unknown_frames(self) -> dict[str, str]:
        """Return a sentence for each ground truth that is unknown in some of the added frames."""
        counts = {
            name: sum(not _KNOWN[name](pixels).any() for pixels in frames)
            for name, frames in self.values.items()
            if name in _KNOWN
        }
        return {
            name: f'{count} of {self.frames} frames read have no known {name}'
            for name, count in counts.items()
            if count
        }

    def _image(self, pixels: NDArray[np.float32]) -> str:
        red, green, blue = ((pixels + 1) / 2 * 255).mean(1)
        sizes = sorted(self.sizes)
        listed = ', '.join(f'{width}x{height}' for width, height in sizes[:3])
        more = f' and {len(sizes) - 3} sizes more' if len(sizes) > 3 else ''
        return f'{listed}{more}; mean red {red:.0f}, green {green:.0f}, blue {blue:.0f} of 255'

    def _labels(self, pixels: NDArray[np.float32]) -> str:
        known = pixels[pixels != 255].astype(int)
        ids, counts = np.unique(known, return_counts=True)
        order = np.argsort(-counts)[:8]
        names = [
            f'{self.classes[i] if i < len(self.classes) else i} {_percent(count / known.size)}'
            for i, count in zip(ids[order], counts[order], strict=True)
        ]
        more = f' and {len(ids) - 8} classes more' if len(ids) > 8 else ''
        shares = [f'{", ".join(names)}{more}'] if names else []
        return '; '.join([*shares, _known(known.size, pixels.size)])


def _depth(pixels: NDArray[np.float32]) -> str:
    finite = pixels[np.isfinite(pixels)]
    sky = np.isposinf(pixels).mean()
    text = _known(pixels.size - int(np.isnan(pixels).sum()), pixels.size)
    if sky:
        text += f', {_percent(sky)} of all pixels beyond the range'
    if not finite.size:
        return text
    low, middle, high = np.quantile(finite, (0.01, 0.5, 0.99))
    return f'{low:.2f} .. {high:.2f} m, median {middle:.2f} m; {text}'


def _normals(pixels: NDArray[np.float32]) -> str:
    known = np.linalg.norm(pixels, axis=0) > 0.5
    text = _known(int(known.sum()), known.size)
    if not known.any():
        return text
    x, y, z = pixels[:, known].mean(1)
    forward = _percent(float((pixels[2, known] > 0).mean()))
    return f'mean ({x:+.2f}, {y:+.2f}, {z:+.2f}), z forward in {forward}; {text}'


def _share(pixels: NDArray[np.float32]) -> str:
    known = pixels[~np.isnan(pixels)]
    text = _known(known.size, pixels.size)
    if not known.size:
        return text
    between = _percent(float(((known > 0.02) & (known < 0.98)).mean()))
    return f'covers {_percent(float(known.mean()))}, soft {between}; {text}'


def _joints(people: list[int], flags: NDArray[np.float32]) -> str:
    labelled = _percent(float((flags > 0).mean())) if flags.size else 'none'
    visible = _percent(float((flags > 1).mean())) if flags.size else 'none'
    return (
        f'{min(people)} .. {max(people)} people per image, mean {np.mean(people):.1f}; of their '
        f'joints {labelled} annotated, {visible} visible'
    )


def _known(count: int, of: int) -> str:
    return f'known {_percent(count / of)}'


def _percent(share: float) -> str:
    return f'{100 * share:.1f} %'
