"""Arrows point down: who may import whom, and what no file may contain."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAME = 'sd_perception_ros'

# From the ground up: a file may import from the rows below its own.
ROWS = (
    {'types', 'config', 'images', 'image_encodings', 'compressed_images', 'jpeg', 'drawing'}
    | {'exposure', 'skeleton', 'safe_save', 'paths', 'git_lfs', 'geometry', 'metrics'},
    {'metric_depth', 'people'},
    {'tasks', 'backbones', 'heads', 'data', 'synthetic'},
    {'model'},
    {'checkpoint'},
    {'runtimes'},
    {'engine'},
    {'training'},
    {'evaluation'},
    {'ros', 'cli'},
    {'__main__'},
)
STRANGERS = 2  # the row whose members may not even import one another: the things people add
ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}

ROS = {
    'rclpy',
    'launch',
    'launch_ros',
    'ament_index_python',
    'cv_bridge',
    'sensor_msgs_py',
    'builtin_interfaces',
    'diagnostic_msgs',
    'geometry_msgs',
    'lifecycle_msgs',
    'nav_msgs',
    'rcl_interfaces',
    'sensor_msgs',
    'std_msgs',
    'std_srvs',
    'visualization_msgs',
    'tf2_ros',
    'vision_msgs',
}
NO_TORCH = {
    'types',
    'config',
    'image_encodings',
    'compressed_images',
    'jpeg',
    'geometry',
    'exposure',
    'paths',
    'git_lfs',
    'metric_depth',
    'skeleton',
    'drawing',
}
PICKLES = {'pickle', 'cPickle', 'cloudpickle', 'dill', 'joblib', 'shelve', 'marshal'}
TASK_NAMES = {'task', 'task.name', 'task_name', 'self.task', 'self.task.name'}


class File:
    """A Python file of the package, parsed."""

    def __init__(self, root: Path, path: Path) -> None:
        self.where = path.relative_to(root).as_posix()
        self.package = path.relative_to(root).parent.parts
        self.part = path.relative_to(root / NAME).parts[0].removesuffix('.py')
        self.nodes = list(ast.walk(ast.parse(path.read_text(encoding='utf-8'), self.where)))

    def imported(self) -> set[str]:
        """List the dotted names imported anywhere in the file, relative imports written out."""
        names = set()
        for node in self.nodes:
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                up = len(self.package) - node.level + 1 if node.level else 0
                start = '.'.join([*self.package[:up], *filter(None, [node.module])])
                names |= {f'{start}.{alias.name}' for alias in node.names}
        return names

    def roots(self) -> set[str]:
        """List the top-level packages that the file imports."""
        return {name.split('.')[0] for name in self.imported()}

    def own_parts(self) -> set[str]:
        """List the other parts of our package that the file imports."""
        dotted = (name.split('.') for name in self.imported())
        return {name[1] for name in dotted if name[0] == NAME and len(name) > 1} - {self.part}

    def calls(self) -> set[str]:
        """List what the file calls, as it is written: `print`, `torch.load`."""
        return {ast.unparse(node.func) for node in self.nodes if isinstance(node, ast.Call)}


FILES = [File(ROOT, path) for path in sorted((ROOT / NAME).rglob('*.py'))]


def modules_of(part: str) -> list[Path]:
    """List the files of a part: one file, or all of a folder."""
    file = ROOT / NAME / f'{part}.py'
    return [file] if file.is_file() else sorted((ROOT / NAME / part).glob('**/*.py'))


def offenders(rule: Callable[[File], set[str]], *, outside: set[str] | None = None) -> list[str]:
    """List `file: what` where a rule finds something, in files outside the named parts."""
    return [
        f'{file.where}: {found}'
        for file in FILES
        if file.part not in (outside or set())
        for found in sorted(rule(file))
    ]


def upward(file: File) -> set[str]:
    """List the parts that a file imports and that are not below it."""
    if file.part == '__init__':
        return file.own_parts()
    if file.part not in ROW_OF:
        return {f"unknown part '{file.part}': say in ROWS which layer it belongs to"}
    row = ROW_OF[file.part]
    allowed = ROWS[:row] if row == STRANGERS else ROWS[: row + 1]
    return file.own_parts() - set().union(*allowed)


def asked_names(file: File) -> set[str]:
    """List the comparisons of a task's name with a written-out text."""
    found = set()
    for node in file.nodes:
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            text = any(isinstance(side, ast.Constant | ast.Tuple | ast.Set) for side in sides)
            if text and TASK_NAMES & {ast.unparse(side) for side in sides}:
                found.add(ast.unparse(node))
        if isinstance(node, ast.Match) and ast.unparse(node.subject) in TASK_NAMES:
            found.add(f'match {ast.unparse(node.subject)}')
    return found


def pickle_options(file: File) -> set[str]:
    """List the arguments that allow pickle."""
    options = (node for node in file.nodes if isinstance(node, ast.keyword))
    return {ast.unparse(node) for node in options if node.arg == 'allow_pickle'} - {
        'allow_pickle=False'
    }


def wide_catches(file: File) -> Iterator[str]:
    """List the handlers that catch everything, by line."""
    for node in file.nodes:
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {ast.unparse(kind) if kind else 'everything' for kind in kinds}
            if names & {'everything', 'Exception', 'BaseException'}:
                yield f'line {node.lineno} catches {", ".join(sorted(names))}'


def test_imports_point_down() -> None:
    assert offenders(upward) == []


def test_nodes_do_not_import_the_command_line() -> None:
    assert [file.where for file in FILES if file.part == 'ros' and 'cli' in file.own_parts()] == []


def test_only_ros_imports_ros() -> None:
    assert offenders(lambda file: file.roots() & ROS, outside={'ros'}) == []


def test_only_backbones_and_checkpoints_import_diffusers() -> None:
    inside = {'backbones', 'checkpoint'}
    assert offenders(lambda file: file.roots() & {'diffusers'}, outside=inside) == []


def test_types_and_geometry_work_without_torch() -> None:
    files = sorted(path.relative_to(ROOT) for part in NO_TORCH for path in modules_of(part))
    imports = ', '.join('.'.join(path.with_suffix('').parts) for path in files)
    code = f"import sys; sys.modules['torch'] = None; import {imports}"  # None: ImportError
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_needs_torchvision() -> None:
    assert offenders(lambda file: file.roots() & {'torchvision'}) == []


def test_only_the_command_line_prints() -> None:
    prints = {'print', 'sys.stdout.write', 'pprint', 'pprint.pprint'}
    assert offenders(lambda file: file.calls() & prints, outside={'cli', '__main__'}) == []


def test_nothing_is_unpickled() -> None:
    unsafe = {'torch.load', 'torch.save', 'torch.hub.load'}
    assert offenders(lambda file: file.roots() & PICKLES) == []
    assert offenders(lambda file: file.calls() & unsafe) == []
    assert offenders(pickle_options) == []


def test_no_file_compares_task_names() -> None:
    assert offenders(asked_names) == []


def test_no_bare_or_broad_except() -> None:
    assert offenders(lambda file: set(wide_catches(file))) == []


def test_every_layer_has_files() -> None:
    """Show that the rules above look at something."""
    found = {file.part for file in FILES}
    assert found >= {'types', 'tasks', 'backbones', 'model', 'engine', 'ros', 'cli', '__main__'}


@pytest.fixture
def bad(tmp_path: Path) -> File:
    """Write a file of `tasks` that breaks several rules."""
    path = tmp_path / NAME / 'tasks' / 'bad.py'
    path.parent.mkdir(parents=True)
    path.write_text(
        'from ..heads import light\n'
        'from .task import Task\n'
        'import torch.nn as nn\n'
        'try:\n'
        "    print(torch.load('x') if task.name == 'depth' else 1)\n"
        'except (ValueError, Exception):\n'
        '    pass\n'
    )
    return File(tmp_path, path)


def test_the_rules_detect_violations(bad: File) -> None:
    assert bad.imported() == {f'{NAME}.heads.light', f'{NAME}.tasks.task.Task', 'torch.nn'}
    assert upward(bad) == {'heads'}
    assert bad.calls() == {'print', 'torch.load'}
    assert asked_names(bad) == {"task.name == 'depth'"}
    assert list(wide_catches(bad)) == ['line 6 catches Exception, ValueError']
