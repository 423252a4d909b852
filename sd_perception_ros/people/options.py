"""Options of top-down poses. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from sd_perception_ros.config import check, option

AUTO, HUMAN_POSE, SEGMENTATION, DETECTIONS = 'auto', 'human_pose', 'segmentation', 'detections'


@dataclass(frozen=True)
class TopDownOptions:
    """Human pose from a crop of each person (top-down)."""

    second_look: bool = option(
        False,
        'Run human_pose again on a crop of each person; no effect for a checkpoint that always '
        'reads crops (SDPose)',
    )
    boxes: str = option(
        AUTO,
        'Source of the boxes around people. human_pose: joints predicted from the whole image; '
        'segmentation: connected pixels of people, split between the people of human_pose if the '
        'checkpoint has it; detections: a vision_msgs/Detection2DArray topic; auto: the first of '
        'these that is available',
        choices=(AUTO, HUMAN_POSE, SEGMENTATION, DETECTIONS),
    )
    max_people: int = option(
        8,
        'Maximum number of crops in a frame, people with the highest scores first',
        low=1,
        high=100,
    )
    second_look_max_cost: float = option(
        4.0,
        'Maximum cost of the second looks at an image, as a multiple of the pixels that the '
        'network reads for the image itself: a crop of 192 x 256 px costs as much as an image '
        'of 256 x 192 px, with flip_test twice as much. People with high scores come first; '
        'if a single crop costs more, there are none',
        low=0.0,
        high=100.0,
    )
    flip_test: bool = option(
        False, 'Average the heat maps of each crop and of its mirror image, at twice the cost'
    )
    crop_height_px: int = option(
        0,
        'Height of a crop for a checkpoint that reads crops, a multiple of 32; its width is three '
        'quarters of it; 0: value of the checkpoint. A second look uses long_side_px instead',
        low=0,
        high=4096,
    )
    min_box_score: float = option(
        0.3, 'Detections with a lower score are ignored', low=0.0, high=1.0
    )
    detection_classes: list[str] = option(
        ['person'],
        "class_id of people in the detections, such as ['0'] for a YOLO detector of COCO; a "
        'detection without a class counts as a person',
    )
    max_offset_s: float = option(
        0.2, 'Maximum difference of the stamps of an image and its detections', low=0.0, high=60.0
    )
    max_wait_s: float = option(
        0.1,
        'Maximum time that an image waits for detections with its own or a later stamp; then the '
        'nearest ones are used. Images wait only while human_pose has subscribers and detections '
        'a publisher; all outputs of the image wait. 0: no waiting',
        low=0.0,
        high=10.0,
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)
        if self.crop_height_px % 32:
            raise ValueError(
                f'TopDownOptions.crop_height_px must be a multiple of 32, got '
                f'{self.crop_height_px}'
            )
