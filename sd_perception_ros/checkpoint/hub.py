"""Models on the Hugging Face hub, at one commit, through its cache on disk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
import contextlib
import contextvars
import json
import logging
from multiprocessing.pool import ThreadPool
from pathlib import Path
import re
import threading
import time
from typing import Any, NamedTuple, TypeVar

from sd_perception_ros.checkpoint import lock
from sd_perception_ros.checkpoint.files import allow_folder, read_json
from sd_perception_ros.checkpoint.layouts import JOINT_HEAD
from sd_perception_ros.checkpoint.weight_files import has_weights, WEIGHT_FILES

LOG = logging.getLogger(__name__)
T = TypeVar('T')

SCHEME = 'hub:'
LOCATION = re.compile(
    r'hub:(?P<repo>[^/@\s]+/[^/@\s]+)(?:@(?P<revision>[^/@\s]+))?(?:/(?P<path>[^@\s]+))?'
)
REPOSITORY = re.compile(r'[\w-][\w.-]*/[\w-][\w.-]*')
COMMIT = re.compile(r'[0-9a-f]{40}')
DEFAULT_TIMEOUT_S = 30.0
_POLL_S = 0.1
# Files beside weights: configs, tokenizers, a stored prompt, and the card (its licence).
SMALL = ('.json', '.txt', '.md', '.npy', '.yaml')
PARTS = ('unet', 'transformer', 'vae', 'text_encoder')
UNUSED = ('safety_checker', 'image_encoder', 'feature_extractor')  # folders of pipelines


class _Waiting(NamedTuple):
    """
    How long to wait for the network.

    :ivar timeout_s: of a request, and of a download for its next bytes.
    :ivar cancelled: ends every wait.
    """

    timeout_s: float
    cancelled: threading.Event


_WAITING: contextvars.ContextVar[_Waiting] = contextvars.ContextVar('waiting')
_NEVER = threading.Event()


def _waiting() -> _Waiting:
    return _WAITING.get(_Waiting(DEFAULT_TIMEOUT_S, _NEVER))


@contextlib.contextmanager
def waiting_at_most(timeout_s: float) -> Iterator[None]:
    """Give up a request after this time in the `with` block, and a download without new bytes."""
    token = _WAITING.set(_waiting()._replace(timeout_s=timeout_s))
    try:
        yield
    finally:
        _WAITING.reset(token)


@contextlib.contextmanager
def cancelled_by(event: threading.Event) -> Iterator[None]:
    """Give up every request in the `with` block once an event is set: a ValueError."""
    token = _WAITING.set(_waiting()._replace(cancelled=event))
    try:
        yield
    finally:
        _WAITING.reset(token)


class HubLocation(NamedTuple):
    """
    A folder or file on the hub.

    :ivar repo: owner/name.
    :ivar revision: commit of 40 characters, branch or tag.
    :ivar path: path in the repository; '' is its root.
    """

    repo: str
    revision: str
    path: str

    def __str__(self) -> str:
        """Write it as in checkpoint.yaml."""
        return f'{SCHEME}{self.repo}@{self.revision}' + (f'/{self.path}' if self.path else '')


def is_on_hub(location: str) -> bool:
    """Return whether a location in checkpoint.yaml is on the hub."""
    return location.startswith(SCHEME)


def hub_hint(location: str) -> str:
    """Return a hint for error messages if a location looks like owner/name of the hub."""
    is_id = REPOSITORY.fullmatch(location) is not None
    return f'; a model on the hub is named {SCHEME}{location}' if is_id else ''


def parse(location: str) -> HubLocation:
    """
    Read `hub:owner/name[@revision][/path]`; without a revision it is the branch main.

    :raises ValueError: another form.
    """
    match = LOCATION.fullmatch(location)
    if match is None:
        raise ValueError(
            'expected hub:owner/name, hub:owner/name@revision, or one of them with /path, got '
            f"'{location}'"
        )
    return HubLocation(
        match['repo'], match['revision'] or 'main', (match['path'] or '').strip('/')
    )


def commit_of(location: HubLocation) -> str:
    """
    Return the commit of a location: its own, that of the lock file, or the newest of its branch.

    A branch is resolved once. Its commit is written to the lock file, and logged.

    :raises ValueError: the hub does not know the repository or revision.
    :raises FileNotFoundError: the hub cannot be reached.
    """
    if COMMIT.fullmatch(location.revision):
        return location.revision
    commit = lock.locked_commit(location.repo, location.revision)
    if commit:
        return commit
    info = _ask(
        location,
        lambda api, timeout_s: api.model_info(
            location.repo, revision=location.revision, timeout=timeout_s
        ),
    )
    commit = str(info.sha)
    lock.record(location.repo, location.revision, commit)
    LOG.info('%s is commit %s from now on (written to %s)', location, commit, lock.lock_file())
    return commit


def on_disk(location: str, without: Collection[str] = (), offline: bool = False) -> Path:
    """
    Return the local path of `hub:owner/name[@revision][/path]`, after a download if necessary.

    Files in the cache are used without network access. Otherwise the needed files of the commit
    are downloaded: small ones, and of weights one format for each model folder, never a pickle.

    :param without: names of model folders whose weights are not needed.
    :param offline: never use the network.
    :raises ValueError: a malformed location, an unknown name or revision, no weights in
        safetensors, or huggingface_hub is not installed.
    :raises FileNotFoundError: the hub cannot be reached.
    """
    parsed = parse(location)
    if offline and not COMMIT.fullmatch(parsed.revision):
        commit = lock.locked_commit(parsed.repo, parsed.revision)
        if not commit:
            raise FileNotFoundError(f'{location} was never downloaded')
        parsed = parsed._replace(revision=commit)
    parsed = parsed._replace(revision=commit_of(parsed))
    path = cached_path(parsed, without)
    if path is None and offline:
        raise FileNotFoundError(f'{parsed} is not in the cache')
    return path if path is not None else download(parsed, without)


def snapshot_folder(location: HubLocation) -> Path | None:
    """Return the cache's folder of a repository at a commit; None if nothing was downloaded."""
    hub = _client(location)
    try:
        # Ask for no file: it would refuse a snapshot without files that are not needed.
        return Path(
            hub.snapshot_download(
                location.repo,
                revision=location.revision,
                local_files_only=True,
                allow_patterns=['/nothing'],
            )
        )
    except hub.errors.LocalEntryNotFoundError:
        return None


def cached_path(location: HubLocation, without: Collection[str] = ()) -> Path | None:
    """
    Return the path in the cache; None if a needed file is missing.

    :param location: location with a commit.
    """
    snapshot = snapshot_folder(location)
    if snapshot is None or not _is_complete(snapshot, location.path, without):
        return None
    allow_folder(snapshot.parents[1])  # with the blobs that the files of a snapshot link to
    return snapshot / location.path


def download(location: HubLocation, without: Collection[str] = ()) -> Path:
    """
    Download what serving a location needs; an interrupted download is continued.

    :param location: location with a commit.
    :param without: names of model folders whose weights are not needed.
    :returns: the local path. Errors are those of `on_disk`.
    """
    needed = [file for file, _, _ in remote_files(location, without)]
    hub = _client(location)
    folder = _ask(
        location,
        lambda api, timeout_s: hub.snapshot_download(
            location.repo,
            revision=location.revision,
            allow_patterns=needed,
            etag_timeout=timeout_s,
        ),
        lambda: _cached_bytes(hub, location),
    )
    allow_folder(Path(folder).parents[1])
    return Path(folder) / location.path


def remote_files(
    location: HubLocation, without: Collection[str] = ()
) -> list[tuple[str, int, str]]:
    """
    List the needed files of a location: path, size in bytes, and SHA-256 of weight files.

    Size 0 and SHA-256 '' mean that the hub does not state them. Errors are those of `on_disk`.
    """
    siblings = _ask(
        location,
        lambda api, timeout_s: (
            api.model_info(
                location.repo, revision=location.revision, timeout=timeout_s, files_metadata=True
            ).siblings
            or []
        ),
    )
    by_path = {sibling.rfilename: sibling for sibling in siblings}
    needed = needed_files(list(by_path), location.path, without)
    if not needed:
        raise ValueError(
            f'expected weights in safetensors at {location}, found none; it has '
            f'{", ".join(list(by_path)[:8])}'
        )
    return [
        (
            path,
            int(by_path[path].size or 0),
            str(getattr(by_path[path].lfs, 'sha256', '') or ''),
        )
        for path in needed
    ]


def _client(location: object) -> Any:
    """Import huggingface_hub; ValueError if it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise ValueError(
            f"{location} needs 'pip install huggingface_hub', or a local copy"
        ) from None
    return huggingface_hub


def _ask(
    location: HubLocation,
    request: Callable[[Any, float], T],
    received_bytes: Callable[[], int] = lambda: 0,
) -> T:
    """
    Send a request to the hub; errors are explained in one line.

    :param request: called with the client and the timeout of a request in seconds.
    :param received_bytes: returns what has come so far; while that grows there is no timeout.
    """
    hub, waiting = _client(location), _waiting()
    # Read by each request for a part of a file.
    hub.constants.HF_HUB_DOWNLOAD_TIMEOUT = waiting.timeout_s
    errors = hub.errors
    # Errors of the HTTP library, which differs between versions of huggingface_hub.
    bases = [base for base in errors.HfHubHTTPError.__bases__ if issubclass(base, Exception)]
    unreached: tuple[type[Exception], ...] = (OSError, errors.OfflineModeIsEnabled, *bases)
    try:
        return _wait_for(lambda: request(hub.HfApi(), waiting.timeout_s), waiting, received_bytes)
    except errors.HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0]
        status = getattr(getattr(error, 'response', None), 'status_code', 404)
        if status == 429 or status >= 500:
            raise FileNotFoundError(
                f'{location} is not in the cache, and the hub failed ({reason}); try again later'
            ) from None
        raise ValueError(
            f'the hub does not have {location} ({reason}); correct its name or revision'
        ) from None
    except unreached as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f'{location} is not in the cache, and the hub was not reached ({reason}); copy the '
            'folder to this machine and name it, or connect to the internet once'
        ) from None
    except errors.HFValidationError as error:
        raise ValueError(f'{location}: {str(error).splitlines()[0]}') from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f'{location}: {hub.constants.ENDPOINT} does not answer as the hub does: expected '
            f'JSON, got another text, such as the page of a proxy or a login ({error}); check '
            'HF_ENDPOINT and the network'
        ) from None


def _wait_for(request: Callable[[], T], waiting: _Waiting, received_bytes: Callable[[], int]) -> T:
    """
    Run a request in a thread, and leave it behind if it takes too long or is cancelled.

    :raises TimeoutError: nothing has come for the time of `waiting`.
    :raises ValueError: cancelled.
    """
    pool = ThreadPool(1)  # of a daemon thread, which does not keep the process from its end
    answer = pool.apply_async(request)
    pool.close()
    before, since_s, checked_s = 0, time.monotonic(), time.monotonic()
    while not answer.ready():
        answer.wait(_POLL_S)
        now_s = time.monotonic()
        if waiting.cancelled.is_set():
            raise ValueError('the load was cancelled while it waited for the hub')
        if now_s - checked_s > 1.0:
            checked_s = now_s
            if (received := received_bytes()) != before:
                before, since_s = received, now_s
        if now_s - since_s > waiting.timeout_s and not answer.ready():
            raise TimeoutError(f'no answer in {waiting.timeout_s:g} s')
    return answer.get()


def _cached_bytes(hub: Any, location: HubLocation) -> int:
    """Return the size of what is downloaded of a repository, finished or not."""
    folder = Path(hub.constants.HF_HUB_CACHE) / f'models--{location.repo.replace("/", "--")}'
    total = 0
    for place in (folder / 'blobs', Path(hub.constants.HF_XET_CACHE)):
        for file in place.rglob('*'):
            with contextlib.suppress(OSError):  # renamed or removed in the meantime
                total += file.stat().st_size
    return total


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
    cards = [path for path in files if path == 'README.md' or path.startswith('LICENSE')]
    return [*wanted, *(path for path in cards if path not in wanted)]


def _weights_among(names: Collection[str]) -> set[str]:
    """Return the needed weight files of a folder: one format, and files of our checkpoints."""
    extra = ('prompt.safetensors', JOINT_HEAD.name)
    ours = {n for n in names if n in extra or n.startswith('head_')}
    file = next((n for n in WEIGHT_FILES if n in names), '')
    if not file.endswith('.json'):
        return {file} | ours
    shards = {n for n in names if re.search(r'-\d+-of-\d+\.safetensors$', n)}
    return {n for n in shards if ('.fp16' in n) == ('.fp16' in file)} | ours


def _is_complete(snapshot: Path, sub: str, without: Collection[str]) -> bool:
    """Return whether the cache has the file, the folder's weights, or all models of a pipeline."""
    folder = snapshot / sub
    if folder.is_file():
        return True
    index = folder / 'model_index.json'
    if index.is_file():
        models = read_json(index)
        wanted = [name for name in PARTS if name in models and name not in without]
        return all(has_weights(folder / name) for name in wanted)
    heads = re.findall(r'head_weights: (\S+)', _text(folder / 'checkpoint.yaml'))
    return any(has_weights(folder / name) for name in ('', *PARTS)) and all(
        (folder / head).exists() for head in heads
    )


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ''
