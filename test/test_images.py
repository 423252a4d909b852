"""Pictures in and out of the network."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sd_perception_ros.images import (
    check_rgb,
    fitted_size,
    normalized,
    pad_to_stride,
    resize,
    to_batch,
    to_levels,
    unpad,
)

sizes = st.integers(1, 60)


@pytest.mark.parametrize(
    ('rgb', 'came'),
    [
        (np.zeros((4, 4, 3), np.float32), 'float32'),
        (np.zeros((4, 4), np.uint8), r'\(4, 4\)'),
        (np.zeros((4, 4, 4), np.uint8), r'\(4, 4, 4\)'),
        (np.zeros((0, 4, 3), np.uint8), r'\(0, 4, 3\)'),
        ('picture.png', 'str'),
    ],
)
def test_the_error_for_a_wrong_image_has_its_type_and_shape(rgb: object, came: str) -> None:
    with pytest.raises(ValueError, match=came):
        check_rgb(rgb)


def test_a_read_only_view_of_a_message_is_accepted() -> None:
    rgb = np.frombuffer(bytes(range(12)), np.uint8).reshape(2, 2, 3)
    batch = to_batch([rgb], torch.device('cpu'))
    assert batch.shape == (1, 2, 2, 3)
    assert to_levels(batch)[0, :, 0, 1].tolist() == [3, 4, 5]


def test_images_of_a_batch_keep_their_order() -> None:
    pictures = [np.full((2, 3, 3), level, np.uint8) for level in (7, 8)]
    assert to_batch(pictures, torch.device('cpu'))[:, 0, 0, 0].tolist() == [7, 8]


def test_black_is_minus_one_and_white_is_one() -> None:
    assert normalized(torch.tensor([0.0, 255.0, 127.4, 127.6])).tolist() == pytest.approx(
        [-1, 1, 127 / 127.5 - 1, 128 / 127.5 - 1], abs=1e-6
    )


def test_vga_at_a_long_side_of_256_is_192_rows() -> None:
    assert fitted_size(480, 640, 256) == (192, 256)
    assert fitted_size(640, 480, 256) == (256, 192)
    assert fitted_size(480, 640, 0) == (480, 640)


def test_an_image_one_pixel_high_stays_one_pixel_high() -> None:
    assert fitted_size(1, 1000, 256) == (1, 256)


@given(sizes, sizes, st.sampled_from([1, 2, 8]))
@settings(deadline=None)
def test_padding_and_cropping_gives_the_same_image(height: int, width: int, stride: int) -> None:
    image = torch.rand(1, 3, height, width)
    padded = pad_to_stride(image, stride)
    seen = (padded.shape[-2], padded.shape[-1])
    assert seen[0] % stride == seen[1] % stride == 0
    torch.testing.assert_close(unpad(padded, seen, (height, width)), image)


def test_padding_repeats_the_border() -> None:
    padded = pad_to_stride(torch.arange(3.0).view(1, 1, 1, 3), 4)
    assert padded[0, 0].tolist() == [[0, 1, 2, 2]] * 4


def test_halving_the_size_averages_pixels() -> None:
    stripes = torch.tensor([0.0, 255.0]).repeat(8).view(1, 1, 1, 16).expand(1, 1, 16, 16)
    assert resize(stripes, 8, 8)[..., 2:-2].mean().item() == pytest.approx(127.5, abs=1)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    more=st.integers(0, 50),
    wider=st.integers(0, 50),
)
def test_enlarging_on_a_cpu_uses_the_filter_of_the_official_pipeline(
    height: int, width: int, more: int, wider: int
) -> None:
    image = torch.rand(2, 3, height, width).to(memory_format=torch.channels_last)
    size = (height + more, width + wider)
    official = F.interpolate(image, size, mode='bilinear', antialias=True, align_corners=False)
    torch.testing.assert_close(resize(image, *size), official, atol=2e-4, rtol=0)
