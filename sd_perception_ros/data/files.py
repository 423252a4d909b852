"""Files of data sets: read, or refused with their name, what was expected and what to do."""

from __future__ import annotations

import io
from pathlib import Path
from threading import Lock
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

AGAIN = 'copy or download it again, or leave the frame out'
# Last bytes of a whole file; some writers put a little more behind them.
_ENDS = {'.png': b'IEND', '.jpg': b'\xff\xd9', '.jpeg': b'\xff\xd9'}
_TAIL = 64
_HEADS = Lock()


def read_rgb(file: Path, turned: bool = False) -> NDArray[np.uint8]:
    """
    Return a picture as (H, W, 3) uint8 RGB.

    :param turned: as its EXIF orientation says, as viewers show it. What public sets say about
        their pictures is about the pixels as they are stored.
    """
    # IMREAD_COLOR_RGB would do, but OpenCV before 4.10 does not know it.
    stored = cv2.IMREAD_COLOR if turned else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = _read(file, stored)[..., ::-1]
    return np.asarray(pixels, np.uint8, order='C')


def read_levels(file: Path, dtype: type[np.generic], what: str) -> NDArray[Any]:
    """
    Return a picture of one channel as it is, (H, W).

    :param dtype: np.uint8 or np.uint16.
    :param what: what the levels mean, for messages.
    :raises ValueError: other levels, or colours that are not gray.
    """
    pixels = _read(file, cv2.IMREAD_UNCHANGED)
    if pixels.ndim == 3 and (pixels[..., :3] == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if pixels.ndim != 2 or pixels.dtype != dtype:
        bits = np.dtype(dtype).itemsize * 8
        raise ValueError(
            f'{file}: expected {what} as a picture of one channel of {bits} bits, got '
            f'{pixels.dtype} of shape {pixels.shape}; convert it, or take the original file'
        )
    return pixels


def read_shares(file: Path) -> NDArray[np.float32]:
    """Return a gray picture of 8 bits, or of 16, as shares 0..1, (H, W) float32."""
    wide = _read(file, cv2.IMREAD_UNCHANGED).dtype == np.uint16
    levels = read_levels(file, np.uint16 if wide else np.uint8, 'shares of pixels')
    return levels.astype(np.float32) / np.float32(65535 if wide else 255)


def read_npy(file: Path, *shapes: int) -> NDArray[Any]:
    """
    Return an array of a .npy file.

    :param shapes: how many axes it may have.
    """
    data = _there(file).read_bytes()
    try:
        array = array_of(data)
    except (ValueError, EOFError) as error:
        raise _broken(file, f'an array of numpy ({error})') from error
    if array.ndim not in shapes:
        wanted = ' or '.join(str(shape) for shape in shapes)
        raise ValueError(
            f'{file}: expected an array of {wanted} axes, got shape {array.shape}; take the '
            'original file'
        )
    return array


def array_of(data: bytes) -> NDArray[Any]:
    """
    Return the array in the bytes of a .npy file.

    :raises ValueError: it is none.
    """
    # Heads are Python literals, which Python 3.11 cannot parse in two threads at once
    # (SystemError: AST constructor recursion depth mismatch, cpython issue 106905).
    with _HEADS:
        array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return array


def read_hdf5(file: Path) -> NDArray[Any]:
    """Return the array `dataset` of an HDF5 file, as Hypersim has them."""
    import h5py

    _there(file)
    try:
        with h5py.File(file, 'r') as opened:
            array: NDArray[Any] = opened['dataset'][:]
    except (OSError, KeyError) as error:
        raise _broken(file, f"an HDF5 file with an array 'dataset' ({error})") from error
    return array


def check_whole(file: Path) -> None:
    """
    Look at both ends of a file, without decoding it.

    :raises OSError: it is missing, empty or cut off.
    """
    if file.is_dir():  # a recording
        return
    size = _there(file).stat().st_size
    if size == 0:
        raise _broken(file, 'a file with something in it')
    with file.open('rb') as opened:
        head = opened.read(_TAIL)
        opened.seek(max(size - _TAIL, 0))
        tail = opened.read()
    end = _ENDS.get(file.suffix.lower())
    ended = end is None or end in tail
    if not ended and head.startswith(b'\xff\xd8'):
        ended = _jpeg_ends(file.read_bytes())
    if not ended or _hdf5_size(head) > size:
        raise _broken(file, 'a whole file, but its end is missing')


def _jpeg_ends(data: bytes) -> bool:
    """Whether a JPEG is whole, whatever a phone put behind it, such as a film."""
    place = 2
    # Segments before the scan say how long they are; one of them may hold a whole small JPEG.
    while data[place : place + 1] == b'\xff' and data[place + 1 : place + 2] != b'\xda':
        place += 2 + int.from_bytes(data[place + 2 : place + 4], 'big')
    # In a scan, 0xff is followed by 0x00 or by a restart, never by the end's 0xd9.
    return data.find(_ENDS['.jpg'], place) >= 0


def _hdf5_size(head: bytes) -> int:
    """Return how long an HDF5 file says that it is (its superblock); 0 for other files."""
    if not head.startswith(b'\x89HDF\r\n\x1a\n') or len(head) < 48:
        return 0
    start = 40 if head[8] < 2 else 28
    return int.from_bytes(head[start : start + 8], 'little')


def _read(file: Path, flags: int) -> NDArray[Any]:
    check_whole(file)  # OpenCV paints what is missing gray, and says nothing
    pixels: NDArray[Any] | None = cast('Any', cv2.imread(str(file), flags))
    if pixels is None:
        raise _broken(file, 'a picture')
    return pixels


def _there(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f'expected a file at {file}, found none; {AGAIN}')
    return file


def _broken(file: Path, expected: str) -> OSError:
    return OSError(f'{file}: expected {expected}; {AGAIN}')
