"""Pre-train a small latent diffusion model, or tune a tiny encoder to that of a large one."""

from __future__ import annotations

import argparse

from sd_perception_ros.backbones import check_channels, UNET_CHANNELS
from sd_perception_ros.cli.arguments import add_data, size
from sd_perception_ros.paths import user_path

TINY_ENCODER = 'tiny_encoder'
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
    made.add_argument('--out', type=user_path, required=True, help='Folder to write')
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
        type=user_path,
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
        choices=('all', 'vae', 'latents', 'denoiser', TINY_ENCODER),
        default='all',
        help='Stop after this stage; tiny_encoder: instead of all others, tune a tiny encoder to '
        'the latents of the one in --base (default: %(default)s)',
    )
    tiny = made.add_argument_group('with --stage tiny_encoder')
    tiny.add_argument(
        '--base',
        type=user_path,
        help='Checkpoint, or folder with vae, whose KL encoder is imitated; of a checkpoint, the '
        'change of its outputs is measured, too',
    )
    tiny.add_argument(
        '--tiny-from',
        type=user_path,
        metavar='FOLDER',
        help='AutoencoderTiny to start from, such as taesd (default: random weights)',
    )
    tiny.add_argument(
        '--tiny-channels',
        type=int,
        default=64,
        help='Channels of an encoder with random weights (default: %(default)s)',
    )
    tiny.add_argument('--tiny-steps', type=int, default=20000, help='Steps (default: %(default)s)')
    tiny.add_argument(
        '--tiny-sizes',
        nargs='+',
        type=size,
        default=[(192, 256), (256, 256), (288, 384)],
        metavar='WIDTHxHEIGHT',
        help='Crops; each step draws one size (default: 256x192 256x256 384x288)',
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
    _check_tiny(arguments)
    from sd_perception_ros.cli.jobs.pretrain import run

    return run(arguments)


def _check_tiny(arguments: argparse.Namespace) -> None:
    tunes = arguments.stage == TINY_ENCODER
    if tunes != bool(arguments.base):
        given = 'no --base' if tunes else f'--base {arguments.base} and --stage {arguments.stage}'
        raise ValueError(f'expected --stage tiny_encoder together with --base, got {given}')
    for name in ('tiny_steps', 'tiny_channels'):
        if getattr(arguments, name) < 1:
            option = name.replace('_', '-')
            raise ValueError(f'--{option} must be at least 1, got {getattr(arguments, name)}')


if __name__ == '__main__':
    raise SystemExit(main())
