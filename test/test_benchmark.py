"""The benchmarks' verdicts: what got lost around the node, and what more tasks cost."""

from __future__ import annotations

from pathlib import Path
import runpy
from types import SimpleNamespace

from models import save_tiny
import pytest

from sd_perception_ros.engine import Engine

FOLDER = Path(__file__).resolve().parents[1] / 'benchmark'
BENCHMARK = runpy.run_path(str(FOLDER / 'node_overhead.py'))
TASK_COST = runpy.run_path(str(FOLDER / 'task_cost.py'))
LEARN = runpy.run_path(str(FOLDER / 'backbones_learn.py'))


def measured(received: int = 20, arrived: int = 20, overhead_ms: float = 5.0) -> dict[str, object]:
    """Summarize a run in which the camera sent 20 frames and the node processed all it got."""
    listener = SimpleNamespace(
        values={
            'received': str(received),
            'processed': str(received),
            'overhead_ms median': f'{overhead_ms}',
        },
        latency_ms={'depth/points': [30.0] * arrived, 'depth/relative': [20.0] * received},
    )
    return BENCHMARK['summarize'](listener, sent=20)


@pytest.mark.parametrize(
    ('run', 'passes'),
    [
        ({}, True),
        ({'received': 19, 'arrived': 19}, False),
        ({'arrived': 19}, False),
        ({'arrived': 0}, False),
        ({'overhead_ms': 15.1}, False),
        ({'overhead_ms': float('nan')}, False),
    ],
)
def test_it_passes_only_when_nothing_is_lost_and_the_node_is_quick(run, passes):
    result = measured(**run)
    assert result['passes'] == passes
    assert ('FAILS' in BENCHMARK['table'](result)) != passes


def test_the_table_shows_a_topic_on_which_nothing_came():
    lines = BENCHMARK['table'](measured(arrived=0)).splitlines()
    [points] = [line for line in lines if 'depth/points' in line]
    assert points.split() == ['depth/points', 'nan', 'nan', '20']


def test_the_table_says_what_inference_and_overhead_are():
    table = BENCHMARK['table'](measured())
    assert 'Engine.predict' in table
    assert 'the rest of a frame on the worker thread' in table


def test_task_cost_measures_one_task_five_and_all(tmp_path):
    tasks = ('depth', 'normals', 'segmentation', 'foreground', 'matting', 'pose')
    folder = save_tiny(tmp_path, dict.fromkeys(tasks, 'light'))
    result = TASK_COST['measure'](Engine.load(str(folder), device='cpu'), rounds=2)
    assert {name: len(names) for name, names in result['tasks'].items()} == {
        '1 task': 1,
        '5 tasks': 5,
        'all tasks': 6,
    }
    assert result['ratio']['1 task'] == 1
    assert ('FAILS' in TASK_COST['table'](result)) != result['passes']


@pytest.mark.parametrize(
    ('abs_rel', 'mean_deg', 'beats'),
    [(0.39, 29, True), (0.41, 29, False), (0.39, 31, False), (float('nan'), 29, False)],
)
def test_a_family_passes_only_if_it_beats_the_guess(
    abs_rel: float, mean_deg: float, beats: bool
) -> None:
    learnt = {'loss_after': 9.0, 'depth.abs_rel': abs_rel, 'normals.mean_deg': mean_deg}
    guess = {'depth.abs_rel': 0.4, 'normals.mean_deg': 30.0}
    assert LEARN['_beats'](learnt, guess) == beats


def test_one_family_learns_for_two_steps_and_is_measured(frames: Path, tmp_path: Path) -> None:
    data = LEARN['RoomsDataset'](frames, keep=True)
    options = SimpleNamespace(steps=2, batch=2, learning_rate=1e-3, seed=0)
    row = LEARN['learn']('DiT', data, data, options, tmp_path)
    assert (row['prediction'], row['timestep']) == ('epsilon', 258)
    assert row['loss_before'] > 0
    assert row['depth.abs_rel'] > 0
