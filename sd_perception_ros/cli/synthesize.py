"""Render synthetic rooms: images with exact depth, normals, labels, mattes and joints."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import sys

from tqdm import tqdm

from sd_perception_ros.cli.arguments import command_parser
from sd_perception_ros.paths import expand_home, user_path
from sd_perception_ros.synthetic.bodies import digest
from sd_perception_ros.synthetic.dataset import missing_scenes, Recipe, write_dataset
from sd_perception_ros.synthetic.environments import digest as environments_digest
from sd_perception_ros.synthetic.environments import environment_files
from sd_perception_ros.synthetic.sequence import write_sequence

EPILOG = """\
the furniture (once, no root needed; any Debian or Ubuntu machine):
  apt-get download sweethome3d-furniture
  dpkg -x sweethome3d-furniture_*.deb furniture

environment maps for the light (optional; CC0):
  apt-get download blender-data
  dpkg -x blender-data_*.deb blender
  ... --lights blender/usr/share/blender/datafiles/studiolights/world

more people (once; optional): python -m sd_perception_ros bake-bodies --help

examples:
  python -m sd_perception_ros synthesize --assets furniture --out data/rooms/train --scenes 1200
  python -m sd_perception_ros synthesize --assets furniture --bodies data/bodies.npz \\
      --out data/people --scenes 1200
  python -m sd_perception_ros synthesize --assets furniture --out data/held_out --scenes 40 \\
      --seed 900001 --heldout
  python -m sd_perception_ros synthesize --assets none --out data/solids --scenes 10
  python -m sd_perception_ros synthesize --assets furniture --out data/film --sequence 60 \\
      --width 320 --height 240 --seed 900101 --heldout

Run the same command again to resume a stopped run. A frame is complete when its .camera.json
exists, so frames can be read while others are rendered.
"""


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = command_parser('synthesize', __doc__, EPILOG)
    made.add_argument('--out', type=user_path, required=True, help='Folder to write')
    made.add_argument(
        '--assets',
        type=expand_home,
        default='none',
        help='Folder with *.sh3f furniture catalogues (default: none)',
    )
    made.add_argument(
        '--bodies', type=user_path, help='File from bake-bodies; half of the people come from it'
    )
    made.add_argument(
        '--lights',
        type=user_path,
        help='Folder with environment maps (*.exr, *.hdr) for the light',
    )
    made.add_argument(
        '--cache',
        type=user_path,
        default=Path('data/meshes'),
        help='Folder for parsed models (default: %(default)s)',
    )
    made.add_argument('--scenes', type=int, default=100, help='Scenes (default: %(default)s)')
    made.add_argument(
        '--views', type=int, default=3, help='Frames of each scene (default: %(default)s)'
    )
    made.add_argument(
        '--seed',
        type=int,
        default=1,
        help='Random seed; equal seeds give equal files (default: %(default)s)',
    )
    made.add_argument('--workers', type=int, default=2, help='Processes (default: %(default)s)')
    made.add_argument(
        '--width', type=int, default=256, help='Image width, pixels (default: %(default)s)'
    )
    made.add_argument(
        '--height', type=int, default=192, help='Image height, pixels (default: %(default)s)'
    )
    made.add_argument(
        '--heldout',
        action='store_true',
        help='Use only furniture reserved for evaluation',
    )
    made.add_argument(
        '--sequence',
        type=int,
        metavar='FRAMES',
        help='Render a film of one room at 10 Hz instead (ignores --scenes, --views)',
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = parser().parse_args(argv)
    # Inherited by the workers: one thread in each uses the cores best.
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    recipe = Recipe(
        args.scenes,
        args.views,
        args.seed,
        args.width,
        args.height,
        args.assets,
        args.heldout,
        digest(args.bodies) if args.bodies else 'none',
        environments_digest(environment_files(args.lights)),
    )
    if args.sequence:
        film = write_sequence(recipe, args.out, args.cache, args.sequence, args.bodies)
        for _ in tqdm(film, total=args.sequence, unit='frame'):
            pass
        return 0
    done = args.scenes - len(missing_scenes(recipe, args.out))
    with tqdm(total=args.scenes, initial=done, unit='scene') as bar:
        sources = args.bodies, args.lights
        for _ in write_dataset(recipe, args.out, args.cache, args.workers, *sources):
            bar.update()
    return 0


if __name__ == '__main__':
    sys.exit(main())
