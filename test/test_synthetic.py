"""Tests of the synthetic rooms: the ground truth is exact, the bytes are the same every time."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
import zipfile

import cv2
import numpy as np
import pytest

from sd_perception_ros.synthetic import textures
from sd_perception_ros.synthetic.assets import attribution, read_catalogs
from sd_perception_ros.synthetic.dataset import (
    frame_key,
    make_library,
    Recipe,
    write_dataset,
)
from sd_perception_ros.synthetic.frames import FRAME_PARTS
from sd_perception_ros.synthetic.items import KINDS
from sd_perception_ros.synthetic.layout import Stage
from sd_perception_ros.synthetic.library import Catalog
from sd_perception_ros.synthetic.meshes import box, cylinder, Material, quad
from sd_perception_ros.synthetic.obj import load_mesh
from sd_perception_ros.synthetic.render import (
    develop,
    exposure,
    ground_truth,
    GroundTruth,
    Look,
    MAX_DEPTH_M,
    radiance,
)
from sd_perception_ros.synthetic.rooms import make_room
from sd_perception_ros.synthetic.scene import (
    FLOOR,
    FURNITURE,
    Light,
    Part,
    Scene,
    SKY,
    View,
    WALL,
)
from sd_perception_ros.synthetic.sequence import write_sequence
from sd_perception_ros.synthetic.solids import Solids
from sd_perception_ros.synthetic.views import is_clear, is_worth_seeing, pinhole, random_view
from sd_perception_ros.synthetic.yards import make_yard

GRAY = Material((0.5, 0.5, 0.5))
DEMO = Path(__file__).parents[1] / 'sd_perception_ros' / 'assets' / 'demo_sequence'


def scene_of(*parts, lights=()):
    """Build a scene with an even light and a blue sky."""
    even = (np.full(3, 0.5, np.float32), np.full(3, 0.5, np.float32))

    def blue(direction):
        return np.broadcast_to(np.array([0.1, 0.3, 0.9], np.float32), direction.shape)

    return Scene([Part(*part) for part in parts], lights, even, blue, 1.0)


def view_at(position, yaw_deg=0.0, pitch_deg=0.0, roll_deg=0.0, width=41, height=31):
    """Look along +y unless told otherwise."""
    camera = pinhole(60.0, width, height)
    return View(np.array(position, np.float32), yaw_deg, pitch_deg, roll_deg, camera)


def wall_at(y_m, half_m=50.0):
    """Build a wall across +y."""
    low, high = -half_m, half_m
    return quad([(low, y_m, low), (high, y_m, low), (high, y_m, high), (low, y_m, high)], GRAY)


def ground(half_m=500.0):
    """Build a floor at z = 0."""
    low, high = -half_m, half_m
    return quad([(low, low, 0), (high, low, 0), (high, high, 0), (low, high, 0)], GRAY)


def optical_points(truth, camera):
    """Return the rays and the points (H, W, 3) of a ground truth."""
    v, u = np.mgrid[0 : camera.height, 0 : camera.width]
    x, y = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
    rays = np.stack([x, y, np.ones_like(x)], -1)
    depth_m = np.where(np.isfinite(truth.depth_m), truth.depth_m, np.nan)
    return rays, rays * depth_m[..., None]


def check_normals(truth, camera):
    """Return the median angle, degrees, between the normals and those of the unprojected depth."""
    rays, points = optical_points(truth, camera)
    known = np.isfinite(truth.depth_m)
    assert ((truth.normals * rays).sum(-1)[known] < 0.03).all()  # 8-bit files allow a little
    with np.errstate(invalid='ignore'):
        across = points[1:-1, 2:] - points[1:-1, :-2]
        down = points[2:, 1:-1] - points[:-2, 1:-1]
        expected = np.cross(down, across)
        expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
        given = truth.normals / np.linalg.norm(truth.normals, axis=-1, keepdims=True)
        cosine = (expected * given[1:-1, 1:-1]).sum(-1)
    inside = np.isfinite(cosine)
    assert inside.mean() > 0.2
    return math.degrees(math.acos(min(1.0, float(np.median(cosine[inside])))))


def read_frame(folder, key, image='image.png'):
    """Read a frame from its files."""
    pictures = {
        name: cv2.imread(str(folder / f'{key}.{name}'), cv2.IMREAD_UNCHANGED)
        for name in (image, 'depth.png', 'normals.png', 'semantic.png')
    }
    millimetres = pictures['depth.png'].astype(np.float32)
    depth_m = np.where(millimetres == 65535, np.inf, millimetres / 1000)
    normals = (pictures['normals.png'][..., ::-1].astype(np.float32) - 128) / 127
    camera = json.loads((folder / f'{key}.camera.json').read_text())
    truth = GroundTruth(depth_m, normals, pictures['semantic.png'])
    return pictures[image], truth, camera


def camera_of(described):
    """Return the pinhole of a camera.json."""
    made = pinhole(60, described['width'], described['height'])
    return type(made)(**{name: described[name] for name in made.__dict__})


@pytest.fixture(scope='module')
def solids(tmp_path_factory):
    """Render four scenes of plain solids with one worker."""
    folder = tmp_path_factory.mktemp('solids')
    recipe = Recipe(4, 2, 3, 64, 48, 'none', False)
    assert list(write_dataset(recipe, folder, folder / 'cache', 1)) == [0, 1, 2, 3]
    return recipe, folder


def keys_of(recipe):
    return [frame_key(s, v) for s in range(recipe.scenes) for v in range(recipe.views)]


def test_a_wall_five_metres_ahead_is_five_metres_deep_everywhere():
    truth = ground_truth(scene_of((wall_at(5.0), WALL)), view_at((0, 0, 1)))
    np.testing.assert_allclose(truth.depth_m, 5.0, rtol=1e-5)
    np.testing.assert_allclose(truth.normals, np.broadcast_to([0, 0, -1], (31, 41, 3)), atol=1e-6)
    assert (truth.semantic == WALL).all()


def test_a_floor_pixel_lies_at_the_camera_height_below_the_camera():
    view = view_at((3, 4, 1.25), yaw_deg=77, pitch_deg=20, roll_deg=3)
    truth = ground_truth(scene_of((ground(), FLOOR)), view)
    _, points = optical_points(truth, view.camera)
    world = points @ view.rotation().T
    floor = truth.semantic == FLOOR
    assert floor.mean() > 0.5
    np.testing.assert_allclose(world[floor][:, 2], -1.25, atol=1e-3)


def test_a_positive_pitch_looks_down_and_a_positive_yaw_turns_right():
    down = view_at((0, 0, 1), pitch_deg=30).rotation()[:, 2]
    np.testing.assert_allclose(down, [0, math.cos(math.pi / 6), -0.5], atol=1e-6)
    right = view_at((0, 0, 1), yaw_deg=90).rotation()[:, 2]
    np.testing.assert_allclose(right, [1, 0, 0], atol=1e-6)


def test_a_positive_roll_turns_the_camera_clockwise():
    # Its right side dips, so its own right axis points down into the world.
    assert view_at((0, 0, 1), roll_deg=10).rotation()[2, 0] == pytest.approx(
        -math.sin(0.1745), 1e-3
    )


def test_the_optical_axes_are_right_handed():
    rotation = view_at((0, 0, 1), 33, 12, 5).rotation()
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.cross(rotation[:, 0], rotation[:, 1]), rotation[:, 2], atol=1e-6)


def test_a_90_degree_camera_sees_as_far_sideways_as_ahead():
    camera = pinhole(90.0, 100, 80)
    assert camera.fx == pytest.approx(50.0)
    assert (camera.cx, camera.cy) == (49.5, 39.5)


def test_a_surface_seen_from_behind_still_faces_the_camera():
    mesh = wall_at(5.0)
    flipped = quad([(50, 5, -50), (-50, 5, -50), (-50, 5, 50), (50, 5, 50)], GRAY)
    for wall in (mesh, flipped):
        truth = ground_truth(scene_of((wall, WALL)), view_at((0, 0, 1)))
        seen = np.isfinite(truth.depth_m)
        assert (truth.normals[seen][:, 2] < -0.99).all()


def test_smooth_normals_that_point_far_from_their_face_are_not_used():
    wall = wall_at(5.0)
    wall.normals[:] = np.array([1, -1, 0]) / math.sqrt(2)  # 45 degrees off, as on box corners
    truth = ground_truth(scene_of((wall, WALL)), view_at((0, 0, 1)))
    np.testing.assert_allclose(truth.normals, np.broadcast_to([0, 0, -1], (31, 41, 3)), atol=1e-6)


def test_sky_is_infinitely_far_and_has_no_normal():
    truth = ground_truth(scene_of((ground(), FLOOR)), view_at((0, 0, 1)))
    sky = truth.semantic == SKY
    assert 0.4 < sky.mean() < 0.6  # the horizon lies in the middle
    assert np.isposinf(truth.depth_m[sky]).all()
    assert (truth.normals[sky] == 0).all()
    assert np.isfinite(truth.depth_m[~sky]).all()


def test_surfaces_out_of_range_are_sky():
    truth = ground_truth(scene_of((wall_at(MAX_DEPTH_M + 1, 200), WALL)), view_at((0, 0, 1)))
    assert (truth.semantic == SKY).all()
    assert np.isposinf(truth.depth_m).all()


def test_transparent_parts_of_leaves_are_seen_through():
    hole = np.full((4, 4, 4), 255, np.uint8)
    hole[:, :, 3] = 0
    leaf = quad([(-9, 2, -9), (9, 2, -9), (9, 2, 9), (-9, 2, 9)], Material((1, 1, 1), hole))
    truth = ground_truth(scene_of((leaf, FURNITURE), (wall_at(5.0), WALL)), view_at((0, 0, 1)))
    np.testing.assert_allclose(truth.depth_m, 5.0, rtol=1e-3)


def test_a_box_casts_a_shadow():
    lamp = Light(np.array([0, 3, 4], np.float32), np.full(3, 20, np.float32), 0.05)
    board = box((1, 1, 0.1), GRAY, (0, 3, 1))
    view = view_at((0, 0, 0.6), pitch_deg=math.degrees(math.atan2(0.6, 3)))
    rng = np.random.default_rng(0)
    bare = radiance(scene_of((ground(), FLOOR), lights=[lamp]), view, rng).light
    dark = radiance(
        scene_of((ground(), FLOOR), (board, FURNITURE), lights=[lamp]), view, rng
    ).light
    under = (15, 20)  # the middle: the floor 3 m ahead
    assert dark[under].mean() < 0.7 * bare[under].mean()


def test_a_cylinder_is_round_and_stands_on_the_floor():
    mesh = cylinder(0.5, 2.0, GRAY)
    corners = mesh.points.reshape(-1, 3)
    assert corners[:, 2].min() == 0
    assert corners[:, 2].max() == 2
    side = np.abs(mesh.normals.reshape(-1, 3)[:, 2]) < 0.5
    np.testing.assert_allclose(np.linalg.norm(corners[side][:, :2], axis=1), 0.5, rtol=1e-5)


@pytest.mark.parametrize('pattern', [*textures.FLOORS, *textures.WALLS, *textures.GROUNDS])
def test_a_texture_has_a_valid_size_and_colour(pattern):
    picture = pattern(np.random.default_rng(4), np.array([0.5, 0.4, 0.3], np.float32))
    assert picture.shape == (256, 256, 3)
    assert np.isfinite(picture).all()
    assert 0.05 < picture.mean() < 0.95


def test_noise_tiles_without_a_seam():
    field = textures.noise(np.random.default_rng(0), 4, 3)
    inside = np.abs(np.diff(field, axis=1)).max()
    assert np.abs(field[:, 0] - field[:, -1]).max() < 1.5 * inside


def test_the_image_has_the_brightness_of_the_look():
    look = Look(0.2, np.ones(3, np.float32), 1.0, 1.0, 0.0, 0.0)
    light = np.full((4, 4, 3), 7.0, np.float32)
    image = develop(light, look, exposure(light, look), np.random.default_rng(0))
    expected = (0.2 / (1 + 0.35 * 0.2)) ** (1 / 2.2) * 255
    np.testing.assert_allclose(image, expected, atol=1)


@pytest.mark.parametrize('make', [make_room, make_yard])
def test_normals_agree_with_unprojected_depth(make):
    rng = np.random.default_rng(11)
    stage = make(rng, Solids())
    view = random_view(rng, stage, 128, 96)
    truth = ground_truth(stage.scene, view)
    assert check_normals(truth, view.camera) < 1.0


@pytest.mark.parametrize('make', [make_room, make_yard])
def test_the_camera_stands_in_free_space_and_within_the_promised_limits(make):
    rng = np.random.default_rng(12)
    stage = dataclasses.replace(make(rng, Solids()), details=())
    for _ in range(10):
        view = random_view(rng, stage, 64, 48)
        x, y, z = map(float, view.position_m)
        assert is_clear(stage, x, y, 0.25)
        assert 0.2 <= z <= 1.9
        fov_deg = 2 * math.degrees(math.atan(32 / view.camera.fx))
        assert 28 <= fov_deg <= 90


def test_some_views_show_a_small_object_from_near():
    vase = box((0.1, 0.1, 0.3), textures.plain(np.full(3, 0.5)), (1.0, 0.0, 0.8))
    table = box((1.0, 1.0, 0.8), textures.plain(np.full(3, 0.3)), (1.0, 0.0, 0.0))
    scene = scene_of((vase, FURNITURE), (table, FURNITURE), (ground(), FLOOR))
    stage = Stage(scene, (-3, -3, 3, 3), ((0.5, -0.5, 1.5, 0.5),), (), (), (), ((1.0, 0.0, 0.95),))
    rng = np.random.default_rng(3)
    from_vase_m = [
        math.dist(view.position_m, (1.0, 0.0, 0.95))
        for view in (random_view(rng, stage, 64, 48) for _ in range(30))
        if view is not None
    ]
    near = [distance for distance in from_vase_m if distance < 0.95]
    assert near  # beside the table one stands at least 1 m away
    assert min(near) >= 0.4 - 1e-3


def test_a_view_of_nothing_but_a_near_wall_is_refused():
    assert not is_worth_seeing(ground_truth(scene_of((wall_at(5.0), WALL)), view_at((0, 0, 1))))
    near = scene_of((wall_at(0.3), WALL), (ground(), FLOOR))
    assert not is_worth_seeing(ground_truth(near, view_at((0, 0, 1), pitch_deg=20)))


def test_written_frames_have_every_part_and_keep_the_ground_truth(solids):
    recipe, folder = solids
    for key in keys_of(recipe):
        assert all((folder / f'{key}.{part}').exists() for part in FRAME_PARTS)
        image, truth, described = read_frame(folder, key)
        assert image.shape == (48, 64, 3)
        assert image.std() > 4
        known = np.isfinite(truth.depth_m)
        assert (truth.depth_m[known] > 0.05).all()
        assert (truth.depth_m[known] <= MAX_DEPTH_M).all()
        length = np.linalg.norm(truth.normals, axis=-1)
        np.testing.assert_allclose(length, known, atol=0.01)  # (128, 128, 128) where unknown
        np.testing.assert_array_equal(truth.semantic == SKY, ~known)
        check_normals(truth, camera_of(described))


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(solids, tmp_path):
    recipe, folder = solids
    assert sorted(write_dataset(recipe, tmp_path, tmp_path / 'cache', 2)) == [0, 1, 2, 3]
    for key in keys_of(recipe):
        for part in FRAME_PARTS:
            name = f'{key}.{part}'
            assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_another_seed_gives_other_images(solids, tmp_path):
    _, folder = solids
    list(write_dataset(Recipe(1, 1, 4, 64, 48, 'none', False), tmp_path, tmp_path, 1))
    first = frame_key(0, 0) + '.depth.png'
    assert (tmp_path / first).read_bytes() != (folder / first).read_bytes()


def test_a_stopped_run_resumes_without_rendering_again(tmp_path):
    recipe = Recipe(3, 2, 3, 64, 48, 'none', False)
    whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
    list(write_dataset(recipe, whole, tmp_path, 1))
    run = write_dataset(recipe, stopped, tmp_path, 1)
    assert next(run) == 0
    run.close()
    (stopped / '000000_1.camera.json').unlink()  # as if stopped within the second frame
    before = {p.name: p.stat().st_mtime_ns for p in stopped.glob('000000_0.*')}
    assert list(write_dataset(recipe, stopped, tmp_path, 1)) == [0, 1, 2]
    assert {p.name: p.stat().st_mtime_ns for p in stopped.glob('000000_0.*')} == before
    for path in whole.glob('*.png'):
        assert (stopped / path.name).read_bytes() == path.read_bytes(), path.name
    assert not list(write_dataset(recipe, stopped, tmp_path, 1))


def test_a_folder_of_another_recipe_is_refused(solids):
    _, folder = solids
    with pytest.raises(ValueError, match='another recipe'):
        list(write_dataset(Recipe(4, 2, 99, 64, 48, 'none', False), folder, folder, 1))


def test_a_folder_of_an_earlier_generator_is_refused(tmp_path):
    recipe = Recipe(1, 1, 3, 64, 48, 'none', False)
    about = {'arguments': dataclasses.asdict(recipe), 'versions': {}}
    (tmp_path / 'recipe.json').write_text(json.dumps(about))
    with pytest.raises(ValueError, match='was made by generator 1, and this is'):
        list(write_dataset(recipe, tmp_path, tmp_path, 1))


def test_the_folder_has_recipe_and_credits(solids):
    _, folder = solids
    recipe = json.loads((folder / 'recipe.json').read_text())
    assert recipe['arguments']['seed'] == 3
    assert set(recipe['versions']) == {'numpy', 'embreex'}
    assert 'No catalogue model was used' in (folder / 'ATTRIBUTION.md').read_text()


def test_a_film_of_solids_moves_smoothly(tmp_path):
    recipe = Recipe(1, 1, 5, 48, 36, 'none', False)
    assert list(write_sequence(recipe, tmp_path, tmp_path, 5)) == [0, 1, 2, 3, 4]
    frames = [read_frame(tmp_path / 'frames', f'{i:06d}_0', 'image.jpg') for i in range(5)]
    assert all(frame[2]['camera_height_m'] == pytest.approx(1.15, abs=0.01) for frame in frames)
    assert json.loads((tmp_path / 'sequence.json').read_text())['rate_hz'] == 10.0


CATALOG = """\
id#1=Test#cube
name#1=Cube
category#1=Living room
model#1=/test/cube/cube.obj
width#1=100
depth#1=50
height#1=80
dropOnTopElevation#1=80
creator#1=A. Person
"""
CUBE_OBJ = """\
mtllib cube.mtl
v 0 0 0
v 2 0 0
v 2 3 0
v 0 3 0
v 0 0 7
vt 0 0
usemtl red
f 1/1 2/1 3/1 4/1
usemtl glass
f 1 2 5
"""
CUBE_MTL = 'newmtl red\nKd 1 0 0\nmap_Kd missing.png\nnewmtl glass\nKd 1 1 1\nd 0.1\n'


@pytest.fixture
def catalog(tmp_path):
    """Write a catalogue of 100 models that differ only in name."""
    entries = []
    with zipfile.ZipFile(tmp_path / 'Scopia.sh3f', 'w') as archive:
        for i in range(1, 101):
            text = CATALOG.replace('#1=', f'#{i}=').replace('cube.obj', f'cube{i}.obj')
            entries.append(text.replace('Cube', f'Cube {i}'))
            archive.writestr(f'test/cube/cube{i}.obj', CUBE_OBJ)
        archive.writestr('test/cube/cube.mtl', CUBE_MTL)
        archive.writestr('PluginFurnitureCatalog.properties', ''.join(entries))
    return tmp_path


def test_held_out_models_never_appear_in_training(catalog):
    training, reserved = (Catalog(catalog, catalog / 'cache', held) for held in (False, True))
    names = [{m.key for kind in KINDS for m in c.models(kind)} for c in (training, reserved)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 100
    assert 2 <= len(names[1]) <= 20  # about a tenth


def test_a_model_has_the_size_of_its_catalogue_entry_and_no_glass(catalog):
    mesh = load_mesh(read_catalogs(catalog)[0], catalog / 'cache')
    # The whole model is 1 m wide, 0.8 m high, 0.5 m deep; its glass triangle is left out.
    corners = mesh.points.reshape(-1, 3)
    np.testing.assert_allclose(corners.min(0), [-0.5, 0.25, 0], atol=1e-6)
    np.testing.assert_allclose(corners.max(0), [0.5, 0.25, 0.8], atol=1e-6)
    assert len(mesh.points) == 2
    assert mesh.materials[0].color == (1.0, 0.0, 0.0)  # its texture is missing: the colour counts


def test_the_cache_gives_the_same_mesh_as_the_archive(catalog):
    model = read_catalogs(catalog)[0]
    first = load_mesh(model, catalog / 'cache')
    (catalog / 'Scopia.sh3f').unlink()
    again = load_mesh(model, catalog / 'cache')
    np.testing.assert_array_equal(first.points, again.points)
    assert [m.color for m in first.materials] == [m.color for m in again.materials]


def test_every_model_used_is_credited_with_creator_and_licence(catalog):
    text = attribution(read_catalogs(catalog)[:1])
    assert 'Cube 1 (`Scopia/cube1`), by A. Person, CC-BY 3.0' in text


def test_solids_need_no_download(tmp_path):
    library = make_library(Recipe(1, 1, 1, 64, 48, 'none', False), tmp_path / 'cache')
    rng = np.random.default_rng(0)
    for kind in ('furniture', 'small', 'plant', 'vehicle', 'person', 'outdoor'):
        item = library.pick(rng, kind)
        corners = item.mesh.points.reshape(-1, 3)
        assert (np.ptp(corners, axis=0) <= np.array(item.size_m) * 1.6 + 0.02).all(), kind
    assert not (tmp_path / 'cache').exists()


def test_the_demo_sequence_is_complete_and_small():
    parts = ['image.jpg', *(f'{name}.png' for name in ('depth', 'normals', 'semantic'))]
    parts += ['foreground.png', 'matte.png', 'people.json', 'camera.json']
    expected = {f'{i:06d}_0.{part}' for i in range(60) for part in parts}
    assert {p.name for p in (DEMO / 'frames').iterdir()} == expected
    assert sum(p.stat().st_size for p in DEMO.rglob('*') if p.is_file()) < 8e6
    about = json.loads((DEMO / 'sequence.json').read_text())
    assert (about['rate_hz'], about['frame_id']) == (10.0, 'camera_optical_frame')
    assert 'CC-BY 3.0' in (DEMO / about['attribution']).read_text()


def test_the_demo_sequence_is_consistent():
    depths = []
    for i in range(0, 60, 6):
        image, truth, described = read_frame(DEMO / 'frames', f'{i:06d}_0', 'image.jpg')
        assert image.shape == (240, 320, 3)
        assert np.isfinite(truth.depth_m).all()  # a closed room
        assert truth.depth_m.min() > 0.4
        assert truth.depth_m.max() < 8
        assert check_normals(truth, camera_of(described)) < 1.5
        depths.append(float(np.median(truth.depth_m)))
    steps = np.abs(np.diff(depths))
    assert steps.max() < 1.0  # no jumps
    assert np.ptp(depths) > 0.2  # it moves
