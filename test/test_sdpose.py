"""SDPose: published layouts, the numbers of its reference code, and heat maps to joints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import hollow
import numpy as np
import pytest
import torch
import yaml

from sd_perception_ros.checkpoint import checkpoint
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.engine import Engine
from sd_perception_ros.heads.deconv import DeconvHead
from sd_perception_ros.model import Model
from sd_perception_ros.skeleton import side, WHOLE_BODY, WHOLE_BODY_MIRRORED
from sd_perception_ros.tasks import make_task
from sd_perception_ros.tasks.person_pose import decode_heat_maps, PersonPose
from sd_perception_ros.types import Grid, Poses

SHARED = Path(__file__).parents[2] / 'shared'
REFERENCE = SHARED / 'sdpose_parity'
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason='reference outputs of SDPose are not beside us'
)
SWITCH = {'class_embed_type': 'projection', 'projection_class_embeddings_input_dim': 4}


def reference(name: str) -> np.ndarray:
    return np.load(REFERENCE / f'{name}.npy')


def head_shapes(width: int, joints: int) -> hollow.Shapes:
    """Return the tensors of SDPose's head, as the model card's code names them."""
    shapes: hollow.Shapes = {
        'deconv_layers.0.weight': (width, width, 4, 4),
        'conv_layers.0.weight': (width, width, 1, 1),
        'conv_layers.0.bias': (width,),
        'final_layer.weight': (joints, width, 1, 1),
        'final_layer.bias': (joints,),
    }
    for layer in ('deconv_layers.1', 'conv_layers.1'):
        for name in ('weight', 'bias', 'running_mean', 'running_var'):
            shapes[f'{layer}.{name}'] = (width,)
        shapes[f'{layer}.num_batches_tracked'] = ()
    return shapes


@pytest.fixture(scope='module')
def model() -> Model:
    if not REFERENCE.is_dir():
        pytest.skip('reference outputs of SDPose are not beside us')
    loaded, _ = checkpoint.load(str(REFERENCE))
    return loaded


def maps_of(model: Model) -> np.ndarray:
    image = torch.from_numpy(reference('crop')).permute(2, 0, 1)[None] / 255 * 2 - 1
    with torch.no_grad():
        return model(image)['human_pose'][0].numpy()


def test_a_folder_without_checkpoint_yaml_gives_the_reference_heat_maps(model: Model) -> None:
    np.testing.assert_allclose(maps_of(model), reference('heatmaps'), atol=1e-4)


def test_latent_and_feature_are_those_of_the_reference(model: Model) -> None:
    [backbone] = model.backbones.values()
    image = torch.from_numpy(reference('crop')).permute(2, 0, 1)[None] / 255 * 2 - 1
    with torch.no_grad():
        latent = backbone.encode(image)
        feature = backbone.step(latent).features[-1]
    np.testing.assert_allclose(latent.numpy(), reference('latent'), atol=1e-5)
    np.testing.assert_allclose(feature.numpy(), reference('feature'), atol=1e-4)


@needs_reference
def test_folding_drops_the_output_convolution_and_keeps_the_heat_maps(tmp_path: Path) -> None:
    values = {
        'tasks': {
            'human_pose': {
                'unet': str(REFERENCE / 'unet'),
                'head': 'deconv',
                'head_weights': str(REFERENCE / 'decoder'),
            }
        },
        'prompt': str(SHARED / 'parity' / 'mid_text_embed.npy'),
    }
    values['tasks']['human_pose']['head_weights'] += '/decoder.safetensors'
    (tmp_path / 'checkpoint.yaml').write_text(yaml.safe_dump(values))
    model, _ = checkpoint.load(str(tmp_path))
    before = sum(p.numel() for p in model.parameters())
    [backbone] = model.backbones.values()
    assert not any(name.startswith('vae.decoder') for name in backbone.state_dict())
    model.fold()
    assert sum(p.numel() for p in model.parameters()) < before
    assert not any('conv_out' in n for n in backbone.state_dict() if n.startswith('denoiser.'))
    assert not backbone.outputs_latent
    np.testing.assert_allclose(maps_of(model), reference('heatmaps'), atol=1e-4)


@needs_reference
def test_joints_and_scores_are_those_of_the_reference_to_a_twentieth_of_a_pixel() -> None:
    maps = torch.from_numpy(reference('decode_maps').astype(np.float32))
    joints = decode_heat_maps(maps, 768, 1024)
    has_peak = np.arange(17) != 3
    expected = reference('keypoints_xy')[has_peak]
    np.testing.assert_allclose(joints[has_peak, :2], expected, atol=0.05)
    np.testing.assert_allclose(joints[has_peak, 2], reference('scores')[has_peak], atol=1e-6)
    assert np.isnan(joints[3, :2]).all()
    assert joints[3, 2] == 0


@pytest.mark.parametrize(
    ('width', 'joints', 'level', 'skeleton'),
    [(320, 17, 3, 'coco'), (640, 133, 2, 'coco_wholebody')],
)
def test_the_published_layouts_load_at_full_size(
    tmp_path: Path, width: int, joints: int, level: int, skeleton: str
) -> None:
    """On the meta device: Stable Diffusion 2's UNet with Lotus's switch, and SDPose's head."""
    folder = hollow.pipeline(tmp_path, hollow.SCHEDULER | {'prediction_type': 'sample'}, **SWITCH)
    hollow.write(folder / 'decoder' / 'decoder.safetensors', head_shapes(width, joints))
    hollow.write(folder / 'prompt.safetensors', {'prompt': (1, 2, 1024)})
    model, _ = checkpoint.load(str(folder), device='meta')
    task, head = model.tasks['human_pose'], model.heads['human_pose']
    assert isinstance(task, PersonPose)
    assert isinstance(head, DeconvHead)
    assert (task.skeleton, task.channels, head.level) == (skeleton, joints, level)
    model.fold()
    with torch.device('meta'):
        maps = model(torch.zeros(2, 3, 1024, 768))['human_pose']
    assert maps.shape == (2, joints, 256, 192)
    [backbone] = model.backbones.values()
    assert backbone.feature_channels == (1280, 1280, 640, 320)[: level + 1]


def test_a_head_of_another_number_of_joints_is_refused(tmp_path: Path) -> None:
    folder = hollow.pipeline(tmp_path, **SWITCH)
    hollow.write(folder / 'decoder' / 'decoder.safetensors', head_shapes(320, 21))
    with pytest.raises(ValueError, match=r'head with 17 or 133 heat maps in .* got 21'):
        checkpoint.load(str(folder), device='meta')


def test_a_head_of_another_denoiser_is_refused(tmp_path: Path) -> None:
    folder = hollow.pipeline(tmp_path, **SWITCH)
    hollow.write(folder / 'decoder' / 'decoder.safetensors', head_shapes(96, 17))
    hollow.write(folder / 'prompt.safetensors', {'prompt': (1, 2, 1024)})
    with pytest.raises(ValueError, match=r'1280, 640, 320\) channels, got one of 96'):
        checkpoint.load(str(folder), device='meta')


@needs_reference
def test_the_engine_that_reads_crops_gives_heat_maps_and_joints_of_the_reference() -> None:
    loaded, config = checkpoint.load(str(REFERENCE))
    as_it_is = replace(config, resize='exact', long_side_px=0)
    engine = Engine([(loaded, as_it_is)], EngineConfig(device='cpu'))
    [outputs] = engine.predict_raw([reference('crop')])
    raw, grid = outputs['human_pose']
    np.testing.assert_allclose(raw.numpy(), reference('heatmaps'), atol=1e-4)
    assert (grid.height, grid.width) == (128, 96)
    expected = decode_heat_maps(torch.from_numpy(reference('heatmaps')), 95, 127)
    poses = engine.tasks['human_pose'].decode(raw, grid)
    assert isinstance(poses, Poses)
    found = expected[:, 2] > 0.05
    np.testing.assert_allclose(poses.people[0].joints[found], expected[found], atol=0.05)


def gaussian(x: float, y: float, height: float = 1.0) -> np.ndarray:
    """Make a (64, 48) heat map with a peak of 2 cells."""
    rows, columns = np.mgrid[:64, :48]
    return height * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)


def test_a_peak_between_cells_is_found_in_pixels_without_bias() -> None:
    maps = torch.from_numpy(np.stack([gaussian(23.5, 31.5), gaussian(10.3, 40.8, 0.5)])).float()
    # 47 steps between the centres of 48 columns are 767 steps between those of 768 pixels.
    joints = decode_heat_maps(maps, 767, 1023)
    steps = 767 / 47, 1023 / 63
    np.testing.assert_allclose(joints[0, :2], [23.5 * steps[0], 31.5 * steps[1]], atol=0.05)
    np.testing.assert_allclose(joints[1, :2], [10.3 * steps[0], 40.8 * steps[1]], atol=0.05)
    assert joints[1, 2] == pytest.approx(0.5, abs=0.03)


def test_a_map_without_a_value_above_zero_is_no_joint() -> None:
    joints = decode_heat_maps(torch.stack([torch.zeros(64, 48), -torch.ones(64, 48)]), 100, 100)
    assert np.isnan(joints[:, :2]).all()
    assert joints[:, 2].tolist() == [0, 0]


def person_pose(**options: object) -> PersonPose:
    task = make_task('human_pose', options, reads_crops=True)
    assert isinstance(task, PersonPose)
    return task


def sample() -> dict[str, torch.Tensor]:
    """
    Return a crop of 96 x 128 pixels with 17 joints on a diagonal.

    They are 8 cells away from its edges: nearer ones are biased, as the blur meets zeros there.
    """
    joints = torch.stack([torch.linspace(32, 64, 17), torch.linspace(32, 96, 17)], 1)
    joints = torch.cat([joints, torch.full((17, 1), 2.0)], 1)
    return {'image': torch.zeros(1, 3, 128, 96), 'joints': joints[None, None]}


def test_a_perfect_output_scores_perfectly() -> None:
    task, crop = person_pose(), sample()
    target, valid = task.target(crop)
    assert target.shape == (1, 17, 32, 24)
    poses = task.decode(target[0])
    [person] = poses.people
    np.testing.assert_allclose(person.joints[:, :2], crop['joints'][0, 0, :, :2], atol=0.1)
    assert task.summarize([task.measure(poses, crop)])['pck_0.2'] == 1
    assert float(task.loss(target, target, valid)) == 0


def test_a_joint_below_the_limit_is_not_found_and_a_weak_one_not_visible() -> None:
    task = person_pose(min_peak=0.1, min_score=0.5)
    maps = torch.zeros(17, 64, 48)
    for joint, peak in ((0, 0.05), (1, 0.3), (2, 0.9)):
        maps[joint] = torch.from_numpy(gaussian(20, 30, peak))
    [person] = task.decode(maps, Grid(1024, 768, 16, 16)).people
    assert np.isfinite(person.joints[:, 0]).nonzero()[0].tolist() == [1, 2]
    assert person.visible.nonzero()[0].tolist() == [2]
    assert person.score == pytest.approx(0.6, abs=0.01)
    assert task.decode(torch.zeros(17, 64, 48), Grid(8, 8, 1, 1)) == Poses((), 8, 8)


def test_mirroring_the_image_and_its_output_changes_nothing() -> None:
    """A left wrist at the left edge is a right wrist at the right edge of the mirrored crop."""
    task = person_pose(skeleton='coco_wholebody')
    maps = torch.zeros(133, 16, 12)
    left, right = WHOLE_BODY.index('left_wrist'), WHOLE_BODY.index('right_wrist')
    maps[right, 3, 11] = 1
    back = task.unmirrored(maps)
    assert back[left, 3, 0] == 1
    assert back.sum() == 1
    torch.testing.assert_close(task.unmirrored(back), maps)


def test_offsets_of_a_mirrored_image_change_sign() -> None:
    bottom_up = make_task('human_pose')
    raw = torch.rand(52, 8, 8)
    mirrored = bottom_up.unmirrored(raw)
    torch.testing.assert_close(bottom_up.unmirrored(mirrored), raw)
    # Channels 18 and 19 are x and y of the nose's offset.
    torch.testing.assert_close(mirrored[18], -raw[18].flip(-1))
    torch.testing.assert_close(mirrored[19], raw[19].flip(-1))
    # Left eye (1) and right eye (2) change places.
    torch.testing.assert_close(mirrored[1], raw[2].flip(-1))


def test_the_joints_of_the_whole_body_have_names_sides_and_mirror_images() -> None:
    assert len(set(WHOLE_BODY)) == 133
    # Where the parts begin in COCO-WholeBody.
    for index, name in (
        (0, 'nose'),
        (17, 'left_big_toe'),
        (22, 'right_heel'),
        (23, 'face_0'),
        (91, 'left_hand_root'),
        (112, 'right_hand_root'),
        (132, 'right_pinky_finger4'),
    ):
        assert WHOLE_BODY[index] == name
    mirrored = [WHOLE_BODY_MIRRORED[index] for index in range(133)]
    assert [mirrored[index] for index in mirrored] == list(range(133))
    # Ends of the jaw, outer corners of the eyes, corners of the mouth.
    for left, right in ((0, 16), (36, 45), (48, 54)):
        assert mirrored[23 + left] == 23 + right
    assert side(WHOLE_BODY.index('left_thumb1')) == 'left'
    assert side(WHOLE_BODY.index('face_36')) == 'middle'
