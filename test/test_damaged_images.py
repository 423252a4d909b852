"""Damaged compressed images are refused; intact ones are decoded."""

from __future__ import annotations

import array
import io
import itertools

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import PIL.Image
import pytest
import rclpy.node  # noqa: F401 (this file needs ROS)
from sensor_msgs.msg import CompressedImage

from sd_perception_ros import jpeg
from sd_perception_ros.compressed_images import compressed_to_rgb, depth_from_message, is_depth


def scene(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """Make an image with soft shapes, edges and noise, (H, W, 3)."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), np.uint8)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(float)
    return (large + rng.normal(0, 4, large.shape)).clip(0, 255).astype(np.uint8)


def saved(picture: np.ndarray, kind: str = 'JPEG', **options: object) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


def with_restarts(picture: np.ndarray, interval: int) -> bytes:
    flags = [cv2.IMWRITE_JPEG_RST_INTERVAL, interval, cv2.IMWRITE_JPEG_QUALITY, 80]
    return cv2.imencode('.jpg', picture, flags)[1].tobytes()


def compressed(data: bytes, format_: str = 'jpeg') -> CompressedImage:
    return CompressedImage(format=format_, data=array.array('B', data))


GOOD = {
    f'{name} {quality} {subsampling} {progressive} {optimize}': saved(
        picture,
        quality=quality,
        subsampling=subsampling,
        progressive=progressive,
        optimize=optimize,
    )
    for (name, picture), quality, subsampling, progressive, optimize in itertools.product(
        {
            'scene': scene(),
            'odd': scene(37, 53),
            'one pixel': scene(1, 1),
            'grey': np.full((48, 64, 3), 128, np.uint8),
            'black': np.zeros((48, 64, 3), np.uint8),
            'one channel': scene()[..., 0],
        }.items(),
        (30, 95),
        (0, 2),
        (False, True),
        (False, True),
    )
} | {
    f'restarts {interval} {name}': with_restarts(picture, interval)
    for interval in (1, 3, 40)
    for name, picture in (('scene', scene()), ('grey', np.full((48, 64, 3), 128, np.uint8)))
}


def cmyk(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(picture).convert('CMYK').save(file, 'JPEG')
    return file.getvalue()


def without_tables(data: bytes) -> bytes:
    """Remove the Huffman tables, as webcams do: decoders know the standard ones."""
    kept, at = data[:2], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
        kept += data[at:end] if data[at + 1] != 0xC4 else b''
        at = end
    return kept + data[at:]


GOOD['CMYK'] = cmyk(scene())
GOOD['without tables'] = without_tables(saved(scene()))


@pytest.mark.parametrize('name', GOOD)
def test_an_intact_jpeg_is_decoded_as_by_opencv(name, capfd):
    data = GOOD[name]
    mode = cv2.IMREAD_GRAYSCALE if 'one channel' in name else cv2.IMREAD_COLOR
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    for ending in (b'', bytes(100)):  # drivers send their whole buffer
        np.testing.assert_array_equal(jpeg.decode(data + ending), expected)
    assert capfd.readouterr().err == ''  # libjpeg would write a line for each frame


@pytest.mark.parametrize('extra', [b'\x00', b'\x12\x34', b'\xff\xff'])
def test_a_few_appended_bytes_are_not_damage(extra):
    data = saved(scene())
    jpeg.decode(data[:-2] + extra + data[-2:])


def lost(data: bytes, at: int, count: int) -> dict[str, bytes]:
    """Damage a JPEG at a position of its image data, in each way in which data is lost."""
    end, rest = b'\xff\xd9', len(data) - at - 2
    noise = np.random.default_rng(at).integers(0, 255, rest, np.uint8).tobytes()
    return {
        'cut': data[:at],
        'cut and filled with zeros': data[:at] + bytes(rest + 2),
        'cut and ended': data[:at] + end,
        'cut, filled with zeros and ended': data[:at] + bytes(rest) + end,
        'cut, filled with noise and ended': data[:at] + noise.replace(b'\xff', b'\x01') + end,
        'cut, filled with ones and ended': data[:at] + b'\xff' * rest + end,
        'a piece is missing': data[:at] + data[at + count :],
    }


@pytest.mark.parametrize('interval', [0, 5])
@pytest.mark.parametrize('kind', lost(saved(scene()), 900, 200))
def test_a_jpeg_with_lost_data_is_refused(kind, interval):
    data = with_restarts(scene(), interval)
    start = data.index(b'\xff\xda') + 14
    for at in range(start, len(data) - 400, 431):
        with pytest.raises(ValueError, match='JPEG'):
            compressed_to_rgb(compressed(lost(data, at, 300)[kind]))


@pytest.mark.parametrize('size', [(12, 12), (40, 5), (5, 40), (48, 64)])
@pytest.mark.parametrize('seed', range(5))
def test_a_jpeg_that_ends_within_its_last_unit_is_refused(size, seed):
    data = saved(scene(*size, seed=seed))
    jpeg.decode(data)
    for count in (8, 12, 20):
        with pytest.raises(ValueError, match='damaged'):
            jpeg.decode(data[: -2 - count] + b'\xff\xd9')


def test_a_jpeg_in_cmyk_with_lost_data_is_refused():
    data = cmyk(scene())
    for bad in lost(data, len(data) // 2, 300).values():
        with pytest.raises(ValueError, match='JPEG'):
            compressed_to_rgb(compressed(bad))


def test_a_jpeg_with_tables_only_has_no_image():
    data = saved(scene())
    tables = data[: data.index(b'\xff\xda')] + b'\xff\xd9'
    with pytest.raises(ValueError, match='has tables, but no image data'):
        jpeg.decode(tables)
    scan = data[: data.index(b'\xff\xda') + 14] + b'\xff\xd9'
    with pytest.raises(ValueError, match='data ends before the last row'):
        jpeg.decode(scan)


def test_restart_markers_must_be_complete_and_in_order():
    data = with_restarts(scene(), 5)
    marks = [at for at in range(len(data) - 1) if data[at] == 255 and 0xD0 <= data[at + 1] < 0xD8]
    assert len(marks) == (96 // 16) * (128 // 16) // 5
    without = data[: marks[3]] + data[marks[3] + 2 :]
    with pytest.raises(ValueError, match='restart marker 3 of 9 has the number 4 instead of 3'):
        jpeg.decode(without)
    with pytest.raises(ValueError, match='expected 9 restart markers, found 7'):
        jpeg.decode(data[: marks[7]] + b'\xff\xd9')


@settings(deadline=None, max_examples=300, derandomize=True)
@given(data=st.data())
def test_no_damage_to_a_jpeg_raises_anything_but_a_value_error(data):
    good = data.draw(st.sampled_from([saved(scene()), with_restarts(scene(), 5)]))
    bad = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if bad:
            bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    bad += data.draw(st.binary(max_size=20))
    try:
        rgb = compressed_to_rgb(compressed(bytes(bad)), 1_000_000)
    except ValueError:
        return
    assert rgb.ndim == 3
    assert rgb.dtype == np.uint8


@pytest.mark.parametrize('kind', ['PNG', 'WebP'])
def test_other_formats_with_lost_data_are_refused(kind):
    data = saved(scene(), kind)
    half = len(data) // 2
    for bad in (data[:half], data[:half] + bytes(len(data) - half), data[:-20]):
        with pytest.raises(ValueError, match=r'damaged|that are neither'):
            compressed_to_rgb(compressed(bad, kind.lower()))
    flipped = bytearray(data)
    flipped[half] ^= 64
    if kind == 'PNG':  # WebP has no checksum
        with pytest.raises(ValueError, match='damaged'):
            compressed_to_rgb(compressed(bytes(flipped), 'png'))


# ---- The field `format` -------------------------------------------------------------------------

COLOURS = {'r': 200, 'g': 120, 'b': 40}


def mosaic(pattern: str, dtype: type = np.uint8) -> np.ndarray:
    pixels = np.zeros((32, 32), dtype)
    for cell, letter in enumerate(pattern):
        pixels[cell // 2 :: 2, cell % 2 :: 2] = COLOURS[letter]
    return pixels


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize('codec', ['jpeg', 'png'])
def test_a_compressed_bayer_mosaic_has_its_colours(pattern, codec):
    data = cv2.imencode(f'.{codec}', mosaic(pattern), [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    rgb = compressed_to_rgb(compressed(data, f'bayer_{pattern}8; {codec} compressed '))
    inside = rgb[4:-4, 4:-4].reshape(-1, 3)
    np.testing.assert_allclose(inside.mean(0), [200, 120, 40], atol=4)


def test_a_png_of_16_bits_is_read_with_the_bits_of_its_sensor():
    values = np.full((8, 8), 1023, np.uint16)
    data = cv2.imencode('.png', values)[1].tobytes()
    rgb = compressed_to_rgb(compressed(data, 'mono16; png compressed '))
    assert set(rgb.ravel().tolist()) == {255}
    bayer = cv2.imencode('.png', mosaic('rggb', np.uint16) << 4)[1].tobytes()
    rgb = compressed_to_rgb(compressed(bayer, 'bayer_rggb16; png compressed '))
    assert rgb[8, 8].tolist() == [200, 120, 40]


@pytest.mark.parametrize(
    ('format_', 'expected'),
    [
        ('jpeg', [200, 120, 40]),
        ('', [200, 120, 40]),
        ('bgr8; jpeg compressed bgr8', [200, 120, 40]),
        ('rgb8; jpeg compressed bgr8', [200, 120, 40]),
        ('yuv422_yuy2; jpeg compressed bgr8', [200, 120, 40]),
        ('bayer_rggb8; jpeg compressed bgr8', [200, 120, 40]),  # a driver that made it colour
        ('rgb8; jpeg compressed rgb8', [40, 120, 200]),  # as image_transport reads it
    ],
)
def test_the_order_of_colours_is_that_of_the_format(format_, expected):
    picture = np.full((16, 16, 3), list(COLOURS.values()), np.uint8)
    rgb = compressed_to_rgb(compressed(saved(picture, quality=100, subsampling=0), format_))
    np.testing.assert_allclose(rgb[8, 8], expected, atol=3)


@pytest.mark.parametrize('encoding', ['16UC1', '32FC1'])
def test_compressed_depth_is_not_a_colour_image(encoding):
    data = cv2.imencode('.png', np.full((4, 4), 1500, np.uint16))[1].tobytes()
    msg = compressed(data, f'{encoding}; png compressed ')
    with pytest.raises(ValueError, match=f"the encoding '{encoding}'; this is a depth image"):
        compressed_to_rgb(msg)
    assert is_depth(msg) == (encoding == '16UC1')
    if is_depth(msg):
        assert depth_from_message(msg).tolist() == [[1.5] * 4] * 4
