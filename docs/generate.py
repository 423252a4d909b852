"""
Write the generated pages of this folder: parameters.md, topics.md and benchmarks.md.

    python docs/generate.py

`topics.md` needs the ROS messages (rclpy need not run); the other pages need only this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, MISSING
import json
from pathlib import Path
import re
import sys
from typing import Any, get_type_hints

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
sys.path.insert(0, str(ROOT))  # the package of this checkout, also where another one is installed

from benchmark_tables import show, table  # noqa: E402

NOTE = '<!-- Written by docs/generate.py: change the source named below, then run it again. -->'
TYPES = {bool: 'bool', int: 'integer', float: 'double', str: 'string', list[str]: 'string array'}


# ---- parameters ----------------------------------------------------------------------------


def parameters() -> str:
    """List every parameter of both nodes, from their options dataclasses."""
    from sd_perception_ros.config import EngineConfig
    from sd_perception_ros.ros.options import (
        CameraOptions,
        InputOptions,
        NodeOptions,
        OutputOptions,
    )

    tasks = [(f.name, get_type_hints(OutputOptions)[f.name]) for f in fields(OutputOptions)]
    blocks = [
        '# Parameters',
        NOTE,
        'From the options dataclasses (`config.py`, `ros/options.py` and the modules that they '
        'import). A value out of range, an unknown choice or a wrong type is refused with the '
        'reason; a name that looks like a typing error gives a warning. `ros2 param describe` '
        'shows the same texts.',
        '**Change**: when `ros2 param set` on the running node takes effect.',
        table(
            ('change', 'meaning'),
            (
                ('frame', 'from the next frame'),
                ('reload', 'at the next `configure`, or by the service `~/reload_model`'),
                ('configure', 'at the next `configure` transition'),
                ('start', 'only at the start of the node'),
            ),
        ),
        '## perception_node',
        _parameter_section('Node', NodeOptions, '', lambda name: 'start'),
        _parameter_section('Model', EngineConfig, '', lambda name: 'reload'),
        _parameter_section('Input', InputOptions, '', lambda name: 'configure'),
        *(_parameter_section(name, cls, f'{name}.', _output_change) for name, cls in tasks),
        '## camera_node',
        _parameter_section('Replay', CameraOptions, '', lambda name: 'start'),
    ]
    return '\n\n'.join(blocks) + '\n'


def _output_change(name: str) -> str:
    last = name.rpartition('.')[2]
    return {'enabled': 'frame', 'checkpoint': 'reload'}.get(last, 'configure')


def _parameter_section(
    title: str, cls: type[Any], prefix: str, change: Callable[[str], str]
) -> str:
    head = ('parameter', 'type', 'default', 'range', 'meaning', 'change')
    rows = [
        (f'`{name}`', kind, default, span, doc, change(name))
        for name, kind, default, span, doc in _flat(cls, prefix)
    ]
    about = ' '.join((cls.__doc__ or '').split())
    return f'### {title}\n\n{about}\n\n{table(head, rows)}'


def _flat(cls: type[Any], prefix: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield full name, type, default, range and meaning of every field, groups included."""
    hints = get_type_hints(cls)
    for f in fields(cls):
        name, hint = prefix + f.name, hints[f.name]
        if is_dataclass(hint):
            yield from _flat(hint, f'{name}.')
            continue
        default = f.default if f.default is not MISSING else f.default_factory()
        yield name, TYPES[hint], f'`{json.dumps(default)}`', _range(f.metadata), f.metadata['doc']


def _range(about: Any) -> str:
    if about['choices']:
        return ', '.join(f'`{choice}`' for choice in about['choices'])
    low, high = ('' if about[name] is None else f'{about[name]:.10g}' for name in ('low', 'high'))
    return f'{low} .. {high}' if low or high else ''


# ---- benchmarks ----------------------------------------------------------------------------


def benchmarks() -> str:
    """Put the tables between their markers in the page as it is."""
    page = (DOCS / 'benchmarks.md').read_text(encoding='utf-8')
    marked = re.compile(r'(<!-- table: (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)
    return marked.sub(lambda found: f'{found[1]}\n{show(found[2])}\n\n{found[3]}', page)


PAGES: dict[str, Callable[[], str]] = {'parameters.md': parameters, 'benchmarks.md': benchmarks}


def main() -> None:
    """Write every page."""
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding='utf-8')


if __name__ == '__main__':
    main()
