"""Find all files of a backbone, on disk or on the hub, before any is read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sd_perception_ros.checkpoint.files import check_location
from sd_perception_ros.checkpoint.hub import hub_hint, is_on_hub, on_disk
from sd_perception_ros.checkpoint.layouts import DenoiserLayout, DENOISERS, find_layout
from sd_perception_ros.checkpoint.licenses import Terms, terms_of
from sd_perception_ros.checkpoint.lora import is_adapters_only
from sd_perception_ros.checkpoint.reader import tensor_names
from sd_perception_ros.paths import user_path

PROMPT = 'prompt.safetensors'
STORED_PROMPTS = (PROMPT, 'empty_text_embed.npy')  # ours, and that of GenPercept's first version
TEXT_ENCODERS = ('text_encoder', 'text_encoder_2', 'text_encoder_3')


@dataclass(frozen=True)
class BackboneFiles:
    """
    Local files of one backbone.

    :ivar denoiser: model folder, or safetensors file.
    :ivar base_denoiser: folder of the model that it was fine-tuned from: its config.json, and its
        weights if `denoiser` has only LoRA adapters.
    :ivar layout: models beside the denoiser.
    :ivar vae: folder of the autoencoder.
    :ivar tiny_encoder: folder of the tiny autoencoder that encodes instead; None: `vae` encodes.
    :ivar tiny_decoder: the same for decoding.
    :ivar prompt: file of the embedding, or pipeline folder with text encoders; None if there is
        neither.
    :ivar terms: licences of the denoiser, and of its base if weights of the base are used.
    """

    denoiser: Path
    base_denoiser: Path | None
    layout: DenoiserLayout
    vae: Path
    prompt: Path | None
    terms: tuple[Terms, ...]
    tiny_encoder: Path | None = None
    tiny_decoder: Path | None = None


@dataclass(frozen=True)
class Locations:
    """
    The locations in a checkpoint.yaml: paths, or `hub:owner/name[@revision][/subfolder]`.

    :param root: folder of relative paths.
    :param base: diffusers pipeline that completes a denoiser; '': none.
    :param vae: autoencoder; '': that of the base, otherwise the one beside the denoiser.
    :param tiny_encoder: tiny autoencoder that encodes instead; '': `vae` encodes.
    :param tiny_decoder: the same for decoding.
    :param prompt: embedding of the empty prompt; '': likewise.
    :param offline: never use the network; a location that is not in the cache is missing.
    """

    root: Path
    base: str = ''
    vae: str = ''
    prompt: str = ''
    offline: bool = False
    tiny_encoder: str = ''
    tiny_decoder: str = ''

    def local_path(self, location: str, without: Collection[str] = ()) -> Path:
        """
        Return the path on disk, after a download if it is on the hub.

        :param without: subfolders whose weights are not needed from the hub.
        """
        if is_on_hub(location):
            return on_disk(location, without, self.offline)
        path = check_location(self.root / user_path(location))
        if not path.exists() and (hint := hub_hint(location)):
            raise FileNotFoundError(f'expected a folder or file, found none at {path}{hint}')
        return path

    def files_of(self, location: str) -> BackboneFiles:
        """
        Find the files of one denoiser's backbone.

        :param location: location of the denoiser.
        :raises FileNotFoundError: there is no denoiser.
        :raises ValueError: no autoencoder is named or found.
        """
        unread = [*(TEXT_ENCODERS if self.prompt or self.base else ())]
        if self.vae or self.base:
            unread.append('vae')
        path = self.local_path(location, unread)
        layout = find_layout(path)
        base = self._base(layout)
        base_denoiser = _denoiser_in(base) if base is not None else None
        denoiser = layout.denoiser or base_denoiser
        if denoiser is None:
            raise FileNotFoundError(
                f"'{location}' has a head but no denoiser; name the model of the "
                'head: base: folder'
            )
        # The card of a pipeline is in its folder; that of a model may be one folder above.
        terms = [terms_of(path, location, levels=int(layout.denoiser == path))]
        if base is not None and _needs_base_weights(layout):
            terms.append(terms_of(base, self.base, levels=0))
        return BackboneFiles(
            denoiser,
            base_denoiser,
            layout,
            self._vae(layout, base),
            self._prompt(layout, base),
            tuple(terms),
            self.local_path(self.tiny_encoder) if self.tiny_encoder else None,
            self.local_path(self.tiny_decoder) if self.tiny_decoder else None,
        )

    def _base(self, layout: DenoiserLayout) -> Path | None:
        if not self.base:
            return None
        if not is_on_hub(self.base):
            return self.local_path(self.base)
        unread = [*(() if _needs_base_weights(layout) else DENOISERS)]
        unread += [*(TEXT_ENCODERS if self.prompt else ())]
        return self.local_path(self.base, [*unread, *(('vae',) if self.vae else ())])

    def _vae(self, layout: DenoiserLayout, base: Path | None) -> Path:
        if self.vae:
            return self.local_path(self.vae)
        if layout.vae is not None and (base is None or layout.pipeline is None):
            return layout.vae
        if base is not None:
            return base / 'vae'
        raise ValueError("option 'vae' is missing; name its folder, or a base")

    def _prompt(self, layout: DenoiserLayout, base: Path | None) -> Path | None:
        if self.prompt:
            return self.local_path(self.prompt, [*DENOISERS, 'vae'])
        outer = layout.denoiser.parent if layout.denoiser is not None else None
        folders = [f for f in (base, layout.pipeline, outer) if f is not None]
        files = [folder / name for folder in folders for name in STORED_PROMPTS]
        pipelines = [folder for folder in folders if (folder / 'text_encoder').is_dir()]
        stored = [file for file in files if file.is_file()]
        return next(iter([*stored, *pipelines, *folders]), None)


def _needs_base_weights(layout: DenoiserLayout) -> bool:
    own = layout.denoiser
    return own is None or is_adapters_only(tensor_names(own))


def _denoiser_in(pipeline: Path) -> Path | None:
    folders = (pipeline / name for name in DENOISERS)
    return next((folder for folder in folders if (folder / 'config.json').is_file()), None)
