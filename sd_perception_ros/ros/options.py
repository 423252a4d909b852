"""Options of the nodes. Names of ROS parameters are the names of these fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
import re

from sd_perception_ros.checkpoint.hub import DEFAULT_TIMEOUT_S
from sd_perception_ros.config import check, EngineConfig, group, option
from sd_perception_ros.metric_depth.options import ScaleOptions
from sd_perception_ros.people.options import TopDownOptions
from sd_perception_ros.ros.output_options import PointsOptions, ScanOptions

MIN_RATE_HZ, MAX_RATE_HZ = 0.001, 1000.0
# Parameters of the previous release: old name, new name.
OLD_PARAMETERS = {
    'depth.points.labels': 'depth.points.add_label_field',
    'depth.points.max_jump': 'depth.points.max_relative_jump',
    'depth.points.without': 'depth.points.exclude_classes',
    'depth.scale.space': 'depth.scale.from_task',
    'pose.enabled': 'human_pose.enabled',
    'pose.marker_lifetime_s': 'human_pose.marker_lifetime_s',
    'pose.plane_distance_m': 'human_pose.plane_distance_m',
    'reliability': 'qos_reliability',
    'scan.frame': 'scan.frame_id',
    'scan.margin': 'scan.free_margin',
}
_NAME = re.compile(r'[A-Za-z][A-Za-z0-9_]*')


@dataclass(frozen=True)
class NodeOptions:
    """Lifecycle, diagnostics and watchdog of the perception node."""

    autostart: bool = option(
        True, 'Configure and activate at start; false: wait for lifecycle transitions'
    )
    diagnostics_rate_hz: float = option(1.0, 'Rate of /diagnostics', low=0.1, high=100.0)
    watchdog_s: float = option(
        30.0,
        'Processing a frame for longer is an ERROR in /diagnostics and in the log; 0: off',
        low=0.0,
        high=86_400.0,
    )
    watchdog_exit_s: float = option(
        120.0,
        'Processing a frame for longer ends the process with exit code 3, so that a supervisor '
        '(respawn, systemd) restarts it; 0: never',
        low=0.0,
        high=86_400.0,
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


@dataclass(frozen=True)
class LoadingOptions:
    """What may be opened to load a model, and how long the network may take."""

    checkpoint_folders: list[str] = option(
        [],
        'Checkpoints are loaded only from these folders, for example [/opt/models], from this '
        'package and from the hub; empty: from any folder. Read-only, so that other programs in '
        'the network cannot make the node open other files',
    )
    network_timeout_s: float = option(
        DEFAULT_TIMEOUT_S,
        'Maximum wait for an answer of the hub, and for the next bytes of a download',
        low=0.1,
        high=600.0,
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


@dataclass(frozen=True)
class InputOptions:
    """Cameras, and which of their frames are processed."""

    cameras: list[str] = option(
        [],
        'Names of several cameras, processed as one batch, for example [front, rear]: '
        'front/image_raw gives front/depth/relative; empty: one camera without a name',
    )
    image_transport: str = option(
        'raw',
        'raw: subscribe to image_raw; compressed: to image_raw/compressed',
        choices=('raw', 'compressed'),
    )
    qos_reliability: str = option(
        'auto',
        'Reliability of the image and camera_info subscriptions; auto: that of the publisher',
        choices=('auto', 'reliable', 'best_effort'),
    )
    max_frame_age_s: float = option(
        0.0, 'Drop frames with an older stamp; 0: no limit', low=0.0, high=3600.0
    )
    drop_duplicate_stamps: bool = option(
        True, 'Drop a frame whose stamp is not later than that of the previous frame'
    )
    rectify: bool = option(False, 'Rectify each image with its camera_info')
    max_pixels: int = option(50_000_000, 'Refuse larger images', low=1, high=1_000_000_000)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)
        wrong = [name for name in self.cameras if not _NAME.fullmatch(name)]
        if wrong or len(set(self.cameras)) < len(self.cameras):
            raise ValueError(
                'InputOptions.cameras must be unique names of letters, digits and underscores, '
                f'such as [front, rear], got {self.cameras}'
            )


@dataclass(frozen=True)
class TaskOptions:
    """Options of every task."""

    enabled: bool = option(
        True, 'Run this task if the model has it; can be changed while the node runs'
    )
    checkpoint: str = option(
        '', 'Separate checkpoint of this task: a name, folder or file; empty: that of the node'
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


@dataclass(frozen=True)
class DepthOptions(TaskOptions):
    """Metric depth and the point clouds."""

    scale: ScaleOptions = group(ScaleOptions)
    encoding: str = option(
        '32FC1',
        'Encoding of depth/image_rect. 32FC1: metres. 16UC1: millimetres, 0 is unknown',
        choices=('32FC1', '16UC1'),
    )
    min_range_m: float = option(0.0, 'Depth below this is -Inf (REP 117)', low=0.0, high=1000.0)
    max_range_m: float = option(
        100.0,
        'Depth above this is +Inf (REP 117), without a point in the cloud',
        low=0.01,
        high=100_000.0,
    )
    points: PointsOptions = group(PointsOptions)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)
        if not self.min_range_m < self.max_range_m:
            raise ValueError(
                f'DepthOptions.min_range_m must be less than max_range_m, got '
                f'{self.min_range_m} and {self.max_range_m}'
            )


@dataclass(frozen=True)
class SegmentationOptions(TaskOptions):
    """The segmentation mask."""

    mask_classes: list[str] = option(
        ['person'], 'Classes that are white in segmentation/mask, by name; empty: no mask'
    )


@dataclass(frozen=True)
class HumanPoseOptions(TaskOptions):
    """Markers of people."""

    marker_lifetime_s: float = option(0.5, 'Lifetime of markers; 0: unlimited', low=0, high=3600)
    plane_distance_m: float = option(
        1.0,
        'Distance of the plane on which markers are drawn without metric depth',
        low=0.01,
        high=1e4,
    )
    top_down: TopDownOptions = group(TopDownOptions)


@dataclass(frozen=True)
class OutputOptions:
    """Outputs: one group of options for each task, and one for the scan."""

    depth: DepthOptions = group(DepthOptions)
    scan: ScanOptions = group(ScanOptions)
    disparity: TaskOptions = group(TaskOptions)
    normals: TaskOptions = group(TaskOptions)
    segmentation: SegmentationOptions = group(SegmentationOptions)
    foreground: TaskOptions = group(TaskOptions)
    matting: TaskOptions = group(TaskOptions)
    human_pose: HumanPoseOptions = group(HumanPoseOptions)

    def checkpoints(self) -> dict[str, str]:
        """Return {task: checkpoint} of the tasks with a separate checkpoint."""
        groups = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            task: group.checkpoint
            for task, group in groups.items()
            if isinstance(group, TaskOptions) and group.checkpoint
        }


# When the perception node uses a changed parameter: the soonest first.
CHANGES = {
    'frame': 'used from the next frame on',
    'reload': 'used at the next configure or ~/reload_model; until then a warning in the log',
    'configure': 'refused while the node is configured; used at the next configure',
    'start': 'read-only; set it at the start of the node',
}
_AT_START = ('autostart', 'checkpoint_folders')
_AT_CONFIGURE = ('cameras',)
# Groups and last parts of the names of parameters that the model is loaded with.
_OF_MODEL = ('human_pose.top_down', 'checkpoint')


def change_of(name: str) -> str:
    """Return when the perception node uses a change of a parameter: a key of `CHANGES`."""
    group, _, last = name.rpartition('.')
    if name in _AT_START:
        return 'start'
    if name in _AT_CONFIGURE:
        return 'configure'
    is_of_model = name in {f.name for cls in (EngineConfig, LoadingOptions) for f in fields(cls)}
    return 'reload' if is_of_model or group in _OF_MODEL or last in _OF_MODEL else 'frame'


def when_used(names: Iterable[str]) -> str:
    """Return when all of some changed parameters are used; the reply to `ros2 param set`."""
    return CHANGES[max(map(change_of, names), key=list(CHANGES).index, default='frame')]


@dataclass(frozen=True)
class CameraOptions:
    """Source and published images of the camera node."""

    source: str = option(
        'demo',
        'A folder of images, a video file, a sequence folder (with sequence.json), '
        "'demo' (the bundled sequence) or 'skimage' (photographs of the scikit-image package)",
    )
    rate_hz: float = option(
        0.0, 'Frames per second; 0: rate of the source, else 10', low=0.0, high=MAX_RATE_HZ
    )
    loop: bool = option(True, 'Start again after the last frame; false: end the node')
    width: int = option(0, 'Width of the published images; 0: of the source', low=0, high=16384)
    height: int = option(0, 'Height of the published images; 0: of the source', low=0, high=16384)
    frame_id: str = option(
        '', "frame_id of the messages; empty: that of the source, else 'camera_optical_frame'"
    )
    encoding: str = option('rgb8', 'Encoding of image_raw', choices=('rgb8', 'bgr8', 'mono8'))
    horizontal_fov_deg: float = option(
        60.0, 'Field of view of a source without intrinsics', low=1.0, high=179.0
    )
    compressed: bool = option(False, 'Also publish image_raw/compressed (JPEG)')
    wait_for_subscribers: bool = option(
        False, 'Wait for a subscriber of the images before the first frame'
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)
        if not self.source:
            raise ValueError(f'CameraOptions.source is empty; {_SOURCE_HELP}')
        if 0 < self.rate_hz < MIN_RATE_HZ:
            raise ValueError(
                f'CameraOptions.rate_hz must be at least {MIN_RATE_HZ}, or 0 for the rate of the '
                f'source, got {self.rate_hz}'
            )


_SOURCE_HELP = "name a folder, a video file, or one of the words 'demo' and 'skimage'"

# Options of each node, under the names of their commands.
NODES: dict[str, tuple[type, ...]] = {
    'perception': (NodeOptions, EngineConfig, LoadingOptions, InputOptions, OutputOptions),
    'camera': (CameraOptions,),
}
