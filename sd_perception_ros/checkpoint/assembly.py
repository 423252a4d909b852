"""Build backbones from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import AutoencoderTiny

from sd_perception_ros.backbones.latent import LatentBackbone, NO_TEXT, Prompt
from sd_perception_ros.checkpoint.denoisers import (
    check_class_embedding,
    load_decoder,
    load_denoiser,
    make_backbone,
    reads_text,
)
from sd_perception_ros.checkpoint.locations import BackboneFiles
from sd_perception_ros.checkpoint.prompt import prompt_of
from sd_perception_ros.checkpoint.reader import Reader
from sd_perception_ros.checkpoint.steps import (
    finetuning_step,
    scheduler_prediction,
    serving_step,
    StepOptions,
)
from sd_perception_ros.checkpoint.weight_files import weights_files
from sd_perception_ros.checkpoint.weights import load_tiny, load_vae, read_embedding


class Assembly:
    """
    Builds the backbones of one checkpoint, which share one autoencoder.

    :param reader: reads weights, or only their shapes.
    :param decodes: whether a head needs the autoencoder's decoder.
    :param prompt_tokens: tokens of the empty prompt; 0: as stored, or without padding.
    """

    def __init__(self, reader: Reader, decodes: bool = True, prompt_tokens: int = 0) -> None:
        self._reader, self._decodes, self._prompt_tokens = reader, decodes, prompt_tokens
        self._vaes: dict[Path, Any] = {}
        self._tiny_halves: dict[tuple[Path, bool], AutoencoderTiny] = {}
        self._prompts: dict[Path, Prompt] = {}

    def backbone(
        self, files: BackboneFiles, options: StepOptions, for_training: bool = False
    ) -> LatentBackbone:
        """
        Read one denoiser and the other parts of its backbone.

        :param options: the step in checkpoint.yaml.
        :param for_training: choose the step for fine-tuning, not the one of the published weights.
        :raises FileNotFoundError: a file is missing.
        :raises ValueError: a file is broken or does not fit.
        """
        denoiser = load_denoiser(files.denoiser, files.base_denoiser, self._reader)
        is_chosen = None not in (options.timestep, options.prediction_type)
        check_class_embedding(
            denoiser.config,
            scheduler_prediction(files.layout.pipeline),
            is_chosen or files.layout.joint_head is not None,
            files.denoiser,
        )
        vae = self._shared_vae(files.vae, files.tiny_encoder is None, files.tiny_decoder is None)
        if files.layout.decoder is not None:
            if isinstance(vae, AutoencoderTiny) or files.tiny_decoder is not None:
                raise ValueError(
                    f'the fine-tuned VAE decoder in {files.layout.decoder} and a tiny decoder '
                    'exclude each other; name an AutoencoderKL in vae, and at most a tiny_encoder'
                )
            vae = load_decoder(vae, files.layout.decoder, self._reader)
        prompt = self._prompt(files.prompt) if reads_text(denoiser) else NO_TEXT
        channels, pipeline = vae.config.latent_channels, files.layout.pipeline
        if for_training:
            step = finetuning_step(denoiser, channels, pipeline, options.timestep)
        else:
            step = serving_step(denoiser, channels, pipeline, options)
        backbone = make_backbone(vae, denoiser, prompt, step)
        decoder = files.tiny_decoder if self._decodes else None
        backbone.use_tiny(self._tiny(files.tiny_encoder, True), self._tiny(decoder, False))
        return backbone

    def _tiny(self, folder: Path | None, encodes: bool) -> AutoencoderTiny | None:
        """Read one half of a tiny autoencoder once."""
        if folder is None:
            return None
        key = (folder, encodes)
        if key in self._tiny_halves:
            self._record(folder)
        else:
            self._tiny_halves[key] = load_tiny(folder, self._reader, encodes)
        return self._tiny_halves[key]

    def _record(self, folder: Path) -> None:
        """Record files of this backbone that were read for another one before."""
        for file in weights_files(folder):
            self._reader.check(file)

    def _shared_vae(self, folder: Path, encodes: bool, decodes: bool) -> Any:
        """Read an autoencoder once; folders with equal files give the same object."""
        if folder in self._vaes:
            self._record(folder)
            return self._vaes[folder]
        vae = load_vae(folder, self._reader, self._decodes and decodes, encodes)
        if self._vaes and self._reader.verifies:
            first = next(iter(self._vaes))
            if self._hashes_of(first) != self._hashes_of(folder):
                raise ValueError(
                    f'one checkpoint has one VAE, and those at {first} and {folder} differ; name '
                    "one in vae, or serve them side by side: checkpoints: ['task=other.yaml']"
                )
            vae = self._vaes[first]
        self._vaes[folder] = vae
        return vae

    def _hashes_of(self, folder: Path) -> list[str]:
        return [self._reader.hashes[str(file)] for file in weights_files(folder)]

    def _prompt(self, path: Path | None) -> Prompt:
        """Read or compute an embedding once."""
        if path is None:
            raise ValueError("option 'prompt' is missing; name its file, or a base")
        if path not in self._prompts:
            is_pipeline = path.is_dir()
            self._prompts[path] = self._embedded(path) if is_pipeline else self._stored(path)
        elif path.is_file():
            self._reader.check(path)  # as in `_shared_vae`
        return self._prompts[path]

    def _embedded(self, pipeline: Path) -> Prompt:
        return prompt_of(pipeline, self._reader, self._prompt_tokens)

    def _stored(self, file: Path) -> Prompt:
        tensors = read_embedding(file, self._reader)
        prompt, wanted = tensors['prompt'], self._prompt_tokens
        if wanted > prompt.shape[1]:
            raise ValueError(
                f'{file} has {prompt.shape[1]} tokens, but prompt_tokens is {wanted}; name '
                'another prompt'
            )
        # The text encoder is causal: rows do not depend on later rows.
        return Prompt(prompt[:, :wanted] if wanted else prompt, tensors.get('pooled'))
