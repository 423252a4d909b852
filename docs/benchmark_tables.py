"""
Tables of the pages, from the committed results of the benchmarks and from the bundled model.

A result that was measured on a tree with uncommitted changes is not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import json
from pathlib import Path
import statistics
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmark' / 'results'
CARD = ROOT / 'sd_perception_ros' / 'assets' / 'checkpoints' / 'bundled' / 'checkpoint.yaml'

# Task: name of its figures, keys in `metrics`, digits behind the point.
QUALITY: tuple[tuple[str, str, tuple[str, ...], int], ...] = (
    ('depth', 'AbsRel / delta1', ('abs_rel', 'delta1'), 3),
    ('disparity', 'AbsRel / delta1', ('abs_rel', 'delta1'), 3),
    ('normals', 'mean / median angle, degrees', ('mean_deg', 'median_deg'), 1),
    ('segmentation', 'mean IoU / IoU of people', ('mean_iou', 'iou_person'), 3),
    ('foreground', 'max F / MAE', ('max_f', 'mae'), 3),
    ('matting', 'MAD / soft IoU', ('mad', 'soft_iou'), 3),
    ('human_pose', 'PCK@0.2 / recall at OKS 0.5', ('pck_0.2', 'recall'), 3),
)
REAL: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ('motorcycle', 'depth', 'AbsRel / delta1', ('abs_rel', 'delta1')),
    ('aloe', 'depth', 'AbsRel / delta1', ('abs_rel', 'delta1')),
    ('tote', 'depth', 'AbsRel / delta1', ('abs_rel', 'delta1')),
    ('cafeteria', 'segmentation', 'IoU of people', ('iou_person',)),
    ('cafeteria', 'foreground', 'max F / MAE', ('max_f', 'mae')),
    ('cafeteria', 'matting', 'MAD / soft IoU', ('mad', 'soft_iou')),
)
STARTS = {'scratch': 'random', 'frozen': 'pre-trained, frozen', 'pretrained': 'pre-trained'}
TRANSFER = (
    ('depth', 'abs_rel', 'depth AbsRel'),
    ('depth', 'delta1', 'depth delta1'),
    ('human_pose', 'pck_0.2', 'human_pose PCK@0.2'),
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; `|` in cells is escaped."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(_cell(cell) for cell in line) + ' |' for line in lines)


def _cell(text: str) -> str:
    return ' '.join(text.split()).replace('|', '\\|')


def _read(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f'{name}.json').read_text())
    return result


def _values(figures: Mapping[str, float], keys: Sequence[str], digits: int = 3) -> str:
    return ' / '.join(f'{figures[key]:.{digits}f}' for key in keys)


def quality() -> str:
    """Return the figures of the bundled model on held-out frames."""
    metrics = yaml.safe_load(CARD.read_text())['metrics']
    model, baseline = metrics['model'], metrics['mean target']
    rows = [
        (task, name, _values(model[task], keys, digits), _values(baseline[task], keys, digits))
        for task, name, keys, digits in QUALITY
        if task in model
    ]
    return table(('task', 'metric', 'bundled model', 'baseline'), rows)


def real_pictures() -> str:
    """Return the figures of the bundled model on real images."""
    result = _read('bundled_real_pictures')
    rows = []
    for image, task, name, keys in REAL:
        about = result['truth'][task][image]
        cells = [about.get(who, {}) for who in ('model', 'mean target', 'MediaPipe')]
        rows.append((image, task, name, *(_values(c, keys) if c else '' for c in cells)))
    return table(('image', 'task', 'metric', 'bundled model', 'baseline', 'MediaPipe'), rows)


def photographs() -> str:
    """Return the score of the bundled model on photographs with marked points."""
    total = _read('bundled_photographs')['total']
    rows = [
        (
            f'pairs in the correct order, by depth ({total["pairs"]})',
            f'{total["depth_pairs"]:.3f}',
        ),
        ('the same, by disparity', f'{total["disparity_pairs"]:.3f}'),
        (f'points with the correct class ({total["points"]})', f'{total["class_points"]:.3f}'),
        *((f'of which {name}', f'{share:.3f}') for name, share in total['classes'].items()),
        ('pixels of other classes predicted as person', f'{total["false_people"]:.3f}'),
    ]
    return table(('measure', 'fraction'), rows)


def metric_depth() -> str:
    """Return the errors of metric depth on the demo film."""
    result = _read('bundled_metric_depth')
    sources = [result[name] for name in ('sparse', 'ground')]
    rows = [
        ('AbsRel in metres', *(f'{source["abs_rel"]:.3f}' for source in sources)),
        ('scale error, median', *(f'{source["scale_error"]:.1%}' for source in sources)),
        ('change of scale between frames, median', *(f'{s["jitter"]:.2%}' for s in sources)),
    ]
    for distance in ('0 m', '0.1 m', '0.2 m'):
        cells = [source['cells'][distance] for source in sources]
        name = f'F1 of marked cells / false obstacles per frame, tolerance {distance}'
        rows.append((name, *(f'{c["f1"]:.2f} / {c["phantoms"]:.1f}' for c in cells)))
    share = f'`depth`: reference depth for {result["share"]:.0%} of the pixels'
    return table(('', share, '`ground`: height and pitch of the camera only'), rows)


def tasks() -> str:
    """Return what more tasks and cameras cost."""
    result = _read('epyc_2_cores_tasks')
    rows = [
        (name, ', '.join(result['tasks'][name]), f'{ms:.0f} ms', f'{result["ratio"][name]:.2f}')
        for name, ms in result['median_ms'].items()
    ]
    return table(('', 'tasks', 'median', 'relative to one task'), rows)


def runtimes() -> str:
    """Return the time of one frame in each runtime."""
    result = _read('epyc_2_cores_runtimes')
    rows = [
        (
            name,
            *(f'{ms:.0f} ms' for ms in times.values()),
            f'{max(result["largest_difference_from_torch"][name].values()):.0e}',
        )
        for name, times in result['median_ms'].items()
    ]
    return table(('runtime', *result['tasks'], 'largest difference from torch'), rows)


def through_ros() -> str:
    """Return the node's own time and rates, measured through DDS."""
    columns = [_read(f'epyc_2_cores_ros_{name}') for name in ('auto', 'torch')]
    rows = []
    for scenes in zip(*(column['scenes'] for column in columns), strict=True):
        name = f'{scenes[0]["scene"]}: {scenes[0]["frame"]}'
        rows.append((name, *(_scene(scene) for scene in scenes)))
    return table(('scene', *(f'`runtime: {column["runtime"]}`' for column in columns)), rows)


def _scene(scene: Mapping[str, Any]) -> str:
    times = scene['times_ms']
    return (
        f'{scene["rate_hz"]:.1f} Hz; inference {times["inference_ms median"]:.0f} ms; overhead '
        f'{times["overhead_ms median"]:.1f} / {times["overhead_ms p99"]:.1f} ms (median / p99)'
    )


def official() -> str:
    """Return time and memory beside diffusers' pipeline."""
    result = _read('epyc_2_cores_official')
    rows = [
        (
            name,
            f'{seconds:.1f} s',
            f'{result["times_as_fast"][name]:.2f}' if name in result['times_as_fast'] else '',
            f'{result["peak_mib"][name] / 1024:.1f} GiB',
        )
        for name, seconds in result['median_s'].items()
        if name not in result.get('tiny_vae', {})  # they have a table of their own
    ]
    return table(('', 'time per frame', 'speedup', 'peak memory'), rows)


def tiny_vae() -> str:
    """Return the time of a frame with a tiny autoencoder; '' where it was not measured."""
    result = _read('epyc_2_cores_official')
    seconds = result['median_s']
    rows = [
        (
            name.removesuffix(', tiny VAE'),
            f'{seconds[name] * tiny["times_as_fast"]:.1f} s',
            f'{seconds[name]:.1f} s',
            f'{tiny["times_as_fast"]:.2f}',
        )
        for name, tiny in result.get('tiny_vae', {}).items()
    ]
    return table(('', 'KL autoencoder', 'tiny autoencoder', 'speedup'), rows) if rows else ''


def backbones() -> str:
    """Return what each family of denoisers learns in 300 steps."""
    result = _read('epyc_2_cores_backbones')
    figures = ('depth.abs_rel', 'normals.mean_deg')
    rows = [
        (name, *(f'{found[key]:.3f}' for key in figures))
        for name, found in (*result['families'].items(), ('baseline', result['guess']))
    ]
    return table(('family', 'depth AbsRel', 'normals, mean angle, degrees'), rows)


def transfer() -> str:
    """Return the mean and standard deviation over seeds of the experiment on pre-training."""
    runs = json.loads((RESULTS / 'transfer.json').read_text())
    frames = sorted({run['frames'] for run in runs})
    rows = []
    for task, key, name in TRANSFER:
        if task not in runs[0]['metrics']:
            continue
        for start, start_name in STARTS.items():
            cells = [
                [
                    run['metrics'][task][key]
                    for run in runs
                    if run['start'] == start and run['frames'] == count
                ]
                for count in frames
            ]
            spread = (f'{statistics.mean(c):.3f} ± {statistics.stdev(c):.3f}' for c in cells)
            rows.append((name, start_name, *spread))
    return table(('metric', 'start', *(f'{count} frames' for count in frames)), rows)


def soak() -> str:
    """Return what grew in long runs; empty if none was measured."""
    if not (RESULTS / 'epyc_2_cores_soak.json').is_file():
        return ''
    rows = []
    for scene in _read('epyc_2_cores_soak')['soak']:
        first, last = scene['samples'][0], scene['samples'][-1]
        rows.append(
            (
                scene['scene'],
                f'{scene["minutes"]:.0f} min',
                f'{scene["frames_received"]} / {scene["frames_processed"]}',
                f'{last["memory_mib"]:.0f} MiB, '
                f'{scene["memory_slope_mib_per_minute"]:+.2f} a minute',
                f'{last["threads"]} ({last["threads"] - first["threads"]:+d})',
                f'{last["open_files"]} ({last["open_files"] - first["open_files"]:+d})',
                f'{last["latency_ms"]:.0f} ms, '
                f'{scene["latency_drift_ms_per_minute"]:+.2f} a minute',
                f'{scene["worst_lost"]:.2%}',
            )
        )
    head = (
        'scene',
        'time',
        'images received / processed',
        'anonymous memory',
        'threads',
        'open files',
        'latency',
        'lost of a topic, at most',
    )
    return table(head, rows)


# Marker in a page: the table, and the results that it is made from.
TABLES: dict[str, tuple[Callable[[], str], tuple[str, ...]]] = {
    'quality': (quality, ()),
    'real_pictures': (real_pictures, ('bundled_real_pictures',)),
    'photographs': (photographs, ('bundled_photographs',)),
    'metric_depth': (metric_depth, ('bundled_metric_depth',)),
    'tasks': (tasks, ('epyc_2_cores_tasks',)),
    'runtimes': (runtimes, ('epyc_2_cores_runtimes',)),
    'through_ros': (through_ros, ('epyc_2_cores_ros_auto', 'epyc_2_cores_ros_torch')),
    'official': (official, ('epyc_2_cores_official',)),
    'tiny_vae': (tiny_vae, ('epyc_2_cores_official',)),
    'backbones': (backbones, ('epyc_2_cores_backbones',)),
    'transfer': (transfer, ('transfer',)),
    'soak': (soak, ('epyc_2_cores_soak',)),
}


def show(name: str) -> str:
    """
    Return a table of `TABLES` with the commit that it was measured on.

    A result that is missing, or of a tree with uncommitted changes, is replaced by one line that
    says so.
    """
    make, sources = TABLES[name]
    commits = {source: _commit(source) for source in sources}
    if dirty := [commit for commit in commits.values() if commit.endswith('-dirty')]:
        return (
            f'*Not shown: the committed result was measured with uncommitted changes '
            f'({", ".join(sorted(set(dirty)))}). Run the command above.*'
        )
    known = sorted({commit or 'not recorded' for commit in commits.values()})
    if not (rows := make()):
        return '*Not measured yet. Run the command above.*'
    return rows + (f'\n\nCommit: {", ".join(known)}.' if known else '')


def _commit(source: str) -> str:
    file = RESULTS / f'{source}.json'
    result = json.loads(file.read_text()) if file.is_file() else {}
    about = result.get('about', result) if isinstance(result, dict) else {}
    return str(about.get('commit', ''))
