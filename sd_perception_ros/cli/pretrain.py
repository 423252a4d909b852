"""Pre-train a small latent diffusion model: autoencoder, latents, denoiser."""

from __future__ import annotations

import argparse
from pathlib import Path

from sd_perception_ros.backbones import check_channels, UNET_CHANNELS
from sd_perception_ros.cli.arguments import add_data, size

EXAMPLE = """\
example:
  python -m sd_perception_ros pretrain --data data/rooms/train --out runs/pretrained

A stopped run goes on where it was. The result is a folder in the layout of diffusers (vae, unet)
that the train command starts from."""


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = argparse.ArgumentParser(
        prog='python -m sd_perception_ros pretrain',
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data(made, required=True, help='Pictures; what is true about them is not looked at')
    made.add_argument(
        '--frame-size',
        type=size,
        metavar='WIDTHxHEIGHT',
        help='Bring every picture to this size and cut its middle out; needed where sizes differ. '
        'The latents then serve the denoiser alone: train encodes its pictures in each step',
    )
    made.add_argument('--out', type=Path, required=True, help='Folder to write')
    made.add_argument('--vae-steps', type=int, default=4000, help='default: %(default)s')
    made.add_argument('--vae-size', type=size, default=(96, 128), help='Crops, default 128x96')
    made.add_argument(
        '--denoiser-steps',
        type=int,
        default=2500,
        help='default: %(default)s; 0 with --denoiser-from: as it was taken over',
    )
    made.add_argument(
        '--denoiser-size', type=size, default=(128, 192), help='Windows, default 192x128'
    )
    made.add_argument(
        '--denoiser-channels',
        type=int,
        nargs='+',
        default=UNET_CHANNELS,
        metavar='N',
        help=f'Of its levels, fine to coarse, multiples of 8, default {UNET_CHANNELS}',
    )
    made.add_argument(
        '--denoiser-from',
        type=Path,
        metavar='MODEL',
        help='Checkpoint or model folder whose unet the coarsest levels are taken over from; '
        '--denoiser-from bundled needs --denoiser-channels like 32 32 64 128 176',
    )
    made.add_argument('--batch-size', type=int, default=16, help='default: %(default)s')
    made.add_argument(
        '--precision', choices=('fp32', 'bf16'), default='fp32', help='default: %(default)s'
    )
    made.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    made.add_argument(
        '--stage',
        choices=('all', 'vae', 'latents', 'denoiser'),
        default='all',
        help='Stop after this stage (default: %(default)s runs to the end)',
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Read the arguments, then train."""
    arguments = parser().parse_args(argv)
    if arguments.denoiser_steps < (0 if arguments.denoiser_from else 1):
        raise ValueError(
            f'expected --denoiser-steps of 1 or more (0 with --denoiser-from), got '
            f'{arguments.denoiser_steps}'
        )
    check_channels(arguments.denoiser_channels)
    from sd_perception_ros.cli.jobs.pretrain import run

    return run(arguments)


if __name__ == '__main__':
    raise SystemExit(main())
