"""Predict for your own pictures, folders, videos, a webcam or recordings (rosbag2)."""

from __future__ import annotations

import argparse
from dataclasses import fields
import sys

from sd_perception_ros.cli.arguments import add_options, command_parser, from_options
from sd_perception_ros.cli.predict.options import engine_defaults, node_parameters, options_of
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.paths import expand_home, user_path
from sd_perception_ros.ros.options import OutputOptions

PICTURE_KINDS, VIDEO, BAG = ('sheet', 'color', 'data'), 'video', 'bag'
DATA_FORMATS = ('png', 'npz')
EXAMPLE = """\
examples:
  python -m sd_perception_ros predict photo.jpg --out result
  python -m sd_perception_ros predict holiday/ 'more/*.png' --out result --tasks depth normals
  python -m sd_perception_ros predict film.mp4 --out result
  python -m sd_perception_ros predict run_2/ --out result -p depth.scale.source:=depth
  python -m sd_perception_ros predict 0 --out webcam --tasks depth human_pose
  python -m sd_perception_ros predict yard.jpg --out result --horizontal-fov-deg 69 \\
      -p depth.scale.source:=ground -p depth.scale.camera_height_m:=1.2

result/sheet/photo.png shows the picture and every task; result/video/film.mp4 does so for a video;
result/bag/run_2 is the recording with the topics of the node added. Colour pictures and data are
in folders with the names of the node's topics, such as depth/color and depth/relative;
frames/photo.json says what their numbers mean. A webcam runs until Ctrl-C. The same command again
does what is missing.
"""


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = command_parser('predict', __doc__, EXAMPLE)
    add = made.add_argument
    add(
        'inputs',
        nargs='+',
        type=expand_home,
        metavar='INPUT',
        help='Picture, video, recording (rosbag2), folder (with all folders in it), pattern such '
        'as *.jpg, or webcam: 0 or /dev/video0',
    )
    add('--out', type=user_path, required=True, help='Folder for the results')
    add('--tasks', nargs='+', default=EngineConfig().tasks, help='Only these (default: all)')
    others = [f.name for f in fields(EngineConfig) if f.name != 'tasks']
    add_options(made, EngineConfig, only=others)
    add('--params-file', type=user_path, help='Parameter file of the perception node')
    add(
        '-p',
        '--param',
        action='append',
        default=[],
        metavar='NAME:=VALUE',
        help='Parameter of the perception node, over the file; may be repeated',
    )
    add(
        '--horizontal-fov-deg',
        type=float,
        default=0.0,
        help='Field of view of pictures, for metric depth from the ground or from '
        'people; 0: not known (default: %(default)s)',
    )
    add(
        '--write',
        nargs='+',
        choices=(*PICTURE_KINDS, VIDEO, BAG),
        default=[],
        help='sheet: the picture and all tasks side by side. color: a picture for each task. '
        'data: the values of each task. video: the sheets of a video as a video. bag: the '
        "recording with the node's topics added (default: bag for recordings, video for videos "
        'and webcams, all others for pictures)',
    )
    add(
        '--data-format',
        choices=DATA_FORMATS,
        default=DATA_FORMATS[0],
        help='png: 16 bits, in steps of 1/65535 or 1 mm. npz: float32 as predicted, ten times '
        'larger (default: %(default)s)',
    )
    add(
        '--topics',
        nargs='+',
        default=[],
        help='Image topics of recordings (default: all with colour images)',
    )
    add(
        '--reference',
        default='',
        metavar='TOPIC',
        help='Topic of the sensor in a recording, for depth.scale.source depth or scan (default: '
        'the only one)',
    )
    add('--namespace', default='', help='Namespace of the topics added to a recording')
    add(
        '--frames',
        type=int,
        default=0,
        help='Stop each video or webcam after so many frames; 0: at its end (default: '
        '%(default)s)',
    )
    add('--overwrite', action='store_true', help='Do frames again that are done')
    add('--json', type=user_path, help='File for the summary with times, as JSON')
    return made


def main(argv: list[str] | None = None) -> int:
    """Read the arguments, then predict; 0: every input is done, 1: some are not."""
    words = sys.argv[1:] if argv is None else argv
    made = parser()
    arguments = made.parse_args(words)
    parameters = node_parameters(arguments.params_file, arguments.param)
    # Options on the command line replace parameters, and those the defaults.
    made.set_defaults(**engine_defaults(parameters))
    arguments = made.parse_args(words)
    config = from_options(EngineConfig, arguments)
    options = options_of(OutputOptions, parameters)
    if not 0 <= arguments.horizontal_fov_deg < 180:
        raise ValueError(
            '--horizontal-fov-deg must be at least 0 and less than 180, got '
            f'{arguments.horizontal_fov_deg:g}'
        )
    if arguments.frames < 0:
        raise ValueError(f'--frames must be at least 0, got {arguments.frames}')
    from sd_perception_ros.cli.predict.job import run

    return run(arguments, config, options)


if __name__ == '__main__':
    raise SystemExit(main())
