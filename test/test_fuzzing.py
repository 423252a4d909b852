"""Anything that a peer may send to a running node: right results, or a reason, and it lives on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fuzzing import fuzz, fuzzed_nodes, Fuzzer
import pytest


@pytest.fixture(scope='module')
def fuzzer(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Fuzzer]:
    with fuzzed_nodes(tmp_path_factory.mktemp('nodes'), tiny_checkpoint) as made:
        yield made


def test_an_image_gives_results_of_its_size_and_geometry_or_a_reason(fuzzer):
    fuzz(fuzzer, 'image', 60)


def test_a_compressed_image_gives_results_of_its_size_or_a_reason(fuzzer):
    fuzz(fuzzer, 'jpeg', 40)


def test_metres_of_any_depth_image_are_right_or_withheld(fuzzer):
    fuzz(fuzzer, 'depth', 30)


def test_metres_of_any_scan_are_right_or_withheld(fuzzer):
    fuzz(fuzzer, 'scan', 30)


def test_right_references_give_metres(fuzzer):
    """Else the two tests above would hold for a node that never gives any."""
    fuzzer.depth('good', {}, 0)
    assert fuzzer.metres('depth')
    fuzzer.scan({}, 1.0, 0)
    assert fuzzer.metres('scan')
