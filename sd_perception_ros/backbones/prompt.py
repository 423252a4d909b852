"""Embed the empty prompt with a text encoder, once; a served checkpoint stores the result."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor


def embed_empty_prompt(text_encoder: Path, tokenizer: Path) -> Tensor:
    """
    Return the embedding of the empty prompt, unpadded: start and end token, (1, 2, D) float32.

    :param text_encoder: folder of a CLIP text encoder, as Stable Diffusion has it.
    :param tokenizer: folder with its vocab.json; the encoder's own config names other ids.
    :raises ValueError: transformers is not installed.
    :raises FileNotFoundError: a folder does not hold what it should.
    """
    for file in (text_encoder / 'config.json', tokenizer / 'vocab.json'):
        if not file.is_file():
            raise FileNotFoundError(
                f'expected a text encoder and its tokenizer, found no {file}; or store the '
                'embedding of the empty prompt and name its file: prompt: prompt.safetensors'
            )
    try:
        from transformers import CLIPTextModel
    except ImportError:
        raise ValueError(
            "a text encoder needs 'pip install transformers'; or store the embedding of the empty "
            'prompt and name its file: prompt: prompt.safetensors'
        ) from None
    vocabulary = json.loads((tokenizer / 'vocab.json').read_text())
    tokens = torch.tensor([[vocabulary['<|startoftext|>'], vocabulary['<|endoftext|>']]])
    encoder = CLIPTextModel.from_pretrained(text_encoder, local_files_only=True)
    with torch.no_grad():
        embedding: Tensor = encoder(tokens).last_hidden_state
    return embedding.float()
