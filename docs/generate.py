"""
Write the generated pages of this folder: `python docs/generate.py`.

parameters.md, topics.md and dependencies.md are written as a whole, in benchmarks.md and
checkpoints.md the tables.
topics.md needs the ROS messages (rclpy need not run); the other pages need only this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
import json
from pathlib import Path
import re
import sys
from typing import Any, get_type_hints

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
sys.path.insert(0, str(ROOT))  # the package of this checkout, also where another one is installed

from benchmark_tables import show, table  # noqa: E402
from dependency_licenses import rows as licenses  # noqa: E402

from sd_perception_ros.config import EngineConfig, flat_options, FlatOption  # noqa: E402

NOTE = '<!-- Written by docs/generate.py: change the source named below, then run it again. -->'
TYPES = {bool: 'bool', int: 'integer', float: 'double', str: 'string', list[str]: 'string array'}


# ---- parameters ----------------------------------------------------------------------------


def parameters() -> str:
    """List the options of nodes, checkpoint files and training, from their dataclasses."""
    from sd_perception_ros.checkpoint.config_file import (
        CheckpointConfig,
        OLD_KEYS,
        OLD_PREDICTION_TYPES,
        OLD_TASKS,
        TaskEntry,
    )
    from sd_perception_ros.ros.options import (
        CameraOptions,
        change_of,
        CHANGES,
        InputOptions,
        LoadingOptions,
        NodeOptions,
        OLD_PARAMETERS,
        OutputOptions,
    )
    from sd_perception_ros.training.options import FinetuneConfig, TrainingConfig, WindowConfig

    tasks = [(f.name, get_type_hints(OutputOptions)[f.name]) for f in fields(OutputOptions)]
    blocks = [
        '# Parameters',
        NOTE,
        'From the options dataclasses (`config.py`, `ros/options.py`, `metric_depth/`, '
        '`checkpoint/config_file.py`, `training/options.py`). A value out of range, an unknown '
        'choice or a wrong type is refused with the reason; a name that looks like a typing error '
        'gives a warning. `ros2 param describe` shows the same texts.',
        '**Change**: when `ros2 param set` on the running node takes effect.',
        table(('change', 'meaning'), CHANGES.items()),
        '## perception_node',
        _parameter_section('Node', NodeOptions, '', change_of),
        _parameter_section('Model', EngineConfig, '', change_of),
        _parameter_section('Loading', LoadingOptions, '', change_of),
        _parameter_section('Input', InputOptions, '', change_of),
        *(_parameter_section(name, cls, f'{name}.', change_of) for name, cls in tasks),
        '## camera_node',
        _parameter_section('Replay', CameraOptions, '', lambda name: 'start'),
        '## checkpoint.yaml',
        'Paths are relative to the file, or on the hub ([checkpoints](checkpoints.md)). Beside '
        'these: `sha256`, from the end of a path to the expected hash of that file; a task has '
        '`options`.',
        _option_section('Top level', CheckpointConfig, ''),
        _option_section('Of each task, in `tasks`', TaskEntry, ''),
        '## train',
        'Options of `python -m sd_perception_ros train`; in a recipe file (`--recipe`) without '
        'the dashes and with underscores ([training](training.md)).',
        _option_section('Optimizer', TrainingConfig, '--'),
        _option_section('Weights', FinetuneConfig, '--'),
        _option_section('Images', WindowConfig, '--'),
        '## Old names',
        'Understood in this release, with a warning that names the new one. The topics of the '
        'task `pose` are now `human_pose/...`, and `foreground/mask` is `foreground/alpha`. '
        "`checkpoints: ['matting=/x']` is now `matting.checkpoint: /x`.",
        table(
            ('old', 'new', 'where'),
            (
                (f'`{old}`', f'`{new}`', place)
                for place, names in (
                    ('perception_node', OLD_PARAMETERS),
                    ('checkpoint.yaml', OLD_KEYS),
                    ('checkpoint.yaml, prediction_type', OLD_PREDICTION_TYPES),
                    ('checkpoint.yaml, tasks; parameter tasks', OLD_TASKS),
                )
                for old, new in names.items()
            ),
        ),
    ]
    return '\n\n'.join(blocks) + '\n'


def _parameter_section(
    title: str, cls: type[Any], prefix: str, change: Callable[[str], str]
) -> str:
    head = ('parameter', 'type', 'default', 'range', 'meaning', 'change')
    rows = [(f'`{o.name}`', *_facts(o), change(o.name)) for o in flat_options(cls, prefix)]
    about = ' '.join((cls.__doc__ or '').split())
    return f'### {title}\n\n{about}\n\n{table(head, rows)}'


def _option_section(title: str, cls: type[Any], dashes: str) -> str:
    head = ('option', 'type', 'default', 'range', 'meaning')
    rows = [
        (f'`{dashes}{o.name.replace("_", "-") if dashes else o.name}`', *_facts(o))
        for o in flat_options(cls)
        if o.kind in TYPES  # the mappings of checkpoint.yaml are described in words
    ]
    return f'### {title}\n\n{table(head, rows)}'


def _facts(option: FlatOption) -> tuple[str, str, str, str]:
    """Return type, default, range and meaning."""
    default = f'`{json.dumps(option.default)}`'
    return TYPES[option.kind], default, _range(option.metadata), option.metadata['doc']


def _range(about: Mapping[str, Any]) -> str:
    if about['choices']:
        return ', '.join(f'`{choice}`' for choice in about['choices'])
    low, high = ('' if about[name] is None else f'{about[name]:.10g}' for name in ('low', 'high'))
    return f'{low} .. {high}' if low or high else ''


# ---- topics --------------------------------------------------------------------------------

# Topic: encoding, and the meaning of the values; more than the function of the message says.
CONTENT = {
    'depth/relative': ('32FC1', '0 near .. 1 far, up to scale and shift; not metres'),
    'depth/color': ('rgb8', 'red near, blue far'),
    'depth/image_rect': (
        '32FC1 or 16UC1',
        'metres along the optical axis, -Inf too near, +Inf out of range, NaN unknown (REP 117, '
        'REP 118); or millimetres, 0 unknown (`depth.encoding`)',
    ),
    'depth/camera_info': ('', 'pinhole camera of `depth/image_rect`, without distortion'),
    'depth/points': (
        'x y z rgb [label]',
        'metres; NaN where depth is not finite; needs camera_info. With `depth.points.voxel_m` '
        'unorganized, else one point per pixel',
    ),
    'depth/points_people': ('x y z rgb [label]', 'the same, people only'),
    'scan': ('', 'metres to the nearest obstacle; +Inf free, NaN not seen; needs camera_info'),
    'disparity/relative': ('32FC1', '0 far .. 1 near, up to scale and shift'),
    'disparity/color': ('rgb8', 'red near, blue far'),
    'normals/image': (
        '32FC3',
        'unit vectors in the optical frame (x right, y down, z forward), towards the camera',
    ),
    'normals/color': ('rgb8', 'a floor is green, a wall that faces the camera blue'),
    'segmentation/labels': ('mono8', 'class ids, never 255'),
    'segmentation/confidence': ('mono8', '0 unsure .. 255 sure'),
    'segmentation/mask': ('mono8', '255 for a class of `segmentation.mask_classes`, else 0'),
    'segmentation/color': ('rgb8', 'a colour for each class'),
    'foreground/alpha': ('mono8', 'fraction of the pixel covered by objects and people, 0 .. 255'),
    'matting/alpha': ('mono8', 'fraction of the pixel covered by people, 0 .. 255'),
    'matting/color': ('rgb8', 'people over a checkerboard'),
    'human_pose/markers': (
        '',
        'skeletons in metres; without metric depth on a plane at `human_pose.plane_distance_m`; '
        'needs camera_info',
    ),
    'human_pose/keypoints': (
        'x y z u v score joint person',
        'a point for each COCO joint; x y z in metres, NaN without metric depth; u v in pixels',
    ),
    'human_pose/overlay': ('rgb8', 'skeletons drawn on the camera image'),
    'segmentation/label_info': (
        '',
        'names of the class ids; latched. std_msgs/String with JSON if vision_msgs is missing',
    ),
}
INPUTS = (
    ('image_raw', 'sensor_msgs/Image', 'encodings: see below'),
    ('image_raw/compressed', 'sensor_msgs/CompressedImage', 'with `image_transport: compressed`'),
    (
        'camera_info',
        'sensor_msgs/CameraInfo',
        'in the namespace of the image topic, unless remapped',
    ),
    (
        'detections',
        'vision_msgs/Detection2DArray',
        'boxes around people, with `human_pose.top_down.boxes: detections`; without vision_msgs '
        'std_msgs/String, JSON with the same fields',
    ),
    ('reference/depth', 'sensor_msgs/Image', '32FC1 or 16UC1, with `depth.scale.source: depth`'),
    ('reference/camera_info', 'sensor_msgs/CameraInfo', 'if the reference has another size'),
    ('reference/scan', 'sensor_msgs/LaserScan', 'with `depth.scale.source: scan`'),
)
SERVICES = (
    ('~/reload_model', 'std_srvs/Trigger', 'load the checkpoint that the parameters name now'),
    ('~/enable', 'std_srvs/SetBool', 'start or stop processing images'),
    (
        'lifecycle services',
        'lifecycle_msgs',
        'the node configures itself unless `autostart: false`',
    ),
)


def topics() -> str:
    """List inputs, outputs and services of the perception node, from the table of outputs."""
    from sd_perception_ros.image_encodings import ENCODINGS
    from sd_perception_ros.ros.output.outputs import MODEL_OUTPUTS, OUTPUTS

    head = ('topic', 'type', 'encoding or fields', 'content', 'frame', 'published if')
    rows = [
        (
            f'`{output.topic}`',
            _message_type(output.msg_type),
            *_content(output),
            '`scan.frame_id`' if output.topic == 'scan' else 'that of the image',
            _condition(output),
        )
        for output in OUTPUTS
    ]
    rows += [
        (
            f'`{constant.topic}`',
            'vision_msgs/LabelInfo',
            *_content(constant),
            '',
            f'task `{constant.task}`',
        )
        for constant in MODEL_OUTPUTS
    ]
    blocks = [
        '# Topics',
        NOTE,
        'Names are relative to the namespace; with `cameras: [front, rear]` they begin with '
        '`front/` and `rear/`.',
        '## Inputs',
        table(('topic', 'type', 'notes'), ((f'`{name}`', *rest) for name, *rest in INPUTS)),
        f'Encodings of `image_raw`: {", ".join(f"`{name}`" for name in ENCODINGS)}. The frame is '
        'the optical frame of the camera (x right, y down, z forward, REP 103).',
        '## Outputs',
        'From the table `OUTPUTS` in `ros/output/outputs.py`. A topic exists if the checkpoint '
        'has its task and the parameters allow it. Messages have the stamp of the image; '
        'the column *frame* says which frame_id. A topic without subscribers is not computed. '
        '*Scale* in the last column: `depth.scale.source` is set, and the scale passed its check '
        'for this image ([metric depth](metric_depth.md)).',
        table(head, rows),
        '`/diagnostics`: see [diagnostics](diagnostics.md).',
        '## Services',
        table(('service', 'type', 'effect'), ((f'`{name}`', *rest) for name, *rest in SERVICES)),
    ]
    return '\n\n'.join(blocks) + '\n'


def _message_type(kind: Any) -> str:
    return f'{kind.__module__.split(".")[0]}/{kind.__name__}'


def _content(output: Any) -> tuple[str, str]:
    """Return encoding and meaning; without an entry in CONTENT, what its function says."""
    lines = (output.make.__doc__ or '').strip().splitlines()
    return CONTENT.get(output.topic, ('', lines[0] if lines else ''))


def _condition(output: Any) -> str:
    from sd_perception_ros.ros.options import OutputOptions

    tasks = ('' if output.metric else output.task, *output.needs(OutputOptions()))
    needs = ['task `depth` or `disparity` (`depth.scale.from_task`)'] if output.metric else []
    needs += [f'task `{task}`' for task in tasks if task]
    needs += ['scale'] if output.metric else []
    needs += ['`scan.frame_id` is set'] if output.topic == 'scan' else []
    return ', '.join(needs)


# ---- benchmarks ----------------------------------------------------------------------------


def benchmarks(name: str = 'benchmarks.md') -> str:
    """Put the tables between their markers in the page as it is."""
    page = (DOCS / name).read_text(encoding='utf-8')
    marked = re.compile(r'(<!-- table: (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)
    return marked.sub(lambda found: f'{found[1]}\n{show(found[2])}\n\n{found[3]}', page)


# ---- checkpoints ---------------------------------------------------------------------------


def checkpoints() -> str:
    """Put the table of known checkpoints between its markers in the page as it is."""
    from sd_perception_ros.checkpoint.catalog import hub_locations, known_checkpoints

    rows = []
    for known in known_checkpoints():
        config = known.config
        if known.problem:
            rows.append((f'`{known.name}`', '', f'not supported: {known.problem}', '', ''))
            continue
        locations = [f'`{location}`' for location in hub_locations(config)]
        rows.append(
            (
                f'`{known.name}`',
                ', '.join(config.tasks),
                config.description or 'demo, tests, CI',
                ' '.join(locations) or 'in this package',
                config.license,
            )
        )
    head = ('name', 'tasks', 'use it for', 'from', 'licence of the weights')
    page = (DOCS / 'checkpoints.md').read_text(encoding='utf-8')
    marked = re.compile(r'(<!-- known checkpoints -->\n).*?(<!-- end -->)', re.DOTALL)
    return marked.sub(lambda match: f'{match[1]}\n{table(head, rows)}\n\n{match[2]}', page)


# ---- dependencies ---------------------------------------------------------------------------


def dependencies() -> str:
    """List the packages in requirements/ with their licences."""
    rows = ((f'`{package}`', version, text, name) for name, package, version, text in licenses())
    blocks = [
        '# Dependencies and their licences',
        NOTE,
        'All packages in `requirements/`, also indirect ones, with the licence in their metadata '
        'or `package.xml`. A robot needs `core`, `ros` and, if used, `runtimes`; `train` is for '
        'training; `dev` and `docs` are for the development of this repository. A ROS '
        'distribution and a CUDA build of torch have further packages. For the licences of '
        'weights see [checkpoints](checkpoints.md#licences).',
        table(('package', 'version', 'licence', 'list'), rows),
        'Known vulnerabilities, on a machine with access to the internet: '
        '`pip install pip-audit`, then `pip-audit -r requirements/core.txt --no-deps`, and the '
        'same for the other lists.',
    ]
    return '\n\n'.join(blocks) + '\n'


PAGES: dict[str, Callable[[], str]] = {
    'parameters.md': parameters,
    'topics.md': topics,
    'benchmarks.md': benchmarks,
    'checkpoints.md': checkpoints,
    'dependencies.md': dependencies,
    'reliability.md': lambda: benchmarks('reliability.md'),
}


def main() -> None:
    """Write every page."""
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding='utf-8')


if __name__ == '__main__':
    main()
