"""Models of the hub: which files are wanted, a real server's answers, and the cache."""

from __future__ import annotations

from collections.abc import Iterator
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import json
import os
from pathlib import Path
import subprocess
import sys
from threading import Thread
from typing import ClassVar

from models import save_tiny
import pytest
import yaml

from sd_perception_ros.checkpoint import checkpoint
from sd_perception_ros.checkpoint.hub import needed_files, on_disk, parse

COMMIT = '0123456789abcdef0123456789abcdef01234567'
WEIGHTS = 'diffusion_pytorch_model.safetensors'
PLACE = f'hub:owner/model@{COMMIT}'


@pytest.mark.parametrize(
    ('location', 'parsed'),
    [
        ('hub:owner/model', ('owner/model', 'main', '')),
        ('hub:owner/model/unet', ('owner/model', 'main', 'unet')),
        ('hub:owner/model@v1/unet/x', ('owner/model', 'v1', 'unet/x')),
        (f'hub:owner/model@{COMMIT}/unet/', ('owner/model', COMMIT, 'unet')),
    ],
)
def test_a_location_has_a_repository_a_revision_and_a_path(
    location: str, parsed: tuple[str, str, str]
) -> None:
    assert parse(location) == parsed


@pytest.mark.parametrize('location', ['hub:model', f'hub:model@{COMMIT}', 'hub:', 'hub:a/b@'])
def test_a_malformed_location_is_refused(location: str) -> None:
    with pytest.raises(ValueError, match=r'expected hub:owner/name, .* got'):
        parse(location)


def test_one_of_several_formats_is_needed_and_never_a_pickle() -> None:
    files = [
        'README.md',
        'model_index.json',
        'scheduler/scheduler_config.json',
        'unet/config.json',
        f'unet/{WEIGHTS}',
        'unet/diffusion_pytorch_model.fp16.safetensors',
        'unet/diffusion_pytorch_model.bin',
        'vae/diffusion_pytorch_model.fp16.safetensors',
        'safety_checker/model.safetensors',
        'demo/picture.png',
        'sd.ckpt',
    ]
    assert needed_files(files, '') == [
        'README.md',
        'model_index.json',
        'scheduler/scheduler_config.json',
        'unet/config.json',
        f'unet/{WEIGHTS}',
        'vae/diffusion_pytorch_model.fp16.safetensors',
    ]
    assert needed_files([f for f in files if 'safetensors' not in f], '') == []
    lean = needed_files(files, '', without=('unet', 'vae'))
    assert 'unet/config.json' in lean
    assert not [file for file in lean if file.endswith('.safetensors')]
    assert needed_files(files, f'unet/{WEIGHTS}') == [f'unet/{WEIGHTS}']


def test_a_subfolder_needs_the_head_beside_it_and_the_card_above() -> None:
    files = [
        'README.md',
        f'unet_depth_v2/{WEIGHTS}',
        f'unet_disparity_dpt_head_v2/{WEIGHTS}',
        'dpt_head_identity/model.safetensors',
    ]
    assert needed_files(files, 'unet_disparity_dpt_head_v2') == [
        'dpt_head_identity/model.safetensors',
        f'unet_disparity_dpt_head_v2/{WEIGHTS}',
        'README.md',
    ]


@pytest.mark.parametrize('name', ['adapter_model', 'pytorch_lora_weights'])
def test_adapters_of_peft_and_diffusers_are_needed(name: str) -> None:
    files = ['README.md', 'adapter_config.json', f'{name}.bin', f'{name}.safetensors']
    wanted = needed_files(files, '')
    assert set(wanted) == {'README.md', 'adapter_config.json', f'{name}.safetensors'}


def test_shards_are_needed_instead_of_an_old_file_beside_them() -> None:
    shards = [f'model-0000{i}-of-00002.safetensors' for i in (1, 2)]
    files = [*shards, 'model.safetensors', 'model.safetensors.index.json']
    assert set(needed_files(files, '')) == {*shards, 'model.safetensors.index.json'}


def test_all_shards_of_one_format_are_needed() -> None:
    shards = [f'transformer/model-0000{i}-of-00002.safetensors' for i in (1, 2)]
    half = [shard.replace('model-', 'model.fp16-') for shard in shards]
    index = 'transformer/model.safetensors.index.json'
    files = [*shards, *half, index, index.replace('index', 'index.fp16')]
    assert set(needed_files(files, '')) == {*shards, index, index.replace('index', 'index.fp16')}


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's interface that a download uses, over one repository."""

    folder: ClassVar[Path]
    asked: ClassVar[list[str]]
    wrong_sha256: ClassVar[str] = ''

    def do_HEAD(self) -> None:  # named by the standard library
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition('?')[0]
        self.asked.append(f'{self.command} {path}')
        files = [p for p in sorted(self.folder.rglob('*')) if p.is_file()]
        names = [p.relative_to(self.folder).as_posix() for p in files]
        api, resolve = '/api/models/owner/model', f'/owner/model/resolve/{COMMIT}/'
        if path in (f'{api}/revision/{COMMIT}', f'{api}/revision/main'):
            siblings = [
                {'rfilename': name, 'size': p.stat().st_size, **self.lfs(p)}
                for name, p in zip(names, files, strict=True)
            ]
            self.send(json.dumps({'id': 'owner/model', 'sha': COMMIT, 'siblings': siblings}))
        elif path.startswith(f'{api}/tree/{COMMIT}'):
            sizes = [p.stat().st_size for p in files]
            rows = zip(names, sizes, strict=True)
            self.send(
                json.dumps([{'type': 'file', 'path': n, 'size': s, 'oid': n} for n, s in rows])
            )
        elif path.startswith(resolve) and path.removeprefix(resolve) in names:
            self.send((self.folder / path.removeprefix(resolve)).read_bytes())
        else:
            self.send('{}', 404)

    def lfs(self, file: Path) -> dict[str, object]:
        if file.suffix != '.safetensors':
            return {}
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return {'lfs': {'sha256': self.wrong_sha256 or digest, 'size': 1, 'pointerSize': 1}}

    def send(self, body: str | bytes, status: int = 200) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header('Content-Length', str(len(data)))
        self.send_header('X-Repo-Commit', COMMIT)
        self.send_header('ETag', hashlib.sha256(data).hexdigest())
        if status == 404:
            self.send_header('X-Error-Code', 'RevisionNotFound')
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """Serve a small checkpoint as the repository owner/model; yields the address."""
    Hub.folder, Hub.asked = save_tiny(tmp_path / 'repository'), []
    (Hub.folder / 'unet/diffusion_pytorch_model.bin').write_bytes(b'a pickle')
    (Hub.folder / 'README.md').write_text('---\nlicense: cc-by-nc-4.0\n---\n')
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_address[1]}'
    server.shutdown()
    server.server_close()


def environment(folder: Path, endpoint: str) -> dict[str, str]:
    """Return the environment of a process with its own cache and lock file."""
    return os.environ | {
        'HF_ENDPOINT': endpoint,
        'HF_HUB_CACHE': str(folder / 'cache'),
        'HF_HOME': str(folder / 'home'),
        'HF_HUB_OFFLINE': '0',
        'HF_HUB_DISABLE_XET': '1',
        'NO_PROXY': '127.0.0.1',
        'XDG_CONFIG_HOME': str(folder / 'config'),
    }


def load(folder: Path, places: list[str], endpoint: str) -> tuple[list[str], str]:
    """
    Load a denoiser from each place, in a process whose cache lies in the folder.

    :returns: what came of each, and what was logged.
    """
    files = []
    for number, place in enumerate(places):
        files.append(folder / f'{number}.yaml')
        files[-1].write_text(json.dumps({'tasks': {'depth': {'unet': place}}}))
    code = (
        'import sys; from sd_perception_ros.checkpoint import checkpoint\n'
        'for name in sys.argv[1:]:\n'
        '    try: model, about = checkpoint.load(name)\n'
        '    except (ValueError, OSError) as error: print(type(error).__name__, error)\n'
        "    else: print('loaded', about.license)"
    )
    done = subprocess.run(
        [sys.executable, '-c', code, *map(str, files)],
        env=environment(folder, endpoint),
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return done.stdout.splitlines(), done.stderr


def test_needed_files_are_downloaded_once_and_then_read_from_the_cache(
    tmp_path: Path, hub: str
) -> None:
    unknown = PLACE.replace(COMMIT, '1' * 40)
    [first, second, third], _ = load(tmp_path, [PLACE, PLACE, unknown], hub)
    assert first == second == 'loaded cc-by-nc-4.0'
    assert third.startswith('ValueError')
    assert 'the hub does not have hub:owner/model@1111' in third
    fetched = [line for line in Hub.asked if line.startswith('GET') and 'resolve' in line]
    assert len([line for line in fetched if line.endswith(f'/unet/{WEIGHTS}')]) == 1
    assert not [line for line in fetched if line.endswith('.bin')]
    Hub.asked.clear()
    nobody = 'http://127.0.0.1:9'
    [offline, elsewhere], _ = load(tmp_path, [PLACE, unknown], nobody)
    assert offline == 'loaded cc-by-nc-4.0'
    assert elsewhere.startswith('FileNotFoundError')
    assert 'is not in the cache, and the hub was not reached' in elsewhere
    assert Hub.asked == []


def test_a_checkpoint_of_ours_and_single_parts_are_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    folder = tmp_path / f'models--owner--model/snapshots/{COMMIT}'
    save_tiny(folder)
    assert checkpoint.load(PLACE)[1].long_side_px == 64
    assert on_disk(f'{PLACE}/prompt.safetensors') == folder / 'prompt.safetensors'
    (tmp_path / 'own').mkdir()
    places = {'base': PLACE, 'prompt': f'{PLACE}/prompt.safetensors'}
    tasks = {'depth': {'unet': f'{PLACE}/unet', 'head': 'decoder'}}
    (tmp_path / 'own/checkpoint.yaml').write_text(json.dumps(places | {'tasks': tasks}))
    assert list(checkpoint.load(str(tmp_path / 'own'))[0].tasks) == ['depth']


def checkpoints(folder: Path, endpoint: str, *words: str) -> tuple[int, str, str]:
    """Run the command `checkpoints`; return exit code, stdout and the last line of stderr."""
    done = subprocess.run(
        [sys.executable, '-m', 'sd_perception_ros', 'checkpoints', *words],
        env=environment(folder, endpoint),
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stdout, (done.stderr.strip().splitlines() or [''])[-1]


def test_a_branch_is_resolved_once_and_stays_at_its_commit(tmp_path: Path, hub: str) -> None:
    """Fetch resolves, downloads, and writes commit and SHA-256; later nothing asks the network."""
    file = tmp_path / 'checkpoint.yaml'
    file.write_text(json.dumps({'tasks': {'depth': {'unet': 'hub:owner/model'}}}))
    code, out, error = checkpoints(tmp_path, hub, 'fetch', str(file))
    assert code == 0, error
    assert 'SHA-256 as on the hub' in out
    lock = yaml.safe_load(
        (tmp_path / 'config/sd_perception_ros/checkpoints.lock.yaml').read_text()
    )
    entry = lock['owner/model@main']
    assert entry['commit'] == COMMIT
    unet = (Hub.folder / 'unet' / WEIGHTS).read_bytes()
    assert entry['sha256'][f'unet/{WEIGHTS}'] == hashlib.sha256(unet).hexdigest()
    Hub.asked.clear()
    code, out, error = checkpoints(tmp_path, 'http://127.0.0.1:9', 'check', str(file))
    assert code == 0, error
    assert 'names and shapes fit: depth' in out
    assert 'SHA-256 of' in out
    assert 'dry frame: 768 x 576 pixels' in out  # the node's own dry frame
    [cached] = (tmp_path / 'cache').glob(f'**/snapshots/*/unet/{WEIGHTS}')
    damaged = bytearray(unet)
    damaged[-1] ^= 1
    cached.resolve().write_bytes(bytes(damaged))
    code, _, error = checkpoints(tmp_path, hub, 'check', str(file), '--no-frame')
    assert code == 1
    assert 'has SHA-256' in error
    assert 'run checkpoints fetch again' in error


def test_a_download_that_differs_from_the_hub_s_hash_is_refused(tmp_path: Path, hub: str) -> None:
    file = tmp_path / 'checkpoint.yaml'
    file.write_text(json.dumps({'tasks': {'depth': {'unet': 'hub:owner/model'}}}))
    Hub.wrong_sha256 = 'f' * 64
    try:
        code, _, error = checkpoints(tmp_path, hub, 'fetch', str(file))
    finally:
        Hub.wrong_sha256 = ''
    assert code == 1
    assert 'the hub states fff' in error


def test_every_known_checkpoint_offline_has_an_error_that_names_its_location(
    tmp_path: Path,
) -> None:
    code, _, error = checkpoints(tmp_path, 'http://127.0.0.1:9', 'fetch', 'genpercept_depth')
    assert code == 1
    assert error.startswith('error: hub:guangkaixu/genpercept-models@main/unet_depth_v2 is not in')
    assert 'connect to the internet once' in error
    code, out, _ = checkpoints(tmp_path, 'http://127.0.0.1:9', 'list', '--json')
    rows = {row['name']: row for row in json.loads(out)}
    assert code == 0
    assert rows['bundled']['downloaded']
    assert not rows['genpercept_depth']['downloaded']
    assert rows['genpercept_depth']['restricted']
    assert all(row['license'] != 'unknown' for row in rows.values() if not row['problem'])
    code, _, error = checkpoints(tmp_path, 'http://127.0.0.1:9', 'check', 'lotus_g')
    assert (code, error) == (
        1,
        "error: checkpoint 'lotus_g' is not supported: the generative Lotus needs noise as input; "
        'use lotus_disparity or lotus_normals',
    )
