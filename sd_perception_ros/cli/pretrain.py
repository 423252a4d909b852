"""Pre-train a small latent diffusion model: autoencoder, latents, denoiser."""

from __future__ import annotations

import argparse
from pathlib import Path

from sd_perception_ros.backbones import check_channels, UNET_CHANNELS
from sd_perception_ros.cli.arguments import add_data, size

EXAMPLE = """\
example:
  python -m sd_perception_ros pretrain --data data/rooms/train --out runs/pretrained

Run the same command again to resume a stopped run. Output: a folder in the layout of diffusers
(vae, unet), the --base of train."""


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = argparse.ArgumentParser(
        prog='python -m sd_perception_ros pretrain',
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data(made, required=True, help='Images; ground truth is not used')
    made.add_argument(
        '--frame-size',
        type=size,
        metavar='WIDTHxHEIGHT',
        help='Resize every image to cover this size, then crop its centre; required for images of '
        'several sizes. train cannot use the latents of such crops',
    )
    made.add_argument('--out', type=Path, required=True, help='Folder to write')
    made.add_argument(
        '--vae-steps',
        type=int,
        default=4000,
        help='Steps of the autoencoder (default: %(default)s)',
    )
    made.add_argument(
        '--vae-size',
        type=size,
        default=(96, 128),
        metavar='WIDTHxHEIGHT',
        help='Crops for the autoencoder (default: 128x96)',
    )
    made.add_argument(
        '--denoiser-steps',
        type=int,
        default=2500,
        help='Steps of the denoiser; 0: only copy --denoiser-from (default: %(default)s)',
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
        type=Path,
        metavar='MODEL',
        help='Initialise the coarsest levels from the unet of this checkpoint or folder; bundled '
        'needs matching channels, such as --denoiser-channels 32 32 64 128 176',
    )
    made.add_argument(
        '--batch-size', type=int, default=16, help='Images per step (default: %(default)s)'
    )
    made.add_argument(
        '--precision',
        choices=('fp32', 'bf16'),
        default='fp32',
        help='Number format of the forward pass (default: %(default)s)',
    )
    made.add_argument('--seed', type=int, default=0, help='Random seed (default: %(default)s)')
    made.add_argument(
        '--stage',
        choices=('all', 'vae', 'latents', 'denoiser'),
        default='all',
        help='Stop after this stage (default: %(default)s)',
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Read the arguments, then train."""
    arguments = parser().parse_args(argv)
    if arguments.denoiser_steps < (0 if arguments.denoiser_from else 1):
        raise ValueError(
            f'expected --denoiser-steps of at least 1 (0 with --denoiser-from), got '
            f'{arguments.denoiser_steps}'
        )
    check_channels(arguments.denoiser_channels)
    from sd_perception_ros.cli.jobs.pretrain import run

    return run(arguments)


if __name__ == '__main__':
    raise SystemExit(main())
