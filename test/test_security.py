"""The SROS2 policy allows what the node does in the graph of ROS, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from models import save_tiny
import pytest
from ros_helpers import Peer, Process, ROOT, ros_arguments, running

from sd_perception_ros.ros.output.outputs import MODEL_OUTPUTS, OUTPUTS
from sd_perception_ros.tasks import TASKS

POLICY = ROOT / 'config' / 'sros2' / 'perception.policy.xml'
# Only with other parameters than those of the test, or with packages that it lacks.
OTHERWISE = {
    '/clock',
    '/detections',
    '/image_raw/compressed',
    '/parameter_events',
    '/reference/scan',
    '/tf',
    '/tf_static',
}
CHANGES_SOMETHING = {
    '/perception/change_state',
    '/perception/enable',
    '/perception/reload_model',
    '/perception/set_parameters',
    '/perception/set_parameters_atomically',
}


def allowed(enclave: str, kind: str, verb: str) -> set[str]:
    """Return the full names that an enclave of the policy may publish, request and so on."""
    root = ElementTree.parse(POLICY).getroot()
    assert root.get('version') == '0.2.0'
    [profile] = root.findall(f".//enclave[@path='{enclave}']/profiles/profile")
    assert profile.get('ns') == '/'
    private = f'/{profile.get("node")}/'
    names = {
        element.text or ''
        for group in profile.findall(f"{kind}s[@{verb}='ALLOW']")
        for element in group.findall(kind)
    }
    full = (name.replace('~/', private) for name in names)
    return {name if name.startswith('/') else f'/{name}' for name in full}


@pytest.fixture(scope='module')
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp('security')
    arguments = ros_arguments(
        checkpoint=save_tiny(folder / 'model', dict.fromkeys(TASKS, 'light')),
        device='cpu',
        depth__scale__source='depth',
        scan__frame_id='base_link',
    )
    with running(folder / 'log', 'perception', *arguments) as process:
        process.wait_for_output('subscribed to /image_raw')
        yield process


def test_the_policy_covers_the_graph_of_the_running_node(node: Process, peer: Peer) -> None:
    me = ('perception', '/')
    wanted = {f'/{output.topic}' for output in (*OUTPUTS, *MODEL_OUTPUTS)}

    def published() -> set[str]:
        return {name for name, _ in peer.node.get_publisher_names_and_types_by_node(*me)}

    def served() -> set[str]:
        return {name for name, _ in peer.node.get_service_names_and_types_by_node(*me)}

    assert peer.until(lambda: me in peer.node.get_node_names_and_namespaces())
    may_publish = allowed('/perception', 'topic', 'publish')
    assert peer.until(lambda: me in peer.node.get_node_names_and_namespaces())
    may_publish = allowed('/perception', 'topic', 'publish')
    assert peer.until(lambda: wanted <= published())
    peer.until(lambda: published() == may_publish, 10.0)
    assert published() == may_publish
    may_reply = allowed('/perception', 'service', 'reply')
    peer.until(lambda: served() == may_reply, 10.0)
    assert served() == may_reply
    subscribed = {name for name, _ in peer.node.get_subscriber_names_and_types_by_node(*me)}
    may_subscribe = allowed('/perception', 'topic', 'subscribe')
    assert subscribed <= may_subscribe
    assert may_subscribe - subscribed <= OTHERWISE
    assert not peer.node.get_client_names_and_types_by_node(*me)


def test_a_viewer_changes_nothing_and_an_operator_can() -> None:
    outputs = {f'/{output.topic}' for output in (*OUTPUTS, *MODEL_OUTPUTS)}
    served = allowed('/perception', 'service', 'reply')
    for enclave in ('/viewer', '/operator'):
        assert outputs | {'/diagnostics'} <= allowed(enclave, 'topic', 'subscribe')
        assert allowed(enclave, 'topic', 'publish') == {'/parameter_events', '/rosout'}
        assert allowed(enclave, 'service', 'request') <= served
    assert not allowed('/viewer', 'service', 'request') & CHANGES_SOMETHING
    assert allowed('/operator', 'service', 'request') >= CHANGES_SOMETHING
