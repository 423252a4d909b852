"""Paths as users write them: in options, in files and in ROS parameters."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import importlib
import os
from pathlib import Path
import re

from hypothesis import given
from hypothesis import strategies as st
import pytest

from sd_perception_ros.__main__ import COMMANDS
from sd_perception_ros.checkpoint.config_file import open_checkpoint
from sd_perception_ros.checkpoint.lock import lock_file
from sd_perception_ros.cli.arguments import parse
from sd_perception_ros.data import opening
from sd_perception_ros.paths import expand_home, printable, user_path
from sd_perception_ros.ros.replay.sources import open_source
from sd_perception_ros.runtimes.onnx_files import cache_folder

ROOT = Path(__file__).parents[1]
# Options whose readers expand `~` themselves, as they take names and locations on the hub, too.
NAMES = {'checkpoint', 'against', 'name', 'names', 'data', 'train', 'validate', 'remap', 'param'}


@given(st.text(st.characters(exclude_characters='\0/'), max_size=12))
def test_only_a_tilde_at_the_start_is_the_home_folder(name: str) -> None:
    home = os.path.expanduser('~')
    assert expand_home(f'~/{name}') == f'{home}/{name}'
    assert user_path(f'~/{name}') == Path(home) / name
    assert expand_home(f'a/~/{name}') == f'a/~/{name}'
    assert expand_home(f'~no_such_user/{name}') == f'~no_such_user/{name}'


@given(st.binary(max_size=20))
def test_any_file_name_can_be_printed(name: bytes) -> None:
    text = os.fsdecode(name)
    shown = printable(text)
    shown.encode()
    try:
        assert shown == name.decode()
    except UnicodeDecodeError:
        assert '\\x' in shown


def test_half_a_character_can_be_printed() -> None:
    assert printable('a\ud800') == 'a\\ud800'


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from actions(inner)
        else:
            yield action


def parsers() -> list[argparse.ArgumentParser]:
    """Return the parser of each command that is no node."""
    made = []
    for command in COMMANDS.values():
        if not command.is_node:
            module = importlib.import_module(f'sd_perception_ros.{command.module}')
            made.append((getattr(module, 'parser', None) or module._parser)())
    return made


PATHS = [action for parser in parsers() for action in actions(parser)]


@pytest.mark.parametrize('action', PATHS, ids=lambda action: action.dest)
def test_each_option_that_is_a_path_takes_a_tilde(action: argparse.Action) -> None:
    assert action.type is not Path, 'use user_path'
    says_path = re.search(r'\b(file|folder)\b', action.help or '', re.IGNORECASE)
    if action.type is None and action.nargs != 0 and says_path and not action.choices:
        assert action.dest in NAMES, 'use user_path'
    if action.type is user_path:
        assert action.type('~/x') == Path.home() / 'x'


def test_no_command_and_no_benchmark_declares_a_plain_path() -> None:
    for folder in ('sd_perception_ros', 'benchmark'):
        for file in (ROOT / folder).rglob('*.py'):
            if 'import sd_perception_ros' in file.read_text() or folder == 'sd_perception_ros':
                assert 'type=Path' not in file.read_text(), file


def test_a_tilde_in_a_recipe_and_in_what_it_extends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'base.yaml').write_text('out: ~/made\n')
    (tmp_path / 'own.yaml').write_text('extends: ~/base.yaml\n')
    parser = argparse.ArgumentParser()
    parser.add_argument('--out', type=user_path)
    assert parse(parser, ['--recipe=~/own.yaml']).out == tmp_path / 'made'


def test_a_tilde_in_a_checkpoint_a_source_data_and_the_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('XDG_CACHE_HOME', '~/cache')
    monkeypatch.setenv('XDG_CONFIG_HOME', '~/config')
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own/checkpoint.yaml').write_text('tasks: {depth: {unet: unet}}')
    assert open_checkpoint('~/own').path == tmp_path / 'own/checkpoint.yaml'
    assert cache_folder().is_relative_to(tmp_path / 'cache')
    assert lock_file().is_relative_to(tmp_path / 'config')
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / 'none'))):
        open_source('~/none')
    with pytest.raises(OSError, match=re.escape(str(tmp_path / 'none'))):
        opening.open_data(['rooms:~/none'])
