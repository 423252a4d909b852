"""What checkpoint.yaml names, found on disk or on the hub, read, and put together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
import logging
from pathlib import Path
from typing import Any

from sd_perception_ros.backbones.latent import LatentBackbone, NO_TEXT, Prompt
from sd_perception_ros.backbones.onestep import OneStep, PREDICTIONS
from sd_perception_ros.checkpoint.hub import is_on_hub, on_disk
from sd_perception_ros.checkpoint.layouts import (
    DENOISERS,
    find_layout,
    holds_adapters_alone,
    Layout,
    load_decoder,
    load_denoiser,
    make_backbone,
    one_step_of,
    one_step_to_tune,
    reads_text,
)
from sd_perception_ros.checkpoint.licenses import is_restricted, license_near
from sd_perception_ros.checkpoint.prompt import prompt_of
from sd_perception_ros.checkpoint.weight_files import Reader, weights_files
from sd_perception_ros.checkpoint.weights import load_vae, read_embedding

PROMPT = 'prompt.safetensors'
STORED_PROMPTS = (PROMPT, 'empty_text_embed.npy')  # ours, and GenPercept's first version's
TEXT_ENCODERS = ('text_encoder', 'text_encoder_2', 'text_encoder_3')
LOGGER = logging.getLogger(__name__)


@dataclass
class Sources:
    """
    Puts backbones together from the folders that a checkpoint names.

    :param root: what relative places are relative to.
    :param base: place of the pipeline that gives whatever a denoiser did not bring; may be ''.
    :param vae: place of the autoencoder; '' takes the base's, else the denoiser's own.
    :param prompt: place of the prompt's embedding; '' likewise.
    :param reader: reads weights, or their shapes alone.
    """

    root: Path
    base: str = ''
    vae: str = ''
    prompt: str = ''
    reader: Reader = field(default_factory=Reader)
    _vaes: dict[Path, Any] = field(default_factory=dict)

    def place(self, name: str, without: Collection[str] = ()) -> Path:
        """
        Return the local path of `hub:owner/name@commit/sub` or of a path.

        :param without: model folders that need not be fetched from the hub.
        """
        return on_disk(name, without) if is_on_hub(name) else self.root / name

    def layout(self, name: str) -> Layout:
        """Return where a denoiser and what came with it lie."""
        text = TEXT_ENCODERS if self.prompt or self.base else ()
        return find_layout(self.place(name, ('vae', *text) if self.vae or self.base else text))

    def backbone(self, name: str, step: Mapping[str, Any], tunes: bool = False) -> LatentBackbone:
        """
        Read one denoiser and what it needs.

        :param name: its place.
        :param step: timestep, prediction and signal, where the layout is not to tell them.
        :param tunes: whether it is about to be fine-tuned rather than served as it is.
        """
        layout = self.layout(name)
        base, fallback = self._base(layout)
        folder = layout.denoiser or fallback
        if folder is None:
            raise FileNotFoundError(
                f"'{name}' changes only the readout; name the model it belongs to: base: folder"
            )
        denoiser = load_denoiser(folder, fallback, self.reader)
        vae_folder = self._vae_folder(layout, base)
        vae = self._shared_vae(vae_folder)
        if layout.decoder is not None:
            vae = load_decoder(vae, layout.decoder, self.reader)
        prompt = self._prompt(layout, base) if reads_text(denoiser) else NO_TEXT
        channels = vae.config.latent_channels
        if tunes:
            one_step = one_step_to_tune(layout, denoiser, channels, step.get('timestep'))
        else:
            one_step = one_step_of(layout, denoiser, channels, **step)
        return make_backbone(vae, denoiser, prompt, one_step)

    def license_of(self, name: str) -> str:
        """Return the licence on the card nearest to a denoiser, else of the base; '' if none."""
        found = license_near(self.place(name))
        layout = self.layout(name)
        base = self._base(layout)[0]
        return found or (license_near(base) if base is not None else '')

    def _base(self, layout: Layout) -> tuple[Path | None, Path | None]:
        """Return the base's folder, and its denoiser's; of the hub's no more than is needed."""
        if not self.base:
            return None, None
        own = layout.denoiser
        brings_denoiser = own is not None and not holds_adapters_alone(own)
        unread = [*(DENOISERS if brings_denoiser else ()), *(TEXT_ENCODERS if self.prompt else ())]
        base = self.place(self.base, [*unread, *(('vae',) if self.vae else ())])
        folders = [base / name for name in DENOISERS if (base / name / 'config.json').is_file()]
        return base, (folders[0] if folders else None)

    def _vae_folder(self, layout: Layout, base: Path | None) -> Path:
        if self.vae:
            return self.place(self.vae)
        if layout.vae is not None and (base is None or layout.pipeline is None):
            return layout.vae
        if base is not None:
            return base / 'vae'
        raise ValueError("option 'vae' is missing; name its folder, or a base")

    def _shared_vae(self, folder: Path) -> Any:
        """Read an autoencoder once; all denoisers of a checkpoint must read the same latents."""
        if folder in self._vaes:
            for file in weights_files(folder):
                self.reader.check(file)  # read before, but this backbone has it, too
            return self._vaes[folder]
        vae = load_vae(folder, self.reader)
        if self._vaes and self.reader.verifies:
            first = next(iter(self._vaes))
            hashes = [
                [self.reader.hashes[str(f)] for f in weights_files(f)] for f in (first, folder)
            ]
            if hashes[0] != hashes[1]:
                raise ValueError(
                    f'one checkpoint has one VAE, and those at {first} and {folder} differ; name '
                    "one in vae, or serve them side by side: checkpoints: ['task=other.yaml']"
                )
            vae = self._vaes[first]
        self._vaes[folder] = vae
        return vae

    def _prompt(self, layout: Layout, base: Path | None) -> Prompt:
        if self.prompt:
            return self._stored(self.place(self.prompt))
        outer = layout.denoiser.parent if layout.denoiser is not None else None
        places = [place for place in (base, layout.pipeline, outer) if place is not None]
        for place in places:
            for stored in STORED_PROMPTS:
                if (place / stored).is_file():
                    return self._stored(place / stored)
        pipelines = [place for place in places if (place / 'text_encoder').is_dir()]
        if not pipelines and not places:
            raise ValueError("option 'prompt' is missing; name its file, or a base")
        return prompt_of((pipelines or places)[0])

    def _stored(self, path: Path) -> Prompt:
        tensors = read_embedding(path, self.reader)
        return Prompt(tensors['prompt'], tensors.get('pooled'))


def log_files(reader: Reader, license_name: str) -> None:
    """Say which files were read and what their licence asks for."""
    for path, sha256 in reader.hashes.items():
        LOGGER.info('read %s, SHA-256 %s', path, sha256)
    if is_restricted(license_name):
        LOGGER.warning(
            "the weights' licence, '%s', does not allow every use: read it before a product has "
            'them',
            license_name,
        )


def step_options(timestep: int, prediction: str, signal: float) -> dict[str, Any]:
    """Return what a checkpoint says of its step, without what it leaves to the layout."""
    said: dict[str, Any] = {}
    if timestep >= 0:
        said['timestep'] = timestep
    if prediction in PREDICTIONS:
        said['prediction'] = prediction
    if signal >= 0:
        said['signal'] = signal
    return said


def step_values(step: OneStep) -> dict[str, Any]:
    """Return a step as checkpoint.yaml says it."""
    return {
        'timestep': round(step.timestep),
        'prediction': step.prediction,
        'signal': round(step.signal, 8),
    }
