"""The empty prompt as each family of models reads it, from small random text encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
import torch

from sd_perception_ros.checkpoint.prompt import prompt_of
from sd_perception_ros.checkpoint.reader import Reader
from sd_perception_ros.checkpoint.weight_files import file_sha256

transformers = pytest.importorskip('transformers', reason='transformers is optional')


def clip(pipeline: Path, number: str, width: int, projects: bool) -> Any:
    """Write a CLIP whose empty prompt is the tokens 3 and 5; return it."""
    torch.manual_seed(width)
    config = transformers.CLIPTextConfig(
        vocab_size=6,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width + 2,
        bos_token_id=3,
        eos_token_id=5,
        pad_token_id=1,
    )
    kinds = (transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection)
    model = kinds[projects](config).eval()
    model.save_pretrained(pipeline / f'text_encoder{number}')
    folder = pipeline / f'tokenizer{number}'
    folder.mkdir(parents=True)
    ids = {'a</w>': 0, 'b</w>': 1, 'a': 2, '<|startoftext|>': 3, 'b': 4, '<|endoftext|>': 5}
    (folder / 'vocab.json').write_text(json.dumps(ids))
    (folder / 'merges.txt').write_text('#version: 0.2\n')
    return model


def t5(pipeline: Path, number: str, width: int) -> Any:
    """Write a T5 whose empty prompt is the end token 1; return it."""
    torch.manual_seed(width)
    config = transformers.T5Config(
        vocab_size=6, d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2
    )
    model = transformers.T5EncoderModel(config).eval()
    model.save_pretrained(pipeline / f'text_encoder{number}')
    return model


def read(model: Any, *tokens: int) -> Any:
    with torch.inference_mode():
        return model(torch.tensor([tokens]), output_hidden_states=True)


def test_stable_diffusion_reads_the_last_states_of_one_clip(tmp_path: Path) -> None:
    model = clip(tmp_path, '', 8, projects=False)
    prompt = prompt_of(tmp_path, Reader())
    torch.testing.assert_close(prompt.tokens, read(model, 3, 5).last_hidden_state)
    assert prompt.pooled is None


def test_a_tokenizer_that_transformers_itself_wrote_gives_the_same_tokens(tmp_path: Path) -> None:
    expected = read(clip(tmp_path, '', 8, projects=False), 3, 5).last_hidden_state
    folder = tmp_path / 'tokenizer'
    made = transformers.CLIPTokenizer.from_pretrained(folder)
    (folder / 'vocab.json').unlink()
    (folder / 'merges.txt').unlink()
    made.save_pretrained(folder)
    assert (folder / 'tokenizer.json').is_file()
    torch.testing.assert_close(prompt_of(tmp_path, Reader()).tokens, expected)


def test_sdxl_reads_two_clips_before_their_last_layers_and_one_summary(tmp_path: Path) -> None:
    first = read(clip(tmp_path, '', 8, projects=False), 3, 5)
    second = read(clip(tmp_path, '_2', 12, projects=True), 3, 5)
    prompt = prompt_of(tmp_path, Reader())
    assert prompt.tokens.shape == (1, 2, 8 + 12)
    torch.testing.assert_close(prompt.tokens[..., :8], first.hidden_states[1])
    torch.testing.assert_close(prompt.tokens[..., 8:], second.hidden_states[1])
    torch.testing.assert_close(prompt.pooled, second.text_embeds)


@pytest.mark.parametrize('with_t5', [False, True])
def test_stable_diffusion_3_widens_two_clips_to_t5_which_may_be_missing(
    tmp_path: Path, with_t5: bool
) -> None:
    first = read(clip(tmp_path, '', 8, projects=True), 3, 5)
    second = read(clip(tmp_path, '_2', 12, projects=True), 3, 5)
    third = read(t5(tmp_path, '_3', 32), 1) if with_t5 else None
    (tmp_path / 'transformer').mkdir()
    (tmp_path / 'transformer/config.json').write_text('{"joint_attention_dim": 32}')
    prompt = prompt_of(tmp_path, Reader())
    assert prompt.tokens.shape == (1, 3 if with_t5 else 2, 32)
    torch.testing.assert_close(prompt.tokens[:, :2, 8:20], second.hidden_states[1])
    assert (prompt.tokens[:, :2, 20:] == 0).all()
    if third is not None:
        torch.testing.assert_close(prompt.tokens[:, 2:], third.last_hidden_state)
    torch.testing.assert_close(
        prompt.pooled, torch.cat([first.text_embeds, second.text_embeds], 1)
    )


def test_pixart_reads_the_end_token_of_t5(tmp_path: Path) -> None:
    model = t5(tmp_path, '', 32)
    torch.testing.assert_close(
        prompt_of(tmp_path, Reader()).tokens, read(model, 1).last_hidden_state
    )


def test_errors_for_wrong_and_missing_encoders_say_what_to_store(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'found no .*; or store the embedding'):
        prompt_of(tmp_path, Reader())
    clip(tmp_path / 'pipeline', '', 8, projects=False)
    (tmp_path / 'pipeline/tokenizer/vocab.json').unlink()
    with pytest.raises(FileNotFoundError, match=r'neither vocab.json nor tokenizer.json in '):
        prompt_of(tmp_path / 'pipeline', Reader())
    (tmp_path / 'text_encoder').mkdir()
    (tmp_path / 'text_encoder/config.json').write_text('{"architectures": ["GemmaModel"]}')
    with pytest.raises(ValueError, match=r'a CLIP or T5 text encoder, got GemmaModel; or store'):
        prompt_of(tmp_path, Reader())


def test_a_text_encoder_in_half_precision_only_is_read(tmp_path: Path) -> None:
    expected = read(clip(tmp_path, '', 8, projects=False).half().float(), 3, 5).last_hidden_state
    file = tmp_path / 'text_encoder/model.safetensors'
    save_file({n: t.half() for n, t in load_file(file).items()}, file)
    file.rename(file.with_name('model.fp16.safetensors'))
    torch.testing.assert_close(prompt_of(tmp_path, Reader()).tokens, expected)


def test_the_weights_of_a_text_encoder_are_hashed_and_checked(
    tmp_path: Path,
) -> None:
    clip(tmp_path, '', 8, projects=False)
    file = tmp_path / 'text_encoder/model.safetensors'
    reader = Reader(device='meta', hashes={})
    prompt_of(tmp_path, reader)
    assert reader.hashes == {str(file): file_sha256(file)}
    with pytest.raises(ValueError, match=r'model\.safetensors: expected SHA-256 0000, got'):
        prompt_of(tmp_path, Reader({'text_encoder/model.safetensors': '0000'}))


def test_a_pickled_text_encoder_is_never_opened(tmp_path: Path) -> None:
    clip(tmp_path, '', 8, projects=False)
    folder = tmp_path / 'text_encoder'
    (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')
    with pytest.raises(FileNotFoundError, match=r'pytorch_model\.bin is a pickle, .* or store'):
        prompt_of(tmp_path, Reader())


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('text_encoder/config.json', '', r'text_encoder/config\.json is not JSON'),
        (
            'text_encoder/config.json',
            '[]',
            r'config\.json: expected a mapping .* got list',
        ),
        ('tokenizer/vocab.json', '{"a": ', r'tokenizer/vocab\.json is not JSON'),
        ('text_encoder/model.safetensors', '', r'model\.safetensors is not an intact safetensors'),
        (
            'text_encoder/model.safetensors',
            'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n',
            r'model\.safetensors is a git-lfs pointer, .*: git lfs pull',
        ),
    ],
)
def test_a_small_file_that_is_empty_or_broken_is_named(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    clip(tmp_path, '', 8, projects=False)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        prompt_of(tmp_path, Reader())
