"""Losses, data, and training: what moves and what stays."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
from hypothesis import given
from hypothesis import strategies as st
from models import save_base, save_tiny, tiny_model, tiny_unet, tiny_vae
import numpy as np
import pytest
import torch

from sd_perception_ros.checkpoint.finetuning import model_to_finetune
from sd_perception_ros.data.augment import color_jitter, crop, mirror, subsample
from sd_perception_ros.data.formats.rooms import RoomsDataset
from sd_perception_ros.data.latents import encode_dataset, latents_of, VARIANTS
from sd_perception_ros.data.resident import ResidentDataset
from sd_perception_ros.model import Model
from sd_perception_ros.skeleton import INDEX, JOINTS
from sd_perception_ros.tasks.losses import (
    angular_loss,
    fit_scale_and_shift,
    gradient_loss,
    masked_mean,
    relative_loss,
    scale_shift_invariant_loss,
)
from sd_perception_ros.training.finetune import previews, train
from sd_perception_ros.training.options import FinetuneConfig, TrainingConfig, ValidationConfig
from sd_perception_ros.training.pretrain import (
    measure_scaling_factor,
    train_autoencoder,
    train_denoiser,
)
from sd_perception_ros.training.validation import best_of, Validated, Validation

ONES = {'data': 'ones'}
EVERYWHERE = torch.ones(1, 1, 8, 8, dtype=torch.bool)


def test_a_frame_is_read_in_metres_with_infinite_sky(frames: Path) -> None:
    sample = RoomsDataset(frames)[0]
    depth_m = sample['depth_m'][0, 0]
    assert depth_m[20, 0] == 1.0
    assert depth_m[20, -1] == 5.0
    assert depth_m[0, 0] == math.inf
    assert depth_m[-1, -1].isnan()
    assert sample['normals'][0, :, 20, 20].tolist() == [0, 0, -1]
    assert sample['normals'][0, :, 0, 0].tolist() == [0, 0, 0]
    assert sample['image'].shape == (1, 3, 48, 64)


def test_an_empty_folder_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='synthesize'):
        RoomsDataset(tmp_path)


def test_mirroring_twice_changes_nothing_and_once_flips_x(frames: Path) -> None:
    sample = RoomsDataset(frames)[0]
    sample['normals'] = torch.randn(1, 3, 48, 64)
    once = mirror(sample)
    assert once['normals'][0, 0, 5, 0] == -sample['normals'][0, 0, 5, -1]
    assert once['normals'][0, 1, 5, 0] == sample['normals'][0, 1, 5, -1]
    for name, value in mirror(once).items():
        torch.testing.assert_close(value, sample[name], equal_nan=True)


def test_a_crop_has_the_same_window_of_every_map(frames: Path) -> None:
    sample = RoomsDataset(frames)[0]
    window = crop(sample, 16, 8, 24, 32)
    assert {value.shape[-2:] for value in window.values()} == {(24, 32)}
    assert window['depth_m'][0, 0, 0, 0] == sample['depth_m'][0, 0, 16, 8]


def test_subsampling_keeps_pixels_with_a_mean_position_at_the_block_centre() -> None:
    columns = torch.arange(6.0).view(1, 1, 1, 6).expand(1, 1, 4, 6)
    sample = {'depth_m': columns, 'joints': torch.zeros(1, 1, 17, 3)}
    assert subsample(sample, 2, 1, 1).keys() == {'depth_m'}
    assert subsample(sample, 2, 0, 1)['depth_m'].tolist() == [[[[1, 3, 5], [1, 3, 5]]]]
    kept = [subsample(sample, 2, row, column)['depth_m'] for row in (0, 1) for column in (0, 1)]
    assert torch.stack(kept).mean(0)[0, 0, 0].tolist() == [0.5, 2.5, 4.5]


def people_frame(
    folder: Path, people: list[list[list[float]]], places_m: list[list[float]] | None = None
) -> RoomsDataset:
    """Write one gray frame, 8 x 6 pixels, whose left half is a person, and return its data set."""
    folder.mkdir()
    share = np.zeros((6, 8), np.uint8)
    share[:, :4] = 255
    for name in ('image', 'normals'):
        cv2.imwrite(str(folder / f'0_0.{name}.png'), np.full((6, 8, 3), 128, np.uint8))
    for name in ('depth', 'semantic', 'foreground', 'matte'):
        levels = share.astype(np.uint16) if name == 'depth' else share
        cv2.imwrite(str(folder / f'0_0.{name}.png'), levels)
    rows = [{'joints': joints, 'joints_m': places_m or joints} for joints in people]
    (folder / '0_0.people.json').write_text(json.dumps(rows))
    camera = {'fx': 4, 'fy': 4, 'cx': 3.5, 'cy': 2.5}
    (folder / '0_0.camera.json').write_text(json.dumps(camera))
    return RoomsDataset(folder)


def marked(**joints: tuple[float, float, int]) -> list[list[float]]:
    """Return 17 rows of zeros but for the named joints."""
    return [list(joints.get(name, (0, 0, 0))) for name in JOINTS]


def test_people_are_read_with_mattes_and_padded_with_zeros(tmp_path: Path) -> None:
    dataset = people_frame(tmp_path / 'set', [marked(nose=(2, 1, 2)), marked(nose=(7, 5, 1))])
    sample = dataset.batch([0, 0])
    assert sample['matte'][1, 0, 0].tolist() == sample['foreground'][1, 0, 0].tolist()
    assert sample['matte'][1, 0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert sample['joints'].shape == (2, 8, 17, 3)
    assert sample['joints'][1, :2, 0].tolist() == [[2, 1, 2], [7, 5, 1]]
    assert (sample['joints'][:, 2:] == 0).all()


def test_joints_outside_the_image_are_projected_from_their_3d_position(tmp_path: Path) -> None:
    # Half a metre left of the axis and 2 m away: 1 pixel left of 3.5; 4 m: 8 pixels, outside.
    places = marked(nose=(-0.5, 0, 2), left_ear=(-4, 1, 2), right_ear=(0.1, 0, -1))
    joints = people_frame(tmp_path / 'set', [marked(nose=(2.5, 2.5, 2))], places)[0]['joints']
    assert joints[0, 0, INDEX['nose']].tolist() == [2.5, 2.5, 2]
    assert joints[0, 0, INDEX['left_ear']].tolist() == [-4.5, 4.5, -1]
    assert joints.count_nonzero() == 6  # who has an ear behind the camera, shows it nowhere


def test_only_the_first_people_are_kept_if_there_are_more_than_rows(tmp_path: Path) -> None:
    crowd = [marked(nose=(number, 1, 2)) for number in range(10)]
    joints = people_frame(tmp_path / 'set', crowd)[0]['joints']
    assert joints[0, :, 0, 0].tolist() == list(range(8))


def test_a_set_without_people_files_has_no_such_keys(frames: Path) -> None:
    assert set(RoomsDataset(frames)[0]) == {'image', 'depth_m', 'normals', 'labels'}


def test_mirroring_exchanges_left_and_right_joints(tmp_path: Path) -> None:
    hands = marked(left_wrist=(1, 2, 2), right_wrist=(5.5, 3, 1))
    sample = people_frame(tmp_path / 'set', [hands])[0]
    joints = mirror(sample)['joints'][0]
    assert joints[0, INDEX['right_wrist']].tolist() == [6, 2, 2]  # of 8 pixels, 0 .. 7
    assert joints[0, INDEX['left_wrist']].tolist() == [1.5, 3, 1]
    assert joints.count_nonzero() == 6  # what was not marked stays zero
    torch.testing.assert_close(mirror(mirror(sample))['joints'], sample['joints'])


def test_a_crop_moves_joints_and_flags_those_outside(tmp_path: Path) -> None:
    points = marked(nose=(2, 1, 2), left_eye=(1.4, 1, 2), left_ear=(5.4, 3, 1), left_hip=(3, 5, 2))
    window = crop(people_frame(tmp_path / 'set', [points])[0], 1, 2, 3, 4)
    joints = window['joints'][0, 0]
    assert joints[INDEX['nose']].tolist() == [0, 0, 2]
    torch.testing.assert_close(joints[INDEX['left_ear']], torch.tensor([3.4, 2, 1]))
    # Pixel 2 starts at 1.5, and pixel 3, the last row, ends at 3.5.
    torch.testing.assert_close(joints[INDEX['left_eye']], torch.tensor([-0.6, 0, -1]))
    assert joints[INDEX['left_hip']].tolist() == [1, 4, -1]
    assert joints.count_nonzero() == 9  # what was not marked stays zero
    assert window['matte'].shape == (1, 1, 3, 4)


@given(left=st.integers(0, 4), width=st.integers(1, 4), u=st.floats(0, 7, width=32))
def test_mirrored_windows_are_windows_of_the_mirror_image(left: int, width: int, u: float) -> None:
    joints = torch.zeros(1, 8, 17, 3)
    joints[0, 0, INDEX['left_knee']] = torch.tensor([u, 2, 2])
    sample = {'image': torch.rand(1, 3, 6, 8), 'joints': joints}
    one = mirror(crop(sample, 0, left, 6, width))
    other = crop(mirror(sample), 0, 8 - left - width, 6, width)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name])


def test_jitter_changes_colours_within_the_range() -> None:
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    changed = color_jitter(image, [np.random.default_rng(0)])
    assert changed.shape == image.shape
    assert -1 <= changed.min() <= changed.max() <= 1
    assert (changed - image).abs().mean() > 0.01


def test_jitter_of_an_image_does_not_depend_on_the_rest_of_the_batch() -> None:
    images = torch.rand(3, 3, 16, 24) * 2 - 1
    together = color_jitter(images, [np.random.default_rng(seed) for seed in (5, 6, 7)])
    for place, seed in enumerate((5, 6, 7)):
        alone = color_jitter(images[place : place + 1], [np.random.default_rng(seed)])
        torch.testing.assert_close(together[place : place + 1], alone, atol=1e-5, rtol=0)


def test_a_resident_data_set_has_the_batches_of_its_source(frames: Path) -> None:
    dataset = RoomsDataset(frames)
    resident = ResidentDataset(dataset, torch.device('cpu'))
    assert len(resident) == len(dataset)
    assert resident.fingerprint() == dataset.fingerprint()
    torch.testing.assert_close(resident.images([3, 1]), dataset.images([3, 1]))
    ours, theirs = resident.batch([2, 0]), dataset.batch([2, 0])
    assert ours.keys() == theirs.keys()
    torch.testing.assert_close(ours['depth_m'], theirs['depth_m'], equal_nan=True)
    for name, value in ours.items():  # half precision: three digits of a unit vector
        torch.testing.assert_close(value, theirs[name], atol=5e-4, rtol=0, equal_nan=True)


def test_the_mean_counts_valid_pixels_only() -> None:
    values = torch.tensor([1.0, 3.0, torch.nan]).view(1, 1, 1, 3)
    assert masked_mean(values, ~values.isnan()).item() == 2


def test_a_fit_finds_the_scale_and_shift_it_was_made_with() -> None:
    raw = torch.rand(2, 1, 8, 8)
    scale, shift = fit_scale_and_shift(raw, 3 * raw - 1, EVERYWHERE.expand(2, -1, -1, -1))
    torch.testing.assert_close(scale, torch.full((2, 1, 1, 1), 3.0))
    torch.testing.assert_close(shift, torch.full((2, 1, 1, 1), -1.0))


def test_the_loss_ignores_scale_and_shift_and_a_flat_output_has_the_mean_deviation() -> None:
    target = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    assert scale_shift_invariant_loss(5 * target + 2, target, EVERYWHERE) < 1e-5
    assert relative_loss(5 * target + 2, target, EVERYWHERE) < 1e-5
    flat = scale_shift_invariant_loss(torch.zeros(1, 1, 8, 8), target, EVERYWHERE)
    assert flat.item() == pytest.approx(0.5, abs=0.02)


def test_an_error_costs_more_the_nearer_it_is() -> None:
    target = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    near, far = target.clone(), target.clone()
    near[..., 0, 0], far[..., -1, -1] = near[..., 0, 0] + 0.2, far[..., -1, -1] - 0.2
    costs = [relative_loss(raw, target, EVERYWHERE).item() for raw in (near, far)]
    assert costs[0] > 1.5 * costs[1]
    # Without a fit to do, 0.1 too near at -1 and 0.1 too far at 1: 0.1 / 0.3 and 0.1 / 2.3.
    ends = torch.tensor([-1.0, -1, 1, 1]).view(1, 1, 2, 2)
    raw = ends + torch.tensor([0.1, -0.1, 0.1, -0.1]).view(1, 1, 2, 2)
    fit = 4 / 4.04  # slope of least squares
    wrong = [
        abs(fit * r - t) / (t + 1.3)
        for r, t in zip(*(x.flatten().tolist() for x in (raw, ends)), strict=True)
    ]
    cost = relative_loss(raw, ends, torch.ones(1, 1, 2, 2, dtype=torch.bool)).item()
    assert cost == pytest.approx(sum(wrong) / 4, abs=1e-4)


def test_gradients_count_in_both_directions() -> None:
    target = torch.zeros(1, 1, 8, 8)
    steps = torch.arange(8.0)
    assert gradient_loss(steps.view(1, 1, 1, 8).expand(1, 1, 8, 8), target, EVERYWHERE) == 1
    assert gradient_loss(steps.view(1, 1, 8, 1).expand(1, 1, 8, 8), target, EVERYWHERE) == 1


def test_the_angle_between_right_and_down_is_a_quarter_turn_whatever_the_length() -> None:
    right, down = torch.zeros(2, 1, 3, 8, 8)
    right[:, 0], down[:, 1] = 7, 1
    assert angular_loss(right, down, EVERYWHERE).item() == pytest.approx(math.pi / 2, abs=1e-3)


def test_training_changes_denoiser_and_heads_but_not_the_encoder(
    frames: Path, tmp_path: Path
) -> None:
    model = tiny_model({'depth': 'light', 'normals': 'decoder'})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = TrainingConfig(steps=2, batch_size=2, learning_rate=1e-3)
    run = train(model, RoomsDataset(frames), None, config, [(32, 40)], tmp_path)
    assert [set(losses) for _, losses in run] == [{'depth', 'normals'}] * 2
    moved = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert any('.denoiser.' in name for name in moved)
    assert any('.fuse.' in name for name in moved)
    assert not any('.vae.' in name for name in moved)


def tuned(frames: Path, folder: Path, **options: object) -> tuple[Model, set[str], set[str]]:
    """Train two steps; return the model, the names of its tensors, and of those that moved."""
    model = tiny_model({'depth': 'light'})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = TrainingConfig(steps=2, batch_size=2, learning_rate=1e-2, warmup_steps=1)
    tuning = FinetuneConfig(**options)
    list(train(model, RoomsDataset(frames), None, config, [(24, 32)], folder, tuning))
    after = model.state_dict()
    return model, set(after), {name for name in before if (after[name] != before[name]).any()}


def test_only_heads_are_trained_with_trainable_heads(frames: Path, tmp_path: Path) -> None:
    _, _, moved = tuned(frames, tmp_path, trainable='heads')
    assert any('.fuse.' in name for name in moved)
    assert not any('denoiser' in name for name in moved)


def test_adapters_are_merged_into_attention_and_convolutions(frames: Path, tmp_path: Path) -> None:
    model, names, moved = tuned(frames, tmp_path, trainable='lora', lora_rank=2)
    assert names == set(tiny_model({'depth': 'light'}).state_dict())  # no trace of adapters
    in_unet = {name for name in moved if 'denoiser' in name}
    assert any('to_q.weight' in name for name in in_unet)
    layers = {'to_q', 'to_k', 'to_v', '0', 'conv1', 'conv2'}
    assert {name.split('.')[-2] for name in in_unet} <= layers
    assert not any(weight.requires_grad for weight in model.parameters())


def test_an_adapter_changes_weights_by_a_matrix_of_its_rank(frames: Path, tmp_path: Path) -> None:
    model, _, moved = tuned(frames, tmp_path, trainable='lora', lora_rank=2)
    name = next(name for name in sorted(moved) if 'to_q.weight' in name)
    change = model.state_dict()[name] - tiny_model({'depth': 'light'}).state_dict()[name]
    assert torch.linalg.matrix_rank(change, atol=1e-6) == 2


def test_gradient_checkpointing_gives_the_same_result(frames: Path, tmp_path: Path) -> None:
    plain, _, _ = tuned(frames, tmp_path / 'plain')
    again, _, _ = tuned(frames, tmp_path / 'again', gradient_checkpointing=True)
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], msg=name)


def test_a_preview_has_image_truth_and_prediction_of_each_frame(frames: Path) -> None:
    rows = previews(tiny_model({'depth': 'light'}), RoomsDataset(frames), (48, 64), frames=2)
    assert len(rows['depth']) == 2
    assert {picture.shape for row in rows['depth'] for picture in row} == {(48, 64, 3)}
    first = cv2.imread(str(frames / '000000_0.image.png'))[..., ::-1]
    assert (rows['depth'][0][0] == first).all()


def test_a_validated_training_ends_with_the_weights_of_the_lowest_loss(
    frames: Path, tmp_path: Path
) -> None:
    model, data = tiny_model({'depth': 'light', 'normals': 'light'}), RoomsDataset(frames)
    results: list[Validated] = []
    every = ValidationConfig(validate_every=2, validate_frames=2)
    validation = Validation(model, data, (24, 32), 'cover', every, tmp_path, results.append)
    # A rate that is far too high: the loss goes up and down.
    config = TrainingConfig(steps=9, batch_size=2, learning_rate=0.02, warmup_steps=1)
    for _ in train(model, data, None, config, [(24, 32)], tmp_path, validation=validation):
        pass
    losses = {result.step: sum(result.losses.values()) for result in results}
    assert list(losses) == [2, 4, 6, 8, 9]
    best = min(losses, key=lambda step: losses[step])
    assert best_of(tmp_path) == (best, losses[best])
    # The lowest so far, each time.
    seen = [min(list(losses.values())[: i + 1]) for i in range(5)]
    assert [result.best for result in results] == [
        loss == lowest and loss not in seen[:i]
        for i, (loss, lowest) in enumerate(zip(losses.values(), seen, strict=True))
    ]
    again = Validation(model, data, (24, 32), 'cover', every, tmp_path / 'new', results.append)
    again.run(best, list(model.parameters()))
    assert sum(results[-1].losses.values()) == pytest.approx(losses[best], rel=1e-5)
    assert results[-1].metrics['normals']['mean_deg'] > 0


def test_validation_measures_the_average_of_the_weights_and_leaves_them(
    frames: Path, tmp_path: Path
) -> None:
    data = RoomsDataset(frames)

    def trained(folder: Path, validate: bool) -> tuple[Model, list[Validated]]:
        # Of these random weights, three steps lower the loss each time, by 1 %.
        model, results = tiny_model({'depth': 'light'}, seed=1), []
        every = ValidationConfig(validate_every=1, validate_frames=1)
        validation = Validation(model, data, (24, 32), 'cover', every, folder, results.append)
        config = TrainingConfig(steps=3, batch_size=2, learning_rate=1e-3, ema_decay=0.9)
        sizes, about = [(24, 32)], {'validation': validation} if validate else {}
        for _ in train(model, data, None, config, sizes, folder, **about):
            pass
        return model, results

    plain, _ = trained(tmp_path / 'plain', validate=False)
    measured, results = trained(tmp_path / 'measured', validate=True)
    assert [result.step for result in results] == [1, 2, 3]
    assert results[-1].best  # so the last average is the result, as it is without a validation
    for name, value in measured.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], msg=name)


def test_data_without_the_truth_of_a_task_is_refused_at_once(frames: Path, tmp_path: Path) -> None:
    run = train(
        tiny_model({'human_pose': 'light'}),
        RoomsDataset(frames),
        None,
        TrainingConfig(steps=1),
        [(24, 32)],
        tmp_path,
    )
    with pytest.raises(ValueError, match=r"task 'human_pose' needs 'joints', which .* not have"):
        next(run)


def test_windows_larger_than_the_frames_are_refused_at_once(frames: Path, tmp_path: Path) -> None:
    run = train(
        tiny_model({'depth': 'light'}),
        RoomsDataset(frames),
        None,
        TrainingConfig(steps=1),
        [(24, 32), (96, 128)],
        tmp_path,
    )
    with pytest.raises(ValueError, match='window of 128x96 does not fit into frames of 64x48'):
        next(run)


def test_a_data_set_of_other_frames_has_another_fingerprint(frames: Path) -> None:
    whole, part = RoomsDataset(frames), RoomsDataset(frames, 3)
    assert whole.fingerprint() == RoomsDataset(frames).fingerprint()
    assert whole.fingerprint() != part.fingerprint()


def test_training_on_one_image_fits_it(frames: Path, tmp_path: Path) -> None:
    model = tiny_model({'depth': 'light'})
    config = TrainingConfig(steps=60, batch_size=2, learning_rate=3e-3, warmup_steps=5)
    run = train(model, RoomsDataset(frames, 1), None, config, [(48, 64)], tmp_path)
    losses = [losses['depth'] for _, losses in run]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_latents_of_a_window_match_its_image_and_its_mirror_image(
    frames: Path, tmp_path: Path
) -> None:
    dataset, vae = RoomsDataset(frames), tiny_vae().eval()
    file = tmp_path / 'latents.safetensors'
    assert latents_of(file, 'rooms') is None
    encode = lambda image: vae.encode(image).latent_dist.mean  # noqa: E731
    assert list(encode_dataset(file, dataset, encode, 'rooms', seed=0, batch_size=3)) == [3, 4]
    latents = latents_of(file, 'rooms')
    assert latents is not None
    assert latents.shape == (VARIANTS, 4, 4, 6, 8)
    with torch.inference_mode():
        image = dataset[2]['image']
        torch.testing.assert_close(latents[0, 2].float(), encode(image)[0], atol=2e-3, rtol=1e-2)
        flipped = encode(image.flip(-1))[0]
    torch.testing.assert_close(latents[1, 2].float(), flipped, atol=2e-3, rtol=1e-2)
    assert latents_of(file, 'other rooms') is None


def test_an_autoencoder_learns_and_its_latents_are_scaled_to_one(
    frames: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    vae, dataset = tiny_vae(), RoomsDataset(frames)
    config = TrainingConfig(steps=30, batch_size=2, learning_rate=3e-3, warmup_steps=5)
    run = train_autoencoder(vae, dataset, config, (32, 32), tmp_path)
    losses = [losses['pixels'] for _, losses in run]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    factor = measure_scaling_factor(vae.eval(), dataset)
    with torch.inference_mode():
        latents = [vae.encode(dataset[i]['image']).latent_dist.mean for i in range(4)]
    assert (factor * torch.cat(latents)).std().item() == pytest.approx(1, rel=1e-3)


def test_a_denoiser_learns_to_separate_noise_from_one_latent(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet, latents = tiny_unet(), torch.ones(2, 1, 4, 6, 8).half()
    config = TrainingConfig(steps=60, batch_size=8, learning_rate=3e-3, warmup_steps=5)
    run = train_denoiser(
        unet, latents, lambda rng: 0, torch.zeros(1, 1, 8), config, (4, 4), tmp_path, ONES
    )
    losses = [losses['v_prediction'] for _, losses in run]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_denoiser_is_trained_on_the_drawn_frames(tmp_path: Path) -> None:
    latents = torch.full((2, 2, 4, 6, 8), torch.nan).half()
    latents[:, 1] = 1  # the other frame is of another set, whose weight is next to nothing
    config = TrainingConfig(steps=2, batch_size=4)
    run = train_denoiser(
        tiny_unet(), latents, lambda rng: 1, torch.zeros(1, 1, 8), config, (4, 4), tmp_path, ONES
    )
    assert all(np.isfinite(losses['v_prediction']) for _, losses in run)


@pytest.mark.parametrize('task', ['normals', 'matting', 'human_pose'])
def test_a_dpt_head_is_refused_for_tasks_with_absolute_values(task: str, tmp_path: Path) -> None:
    message = f"stretches each output .* choose 'light' for {task}"
    plain = save_base(tmp_path / 'plain', 'sd')
    begun = save_tiny(tmp_path / 'begun', {'depth': 'light'})  # has no readout for it yet
    for base in (plain, begun):
        with pytest.raises(ValueError, match=message):
            model_to_finetune(base, ['depth', task], 'dpt')


def test_the_error_for_a_missing_base_names_the_expected_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'expected a denoiser .* at .*nowhere'):
        model_to_finetune(tmp_path / 'nowhere', ['depth'], 'light')
