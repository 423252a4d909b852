"""What many tests share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
import sys

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

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
