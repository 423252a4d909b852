"""Files and folders appear complete or not at all, and other users can read them."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import resource

import pytest
from safetensors.torch import load_file
import torch

from sd_perception_ros.safe_save import (
    atomic_write,
    complete_folder,
    remove_folder,
    replace_folder,
    save_safetensors,
    write_text,
)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def test_files_have_the_permissions_of_the_umask(tmp_path: Path, umask: None) -> None:
    save_safetensors(tmp_path / 'new' / 'model.safetensors', {'a': torch.zeros(2)})
    write_text(tmp_path / 'model.yaml', 'tasks: {}')
    assert mode(tmp_path / 'new' / 'model.safetensors') == 0o644
    assert mode(tmp_path / 'model.yaml') == 0o644
    os.umask(0o027)
    save_safetensors(tmp_path / 'new' / 'model.safetensors', {'a': torch.ones(2)})
    assert mode(tmp_path / 'new' / 'model.safetensors') == 0o640
    assert load_file(tmp_path / 'new' / 'model.safetensors')['a'].tolist() == [1, 1]


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / 'a.txt', 'old')

    def write_half() -> None:
        with atomic_write(tmp_path / 'a.txt') as temporary:
            temporary.write_text('half of the n')
            raise RuntimeError('stopped')

    with pytest.raises(RuntimeError, match='stopped'):
        write_half()
    assert [file.name for file in tmp_path.iterdir()] == ['a.txt']
    assert (tmp_path / 'a.txt').read_text() == 'old'


def test_a_full_disk_is_an_os_error_that_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / 'model.safetensors'
    save_safetensors(file, {'a': torch.zeros(2)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(OSError, match=r'cannot write .*model.safetensors .*free disk space'):
            save_safetensors(file, {'a': torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ['model.safetensors']
    assert load_file(file)['a'].tolist() == [0, 0]


def folder_with(path: Path, text: str) -> Path:
    path.mkdir()
    (path / 'a.txt').write_text(text)
    return path


def test_a_folder_is_replaced_by_a_complete_one(tmp_path: Path) -> None:
    state = tmp_path / 'state'
    for text in ('first', 'second'):
        replace_folder(folder_with(tmp_path / 'new', text), state)
        assert (complete_folder(state) / 'a.txt').read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ['state']


def test_between_the_two_renames_the_old_folder_is_used(tmp_path: Path) -> None:
    state = folder_with(tmp_path / 'state', 'old')
    with pytest.raises(FileNotFoundError):  # stops after the first rename
        replace_folder(tmp_path / 'not there', state)
    assert (complete_folder(state) / 'a.txt').read_text() == 'old'
    replace_folder(folder_with(tmp_path / 'new', 'new'), state)
    assert (complete_folder(state) / 'a.txt').read_text() == 'new'
    remove_folder(state)
    assert list(tmp_path.iterdir()) == []
