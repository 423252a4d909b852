"""Read files of data sets; errors name the file, what was expected and what to do."""

from __future__ import annotations

import io
import json
from pathlib import Path
from threading import Lock
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
import PIL.Image

from sd_perception_ros.git_lfs import refuse_lfs_pointer
from sd_perception_ros.paths import printable

AGAIN = 'copy or download it again, or remove the frame'
# Last bytes of a complete file, by its first bytes; some writers append a few more.
_PNG, _JPEG = b'\x89PNG\r\n\x1a\n', b'\xff\xd8'
_ENDS = {_PNG: b'IEND', _JPEG: b'\xff\xd9'}
_TAIL = 64
# Brands of ISO media files (bytes 8 to 12) that cameras and browsers save under other suffixes.
_BRANDS = {b'heic': 'HEIC', b'heix': 'HEIC', b'mif1': 'HEIF', b'avif': 'AVIF'}
_HEADS = Lock()


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files that match a glob pattern, sorted, without macOS's `._*` companions."""
    return sorted(file for file in folder.glob(pattern) if not file.name.startswith('._'))


def existing(file: Path) -> Path:
    """
    Return a file that is there.

    :raises OSError: it is not, or it is a git-lfs pointer.
    """
    if not file.is_file():
        raise FileNotFoundError(f'expected a file at {printable(file)}, found none; {AGAIN}')
    refuse_lfs_pointer(file)
    return file


def read_text(file: Path) -> str:
    """
    Read a text file.

    :raises OSError: it is missing, or not UTF-8.
    """
    try:
        return existing(file).read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise _broken(file, f'a text in UTF-8 ({error})') from None


def read_json(file: Path) -> Any:
    """
    Read a JSON file.

    :raises OSError: it is missing, or not JSON.
    """
    try:
        return json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        if isinstance(error, OSError):
            raise
        raise _broken(file, f'JSON ({error})') from None


def read_rgb(file: Path, turned: bool = False) -> NDArray[np.uint8]:
    """
    Read an image as (H, W, 3) uint8 RGB.

    :param turned: apply the EXIF orientation, as viewers do. Ground truth of public data sets
        refers to the pixels as stored.
    """
    # Not IMREAD_COLOR_RGB, which needs OpenCV 4.10.
    stored = cv2.IMREAD_COLOR if turned else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = _read(file, stored)[..., ::-1]
    return np.asarray(pixels, np.uint8, order='C')


def read_levels(file: Path, dtype: type[np.generic], what: str) -> NDArray[Any]:
    """
    Read an image of one channel without conversion, (H, W).

    :param dtype: np.uint8 or np.uint16.
    :param what: meaning of the values, for messages.
    :raises ValueError: another number of bits, or an image in colour.
    """
    pixels = _read(file, cv2.IMREAD_UNCHANGED)
    if pixels.ndim == 3 and _is_grey(pixels) and _is_opaque(pixels):
        pixels = pixels[..., 0]
    if pixels.ndim != 2 or pixels.dtype != dtype:
        bits = np.dtype(dtype).itemsize * 8
        raise ValueError(
            f'{file}: expected {what} as an image of one channel of {bits} bits, got '
            f'{pixels.dtype} of shape {pixels.shape}; convert it, or take the original file'
        )
    return pixels


def read_ids(file: Path) -> NDArray[np.uint8]:
    """
    Read class ids, (H, W): grey values of 8 bits or fewer, or the indices of a palette.

    OpenCV would return the colours of a palette, and 255 for id 1 of a PNG of one bit.
    """
    with existing(file).open('rb') as opened:
        head = opened.read(26)
    bits, color_type = (head[24], head[25]) if head.startswith(_PNG) and head[25:] else (8, 0)
    if color_type == 3:
        check_complete(file)
        try:
            with PIL.Image.open(io.BytesIO(file.read_bytes())) as indexed:
                return np.array(indexed, np.uint8)
        except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise _broken(file, f'a PNG with a palette ({type(error).__name__})') from None
    levels: NDArray[np.uint8] = read_levels(file, np.uint8, 'class ids')
    return levels // np.uint8(255 // (2**bits - 1)) if bits < 8 else levels


def read_alpha(file: Path) -> NDArray[np.float32]:
    """
    Read alpha as (H, W) float32 in 0..1: grey of 8 or 16 bits, or an alpha channel.

    The alpha channel is used if the image is a cut-out: coloured, or of a single grey level.

    :raises ValueError: both grey and alpha vary, or a colour image without transparency.
    """
    pixels = _read(file, cv2.IMREAD_UNCHANGED)
    wide = pixels.dtype == np.uint16
    cut_out = pixels.ndim == 3 and not (_is_grey(pixels) and np.ptp(pixels[..., 0]))
    if cut_out and not _is_opaque(pixels):
        levels: NDArray[Any] = pixels[..., 3]
    else:
        levels = read_levels(file, np.uint16 if wide else np.uint8, 'shares of pixels')
    return levels.astype(np.float32) / np.float32(65535 if wide else 255)


def _is_grey(pixels: NDArray[Any]) -> bool:
    return bool((pixels[..., :3] == pixels[..., :1]).all())


def _is_opaque(pixels: NDArray[Any]) -> bool:
    """Whether (H, W, C) pixels have no alpha channel, or an entirely opaque one."""
    top = np.iinfo(pixels.dtype).max if pixels.dtype.kind == 'u' else 1
    return pixels.shape[2] < 4 or bool((pixels[..., 3] == top).all())


def read_npy(file: Path, *shapes: int) -> NDArray[Any]:
    """
    Read the array of a .npy file.

    :param shapes: allowed numbers of axes.
    """
    data = existing(file).read_bytes()
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
    Parse the bytes of a .npy file.

    :raises ValueError: not a .npy file.
    """
    # Headers are Python literals, which Python 3.11 cannot parse in two threads at once
    # (SystemError: AST constructor recursion depth mismatch, cpython issue 106905).
    with _HEADS:
        array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return array


def read_hdf5(file: Path) -> NDArray[Any]:
    """Read the array `dataset` of an HDF5 file (Hypersim)."""
    import h5py

    existing(file)
    try:
        with h5py.File(file, 'r') as opened:
            array: NDArray[Any] = opened['dataset'][:]
    except (OSError, KeyError) as error:
        raise _broken(file, f"an HDF5 file with an array 'dataset' ({error})") from error
    return array


def check_complete(file: Path) -> None:
    """
    Check the start and end of a file, without decoding it.

    :raises OSError: it is missing, empty or truncated.
    """
    if file.is_dir():  # a recording
        return
    size = existing(file).stat().st_size
    if size == 0:
        raise _broken(file, 'a file that is not empty')
    with file.open('rb') as opened:
        head = opened.read(_TAIL)
        opened.seek(max(size - _TAIL, 0))
        tail = opened.read()
    # By content, not by suffix: browsers save WebP files as .jpg.
    ended = all(end in tail for start, end in _ENDS.items() if head.startswith(start))
    if not ended and head.startswith(_JPEG):
        ended = _jpeg_ends(file.read_bytes())
    if not ended or max(_hdf5_size(head), _webp_size(head)) > size:
        raise _broken(file, 'a complete file, but its end is missing')


def _jpeg_ends(data: bytes) -> bool:
    """Whether a JPEG has its end marker; phones may append more, such as a video."""
    position = 2
    # Segments before the scan have a length; one of them may contain a complete thumbnail.
    while (
        data[position : position + 1] == b'\xff' and data[position + 1 : position + 2] != b'\xda'
    ):
        position += 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
    # Within a scan, 0xff is followed by 0x00 or a restart marker, never by 0xd9 of the end.
    return data.find(_ENDS[_JPEG], position) >= 0


def _hdf5_size(head: bytes) -> int:
    """Return the file size in the superblock of an HDF5 file; 0 for other files."""
    if not head.startswith(b'\x89HDF\r\n\x1a\n') or len(head) < 48:
        return 0
    start = 40 if head[8] < 2 else 28
    return int.from_bytes(head[start : start + 8], 'little')


def _webp_size(head: bytes) -> int:
    """Return the file size in the header of a WebP file; 0 for other files."""
    if head[:4] != b'RIFF' or head[8:12] != b'WEBP':
        return 0
    return int.from_bytes(head[4:8], 'little') + 8


def _read(file: Path, flags: int) -> NDArray[Any]:
    check_complete(file)  # OpenCV fills missing parts with grey, without an error
    # Not imread, which ends the process by SIGSEGV if the file name is not UTF-8.
    data = np.frombuffer(file.read_bytes(), np.uint8)
    try:
        pixels: NDArray[Any] | None = cast('Any', cv2.imdecode(data, flags))
    except cv2.error as error:  # usually a size above the limit of OpenCV
        raise OSError(
            f'{printable(file)}: expected an image that OpenCV can decode, got one for which '
            f'this failed: {error.err}; replace or remove it'
        ) from None
    if pixels is None:
        if brand := _BRANDS.get(data[8:12].tobytes()):
            raise OSError(
                f'{printable(file)}: expected an image such as JPEG or PNG, got {brand}; '
                'convert it'
            )
        raise _broken(file, 'an image')
    return pixels


def _broken(file: Path, expected: str) -> OSError:
    return OSError(f'{printable(file)}: expected {expected}; {AGAIN}')
