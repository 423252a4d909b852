"""Names of a camera's topics after remapping."""

from __future__ import annotations

from rclpy.node import Node


def camera_topic(camera: str, topic: str) -> str:
    """Return the topic of a camera: 'front/image_raw'; without a camera name 'image_raw'."""
    return f'{camera}/{topic}' if camera else topic


def image_topic(node: Node, transport: str, camera: str = '') -> str:
    """Return a camera's image topic after remapping, with the suffix of its transport."""
    base = camera_topic(camera, 'image_raw')
    if transport == 'raw':
        return str(node.resolve_topic_name(base))
    plain = node.resolve_topic_name(f'{base}/compressed')
    remapped = plain != _unmapped(node, f'{base}/compressed')
    # Remapping the base topic remaps all of its transports, as in image_transport.
    return plain if remapped else f'{node.resolve_topic_name(base)}/compressed'


def camera_info_topic(node: Node, image: str, camera: str = '') -> str:
    """
    Return a camera's camera_info topic after remapping.

    Unless camera_info is remapped itself, it is in the namespace of the image topic.

    :param image: the image topic after remapping.
    """
    name = camera_topic(camera, 'camera_info')
    resolved = str(node.resolve_topic_name(name))
    if resolved != _unmapped(node, name):
        return resolved
    return f'{image.removesuffix("/compressed").rpartition("/")[0]}/camera_info'


def _unmapped(node: Node, name: str) -> str:
    return f'{node.get_namespace().rstrip("/")}/{name}'
