"""The loop alone: parts of a batch, averages, states, and what stops it."""

from __future__ import annotations

from collections.abc import Iterator
import json
import os
from pathlib import Path
import resource
import signal
import subprocess
import sys
from typing import Any

from accelerate.state import AcceleratorState
import pytest
import torch
from torch import nn, Tensor

from sd_perception_ros.training.loop import rate_factor, run_training
from sd_perception_ros.training.options import TrainingConfig
from sd_perception_ros.training.state import discard_state

# What the weights of a line are fitted to: 2 x + 1.
X = torch.linspace(-1, 1, 8).view(8, 1)
FAST = {'batch_size': 8, 'learning_rate': 0.1, 'warmup_steps': 1}


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Let each test choose its number format: accelerate keeps the first of a process."""
    yield
    AcceleratorState._reset_state(True)


def line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(1, 1)


def squares(model: Any, step: int, part: slice) -> dict[str, Tensor]:
    noise = 0.1 * torch.randn(8, 1)  # drawn for the whole batch
    return {'square': (model(X[part]) - (2 * X + 1 + noise)[part]).square().mean()}


def fit(folder: Path, config: TrainingConfig, stop: int = 0, **about: object) -> nn.Linear:
    model = line()
    for done, _ in run_training(model, squares, config, folder, about):
        if done == stop:
            break
    return model


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], msg=name)


def test_the_learning_rate_rises_then_falls_to_a_hundredth() -> None:
    config = TrainingConfig(steps=1000, warmup_steps=100)
    rates = [rate_factor(step, config) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(1, abs=0.03)
    assert rates[-1] == pytest.approx(0.01, abs=0.001)


def test_an_exponential_decay_falls_by_a_constant_factor_then_stays() -> None:
    config = TrainingConfig(steps=300, warmup_steps=1, decay='exponential', decay_steps=200)
    rates = [rate_factor(step, config) for step in (0, 100, 200, 299)]
    assert rates == pytest.approx([1, 0.1, 0.01, 0.01])


def test_a_line_is_fitted(tmp_path: Path) -> None:
    model = fit(tmp_path, TrainingConfig(steps=150, **FAST))
    assert model.weight.item() == pytest.approx(2, abs=0.1)
    assert model.bias.item() == pytest.approx(1, abs=0.1)


def test_variables_of_accelerate_do_not_override_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fit(tmp_path / 'without', TrainingConfig(steps=6, **FAST))
    AcceleratorState._reset_state(True)
    monkeypatch.setenv('ACCELERATE_GRADIENT_ACCUMULATION_STEPS', '8')
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'bf16')
    monkeypatch.setenv('ACCELERATE_DYNAMO_BACKEND', 'EAGER')
    model = fit(tmp_path / 'with', TrainingConfig(steps=6, **FAST))
    assert_equal(model, expected)
    assert model.weight.item() != line().weight.item()


@pytest.mark.parametrize('name', ['DEEPSPEED', 'MEGATRON_LM', 'PARALLELISM_CONFIG'])
def test_launchers_that_would_change_the_optimizer_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f'ACCELERATE_USE_{name}', 'true')
    with pytest.raises(ValueError, match=rf'DDP or FSDP, got ACCELERATE_USE_{name}=true; unset'):
        fit(tmp_path, TrainingConfig(steps=1, **FAST))


def test_a_batch_in_four_accumulation_steps_equals_one_step(tmp_path: Path) -> None:
    whole = fit(tmp_path / 'whole', TrainingConfig(steps=5, **FAST))
    parts = fit(tmp_path / 'parts', TrainingConfig(steps=5, gradient_accumulation_steps=4, **FAST))
    assert_equal(whole, parts)


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'--batch-size to be a multiple of 3 .* got 8'):
        fit(tmp_path, TrainingConfig(steps=1, gradient_accumulation_steps=3, **FAST))


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_a_resumed_run_has_the_result_of_an_uninterrupted_one(
    tmp_path: Path, precision: str
) -> None:
    config = TrainingConfig(steps=6, save_every=2, precision=precision, ema_decay=0.5, **FAST)
    whole = fit(tmp_path / 'whole', config)
    fit(tmp_path / 'stopped', config, stop=3)  # one step after the last state
    assert_equal(whole, fit(tmp_path / 'stopped', config))


def test_a_stopped_run_can_be_resumed_with_gradient_accumulation(tmp_path: Path) -> None:
    config = TrainingConfig(steps=6, save_every=3, **FAST)
    whole = fit(tmp_path / 'whole', config)
    fit(tmp_path / 'stopped', config, stop=4)  # after the state of step 3, no multiple of 4
    parts = TrainingConfig(steps=6, save_every=3, gradient_accumulation_steps=4, **FAST)
    assert_equal(whole, fit(tmp_path / 'stopped', parts))


def test_a_diverged_run_can_be_resumed_at_a_lower_rate(tmp_path: Path) -> None:
    fit(tmp_path, TrainingConfig(steps=6, save_every=3, **FAST), stop=4)
    slow = FAST | {'learning_rate': 1e-8}
    gone_on = fit(tmp_path, TrainingConfig(steps=6, **slow))
    kept = fit(tmp_path / 'short', TrainingConfig(steps=6, save_every=3, **FAST), stop=3)
    torch.testing.assert_close(gone_on.weight, kept.weight, atol=1e-6, rtol=0)


def test_a_model_without_trainable_weights_is_refused(tmp_path: Path) -> None:
    still = line().requires_grad_(False)
    with pytest.raises(ValueError, match=r'expected weights to train, got none.*--trainable full'):
        next(run_training(still, squares, TrainingConfig(steps=1, **FAST), tmp_path, {}))


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, TrainingConfig(steps=1, **FAST), data='rooms')
    with pytest.raises(ValueError, match='of another run, with seed 0 instead of 1'):
        fit(tmp_path, TrainingConfig(steps=1, seed=1, **FAST), data='rooms')
    with pytest.raises(ValueError, match='of another run, with data rooms instead of yards'):
        fit(tmp_path, TrainingConfig(steps=1, **FAST), data='yards')
    discard_state(tmp_path)
    fit(tmp_path, TrainingConfig(steps=1, seed=1, **FAST), data='yards')


def stop_and_go_on(number: int, folder: Path) -> None:
    """Stop a run by a signal after its third step, and compare the rest with a run in one go."""
    config = TrainingConfig(steps=6, **FAST)  # saves every 500 steps

    def interrupted(model: Any, step: int, part: slice) -> dict[str, Tensor]:
        if step == 2:
            signal.raise_signal(number)
        return squares(model, step, part)

    # As __main__ has it: ROS may have been here before, or a shell that ignores Ctrl-C.
    before = signal.signal(number, signal.default_int_handler)
    try:
        run = run_training(line(), interrupted, config, folder, {})
        assert [next(run)[0] for _ in range(3)] == [1, 2, 3]
        with pytest.raises(KeyboardInterrupt):
            next(run)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert json.loads((folder / 'state' / 'run.json').read_text())['done'] == 3
    assert_equal(fit(folder, config), fit(folder / 'whole', config))


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_finishes_and_saves_its_step_and_can_be_resumed(
    number: signal.Signals, tmp_path: Path
) -> None:
    """In a process without ROS, whose own signal handlers other tests have installed here."""
    code = (
        'import sys; from pathlib import Path; from test_training_loop import stop_and_go_on; '
        'stop_and_go_on(int(sys.argv[1]), Path(sys.argv[2]))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, str(int(number)), str(tmp_path)],
        cwd=Path(__file__).parent,
        env=os.environ | {'PYTHONPATH': str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_truncated_state_is_refused_with_its_name(tmp_path: Path) -> None:
    fit(tmp_path, TrainingConfig(steps=1, **FAST))
    for name in ('model.safetensors', 'optimizer.bin'):
        file = tmp_path / 'state' / name
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r'state does not fit this model, or is damaged'):
            fit(tmp_path, TrainingConfig(steps=2, **FAST))
        file.write_bytes(whole)
    fit(tmp_path, TrainingConfig(steps=2, **FAST))


def test_the_average_follows_the_weights_and_is_the_result(tmp_path: Path) -> None:
    model, seen = line(), [line().weight.item()]
    for _ in run_training(
        model, squares, TrainingConfig(steps=2, ema_decay=0.9, **FAST), tmp_path, {}
    ):
        seen.append(model.weight.item())
    # The first updates keep 1/11 and 2/12 of the average only: there is little to keep.
    first = seen[0] / 11 + seen[1] * 10 / 11
    assert model.weight.item() == pytest.approx(first / 6 + seen[2] * 5 / 6, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(tmp_path: Path) -> None:
    def broken(model: Any, step: int, part: slice) -> dict[str, Tensor]:
        return {'square': squares(model, step, part)['square'] / (0 if step == 3 else 1)}

    config = TrainingConfig(steps=5, save_every=2, **FAST)
    with pytest.raises(FloatingPointError, match='step 3: the loss is inf'):
        list(run_training(line(), broken, config, tmp_path, {}))
    assert_equal(fit(tmp_path / 'whole', config), fit(tmp_path, config))


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_update(
    tmp_path: Path,
) -> None:
    def steep(model: Any, step: int, part: slice) -> dict[str, Tensor]:
        return {'root': (model(X[part]) * 0).abs().sqrt().sum()}  # 0, with an infinite slope

    model = line()
    with pytest.raises(FloatingPointError, match='step 0: the gradient norm is nan'):
        list(run_training(model, steep, TrainingConfig(steps=1, **FAST), tmp_path, {}))
    assert_equal(model, line())


def test_on_a_full_disk_the_last_state_is_kept_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    config = TrainingConfig(steps=6, save_every=2, **FAST)
    whole = fit(tmp_path / 'whole', config)
    fit(tmp_path / 'full', config, stop=2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # no file may grow beyond 100 bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(OSError, match=r'cannot write the state after step 4 .* is complete'):
            fit(tmp_path / 'full', config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_equal(whole, fit(tmp_path / 'full', config))


def test_a_folder_that_cannot_be_written_is_named_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    run = run_training(line(), squares, TrainingConfig(steps=1), tmp_path / 'file' / 'out', {})
    with pytest.raises(OSError, match=r'expected a folder that can be written, got .*file/out'):
        next(run)
