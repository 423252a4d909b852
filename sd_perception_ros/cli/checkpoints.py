"""List known checkpoints, download them, and check that they fit."""

from __future__ import annotations

import argparse

from sd_perception_ros.cli.arguments import command_parser

EXAMPLE = """\
examples:
  python -m sd_perception_ros checkpoints
  python -m sd_perception_ros checkpoints fetch genpercept_depth
  python -m sd_perception_ros checkpoints check genpercept_depth

The parameter `checkpoint` of the perception node takes a known name, and downloads it. fetch
continues an interrupted download. A branch of a repository is resolved to a commit once; commit
and SHA-256 are kept in a lock file.
"""


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = command_parser('checkpoints', __doc__, EXAMPLE)
    commands = made.add_subparsers(dest='action', metavar='list, fetch or check')
    listing = commands.add_parser('list', help='list known checkpoints (the default)')
    listing.add_argument('--json', action='store_true', help='machine-readable')
    fetch = commands.add_parser('fetch', help='download a checkpoint')
    fetch.add_argument('names', nargs='+', metavar='NAME', help='known name, or checkpoint.yaml')
    check = commands.add_parser(
        'check', help='compare hashes, names and shapes, then run one dry frame'
    )
    check.add_argument('name', metavar='NAME', help='known name, folder or checkpoint.yaml')
    check.add_argument('--device', default='auto', help='device of the dry frame (default: auto)')
    check.add_argument(
        '--frame',
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run a frame in the network's own size, as the node does (default: yes)",
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Read the arguments, then list, fetch or check."""
    arguments = parser().parse_args(argv)
    from sd_perception_ros.cli.jobs import checkpoints

    if arguments.action == 'fetch':
        return checkpoints.fetch(arguments.names)
    if arguments.action == 'check':
        return checkpoints.check(arguments.name, arguments.device, arguments.frame)
    return checkpoints.show(as_json=getattr(arguments, 'json', False))


if __name__ == '__main__':
    raise SystemExit(main())
