"""Write a checkpoint as ONNX files for ONNX Runtime, OpenVINO or TensorRT, checked with torch."""

from __future__ import annotations

import argparse

from sd_perception_ros.cli.arguments import command_parser, size
from sd_perception_ros.config import EngineConfig, ONNX_RUNTIMES
from sd_perception_ros.paths import user_path

EXAMPLE = f"""\
example:
  python -m sd_perception_ros export --checkpoint bundled --out graphs --size 256x192

Each part of the model has a folder: encoder, denoiser_0, and a head for each task. The ONNX
graphs take any image size and batch; --size is only for the TensorRT commands that are
printed. The perception node exports by itself if its parameter `runtime` needs it
({', '.join(ONNX_RUNTIMES)}).
"""


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = command_parser('export', __doc__, EXAMPLE)
    made.add_argument('--checkpoint', default=EngineConfig.checkpoint, help='%(default)s')
    made.add_argument('--tasks', nargs='*', default=[], help='Only these (default: all)')
    made.add_argument('--out', type=user_path, required=True, help='Folder for the ONNX graphs')
    made.add_argument(
        '--size', type=size, default=(192, 256), help='WxH of the network input (256x192)'
    )
    made.add_argument(
        '--runtime',
        nargs='*',
        choices=ONNX_RUNTIMES,
        help='Runtimes that check the ONNX graphs on this CPU (default: all installed)',
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Read the arguments, then export."""
    arguments = parser().parse_args(argv)
    from sd_perception_ros.cli.jobs.export import run

    return run(arguments)


if __name__ == '__main__':
    raise SystemExit(main())
