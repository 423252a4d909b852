"""Embed the empty prompt with the text encoders of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F

from sd_perception_ros.backbones.latent import Prompt
from sd_perception_ros.checkpoint.files import read_json
from sd_perception_ros.checkpoint.reader import Reader
from sd_perception_ros.checkpoint.weight_files import weights_files

STORE = 'or store the embedding of the empty prompt and name its file: prompt: prompt.safetensors'


class _Embedded(NamedTuple):
    """
    Outputs of one text encoder, float32.

    :ivar last: (1, T, D) states of the last layer.
    :ivar before: (1, T, D) states of the layer before it.
    :ivar pooled: (1, P) projection; None: the encoder has none.
    """

    last: Tensor
    before: Tensor
    pooled: Tensor | None


def prompt_of(pipeline: Path, reader: Reader, tokens: int = 0) -> Prompt:
    """
    Return the embedding of the empty prompt for a pipeline's denoiser.

    | text encoders                     | tokens                                   | pooled       |
    |-----------------------------------|------------------------------------------|--------------|
    | CLIP (Stable Diffusion 1, 2)      | last states                              | none         |
    | 2 CLIP (SDXL)                     | states before the last layers, joined    | of the 2nd   |
    | 2 CLIP, T5 (Stable Diffusion 3)   | as SDXL, with zeros to T5's width; then  | of both CLIP |
    |                                   | last states of T5, if it is there        |              |
    | T5 (PixArt)                       | last states                              | none         |

    :param pipeline: folder with text_encoder, tokenizer, and for some text_encoder_2, ...
    :param reader: checks the hashes of the weights, which are always read to the CPU.
    :param tokens: pad to this length (one CLIP only); 0: start and end token only.
    :raises FileNotFoundError: a file is missing.
    :raises ValueError: transformers is not installed, or an encoder is of an unsupported kind.
    """
    first = _encode(pipeline, '', reader, tokens)
    if not (pipeline / 'text_encoder_2').is_dir():
        return Prompt(first.last)
    if tokens:
        raise ValueError(f'{pipeline}: prompt_tokens is for pipelines with one text encoder')
    second = _encode(pipeline, '_2', reader)
    states = torch.cat([first.before, second.before], -1)
    assert second.pooled is not None
    if first.pooled is None:  # SDXL's first encoder has no projection, Stable Diffusion 3's has
        return Prompt(states, second.pooled)
    pooled = torch.cat([first.pooled, second.pooled], -1)
    width = _json(pipeline / 'transformer' / 'config.json')['joint_attention_dim']
    states = F.pad(states, (0, width - states.shape[-1]))
    if (pipeline / 'text_encoder_3' / 'config.json').is_file():
        states = torch.cat([states, _encode(pipeline, '_3', reader).last], 1)
    return Prompt(states, pooled)


def embed_empty_prompt(text_encoder: Path, tokenizer: Path, reader: Reader) -> Tensor:
    """
    Return a CLIP's last states for the empty prompt: start and end token, (1, 2, D) float32.

    :param text_encoder: folder of a CLIP text encoder, as Stable Diffusion has it.
    :param tokenizer: folder of its CLIPTokenizer: the encoder's own config names other ids.
    """
    return _clip(text_encoder, tokenizer, False, reader).last


def _encode(pipeline: Path, number: str, reader: Reader, tokens: int = 0) -> _Embedded:
    encoder, tokenizer = pipeline / f'text_encoder{number}', pipeline / f'tokenizer{number}'
    kind = str((_json(encoder / 'config.json').get('architectures') or ['CLIPTextModel'])[0])
    if kind.startswith('CLIPText'):
        return _clip(encoder, tokenizer, 'Projection' in kind, reader, tokens)
    if kind.startswith('T5') or kind.startswith('UMT5'):
        return _t5(encoder, reader)
    raise ValueError(f'{encoder}: expected a CLIP or T5 text encoder, got {kind}; {STORE}')


def _clip(
    encoder: Path, tokenizer: Path, projects: bool, reader: Reader, length: int = 0
) -> _Embedded:
    files = [tokenizer / name for name in ('tokenizer.json', 'vocab.json')]
    for file in filter(Path.is_file, files):
        read_json(file)  # its errors name the file, those of transformers do not
    if not any(file.is_file() for file in files):
        raise FileNotFoundError(
            f'expected a tokenizer, found neither vocab.json nor tokenizer.json in {tokenizer}; '
            f'{STORE}'
        )
    transformers = _transformers()
    read = transformers.CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
    padding = {'padding': 'max_length', 'max_length': length} if length else {}
    tokens = torch.tensor([read('', **padding).input_ids])  # start, end, and padding if asked for
    cls = transformers.CLIPTextModelWithProjection if projects else transformers.CLIPTextModel
    model = _load(cls, encoder, reader)
    with torch.no_grad():
        outputs = model(tokens, output_hidden_states=True)
    pooled = outputs.text_embeds.float() if projects else None
    return _Embedded(outputs.last_hidden_state.float(), outputs.hidden_states[-2].float(), pooled)


def _t5(encoder: Path, reader: Reader) -> _Embedded:
    model = _load(_transformers().T5EncoderModel, encoder, reader)
    end = torch.tensor([[model.config.eos_token_id]])
    with torch.no_grad():
        states = model(end).last_hidden_state.float()
    return _Embedded(states, states, None)


def _load(cls: Any, encoder: Path, reader: Reader) -> Any:
    """Return a text encoder in float32, from safetensors with checked hashes."""
    try:
        for file in weights_files(encoder):
            reader.check(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{error}; {STORE}') from None
    weights = Reader(hashes=reader.hashes).read(encoder)
    config = cls.config_class.from_pretrained(encoder, local_files_only=True)
    model, report = cls.from_pretrained(
        None, config=config, state_dict=weights, output_loading_info=True
    )
    if missing := sorted(report['missing_keys']):
        raise ValueError(
            f'{encoder} does not fit {cls.__name__}: it lacks {", ".join(missing[:3])}; is '
            'config.json the one of these weights?'
        )
    return model.float().eval()


def _transformers() -> Any:
    try:
        import transformers  # slow to import, and not needed for serving
    except ImportError:
        raise ValueError(f"a text encoder needs 'pip install transformers'; {STORE}") from None
    return transformers


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(
            f'expected a text encoder and its tokenizer, found no {file}; {STORE}'
        )
    return read_json(file)
