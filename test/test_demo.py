"""The demo: real nodes over DDS, and pictures and tables that show what really came."""

from __future__ import annotations

from pathlib import Path
import signal
import time

import cv2
import numpy as np
from PIL import Image
import pytest
from ros_helpers import PATIENCE_S, Process, running
from std_msgs.msg import Header
from tqdm import tqdm

from sd_perception_ros.cli.contact_sheet import GAP_PX, grid, LABEL_PX
from sd_perception_ros.cli.demo.birdseye import birdseye, WITHHELD
from sd_perception_ros.cli.demo.pictures import (
    CELL_PX,
    overview,
    write_jpeg,
    write_video,
)
from sd_perception_ros.cli.demo.play import one_round, Player
from sd_perception_ros.cli.demo.recording import Part, record, Recording, rooms, shortened
from sd_perception_ros.cli.demo.table import error_table, errors, poses_of, topic_table
from sd_perception_ros.cli.demo.write import pictured
from sd_perception_ros.cli.processes import Processes
from sd_perception_ros.data.formats.rooms import RoomsDataset
from sd_perception_ros.engine import Engine
from sd_perception_ros.ros.messages.people import keypoints_message
from sd_perception_ros.ros.replay.recorder import (
    cloud_values,
    INPUT,
    RecordedMessage,
    Recorder,
    topics_of,
)
from sd_perception_ros.ros.replay.sources import DEMO
from sd_perception_ros.types import Person, Poses

FRAMES = 6
PATIENTLY = ('--patience', str(PATIENCE_S))
PHOTOS = {'astronaut', 'coffee', 'chelsea', 'rocket', 'motorcycle_left'}
WIDTH, HEIGHT = 320, 240
TOPICS = topics_of(('depth', 'normals'))
FIRST = DEMO / 'frames' / '000000_0'


@pytest.fixture(scope='module')
def demo(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the demo on a few frames with a random model; return the folder with all it left."""
    folder = tmp_path_factory.mktemp('demo')
    limits = ('--frames', str(FRAMES), '--rate', '3', '--checkpoint', str(tiny_checkpoint))
    log = folder / 'printed'
    process = Process(log, 'demo', *limits, *PATIENTLY)
    assert process.wait() == 0, process.output
    return folder / 'demo_output'


def read(path: Path) -> np.ndarray:
    """Read a picture as RGB."""
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def cell(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """Cut one picture out of the rows of a room: what was found, and the truth below."""
    left = column * (WIDTH + GAP_PX)
    top = row * (LABEL_PX + HEIGHT) + LABEL_PX
    return picture[top : top + HEIGHT, left : left + WIDTH].astype(int)


def test_every_input_gets_an_image(demo: Path) -> None:
    made = {path.name for path in demo.iterdir()}
    expected = {f'photo_{name}.png' for name in PHOTOS} | {'rooms_0000.png'}
    expected |= {'overview.png', 'overview.jpg', 'overview.webp', 'rooms.mp4', 'table.txt'}
    assert made == expected | {'camera.log', 'perception.log'}


def test_the_camera_column_shows_the_sent_pixels(demo: Path) -> None:
    shown = cell(read(demo / 'rooms_0000.png'), 0, 0)
    assert (shown == read(FIRST.with_name('000000_0.image.jpg'))).all()


def test_the_true_depth_is_red_where_near_and_blue_where_far(demo: Path) -> None:
    shown = cell(read(demo / 'rooms_0000.png'), 1, 1)
    depth_mm = cv2.imread(f'{FIRST}.depth.png', cv2.IMREAD_UNCHANGED).astype(float)
    near, far = depth_mm <= np.quantile(depth_mm, 0.1), depth_mm >= np.quantile(depth_mm, 0.9)
    red_less_blue = shown[..., 0] - shown[..., 2]
    assert red_less_blue[near].min() > 100
    assert red_less_blue[far].max() < 0


def test_the_true_normals_are_those_of_the_file(demo: Path) -> None:
    shown = cell(read(demo / 'rooms_0000.png'), 1, 2)
    levels = read(FIRST.with_name('000000_0.normals.png')).astype(int)
    known = (levels != 128).any(axis=-1)
    assert known.mean() > 0.9
    # Shown are x, -y and -z; both round to whole levels.
    expected = np.stack([levels[..., 0], 256 - levels[..., 1], 256 - levels[..., 2]], -1)
    assert np.abs(shown - expected)[known].max() <= 1


def test_the_depth_and_normals_columns_equal_the_engine(demo: Path, tiny_checkpoint: Path) -> None:
    engine = Engine.load(str(tiny_checkpoint), device='cpu')
    [predictions] = engine.predict([read(FIRST.with_name('000000_0.image.jpg'))])
    row = read(demo / 'rooms_0000.png')
    for number, name in ((1, 'depth'), (2, 'normals')):
        expected = engine.tasks[name].colorize(predictions[name]).astype(int)
        assert np.abs(cell(row, 0, number) - expected).mean() < 1, name


def test_the_film_has_every_answered_frame(demo: Path) -> None:
    film = cv2.VideoCapture(str(demo / 'rooms.mp4'))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
    assert film.get(cv2.CAP_PROP_FPS) == pytest.approx(3)


def test_the_moving_overview_has_every_answered_frame_and_fits_a_readme(demo: Path) -> None:
    with Image.open(demo / 'overview.webp') as film:
        assert film.n_frames == FRAMES
        assert film.width <= 860
    assert (demo / 'overview.webp').stat().st_size <= 2_500_000


def test_the_overview_fits_a_readme(demo: Path) -> None:
    assert read(demo / 'overview.png').shape[1] <= 1600
    assert (demo / 'overview.jpg').stat().st_size <= 300_000


def test_the_table_counts_every_message(demo: Path) -> None:
    text = (demo / 'table.txt').read_text()
    assert text.strip() in (demo.parent / 'printed').read_text()
    frames, photos = text.split('photos: ')
    assert 'rooms: 6 frames played at 3 Hz, 6 recorded, 6 answered on every topic, 0 not' in frames
    assert photos.startswith('5 frames played at 1 Hz, 5 recorded, 5 answered on every topic')
    for part, count, size in ((frames, '6', '320 x 240'), (photos, '5', 'various')):
        rows = {line.split()[0]: line for line in part.splitlines() if line.startswith('  ')}
        for topic in (INPUT, *TOPICS):
            assert f' {size} ' in rows[topic]
            assert rows[topic].split()[-4] == count
    assert 'error against ground truth, 6 frames' in photos


def test_a_missing_checkpoint_is_one_error_with_the_log_of_the_node(
    tmp_path: Path,
) -> None:
    with running(tmp_path / 'printed', 'demo', '--checkpoint', 'no/such', *PATIENTLY) as process:
        assert process.wait() == 1
        assert 'error: the perception node ended with exit code 1' in process.output
        assert 'configuration failed: expected a checkpoint' in process.output
        assert 'Traceback' not in process.output


def test_a_node_that_is_not_ready_in_time_is_an_error(tmp_path: Path) -> None:
    recorder = Recorder()
    try:
        player = Player(recorder, Processes({}, tmp_path), tqdm(disable=True), 0.5)
        before = time.monotonic()
        with pytest.raises(TimeoutError, match=r'not ready: 0\.5 s without an output'):
            player.wait_for_perception()
        assert 0.5 <= time.monotonic() - before < PATIENCE_S
    finally:
        recorder.close()


def test_an_interrupt_ends_every_process_without_traceback(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ('demo', '--only', 'rooms', '--checkpoint', str(tiny_checkpoint), *PATIENTLY)
    with running(tmp_path / 'printed', *arguments) as process:
        log = tmp_path / 'demo_output' / 'camera.log'
        deadline = time.monotonic() + PATIENCE_S
        while not (log.is_file() and log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        pid = process.process.pid
        children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
        assert len(children) == 2
        assert process.end(signal.SIGINT) == 0
        assert process.output.endswith('stopped\n')
        assert 'Traceback' not in process.output + log.read_text()
        assert not [child for child in children if Path(f'/proc/{child}').exists()]


def arrivals_of(
    pictures: list[np.ndarray], period_ms: int, latency_ms: int
) -> list[RecordedMessage]:
    """Make what a recorder hears: each picture, and every output a little later."""
    came = []
    for number, picture in enumerate(pictures):
        stamp = 10**18 + number * period_ms * 10**6
        for topic in (INPUT, *TOPICS):
            late = 0 if topic == INPUT else latency_ms
            values = picture if topic == INPUT else np.full((2, 3), number, np.float32)
            values = None if topic == 'depth/points' else values
            arrival = stamp + late * 10**6
            came.append(RecordedMessage(topic, 'some/msg/Kind', stamp, arrival, (3, 2), values))
    return came


@pytest.fixture
def played(tmp_path: Path) -> tuple[Part, list[np.ndarray]]:
    """Write four grey pictures; return them and the part that plays them."""
    pictures = [np.full((2, 3, 3), 50 * number, np.uint8) for number in range(4)]
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(tmp_path / f'{number}.png'), picture)
    return Part('greys', str(tmp_path), 5.0, ['a', 'b', 'c', 'd']), pictures


def test_outputs_are_sorted_by_the_frame_of_their_stamp(played) -> None:
    part, pictures = played
    recording = record(part, arrivals_of([pictures[2], pictures[0]], 200, 30), TOPICS)
    assert recording.answered == 2
    assert sorted(recording.frames) == [0, 2]
    assert recording.frames[2]['depth/relative'][0, 0] == 0  # it came first
    assert recording.frames[0]['depth/relative'][0, 0] == 1


def test_a_frame_with_one_output_missing_is_not_answered(played) -> None:
    part, pictures = played
    came = arrivals_of(pictures, 200, 30)
    lost = next(a for a in came if a.topic == 'normals/color' and a.values[0, 0] == 1)
    recording = record(part, [arrival for arrival in came if arrival is not lost], TOPICS)
    assert sorted(recording.frames) == [0, 2, 3]
    assert 'greys: 4 frames played at 5 Hz, 4 recorded, 3 answered on every topic, 1 not' in (
        topic_table(recording)
    )


@pytest.mark.parametrize('late', [INPUT, 'depth/points'])
def test_the_recording_starts_when_every_topic_is_connected(played, late: str) -> None:
    _, pictures = played
    stamps = [10**18 + number * 200 * 10**6 for number in range(8)]
    came = [
        arrival
        for arrival in arrivals_of(pictures * 2, 200, 30)
        if arrival.topic != late or arrival.stamp_ns >= stamps[2]
    ]
    assert {arrival.stamp_ns for arrival in one_round(came, TOPICS, 4)} == set(stamps[2:6])
    assert one_round([a for a in came if a.stamp_ns < stamps[2]], TOPICS, 4) == []


def test_rate_and_latency_are_those_of_the_stamps(played) -> None:
    part, pictures = played
    header, *rows = topic_table(record(part, arrivals_of(pictures, 200, 30), TOPICS)).splitlines()[
        1:
    ]
    assert header.split()[:5] == ['topic', 'type', 'size', 'messages', 'rate']
    cells = {row.split()[0]: row.split()[1:] for row in rows}
    assert cells[INPUT] == ['some/msg/Kind', '3', 'x', '2', '4', '5.00', '0.0', '0.0']
    assert cells['depth/points'] == ['some/msg/Kind', '3', 'x', '2', '4', '5.00', '30.0', '30.0']


def test_a_silent_topic_has_a_row_without_figures(played) -> None:
    part, _ = played
    rows = topic_table(record(part, [], TOPICS)).splitlines()
    assert rows[0].endswith('0 recorded, 0 answered on every topic, 4 not')
    assert rows[-1].split() == ['normals/color', '-', '-', '0', '-', '-', '-']


def test_predictions_that_are_the_truth_have_no_error(tmp_path: Path) -> None:
    part = rooms(shortened(DEMO, tmp_path, 2), 5.0)
    assert part.names == ['rooms_0000', 'rooms_0001']
    dataset = RoomsDataset(part.truth)
    frames = {
        index: {
            # Any scale and shift will do.
            'depth/relative': dataset[index]['depth_m'][0, 0].numpy() / 20 + 0.1,
            'normals/image': dataset[index]['normals'][0].permute(1, 2, 0).numpy(),
        }
        for index in range(len(dataset))
    }
    figures = errors(Recording(part, [], frames, 2, ('depth/relative', 'normals/image')))
    assert figures['published']['depth']['abs_rel'] == pytest.approx(0, abs=1e-4)
    assert figures['published']['depth']['delta1'] == 1
    assert figures['published']['normals']['mean_deg'] < 0.1
    assert figures['baseline']['depth']['abs_rel'] > 0.2
    assert figures['baseline']['normals']['mean_deg'] > 20


def test_errors_of_predictors_are_rows_of_one_table() -> None:
    ours, baseline = {'depth': {'abs_rel': 0.125}}, {'depth': {'abs_rel': 0.5}}
    text = error_table({'published': ours, 'baseline': baseline}, 60)
    assert [line.split() for line in text.splitlines()] == [
        ['error', 'against', 'ground', 'truth,', '60', 'frames'],
        ['depth', 'abs_rel'],
        ['published', '0.125'],
        ['baseline', '0.500'],
    ]


def test_the_next_answered_frame_replaces_a_dropped_one() -> None:
    assert pictured([n for n in range(26) if n != 10], 10) == [0, 11, 20]
    assert pictured([3], 10) == [3]
    assert pictured([], 10) == []


def test_images_in_a_row_keep_their_pixels() -> None:
    red, blue = np.zeros((20, 50, 3), np.uint8), np.zeros((20, 70, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    row = grid([[('red', red), ('blue', blue)]])
    assert row.shape == (LABEL_PX + 20, 50 + GAP_PX + 70, 3)
    assert (row[LABEL_PX:, :50] == red).all()
    assert (row[LABEL_PX:, -70:] == blue).all()
    assert row[:LABEL_PX, :50].max() > 150  # there is a label


def test_an_overview_has_room_for_photographs_only() -> None:
    tile = ('camera', np.full((30, 60, 3), 200, np.uint8))
    sheet = overview([], [[tile, tile, tile]] * 2)
    width = CELL_PX[0]
    assert sheet.shape[1] == 3 * width + 2 * GAP_PX
    assert overview([[tile] * 5], [[tile] * 3] * 2).shape[1] == 5 * width + 4 * GAP_PX


def test_obstacles_seen_from_above_are_right_where_the_prediction_is_the_truth() -> None:
    """The scale comes from the camera's height; a depth that fits no scale is withheld."""
    sample = RoomsDataset(DEMO / 'frames')[0]
    depth_m = sample['depth_m'][0, 0].numpy()
    values = {
        'depth/relative': depth_m / 20 + np.float32(0.1),
        'normals/image': sample['normals'][0].permute(1, 2, 0).numpy(),
        'segmentation/labels': sample['labels'][0, 0].numpy().astype(np.uint8),
    }
    found, true = birdseye(values, depth_m, Path(f'{FIRST}.camera.json'))
    assert found.shape == true.shape == (HEIGHT, WIDTH, 3)
    white, phantom = ((found == color).all(-1).sum() for color in ((225,) * 3, (235, 70, 50)))
    assert white > 0.8 * (true == (225,) * 3).all(-1).sum() > 0
    assert phantom < 0.05 * white
    rng = np.random.default_rng(0)
    values['depth/relative'] = rng.permutation(values['depth/relative'].ravel()).reshape(240, 320)
    withheld, _ = birdseye(values, depth_m, Path(f'{FIRST}.camera.json'))
    assert (withheld == WITHHELD).all()


def test_a_jpeg_gets_smaller_until_it_fits(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    write_jpeg(tmp_path / 'large.jpg', noise, 10**6)
    write_jpeg(tmp_path / 'small.jpg', noise, 30_000)
    assert (tmp_path / 'small.jpg').stat().st_size <= 30_000
    assert (tmp_path / 'large.jpg').stat().st_size > 30_000


def test_a_film_has_the_colours_of_its_images(tmp_path: Path) -> None:
    red = np.zeros((33, 65, 3), np.uint8)  # an odd size is cut by a pixel
    red[..., 0] = 200
    path = write_video(tmp_path / 'film', [red] * 3, 5.0)
    ok, frame = cv2.VideoCapture(str(path)).read()
    assert ok
    assert frame.shape == (32, 64, 3)
    np.testing.assert_allclose(frame.mean(axis=(0, 1)), [0, 0, 200], atol=12)


def test_without_images_there_is_no_film(tmp_path: Path) -> None:
    assert write_video(tmp_path / 'film', [], 5.0) is None
    assert list(tmp_path.iterdir()) == []


def test_keypoints_are_converted_back_to_people() -> None:
    joints = np.full((17, 3), np.nan, np.float32)
    joints[:, 2] = 0
    joints[5], joints[16] = (10.5, 20.25, 0.75), (30, 40, 0.25)
    person = Person(joints, np.isfinite(joints[:, 0]), 0.5)
    message = keypoints_message(Poses((person, person), 48, 64), None, Header())
    found = poses_of(cloud_values(message), 48, 64)
    assert (len(found.people), found.height, found.width) == (2, 48, 64)
    for again in found.people:
        np.testing.assert_array_equal(again.joints, joints)
        np.testing.assert_array_equal(again.visible, person.visible)
    nobody = keypoints_message(Poses((), 48, 64), None, Header())
    assert poses_of(cloud_values(nobody), 48, 64).people == ()
