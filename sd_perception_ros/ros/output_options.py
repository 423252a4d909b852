"""Options of the point clouds and of the laser scan."""

from __future__ import annotations

from dataclasses import dataclass

from sd_perception_ros.config import check, group, option
from sd_perception_ros.metric_depth.options import MountingOptions


@dataclass(frozen=True)
class PointsOptions:
    """The point clouds."""

    stride: int = option(1, 'Use every n-th row and column', low=1, high=64)
    max_relative_jump: float = option(
        0.0,
        'Remove pixels at depth edges (flying pixels), where neighbours differ by more than this '
        'fraction of the depth; 0: off',
        low=0.0,
        high=10.0,
    )
    voxel_m: float = option(
        0.0,
        'Voxel grid filter: side of a voxel, the cloud becomes unorganized; 0: off',
        low=0.0,
        high=10.0,
    )
    voxel_min_points: int = option(
        1, 'Voxels with fewer points are removed as noise', low=1, high=10_000
    )
    add_label_field: bool = option(
        False, 'Add the field label with the segmentation class id of each point'
    )
    exclude_classes: list[str] = option(
        [], "Remove points of these segmentation classes, by name; [''] is an empty list"
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)

    @property
    def needs_classes(self) -> bool:
        """Whether the cloud needs the task segmentation."""
        return self.add_label_field or any(self.exclude_classes)


@dataclass(frozen=True)
class ScanOptions:
    """The laser scan computed from metric depth."""

    frame_id: str = option('', 'Frame of the scan (x forward, z up); empty: no scan')
    mounting: MountingOptions = group(MountingOptions)
    min_angle_deg: float = option(-60.0, 'Angle of the first beam', low=-180.0, high=180.0)
    max_angle_deg: float = option(
        60.0, 'Angle of the last beam, counterclockwise', low=-180.0, high=180.0
    )
    increment_deg: float = option(0.5, 'Angle between beams', low=0.05, high=30.0)
    min_range_m: float = option(0.1, 'Nearer points are ignored', low=0.0, high=100.0)
    max_range_m: float = option(
        8.0,
        'Maximum range; use more than the raytrace range of the costmap',
        low=0.1,
        high=1000.0,
    )
    min_height_m: float = option(
        0.1, 'Lower points, in the frame of the scan, are ground', low=-100.0, high=100.0
    )
    max_height_m: float = option(
        1.5, 'Higher points, in the frame of the scan, are overhead', low=-100.0, high=100.0
    )
    stride: int = option(2, 'Use every n-th row and column', low=1, high=64)
    min_points: int = option(
        3, 'Minimum number of points in a beam at one range (5 cm bins)', low=1, high=10_000
    )
    free_margin: float = option(
        0.2,
        'A beam is free (+Inf) if all its depths exceed max_range_m by this fraction',
        low=0.0,
        high=10.0,
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)
        for low, high in (
            ('min_angle_deg', 'max_angle_deg'),
            ('min_range_m', 'max_range_m'),
            ('min_height_m', 'max_height_m'),
        ):
            if not getattr(self, low) < getattr(self, high):
                raise ValueError(
                    f'ScanOptions.{low} must be less than {high}, got {getattr(self, low)} and '
                    f'{getattr(self, high)}'
                )
