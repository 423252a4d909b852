"""The official GenPercept pipeline and ours give the same numbers from the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sd_perception_ros.checkpoint import checkpoint
from sd_perception_ros.checkpoint.prompt import prompt_of
from sd_perception_ros.checkpoint.reader import Reader
from sd_perception_ros.checkpoint.weights import read_embedding
from sd_perception_ros.engine import Engine

PARITY = Path(__file__).parents[2] / 'shared' / 'parity'
OFFICIAL = {'depth': 'depth', 'normals': 'normal', 'segmentation': 'seg'}
pytestmark = pytest.mark.skipif(
    not PARITY.is_dir(), reason='reference outputs of the official pipeline are not beside us'
)


def engine_of(folder: Path, **options: object) -> Engine:
    """Point a checkpoint.yaml at the official folders as they are, and load it."""
    models = PARITY / 'genpercept-models'
    values = {
        'base': str(PARITY / 'sd'),
        'prompt': str(PARITY / 'mid_text_embed.npy'),
        'timestep': 1,
        'resize': 'exact',
        'long_side_px': 128,
        'tasks': {
            'depth': {'unet': str(models / 'unet_depth_v2')},
            'normals': {'unet': str(models / 'unet_normal_v2')},
            'segmentation': {
                'unet': str(models / 'unet_seg_v2'),
                'options': {'readout': 'palette'},
            },
        },
    }
    (folder / 'checkpoint.yaml').write_text(yaml.safe_dump(values | options))
    return Engine.load(str(folder), device='cpu')


@pytest.fixture(scope='module')
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return engine_of(tmp_path_factory.mktemp('official'))


@pytest.fixture(scope='module')
def picture() -> np.ndarray:
    return np.load(PARITY / 'image.npy')


@pytest.mark.parametrize('task', OFFICIAL)
def test_a_task_agrees_with_the_official_output(
    engine: Engine, picture: np.ndarray, task: str
) -> None:
    raw, _ = engine.predict_raw([picture], [task])[0][task]
    ours = ((raw + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy().squeeze()
    np.testing.assert_allclose(ours, np.load(PARITY / f'{OFFICIAL[task]}.npy'), atol=1e-4)


def test_disparity_of_the_dpt_head_agrees_with_the_official_output(
    tmp_path: Path, picture: np.ndarray
) -> None:
    """Its UNet lacks conv_out; the width of the head is told by its weights."""
    models = PARITY / 'genpercept-models'
    entry = {
        'unet': str(models / 'unet_disparity_dpt_head_v2'),
        'head': 'dpt',
        'head_weights': str(models / 'dpt_head_identity'),
    }
    disparity = engine_of(tmp_path, tasks={'disparity': entry}).predict([picture])[0]['disparity']
    official = np.load(PARITY / 'disparity_dpt_head.npy')
    np.testing.assert_allclose(disparity.values, official, atol=1e-4)


def test_a_head_that_reads_the_latent_is_refused_on_a_unet_without_one(tmp_path: Path) -> None:
    unet = PARITY / 'genpercept-models' / 'unet_disparity_dpt_head_v2'
    with pytest.raises(ValueError, match=r"a 'decoder' head .* has no conv_out; use head: dpt"):
        engine_of(tmp_path, tasks={'depth': {'unet': str(unet), 'head': 'decoder'}})


def test_depth_equals_the_official_map(engine: Engine, picture: np.ndarray) -> None:
    depth = engine.predict([picture], ['depth'])[0]['depth']
    np.testing.assert_allclose(depth.values, np.load(PARITY / 'depth.npy'), atol=1e-4)


def test_normals_are_the_normalized_official_vectors(engine: Engine, picture: np.ndarray) -> None:
    vectors = 2 * np.load(PARITY / 'normal.npy') - 1
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    normals = engine.predict([picture], ['normals'])[0]['normals']
    np.testing.assert_allclose(normals.values, vectors, atol=1e-3)


@pytest.mark.parametrize(
    ('options', 'reference'),
    [({'timestep': 500}, 'depth_fix_t500'), ({'long_side_px': 0}, 'depth_native_res0')],
)
def test_options_of_the_official_pipeline_agree(
    tmp_path: Path, picture: np.ndarray, options: dict[str, int], reference: str
) -> None:
    depth = engine_of(tmp_path, **options).predict([picture], ['depth'])[0]['depth']
    np.testing.assert_allclose(depth.values, np.load(PARITY / f'{reference}.npy'), atol=1e-4)


def test_the_text_encoder_gives_the_official_embedding() -> None:
    pytest.importorskip('transformers', reason='transformers is optional; it is not installed')
    from sd_perception_ros.checkpoint.prompt import embed_empty_prompt

    embedding = embed_empty_prompt(PARITY / 'sd/text_encoder', PARITY / 'sd/tokenizer', Reader())
    official = torch.from_numpy(np.load(PARITY / 'mid_text_embed.npy'))
    torch.testing.assert_close(embedding, official, atol=1e-5, rtol=0)


def test_the_first_two_rows_of_77_padded_tokens_are_the_unpadded_prompt(tmp_path: Path) -> None:
    """The encoder is causal: start and end token do not see the padding after them."""
    transformers = pytest.importorskip('transformers', reason='transformers is optional')
    tokenizer = transformers.CLIPTokenizer.from_pretrained(PARITY / 'sd' / 'tokenizer')
    encoder = transformers.CLIPTextModel.from_pretrained(PARITY / 'sd' / 'text_encoder').eval()
    tokens = tokenizer('', padding='max_length', max_length=77, return_tensors='pt').input_ids
    with torch.no_grad():
        [padded] = encoder(tokens).last_hidden_state.float()
    assert padded.shape[0] == 77
    [unpadded] = torch.from_numpy(np.load(PARITY / 'mid_text_embed.npy'))
    torch.testing.assert_close(padded[:2], unpadded, atol=1e-5, rtol=1e-5)
    assert (padded[2:] - unpadded[1]).abs().max() > 1e-3  # the other rows are other numbers
    for rows in (77, 2):  # as GenPercept's first version stores it, and its first two rows
        file = tmp_path / f'{rows}.npy'
        np.save(file, padded[:rows].numpy().astype(np.float16))
        prompt = read_embedding(file, Reader())['prompt']
        assert (prompt.shape[:2], prompt.dtype) == ((1, rows), torch.float32)
        torch.testing.assert_close(prompt[0, :2], unpadded, atol=2e-3, rtol=1e-3)  # float16


def test_prompt_tokens_pads_the_prompt_of_a_text_encoder_or_cuts_a_stored_one(
    tmp_path: Path,
) -> None:
    """The first version of GenPercept reads 77 tokens, the second two of the same numbers."""
    padded = prompt_of(PARITY / 'sd', Reader(), 77).tokens
    assert padded.shape[:2] == (1, 77)
    np.save(tmp_path / 'empty_text_embed.npy', padded[0].numpy().astype(np.float16))
    stored = str(tmp_path / 'empty_text_embed.npy')
    unpadded = torch.from_numpy(np.load(PARITY / 'mid_text_embed.npy'))
    for options, tokens in (
        ({'prompt': stored}, 77),
        ({'prompt': stored, 'prompt_tokens': 2}, 2),
        ({'prompt': str(PARITY / 'sd'), 'prompt_tokens': 77}, 77),
    ):
        (tmp_path / 'checkpoint.yaml').write_text(
            yaml.safe_dump(
                {
                    'base': str(PARITY / 'sd'),
                    'tasks': {'depth': {'unet': str(PARITY / 'genpercept-models/unet_depth_v2')}},
                    **options,
                }
            )
        )
        model, _ = checkpoint.load(str(tmp_path))
        prompt = next(iter(model.backbones.values())).prompt
        assert prompt.shape[1] == tokens
        torch.testing.assert_close(prompt[:, :2], unpadded, atol=2e-3, rtol=1e-3)


def test_padding_instead_of_stretching_gives_nearly_the_same_depth(
    engine: Engine, tmp_path: Path, picture: np.ndarray
) -> None:
    exact = engine.predict([picture], ['depth'])[0]['depth'].values
    padded = engine_of(tmp_path, resize='pad').predict([picture], ['depth'])[0]['depth'].values
    assert padded.shape == exact.shape
    assert np.corrcoef(padded.ravel(), exact.ravel())[0, 1] > 0.5
