"""Models on the Hugging Face hub, at one commit, through its local cache."""

from __future__ import annotations

from collections.abc import Collection
import json
from pathlib import Path
import re

from sd_perception_ros.checkpoint.weight_files import has_weights, INDEXES, WEIGHT_FILES

SCHEME = 'hub:'
PLACE = re.compile(r'hub:(?P<repo>[^/@\s]+/[^/@\s]+)@(?P<commit>[0-9a-f]{40})(?:/(?P<sub>.+))?')
# Files beside weights: configs, tokenizers, a stored prompt, and the card (its licence).
SMALL = ('.json', '.txt', '.md', '.npy', '.yaml')
PARTS = ('unet', 'transformer', 'vae', 'text_encoder')
UNUSED = ('safety_checker', 'image_encoder', 'feature_extractor')  # folders of pipelines


def is_on_hub(place: str) -> bool:
    """Return whether a location in checkpoint.yaml is on the hub."""
    return place.startswith(SCHEME)


def on_disk(place: str, without: Collection[str] = ()) -> Path:
    """
    Return the local folder of `hub:owner/name@commit/subfolder`.

    A complete copy in the cache is used without the network. Otherwise the needed files of that
    commit are downloaded: small files, and one format of weights per model folder, never a pickle.

    :param without: names of model folders whose weights will not be read.
    :raises ValueError: another form of location; a name or commit that the hub does not have; or
        huggingface_hub is not installed.
    :raises FileNotFoundError: not in the cache, and the hub cannot be reached.
    """
    found = PLACE.fullmatch(place)
    if found is None:
        raise ValueError(
            f"expected hub:owner/name@commit, perhaps with /subfolder, got '{place}'; the commit "
            'is the 40 characters of the history on the page of the model, so that the weights '
            'stay what they are'
        )
    repo, commit, sub = found['repo'], found['commit'], (found['sub'] or '').strip('/')
    try:
        from huggingface_hub import HfApi, snapshot_download  # only for the hub
        from huggingface_hub.errors import (
            HfHubHTTPError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
        )
    except ImportError:
        raise ValueError(f"{place} needs 'pip install huggingface_hub', or a local copy") from None
    try:
        # allow_patterns matches no file: otherwise incomplete snapshots are refused.
        cached = Path(
            snapshot_download(
                repo, revision=commit, local_files_only=True, allow_patterns=['/nothing']
            )
        )
        if _is_complete(cached, sub, without):
            return cached / sub
    except LocalEntryNotFoundError:
        pass
    # Errors of the HTTP library, which differs between versions of huggingface_hub.
    bases = [base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)]
    unreached: tuple[type[Exception], ...] = (OSError, OfflineModeIsEnabled, *bases)
    try:
        siblings = HfApi().model_info(repo, revision=commit, timeout=10).siblings or []
        files = [sibling.rfilename for sibling in siblings]
        needed = needed_files(files, sub, without)
        if not needed:
            raise ValueError(
                f'expected weights in safetensors at {place}, found none; it has '
                f'{", ".join(files[:8])}'
            )
        folder = Path(snapshot_download(repo, revision=commit, allow_patterns=needed))
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f'the hub does not have {place} ({reason}); correct its name or commit'
        ) from None
    except unreached as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f'{place} is not in the cache, and the hub was not reached ({reason}); copy the '
            'folder here and name it, or go online once'
        ) from None
    return folder / sub


def needed_files(files: list[str], sub: str, without: Collection[str] = ()) -> list[str]:
    """
    Return the files of a repository that are needed to serve a folder of it.

    :param files: all paths in the repository.
    :param sub: folder or file; model cards above it and DPT heads beside it are included.
    :param without: names of model folders whose weights are left out.
    """
    if sub in files:
        return [sub]
    wanted: list[str] = []
    parent = sub.rpartition('/')[0]
    for folder in sorted({path.rpartition('/')[0] for path in files}):
        above, _, last = folder.rpartition('/')
        beside = bool(sub) and above == parent and last.startswith('dpt_head')
        if sub and folder != sub and not folder.startswith(f'{sub}/') and not beside:
            continue
        names = {p.rpartition('/')[2] for p in files if p.rpartition('/')[0] == folder}
        kept = set() if last in {*UNUSED, *without} else _weights_among(names)
        for name in sorted(names):
            if name.endswith(SMALL) or name in kept:
                wanted.append(f'{folder}/{name}' if folder else name)
    if not without and not any(path.endswith('.safetensors') for path in wanted):
        return []
    cards = [path for path in ('README.md', 'LICENSE.md') if path in files]
    return [*wanted, *(path for path in cards if path not in wanted)]


def _weights_among(names: Collection[str]) -> set[str]:
    """Return the needed weight files of one folder: one format, and those of our checkpoints."""
    ours = {n for n in names if n == 'prompt.safetensors' or n.startswith('head_')}
    whole = next((n for n in WEIGHT_FILES if n in names), None)
    if whole is not None:
        return {whole} | ours
    index = next((n for n in INDEXES if n in names), '')
    shards = {n for n in names if re.search(r'-\d+-of-\d+\.safetensors$', n)} if index else set()
    return {n for n in shards if ('.fp16' in n) == ('.fp16' in index)} | ours


def _is_complete(snapshot: Path, sub: str, without: Collection[str]) -> bool:
    """Return whether the cache has the file, the folder's weights, or all models of a pipeline."""
    folder = snapshot / sub
    if folder.is_file():
        return True
    index = folder / 'model_index.json'
    if index.is_file():
        there = json.loads(index.read_text())
        wanted = [name for name in PARTS if name in there and name not in without]
        return all(has_weights(folder / name) for name in wanted)
    heads = re.findall(r'head_weights: (\S+)', _text(folder / 'checkpoint.yaml'))
    return any(has_weights(folder / name) for name in ('', *PARTS)) and all(
        (folder / head).exists() for head in heads
    )


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ''
