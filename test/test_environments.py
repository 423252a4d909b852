"""Light from environment maps: where it comes from, and how much."""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from sd_perception_ros.synthetic.environments import (
    digest,
    Environment,
    environment_files,
    random_environment,
    read_environment,
)

NORTH, UP, DOWN = (0, 1, 0), (0, 0, 1), (0, 0, -1)


def directions(*rows: tuple[float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32)


def map_file(folder: Path, sun: float) -> Path:
    """Write a map: 1 above the horizon, 0 below, and a sun."""
    pixels = np.zeros((64, 128, 3), np.float32)
    pixels[:32] = 1.0
    pixels[4:6, 10:12] = sun
    file = folder / 'sky.hdr'
    cv2.imwrite(str(file), pixels)
    return file


def test_light_comes_from_the_bright_direction_of_the_map() -> None:
    # One row above the horizon, one below; columns are the quarters of a turn from north.
    above, below = [[1.0] * 3, [2.0] * 3, [3.0] * 3, [4.0] * 3], [[0.0] * 3] * 4
    lit = Environment(np.array([above, below], np.float32))
    eighth = math.pi / 4  # the middle of a quarter
    around = [(math.sin(a + eighth), math.cos(a + eighth), 0.1) for a in (0, math.pi / 2, math.pi)]
    assert lit.at(directions(*around))[:, 0].tolist() == [1, 2, 3]
    assert lit.at(directions(DOWN))[0].tolist() == [0, 0, 0]
    turned = Environment(lit.received, math.pi / 2)
    assert turned.at(directions(around[1]))[0, 0] == 1  # what was north is east


def test_light_from_above_falls_on_surfaces_that_face_up(tmp_path: Path) -> None:
    lit = read_environment(map_file(tmp_path, 1.0))  # a half sphere of one brightness
    up, level, down = lit.at(directions(UP, NORTH, DOWN))[:, 0]
    # The mean is 1, so the sky is 2: all of it above a floor, a half of it before a wall.
    assert up == pytest.approx(2, abs=0.1)
    assert level == pytest.approx(1, abs=0.25)
    assert down == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize('suffix', ['exr', 'hdr'])
def test_a_name_that_is_not_utf_8_and_an_alpha_channel_make_no_difference(
    tmp_path: Path, suffix: str
) -> None:
    os.environ.setdefault('OPENCV_IO_ENABLE_OPENEXR', '1')
    pixels = np.random.default_rng(0).uniform(0, 2, (32, 64, 3)).astype(np.float32)
    plain = tmp_path / f'plain.{suffix}'
    cv2.imwrite(str(plain), pixels)
    odd = tmp_path / os.fsdecode(b'b\xff.' + suffix.encode())
    odd.write_bytes(plain.read_bytes())
    expected = read_environment(plain).received
    np.testing.assert_array_equal(read_environment(odd).received, expected)
    if suffix == 'exr':
        cv2.imwrite(str(plain), np.dstack([pixels, np.ones((32, 64, 1), np.float32)]))
        np.testing.assert_allclose(read_environment(plain).received, expected, rtol=1e-5)
    odd.write_bytes(b'#?RADIANCE')
    with pytest.raises(ValueError, match=r'b\\xff\.\w+: expected an environment map in colour'):
        read_environment(odd)


def test_infinite_light_is_the_brightest_and_unknown_light_is_none(tmp_path: Path) -> None:
    os.environ.setdefault('OPENCV_IO_ENABLE_OPENEXR', '1')
    file = tmp_path / 'sky.exr'
    pixels = np.ones((32, 64, 3), np.float32)
    pixels[0, 0], pixels[1, 1] = np.inf, np.nan
    cv2.imwrite(str(file), pixels)
    received = read_environment(file).received
    np.testing.assert_allclose(received, 1, atol=0.1)
    cv2.imwrite(str(file), np.zeros((32, 64, 3), np.float32))
    with pytest.raises(ValueError, match='a map that is black'):
        read_environment(file)


def test_a_sun_lights_one_side_and_is_clipped(tmp_path: Path) -> None:
    lit = read_environment(map_file(tmp_path, 1e5))  # high, a little to the east of north
    assert lit.received.max() < 8
    north, south = lit.at(directions((0, 0.7, 0.7), (0, -0.7, 0.7)))[:, 0]
    assert north > 1.1 * south


def test_scenes_without_maps_have_no_environment(tmp_path: Path) -> None:
    assert environment_files(None) == []
    assert digest([]) == 'none'
    assert random_environment(np.random.default_rng(0), []) is None
    with pytest.raises(FileNotFoundError, match='expected environment maps'):
        environment_files(tmp_path)


def test_some_scenes_have_a_map_with_random_rotation(tmp_path: Path) -> None:
    map_file(tmp_path, 2.0)
    files = environment_files(tmp_path)
    drawn = [random_environment(np.random.default_rng(seed), files) for seed in range(20)]
    with_map = [one.turn_rad for one in drawn if one is not None]
    assert 8 < len(with_map) < 20
    assert len(set(with_map)) == len(with_map)
    assert len(digest(files)) == 64
