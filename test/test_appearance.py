"""Faults of cameras: what they do to a picture, and what they leave."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image
import pytest
import torch

from sd_perception_ros.data.appearance import camera_faults, jpeg, motion_kernel, vignette


def scene() -> torch.Tensor:
    """Return a picture of slopes and edges, (1, 3, 32, 40) in 0..1."""
    y, x = np.mgrid[0:32, 0:40].astype(np.float32)
    planes = [x / 40, y / 32, (np.hypot(x - 20, y - 16) < 9) * 0.6 + 0.2]
    return torch.from_numpy(np.stack(planes).astype(np.float32))[None]


@pytest.mark.parametrize('quality', [30, 60])
def test_jpeg_is_that_of_libjpeg_to_a_few_levels(quality: int) -> None:
    levels = (scene()[0] * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, 'JPEG', quality=quality, subsampling=0)
    theirs = np.asarray(Image.open(file), np.float32)
    image = torch.from_numpy(levels).permute(2, 0, 1)[None].float() / 255
    ours = jpeg(image, quality)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - theirs).mean() < 1.0
    assert np.abs(theirs - levels).mean() > 2 * np.abs(ours - theirs).mean()


def test_jpeg_works_for_sides_that_are_no_multiples_of_8() -> None:
    assert jpeg(scene()[..., :27, :35], 50).shape == (1, 3, 27, 35)


def test_a_vignette_darkens_the_corners_only() -> None:
    gains = vignette(9, 11, 0.4)
    assert gains[0, 0, 4, 5] == 1
    assert gains[0, 0, 0, 0].item() == pytest.approx(0.6)


def test_a_camera_that_moves_to_the_right_blurs_along_the_rows() -> None:
    kernel = motion_kernel(4, 0.0)
    assert kernel.sum().item() == pytest.approx(1)
    assert (kernel.sum(1) > 0).tolist() == [False] * 4 + [True] + [False] * 4
    assert (motion_kernel(4, math.pi / 2).sum(0) > 0).sum() == 1


def test_faults_of_an_image_do_not_depend_on_the_rest_of_the_batch() -> None:
    images = scene().expand(6, -1, -1, -1) * 2 - 1
    together = camera_faults(images, [np.random.default_rng(seed) for seed in range(6)])
    assert together.shape == images.shape
    assert together.abs().max() <= 1
    alone = camera_faults(images[3:4], [np.random.default_rng(3)])
    torch.testing.assert_close(together[3:4], alone)
    assert not torch.equal(together[0], together[1])
