"""Help of the nodes: every parameter, from the options dataclasses, without ROS or torch."""

from __future__ import annotations

import json
import textwrap

from sd_perception_ros.config import flat_options
from sd_perception_ros.ros.options import NODES

_COLUMN = 34


def node_help(node: str) -> str:
    """Return the help of a node: usage, and name, default and meaning of each parameter."""
    lines = [
        f'usage: python -m sd_perception_ros {node} --ros-args [--params-file FILE]',
        '           [-p NAME:=VALUE] [-r FROM:=TO] [-r __ns:=/NAMESPACE]',
        '',
        'parameters (name: default, then meaning):',
    ]
    for options in NODES[node]:
        for name, _, default, about in flat_options(options):
            choices = f' ({", ".join(about["choices"])})' if about['choices'] else ''
            lines += textwrap.wrap(
                f'{about["doc"]}{choices}',
                width=99,
                initial_indent=f'  {name}: {json.dumps(default)}'.ljust(_COLUMN) + '  ',
                subsequent_indent=' ' * (_COLUMN + 2),
            )
    return '\n'.join([*lines, '', f'example: {_EXAMPLES[node]}'])


_EXAMPLES = {
    'perception': 'python -m sd_perception_ros perception --ros-args -p precision:=fp16 '
    '-r image_raw:=/camera/image_raw',
    'camera': 'python -m sd_perception_ros camera --ros-args -p source:=film.mp4 -p loop:=false',
}
