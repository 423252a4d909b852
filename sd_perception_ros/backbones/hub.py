"""Models on the Hugging Face hub, at one commit, by way of its cache."""

from __future__ import annotations

import json
from pathlib import Path
import re

from sd_perception_ros.backbones.weights import has_weights, INDEXES, WEIGHT_FILES

SCHEME = 'hub:'
PLACE = re.compile(r'hub:(?P<repo>[^/@\s]+/[^/@\s]+)@(?P<commit>[0-9a-f]{40})(?:/(?P<sub>.+))?')
# What is read beside weights: configs, tokenizers, a stored prompt, and the card (its licence).
SMALL = ('.json', '.txt', '.md', '.npy', '.yaml')
PARTS = ('unet', 'transformer', 'vae', 'text_encoder')


def is_on_hub(place: str) -> bool:
    """Return whether a place in checkpoint.yaml is on the hub."""
    return place.startswith(SCHEME)


def on_disk(place: str) -> Path:
    """
    Return the local folder of `hub:owner/name@commit/subfolder`.

    What the cache has is taken without asking the network. Else the needed files of that commit
    are fetched: small ones, and of weights one format for each model folder, never a pickle.

    :raises ValueError: the place is not of this form; a name or a commit that the hub does not
        know; or huggingface_hub is not installed.
    :raises FileNotFoundError: the network cannot be reached.
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
        from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415: only for the hub
        from huggingface_hub.errors import (
            HfHubHTTPError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
        )
    except ImportError:
        raise ValueError(f"{place} needs 'pip install huggingface_hub', or a local copy") from None
    try:
        # Of no file: else it refuses a snapshot that lacks files which nobody wants.
        cached = Path(
            snapshot_download(
                repo, revision=commit, local_files_only=True, allow_patterns=['/nothing']
            )
        )
        if _is_complete(cached, sub):
            return cached / sub
    except LocalEntryNotFoundError:
        pass
    # The HTTP library's own errors, whichever library this version of the hub's client uses.
    bases = [base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)]
    unreached: tuple[type[Exception], ...] = (OSError, OfflineModeIsEnabled, *bases)
    try:
        siblings = HfApi().model_info(repo, revision=commit, timeout=10).siblings or []
        files = [sibling.rfilename for sibling in siblings]
        needed = needed_files(files, sub)
        if not needed:
            raise ValueError(
                f'expected weights in safetensors at {place}, found none; it has '
                f'{", ".join(files[:8])}'
            )
        folder = Path(snapshot_download(repo, revision=commit, allow_patterns=needed))
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f'the hub does not give {place} ({reason}); mend its name or commit'
        ) from None
    except unreached as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f'{place} is not in the cache, and the hub was not reached ({reason}); copy the '
            'folder here and name it, or go online once'
        ) from None
    return folder / sub


def needed_files(files: list[str], sub: str) -> list[str]:
    """
    Return the files of a repository that serving a folder of it needs.

    :param files: all paths in the repository.
    :param sub: the wanted folder; the cards above it, and DPT heads beside it, come along.
    """
    wanted: list[str] = []
    folders = {path.rpartition('/')[0] for path in files}
    inside = {f for f in folders if not sub or f == sub or f.startswith(f'{sub}/')}
    parent = sub.rpartition('/')[0]
    beside = {
        f
        for f in folders
        if sub and f.rpartition('/')[0] == parent and f.rpartition('/')[2].startswith('dpt_head')
    }
    for folder in sorted(inside | beside):
        names = {p.rpartition('/')[2] for p in files if p.rpartition('/')[0] == folder}
        prefix = f'{folder}/' if folder else ''
        kept = next((n for n in WEIGHT_FILES if n in names), '')
        index = next((n for n in INDEXES if n in names), '')
        shards = [n for n in names if re.search(r'-\d+-of-\d+', n) and n.endswith('.safetensors')]
        fp16 = '.fp16' in index
        for name in sorted(names):
            if (
                name.endswith(SMALL)
                or name in (kept, 'prompt.safetensors')
                or (not kept and index and name in shards and ('.fp16' in name) == fp16)
            ):
                wanted.append(prefix + name)
    if not any(path.endswith('.safetensors') for path in wanted):
        return []
    cards = [path for path in ('README.md', 'LICENSE.md') if path in files]
    return [*wanted, *(path for path in cards if path not in wanted)]


def _is_complete(snapshot: Path, sub: str) -> bool:
    """Return whether the cache holds weights of a folder, and of a pipeline every part."""
    folder = snapshot / sub
    index = folder / 'model_index.json'
    if index.is_file():
        parts = [name for name in PARTS if name in json.loads(index.read_text())]
        return all(has_weights(folder / name) for name in parts)
    return any(has_weights(folder / name) for name in ('', *PARTS))
