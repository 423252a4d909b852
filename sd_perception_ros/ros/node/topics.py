"""Names of a camera's topics after remapping."""

from __future__ import annotations

from rclpy.node import Node


def camera_topic(camera: str, topic: str) -> str:
    """Return a topic of one of several cameras; a camera without a name has the topic itself."""
    return f'{camera}/{topic}' if camera else topic


def image_topic(node: Node, transport: str, camera: str = '') -> str:
    """Name a camera's image topic after remapping, with the suffix of its transport."""
    base = camera_topic(camera, 'image_raw')
    if transport == 'raw':
        return str(node.resolve_topic_name(base))
    plain = node.resolve_topic_name(f'{base}/compressed')
    remapped = plain != _unmapped(node, f'{base}/compressed')
    # Remapping the base name moves all its transports, as with image_transport.
    return plain if remapped else f'{node.resolve_topic_name(base)}/compressed'


def camera_info_topic(node: Node, image: str, camera: str = '') -> str:
    """
    Name a camera's info topic after remapping.

    :param image: the image topic after remapping; unless camera_info is remapped itself, it is
        the image's sibling.
    """
    name = camera_topic(camera, 'camera_info')
    own = str(node.resolve_topic_name(name))
    if own != _unmapped(node, name):
        return own
    return f'{image.removesuffix("/compressed").rpartition("/")[0]}/camera_info'


def _unmapped(node: Node, name: str) -> str:
    return f'{node.get_namespace().rstrip("/")}/{name}'
