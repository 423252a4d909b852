"""On a GPU: the CPU's predictions, in every precision, as they are and from CUDA graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sd_perception_ros.config import GPU_RUNTIMES
from sd_perception_ros.engine import Engine
from sd_perception_ros.runtimes.cuda_graphs import CudaGraphs

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='torch sees no CUDA device on this machine'
)
ATOL = {'fp32': 1e-3, 'fp16': 2e-2, 'bf16': 1e-1}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize('cuda_graphs', [False, True])
@pytest.mark.parametrize('precision', ATOL)
def test_cuda_predicts_what_the_cpu_predicts(
    tiny_checkpoint: Path, precision: str, cuda_graphs: bool
) -> None:
    here = Engine.load(str(tiny_checkpoint), device='cpu')
    there = Engine.load(
        str(tiny_checkpoint), device='cuda', precision=precision, cuda_graphs=cuda_graphs
    )
    for seed in range(4):
        ours, theirs = (e.predict([picture(48, 64, seed)])[0] for e in (there, here))
        for task in ('depth', 'normals'):
            found, expected = ours[task].values, theirs[task].values
            np.testing.assert_allclose(found, expected, atol=ATOL[precision])


@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
@pytest.mark.parametrize('runtime', GPU_RUNTIMES)
def test_engines_predict_what_the_cpu_predicts(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime: str,
    precision: str,
) -> None:
    """Of one and of two pictures, and while torch still serves."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    here = Engine.load(str(tiny_checkpoint), device='cpu')
    options = {'device': 'cuda', 'precision': precision, 'runtime': runtime}
    try:
        there = Engine.load(str(tiny_checkpoint), **options)
    except ValueError as error:
        pytest.skip(str(error))
    for count in (1, 2, 2, 1, 2):
        pictures = [picture(48, 64, seed) for seed in range(count)]
        for ours, theirs in zip(there.predict(pictures), here.predict(pictures), strict=True):
            for task in ('depth', 'normals'):
                found, expected = ours[task].values, theirs[task].values
                np.testing.assert_allclose(found, expected, atol=ATOL[precision])
        assert there.wait_for_engines(600)
    assert '(all parts)' in there.summary()


def test_replays_keep_sizes_and_tasks_apart(tiny_checkpoint: Path) -> None:
    plain, replayed = (
        Engine.load(str(tiny_checkpoint), device='cuda', precision='fp32', cuda_graphs=graphs)
        for graphs in (False, True)
    )
    for seed in range(5):
        for size in ((48, 64), (97, 31)):
            for tasks in (['depth'], ['depth', 'normals']):
                ours, theirs = (
                    e.predict_raw([picture(*size, seed)], tasks)[0] for e in (replayed, plain)
                )
                assert list(ours) == tasks
                for task in tasks:
                    torch.testing.assert_close(ours[task][0], theirs[task][0], atol=1e-4, rtol=0)
    assert replayed.summary().count('with CUDA graphs') == 1


def test_a_prediction_is_kept_after_the_next_replay(tiny_checkpoint: Path) -> None:
    engine = Engine.load(str(tiny_checkpoint), device='cuda')
    engine.warm_up(48, 64)
    first = engine.predict([picture(48, 64, 1)])[0]['depth'].values
    kept = first.copy()
    engine.predict([picture(48, 64, 2)])
    np.testing.assert_array_equal(first, kept)


def test_what_cannot_be_recorded_runs_without_graphs() -> None:
    def waits(image: Tensor, tasks: tuple[str, ...]) -> Tensor:
        return image * (2 if image.sum().item() > 3 else 1)

    graphs = CudaGraphs(waits, torch.device('cuda'))
    ones = torch.ones(1, 2, 2, 3, dtype=torch.uint8, device='cuda')
    assert [int(graphs(ones, ()).sum()) for _ in range(4)] == [24] * 4
    assert graphs.problem
