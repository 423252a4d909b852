"""What many tests share."""

from __future__ import annotations

from collections.abc import Iterator
import importlib.util
import json
import os
from pathlib import Path
import sys
from typing import Any

# Before torch is loaded, here and in child processes: the workers of pytest-xdist share the cores.
if 'PYTEST_XDIST_WORKER_COUNT' in os.environ:
    each = len(os.sched_getaffinity(0)) // int(os.environ['PYTEST_XDIST_WORKER_COUNT'])
    os.environ.setdefault('OMP_NUM_THREADS', str(max(each, 1)))

import cv2
from hypothesis import HealthCheck, settings
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

# A busy machine is no mistake: examples may take as long as they need.
settings.register_profile('patient', deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('patient')

# What takes long comes first, so that workers that share the files end at about the same time.
LONG = (
    'test_runtimes.py',
    'test_linters.py',
    'test_perception_node.py',
    'test_hub.py',
    'test_demo.py',
    'test_camera_node.py',
    'test_training_loop.py',
    'test_benchmark.py',
    'test_layouts.py',
    'test_nav2.py',
    'test_train_command.py',
    'test_training.py',
    'test_docs.py',
    'test_backbones.py',
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files; within one all stays as it is."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


# The core is tested without ROS, too; these files import it at their top.
NEEDS_ROS = [
    file.name
    for file in Path(__file__).parent.glob('test_*.py')
    if 'rclpy' in file.read_text() or 'ros_helpers' in file.read_text()
]
collect_ignore = [] if importlib.util.find_spec('rclpy') else NEEDS_ROS


@pytest.fixture(scope='session')
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random checkpoint with depth and normals that loads in under a second."""
    from models import save_tiny

    return save_tiny(tmp_path_factory.mktemp('checkpoint'))


@pytest.fixture
def peer(node: Any) -> Iterator[Any]:
    """Make another node, beside the one that the fixture `node` of the file serves."""
    from ros_helpers import Peer

    made = Peer()
    yield made
    made.close()


@pytest.fixture
def camera(peer: Any) -> Any:
    """Make a camera that the served node hears."""
    from ros_helpers import connect, FakeCamera

    made = FakeCamera(peer)
    connect(peer, made)
    return made


@pytest.fixture(scope='session')
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames of a wall that recedes to the right, with a sky above and an unknown corner."""
    folder = tmp_path_factory.mktemp('frames')
    rng = np.random.default_rng(0)
    for index in range(4):
        depth_mm = np.tile(np.linspace(1000, 5000, 64), (48, 1)).astype(np.uint16)
        depth_mm[:8], depth_mm[-1, -1] = 65535, 0
        normals = np.full((48, 64, 3), (128, 128, 1), np.uint8)
        normals[:8] = 128
        path = str(folder / f'{index:06d}_0')
        cv2.imwrite(f'{path}.image.png', rng.integers(0, 256, (48, 64, 3), np.uint8))
        cv2.imwrite(f'{path}.depth.png', depth_mm)
        cv2.imwrite(f'{path}.normals.png', normals[..., ::-1])
        cv2.imwrite(f'{path}.semantic.png', np.full((48, 64), 2, np.uint8))
        Path(f'{path}.camera.json').write_text(json.dumps({'fx': 60.0}))
    return folder
