"""
Send thousands of random messages over DDS to running nodes, and check all results.

A result must fit its input in header, size, unit and geometry, every refusal must be counted with
a reason, and no node may end. The messages and the checks are in test/fuzzing.py.

Example: python benchmark/fuzz.py --messages 10000 --seed 1
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
import tempfile
import time

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'test')]

from fuzzing import fuzz, fuzzed_nodes  # noqa: E402 (test/ is no package)
from models import save_tiny  # noqa: E402

# Shares of the messages.
SHARES = {'image': 0.5, 'jpeg': 0.3, 'depth': 0.1, 'scan': 0.1}


def main() -> None:
    """Run, and print how often each outcome was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('--messages', type=int, default=2000)
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_tiny(Path(folder) / 'checkpoint')
        with fuzzed_nodes(Path(folder), checkpoint) as fuzzer:
            start = time.monotonic()
            for name, share in SHARES.items():
                fuzz(fuzzer, name, round(arguments.messages * share), arguments.seed)
                print(f'{name}: done after {time.monotonic() - start:.0f} s', flush=True)
    for name, target in fuzzer.targets.items():
        print(f'\n{name}')
        for outcome, count in target.seen.most_common():
            print(f'{count:6d}  {outcome}')
    images = sum(target.images for target in fuzzer.targets.values())
    print(f'\n{images} images and their companions were sent; all checks held')


if __name__ == '__main__':
    main()
