"""Options of metric depth: source of the scale, limits of trust, and filter."""

from __future__ import annotations

from dataclasses import dataclass

from sd_perception_ros.config import check, group, option
from sd_perception_ros.metric_depth.alignment import TrustLimits
from sd_perception_ros.metric_depth.scale_filter import FilterOptions

NO_SOURCE = 'none'


@dataclass(frozen=True)
class MountingOptions:
    """Pose of a sensor in a frame: x, y, z and roll, pitch, yaw (REP 103), as origin in URDF."""

    x_m: float = option(0.0, 'Position along x, forward', low=-100.0, high=100.0)
    y_m: float = option(0.0, 'Position along y, left', low=-100.0, high=100.0)
    z_m: float = option(0.0, 'Position along z, up', low=-100.0, high=100.0)
    roll_deg: float = option(0.0, 'Rotation about x', low=-180.0, high=180.0)
    pitch_deg: float = option(
        0.0, 'Rotation about y; positive is downward', low=-180.0, high=180.0
    )
    yaw_deg: float = option(0.0, 'Rotation about z; positive is left', low=-180.0, high=180.0)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


@dataclass(frozen=True)
class ScaleOptions:
    """Source of metric depth: depth = scale * relative depth + shift."""

    source: str = option(
        NO_SOURCE,
        'Source of scale and shift. none: no metric depth. depth: depth sensor on '
        'reference/depth. scan: lidar on reference/scan. ground: height of the camera. person: '
        'stature of visible people, with scale_m and shift_m as initial values. fixed: scale_m '
        'and shift_m',
        choices=(NO_SOURCE, 'depth', 'scan', 'ground', 'person', 'fixed'),
    )
    from_task: str = option(
        'auto',
        'Task that metric depth is computed from. disparity: scale and shift give 1 / depth. '
        'auto: depth if the model has it, else disparity',
        choices=('auto', 'depth', 'disparity'),
    )
    scale_m: float = option(
        1.0,
        'For source fixed and person: scale in m (from disparity: in 1/m)',
        low=0.001,
        high=100_000.0,
    )
    shift_m: float = option(
        0.0,
        'For source fixed and person: shift in m (from disparity: in 1/m)',
        low=-1e3,
        high=1e3,
    )
    max_offset_s: float = option(
        0.05,
        'For source depth and scan: maximum difference of the time stamps of sensor and image',
        low=0.0,
        high=10.0,
    )
    local: bool = option(True, 'For source depth: let scale and shift vary over the image')
    camera_height_m: float = option(
        1.0, 'For source ground: height of the camera above the ground', low=0.02, high=100.0
    )
    camera_pitch_deg: float = option(
        0.0,
        'For source ground: downward pitch of the camera, accurate to 30 degrees',
        low=-90.0,
        high=90.0,
    )
    stature_m: float = option(
        1.7,
        'For source person: assumed body height of all people',
        low=0.5,
        high=2.5,
    )
    scan_mounting: MountingOptions = group(MountingOptions)
    limits: TrustLimits = group(TrustLimits)
    filter: FilterOptions = group(FilterOptions)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)
