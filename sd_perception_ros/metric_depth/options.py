"""Options of metric depth: where the scale comes from, and when it is trusted."""

from __future__ import annotations

from dataclasses import dataclass

from sd_perception_ros.config import check, group, option
from sd_perception_ros.metric_depth.alignment import Limits
from sd_perception_ros.metric_depth.scale_filter import FilterOptions

NO_SOURCE = 'none'


@dataclass(frozen=True)
class MountingOptions:
    """Where a body is in a frame: turned about fixed x, y and z, then moved (as in URDF)."""

    x_m: float = option(0.0, 'Forward', low=-100.0, high=100.0)
    y_m: float = option(0.0, 'To the left', low=-100.0, high=100.0)
    z_m: float = option(0.0, 'Upwards', low=-100.0, high=100.0)
    roll_deg: float = option(0.0, 'About x', low=-180.0, high=180.0)
    pitch_deg: float = option(0.0, 'About y, downwards', low=-180.0, high=180.0)
    yaw_deg: float = option(0.0, 'About z, to the left', low=-180.0, high=180.0)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


@dataclass(frozen=True)
class ScaleOptions:
    """Where metres come from: depth = scale * relative + shift."""

    source: str = option(
        NO_SOURCE,
        'none: depth stays relative. depth, scan: a sensor on reference/depth, reference/scan. '
        'ground: the height of the camera. person: the fixed numbers, times what the stature of '
        'people says. fixed: the two numbers below',
        choices=(NO_SOURCE, 'depth', 'scan', 'ground', 'person', 'fixed'),
    )
    from_task: str = option(
        'auto',
        'Task that metres are made from: depth, disparity (scale and shift then give 1 / depth), '
        'or auto: depth where the model has it, else disparity',
        choices=('auto', 'depth', 'disparity'),
    )
    scale_m: float = option(
        1.0,
        'fixed, person: metres between relative depth 0 and 1 (of disparity: 1 / m)',
        low=0.001,
        high=100_000.0,
    )
    shift_m: float = option(
        0.0, 'fixed, person: metres at relative depth 0 (of disparity: 1 / m)', low=-1e3, high=1e3
    )
    max_offset_s: float = option(
        0.05,
        'depth, scan: the reference and the picture are apart by at most this',
        low=0.0,
        high=10.0,
    )
    local: bool = option(
        True, 'depth: let scale and shift vary over the picture where references are dense'
    )
    camera_height_m: float = option(
        1.0, 'ground: of the camera above the ground', low=0.02, high=100.0
    )
    camera_pitch_deg: float = option(
        0.0, 'ground: how far the camera looks down, to 30 degrees', low=-90.0, high=90.0
    )
    stature_m: float = option(1.7, 'person: from the ground to the top', low=0.5, high=2.5)
    scan_mounting: MountingOptions = group(MountingOptions)
    limits: Limits = group(Limits)
    filter: FilterOptions = group(FilterOptions)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)
