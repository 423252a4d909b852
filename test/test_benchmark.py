"""The benchmarks' verdicts."""

from __future__ import annotations

import json
from pathlib import Path
import re
import runpy
import subprocess
import sys
from types import SimpleNamespace

import cv2
from models import save_tiny
import pytest
import torch

from sd_perception_ros.cli.versions import commit
from sd_perception_ros.engine import Engine
from sd_perception_ros.runtimes.parts import ModelPart

FOLDER = Path(__file__).resolve().parents[1] / 'benchmark'
THROUGH_ROS = runpy.run_path(str(FOLDER / 'through_ros.py'))
TASK_COST = runpy.run_path(str(FOLDER / 'task_cost.py'))
STAGES = runpy.run_path(str(FOLDER / 'stages.py'))
PLOT = runpy.run_path(str(FOLDER / 'plot.py'))
DEVICE = runpy.run_path(str(FOLDER / 'device_check.py'))
LEARN = runpy.run_path(str(FOLDER / 'backbones_learn.py'))
ROBOT, EVERYTHING, FAST, _ = THROUGH_ROS['SCENES']


def measured(
    scene=ROBOT, received=20, arrived=20, median_ms=5.0, p99_ms=9.0, period_s=0.2, runtime='torch'
):
    """Summarize a scene in which the camera sent 20 frames and the node processed all it got."""
    listener = SimpleNamespace(
        values={
            'received': str(received),
            'processed': str(received),
            'overhead_ms median': f'{median_ms}',
            'overhead_ms p99': f'{p99_ms}',
        },
        latency_ms={'depth/points': [30.0] * arrived, 'depth/relative': [20.0, 24.0] * 10},
        arrivals_s={
            'depth/points': [i * period_s for i in range(arrived)],
            'depth/relative': [i * period_s for i in range(20)],
        },
        usage=[(1.0, 300.0), (3.0, 310.0)],
    )
    return THROUGH_ROS['summarize'](listener, scene, 20 // scene.rate_hz or 1, runtime)


@pytest.mark.parametrize(
    ('run', 'passes'),
    [
        ({}, True),
        ({'received': 19, 'arrived': 19}, False),
        ({'arrived': 19}, False),
        ({'arrived': 0}, False),
        ({'median_ms': 10.1}, False),
        ({'p99_ms': 25.1}, False),
        ({'median_ms': float('nan')}, False),
        ({'scene': EVERYTHING, 'median_ms': 10.1}, True),
        ({'scene': FAST, 'period_s': 0.16}, True),
        ({'scene': FAST, 'period_s': 0.17}, False),
        ({'scene': FAST, 'period_s': 0.11, 'runtime': 'openvino'}, False),
        ({'scene': FAST, 'period_s': 0.09, 'runtime': 'openvino'}, True),
    ],
)
def test_it_passes_only_if_nothing_is_lost_and_the_node_is_fast(run, passes):
    result = measured(**run)
    assert result['passes'] == passes
    assert ('FAILS' in THROUGH_ROS['table'](result)) != passes


def test_a_run_has_rate_jitter_cpu_and_memory():
    result = measured()
    assert result['rate_hz'] == pytest.approx(5.0)
    assert result['topics']['depth/relative']['jitter_ms'] == 2.0  # 20 and 24 ms in turn
    assert result['processor_cores'] == 1.0  # 2 seconds of work in 2 seconds
    assert result['memory_mib'] == 310.0


def test_the_table_has_topics_without_messages():
    lines = THROUGH_ROS['table'](measured(arrived=0)).splitlines()
    [points] = [line for line in lines if 'depth/points' in line]
    assert points.split() == ['depth/points', 'nan', 'nan', 'nan', '20']


def test_task_cost_measures_tasks_cameras_and_sizes(tmp_path):
    tasks = ('depth', 'normals', 'segmentation', 'foreground', 'matting', 'human_pose')
    folder = save_tiny(tmp_path, dict.fromkeys(tasks, 'light'))
    engine, other = (Engine.load(str(folder), device='cpu', long_side_px=s) for s in (64, 32))
    result = TASK_COST['measure'](engine, 2, {32: other})
    assert {name: len(names) for name, names in result['tasks'].items()} == {
        '1 task': 1,
        '5 tasks': 5,
        'all tasks': 6,
        '2 cameras': 5,
        '4 cameras': 5,
        'long side 32 px': 5,
    }
    assert result['ratio']['1 task'] == 1
    assert ('FAILS' in TASK_COST['table'](result)) != result['passes']


@pytest.mark.parametrize(
    ('abs_rel', 'mean_deg', 'loss', 'beats'),
    [
        (0.39, 29, 1.0, True),
        (0.41, 29, 1.0, False),
        (0.39, 31, 1.0, False),
        (float('nan'), 29, 1.0, False),
        (0.39, 29, 1.2, False),
    ],
)
def test_a_family_passes_only_if_it_beats_the_baseline_and_a_frozen_denoiser(
    abs_rel: float, mean_deg: float, loss: float, beats: bool
) -> None:
    losses = {'loss_after': loss, 'loss_frozen': 1.1}
    learnt = losses | {'depth.abs_rel': abs_rel, 'normals.mean_deg': mean_deg}
    guess = {'depth.abs_rel': 0.4, 'normals.mean_deg': 30.0}
    assert LEARN['_beats'](learnt, guess) == beats


def test_one_family_learns_for_two_steps_and_is_measured(frames: Path, tmp_path: Path) -> None:
    data = LEARN['RoomsDataset'](frames, keep=True)
    options = SimpleNamespace(steps=2, batch_size=2, learning_rate=1e-3, seed=0)
    row = LEARN['learn']('DiT', data, data, options, tmp_path)
    assert (row['prediction'], row['timestep']) == ('epsilon', 258)
    assert row['loss_before'] > 0
    assert row['depth.abs_rel'] > 0


def test_arithmetic_is_counted_as_by_hand():
    """A picture of 8x6; 3x3 from 3 to 4 channels, every other pixel; then 1x1 from 4 to 2."""
    first = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1, device='meta')
    second = torch.nn.Conv2d(4, 2, 1, device='meta')
    parts = [
        ModelPart('encoder', '', Tuple(first), ('image',), ('latent',)),
        ModelPart('denoiser_0', 'encoder', Tuple(second), ('latent',), ('clean',)),
    ]
    counted = STAGES['count_gflop'](parts, (6, 8))
    assert counted['encoder'] == pytest.approx(2 * (3 * 4) * 4 * 3 * 9 / 1e9)
    assert counted['denoiser_0'] == pytest.approx(2 * (3 * 4) * 2 * 4 / 1e9)


class Tuple(torch.nn.Sequential):
    """A module of one output, as parts give it."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (super().forward(x),)


@pytest.mark.parametrize('runtime', ['torch', 'onnxruntime'])
def test_every_stage_of_a_frame_is_measured_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    folder = save_tiny(tmp_path / 'model')
    words = ['--checkpoint', str(folder), '--runtime', runtime, '--rounds', '2', '--width', '64']
    file = tmp_path / 'stages.json'
    assert STAGES['main']([*words, '--height', '48', '--json', str(file)]) == 0
    result = json.loads(file.read_text())
    parts = ['encoder', 'denoiser_0', 'head_depth', 'head_normals']
    assert list(result['stages']) == ['resize and pad', *parts, 'enlarge and decode']
    assert all(stage['median_ms'] > 0 for stage in result['stages'].values())
    assert all(result['stages'][part]['gflop'] > 0 for part in parts)
    assert result['whole']['gflop'] == pytest.approx(
        sum(stage['gflop'] for stage in result['stages'].values())
    )
    assert PLOT['main']([str(file)]) == 0
    assert cv2.imread(str(file.with_suffix('.png'))).std() > 10


def test_every_result_of_a_benchmark_is_plotted(tmp_path: Path) -> None:
    results = sorted((FOLDER / 'results').glob('epyc_*.json'))
    assert PLOT['main']([*map(str, results), '--out', str(tmp_path)]) == 0
    assert [p.stem for p in sorted(tmp_path.glob('*.png'))] == [p.stem for p in results]


@pytest.mark.parametrize(
    ('command', 'text', 'message'),
    [
        ('plot.py', '{"families": {}, "guess": {}}', "'depth.abs_rel' is missing or wrong"),
        ('transfer/plot.py', '[]', 'expected a run of transfer.py in '),
    ],
)
def test_a_file_that_is_no_benchmark_result_is_refused(
    command: str, text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / 'result.json'
    file.write_text(text)
    named = file if command == 'plot.py' else tmp_path
    with pytest.raises(ValueError, match=re.escape(message)):
        runpy.run_path(str(FOLDER / command))['main']([str(named)])


def test_results_do_not_make_the_commit_of_the_next_benchmark_dirty(tmp_path: Path) -> None:
    code, result = tmp_path / 'code.py', tmp_path / 'benchmark' / 'results' / 'first.json'
    result.parent.mkdir(parents=True)
    for file in (code, result):
        file.write_text('1\n')
    identity = ('-c', 'user.name=a', '-c', 'user.email=a@b')
    for words in (('init', '-q'), ('add', '.'), (*identity, 'commit', '-qm', 'first')):
        subprocess.run(['git', *words], cwd=tmp_path, check=True)
    clean = commit(result.parent)
    assert re.fullmatch('[0-9a-f]{12}', clean)
    result.write_text('2\n')
    assert commit(result.parent) == clean
    code.write_text('2\n')
    assert commit(result.parent) == f'{clean}-dirty'


def soaked(slope_mib: float = 0.0, **last: float) -> dict:
    """Make ten minutes of samples; memory grows for five minutes, then by a slope."""
    samples = [
        {
            'minutes': minutes,
            'memory_mib': 700 + 20 * min(minutes, 5.0) + slope_mib * max(minutes - 5, 0),
            'threads': 30,
            'open_files': 60,
            'latency_ms': 80.0,
            'processed': round(minutes * 600),
        }
        for minutes in (i / 6 for i in range(61))
    ]
    samples[-1] |= last
    return {
        'minutes': 10.0,
        'unknown_headers': 0,
        'lost': {'/depth/relative': 0.0, '/depth/points': 0.005},
        'errors': [],
        'samples': samples,
    }


@pytest.mark.parametrize(
    ('change', 'passes'),
    [
        ({}, True),
        ({'slope_mib': 0.4}, True),
        ({'slope_mib': 0.6}, False),
        ({'threads': 31}, False),
        ({'open_files': 61}, False),
    ],
)
def test_a_long_run_passes_only_if_nothing_grows(change: dict, passes: bool) -> None:
    judge = runpy.run_path(str(FOLDER / 'soak.py'))['judge']
    result = judge(soaked(**change))
    assert result['passes'] is passes
    assert result['memory_slope_mib_per_minute'] == pytest.approx(change.get('slope_mib', 0.0))
    assert result['warm_minutes'] == 5.0
    assert not judge(soaked() | {'unknown_headers': 1})['passes']
    assert not judge(soaked() | {'lost': {'/scan': 0.02}})['passes']


def test_runs_of_other_options_have_no_spread_in_common(tmp_path: Path) -> None:
    for seed, steps in ((0, 1000), (1, 2000)):
        run = {'start': 'scratch', 'frames': 50, 'seed': seed, 'steps': steps, 'metrics': {}}
        (tmp_path / f'{seed}.json').write_text(json.dumps(run))
    with pytest.raises(ValueError, match='differ in steps: no spread over seeds'):
        runpy.run_path(str(FOLDER / 'transfer' / 'plot.py'))['main']([str(tmp_path)])


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['plot.py', 'nowhere.json'], "'nowhere.json' cannot be used (No such file"),
        (['stages.py', '--width', '0', '--rounds', '1'], 'expected an image of shape (H, W, 3)'),
        (['official.py', '--work', '/dev/null/x', '--tiny'], "'/dev/null/x"),
    ],
)
def test_a_wrong_command_line_of_a_benchmark_gives_one_error_line(
    words: list[str], message: str
) -> None:
    command = [sys.executable, str(FOLDER / words[0]), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    errors = done.stderr.splitlines()
    assert [line for line in errors if line.startswith('error: ')] == errors[-1:]
    assert message in errors[-1]


def test_the_device_check_writes_speed_and_parity_of_each_task(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / 'device.json'
    words = ['--device', 'cpu', '--checkpoint', str(tiny_checkpoint), '--no-compile']
    size = ['--width', '64', '--height', '48', '--rounds', '2']
    assert DEVICE['main']([*words, *size, '--json', str(file)]) == 0
    result = json.loads(file.read_text())
    [row] = result['rows']
    assert (row['way'], row['runtime'], row['precision']) == ('cpu fp32 eager', 'torch', 'fp32')
    assert row['largest_difference'] == {'depth': 0.0, 'normals': 0.0}
    assert 0 < row['median_ms'] <= row['p95_ms']
    assert result['passes']
    assert {'torch', 'onnxruntime'} <= set(result['versions'])


def test_the_device_check_covers_every_runtime_of_a_gpu_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, 'tensorrt', None)
    ways = {str(way): way for way in DEVICE['_ways']('cuda:0', True)}
    assert {
        'cuda:0 fp32 eager',
        'cuda:0 fp16 graph',
        'cuda:0 bf16 compile+graph',
        'cuda:0 fp32 onnxruntime',
        'cuda:0 fp16 tensorrt',
        'cuda:0 fp16 tensorrt+graph',
    } <= set(ways)
    assert ways['cuda:0 fp16 graph'].why_not() == ''
    assert 'is not installed' in ways['cuda:0 fp16 tensorrt'].why_not()
