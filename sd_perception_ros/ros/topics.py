"""Names of a camera's topics after remapping."""

from __future__ import annotations

from rclpy.node import Node


def image_topic(node: Node, transport: str) -> str:
    """Name the image topic after remapping, with the suffix of its transport."""
    if transport == 'raw':
        return node.resolve_topic_name('image_raw')
    plain = node.resolve_topic_name('image_raw/compressed')
    remapped = plain != _unmapped(node, 'image_raw/compressed')
    # Remapping the base name moves all its transports, as with image_transport.
    return plain if remapped else f'{node.resolve_topic_name("image_raw")}/compressed'


def camera_info_topic(node: Node, image: str) -> str:
    """
    Name the camera info topic after remapping.

    :param image: the image topic after remapping; unless camera_info is remapped itself, it is
        the image's sibling.
    """
    own = node.resolve_topic_name('camera_info')
    if own != _unmapped(node, 'camera_info'):
        return own
    return f'{image.removesuffix("/compressed").rpartition("/")[0]}/camera_info'


def _unmapped(node: Node, name: str) -> str:
    return f'{node.get_namespace().rstrip("/")}/{name}'
