"""Pre-train a small latent diffusion model, or tune a tiny encoder to that of a large one."""

from __future__ import annotations

import argparse

from sd_perception_ros.backbones import check_channels, UNET_CHANNELS
from sd_perception_ros.cli.arguments import (
    add_data,
    add_options,
    command_parser,
    from_options,
    size,
)
from sd_perception_ros.paths import user_path
from sd_perception_ros.training.options import PretrainConfig, TINY_ENCODER

EXAMPLE = """\
examples:
  python -m sd_perception_ros pretrain --data data/rooms/train --out runs/pretrained
  python -m sd_perception_ros pretrain --stage tiny_encoder --base runs/depth \\
      --data folder:photos --tiny-from taesd --out runs/tiny

Run the same command again to resume a stopped run. Output: a folder in the layout of diffusers
(vae, unet), the --base of train; or with --stage tiny_encoder the folder tiny_encoder, for that
key of checkpoint.yaml, and its differences from the encoder of --base."""


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = command_parser('pretrain', __doc__, EXAMPLE)
    add_data(made, required=True, help='Images; ground truth is not used')
    made.add_argument(
        '--frame-size',
        type=size,
        metavar='WIDTHxHEIGHT',
        help='Resize every image to cover this size, then crop its centre; required for images of '
        'several sizes. train cannot use the latents of such crops',
    )
    made.add_argument('--out', type=user_path, required=True, help='Folder to write')
    made.add_argument(
        '--vae-size',
        type=size,
        default=(96, 128),
        metavar='WIDTHxHEIGHT',
        help='Crops for the autoencoder (default: 128x96)',
    )
    made.add_argument(
        '--denoiser-size',
        type=size,
        default=(128, 192),
        metavar='WIDTHxHEIGHT',
        help='Crops for the denoiser (default: 192x128)',
    )
    made.add_argument(
        '--denoiser-channels',
        type=int,
        nargs='+',
        default=UNET_CHANNELS,
        metavar='N',
        help='Channels of its levels, fine to coarse, multiples of 8 '
        f'(default: {" ".join(map(str, UNET_CHANNELS))})',
    )
    made.add_argument(
        '--denoiser-from',
        type=user_path,
        metavar='MODEL',
        help='Initialise the coarsest levels from the unet of this checkpoint or folder; bundled '
        'needs matching channels, such as --denoiser-channels 32 32 64 128 176',
    )
    add_options(made, PretrainConfig)
    _add_tiny_options(made)
    return made


def _add_tiny_options(made: argparse.ArgumentParser) -> None:
    tiny = made.add_argument_group('with --stage tiny_encoder')
    tiny.add_argument(
        '--base',
        type=user_path,
        help='Checkpoint, or folder with vae, with the KL encoder to imitate; for a checkpoint, '
        'the change of its outputs is measured, too',
    )
    tiny.add_argument(
        '--tiny-from',
        type=user_path,
        metavar='FOLDER',
        help='AutoencoderTiny to start from, such as taesd (default: random weights)',
    )
    tiny.add_argument(
        '--tiny-sizes',
        nargs='+',
        type=size,
        default=[(192, 256), (256, 256), (288, 384)],
        metavar='WIDTHxHEIGHT',
        help='Crops; each step draws one size (default: 256x192 256x256 384x288)',
    )


def main(argv: list[str] | None = None) -> int:
    """Read the arguments, then train."""
    arguments = parser().parse_args(argv)
    from_options(PretrainConfig, arguments)
    if arguments.denoiser_steps < (0 if arguments.denoiser_from else 1):
        raise ValueError(
            f'expected --denoiser-steps of at least 1 (0 with --denoiser-from), got '
            f'{arguments.denoiser_steps}'
        )
    check_channels(arguments.denoiser_channels)
    _check_tiny(arguments)
    from sd_perception_ros.cli.jobs.pretrain import run

    return run(arguments)


def _check_tiny(arguments: argparse.Namespace) -> None:
    tunes = arguments.stage == TINY_ENCODER
    if tunes != bool(arguments.base):
        given = 'no --base' if tunes else f'--base {arguments.base} and --stage {arguments.stage}'
        raise ValueError(f'expected --stage tiny_encoder together with --base, got {given}')


if __name__ == '__main__':
    raise SystemExit(main())
