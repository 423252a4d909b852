"""The train command as people run it: in one process or two, killed, and gone on with."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
import shutil
import subprocess
import sys
import time

import cv2
from models import save_base, save_tiny
import pytest
from safetensors.torch import load_file
import torch

from sd_perception_ros.checkpoint import checkpoint
from sd_perception_ros.checkpoint.config_file import FILE, read_config, tasks_of
from sd_perception_ros.checkpoint.finetuning import model_to_finetune
from sd_perception_ros.cli import evaluate as evaluate_command
from sd_perception_ros.cli import train as train_command
from sd_perception_ros.cli.arguments import from_options, parse
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.tasks import TASKS
from sd_perception_ros.training.finetune import train as run_training
from sd_perception_ros.training.options import FinetuneConfig, TrainingConfig

ROOT = Path(__file__).resolve().parents[1]
TWO = ('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2')
THREE_STEPS = ('--steps', 3, '--batch-size', 4)
RECIPES = sorted((ROOT / 'config' / 'train').glob('*.yaml'))
COMMAND = ['-m', 'sd_perception_ros', 'train', '--learning-rate', '1e-3', '--sizes', '32x24']


@pytest.fixture(scope='module')
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp('base'))


def words(base: Path, frames: Path, out: Path, *more: object) -> list[str]:
    return [
        *COMMAND,
        *(str(word) for word in ('--base', base, '--data', frames, '--out', out, *more)),
    ]


def train(arguments: list[str], *launcher: str) -> None:
    done = subprocess.run(
        [sys.executable, *launcher, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope='module')
def one_process(base: Path, frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Let one process make three steps of four pictures."""
    out = tmp_path_factory.mktemp('one') / 'out'
    train(words(base, frames, out, *THREE_STEPS))
    return out


def assert_same_weights(one: Path, other: Path) -> None:
    found = (file.relative_to(one) for file in one.rglob('*.safetensors'))
    files = sorted(file for file in found if file.parts[0] != 'state')
    assert 'unet/diffusion_pytorch_model.safetensors' in {str(file) for file in files}
    for file in files:
        expected = load_file(one / file)
        for name, value in load_file(other / file).items():
            # Checkpoints are fp16: sums in another order may round to the number beside.
            torch.testing.assert_close(value, expected[name], rtol=2e-3, atol=1e-5, msg=name)


def test_two_processes_with_half_of_the_batch_each_equal_one_process(
    base: Path, frames: Path, one_process: Path, tmp_path: Path
) -> None:
    train(words(base, frames, tmp_path, *THREE_STEPS, '--save-every', 2), *TWO)
    assert_same_weights(one_process, tmp_path)
    one, two = (read_config(out / FILE).provenance for out in (one_process, tmp_path))
    assert one['losses'] == pytest.approx(two['losses'], abs=1e-4)


def test_two_sharded_processes_can_be_resumed_and_equal_one_process(
    base: Path,
    frames: Path,
    one_process: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    # The command's own words, behind another script: see there.
    sharded = ['test/sharded.py', *words(base, frames, tmp_path, *THREE_STEPS)[3:]]
    monkeypatch.setenv('STOP_AFTER', '2')
    stopped = subprocess.run(
        [sys.executable, *TWO, *sharded, '--save-every', '2'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert stopped.returncode != 0, stopped.stderr
    assert json.loads((tmp_path / 'state' / 'run.json').read_text())['done'] == 2
    monkeypatch.delenv('STOP_AFTER')
    train([*sharded, '--save-every', '2'], *TWO)
    assert_same_weights(one_process, tmp_path)


def test_a_killed_run_is_resumed_with_the_same_result(
    base: Path, frames: Path, tmp_path: Path
) -> None:
    numbers = ('--steps', 20, '--batch-size', 2, '--save-every', 5, '--ema-decay', 0.9)
    train(words(base, frames, tmp_path / 'whole', *numbers))
    out = tmp_path / 'killed'
    arguments = words(base, frames, out, *numbers)
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 600
        while not (out / 'state' / 'run.json').exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not (out / FILE).exists()
    train(arguments)
    assert_same_weights(tmp_path / 'whole', out)
    assert list((out / 'log').glob('events*'))


def test_a_finished_run_can_be_continued_with_more_steps_only(
    base: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'

    def run(*more: object) -> str:
        assert (
            train_command.main([str(word) for word in (*words(base, frames, out), *more)[3:]]) == 0
        )
        return capsys.readouterr().out

    first = run('--steps', 2, '--batch-size', 2)
    assert '1 process on cpu, 2 images a step, fp32; 2 steps' in first
    assert f'{out / "state"} is kept' in first
    with pytest.raises(ValueError, match=r'checkpoint of 2 steps.*go on with --steps above 2'):
        run('--steps', 2, '--batch-size', 2)
    assert 'going on from step 2 of 4' in run('--steps', 4, '--batch-size', 2)
    assert read_config(out / 'checkpoint.yaml').provenance['training']['steps'] == 4
    shutil.rmtree(out / 'state')
    with pytest.raises(ValueError, match='finished checkpoint; choose another --out'):
        run('--steps', 6, '--batch-size', 2)


def test_validation_is_printed_logged_and_written_down(
    base: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    numbers = ('--steps', 3, '--batch-size', 2, '--validate', frames, '--validate-every', 2)
    arguments = (*words(base, frames, out, *numbers), '--validate-frames', 2)
    assert train_command.main([str(word) for word in arguments[3:]]) == 0
    captured = capsys.readouterr()
    lines = [line for line in captured.out.splitlines() if line.startswith('validation after')]
    assert [line.split(':')[0] for line in lines] == [
        'validation after step 2',
        'validation after step 3',
    ]
    assert 'depth abs_rel 0.' in lines[0]
    assert list((out / 'log' / 'validation').glob('events*'))
    about = read_config(out / 'checkpoint.yaml').provenance
    assert about['sets'] == [str(frames)]
    assert about['validation']['sets'] == [str(frames)]
    assert about['validation']['best_step'] in (2, 3)
    assert about['validation']['metrics']['depth']['abs_rel'] > 0


def test_train_and_evaluate_commands_give_a_checkpoint_and_its_figures(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_tiny(tmp_path / 'base')
    out = tmp_path / 'out'
    arguments = ['--base', base, '--data', frames, '--out', out, '--sizes', '32x24', '64x48']
    numbers = ['--steps', '2', '--batch-size', '2', '--license', 'CC0-1.0']
    assert train_command.main([str(word) for word in (*arguments, *numbers)]) == 0
    config = read_config(out / 'checkpoint.yaml')
    assert config.license == 'CC0-1.0'
    assert config.provenance['training']['steps'] == 2
    assert config.provenance['windows'] == ['32x24', '64x48']
    with pytest.raises(ValueError, match='holds a finished checkpoint of 2 steps'):
        train_command.main([str(word) for word in (*arguments, *numbers)])
    figures = tmp_path / 'figures.json'
    words = ['--checkpoint', out, '--data', frames, '--train', frames, '--json', figures]
    sheet = ['--pictures', tmp_path / 'worst', '--record']
    assert evaluate_command.main([str(word) for word in (*words, *sheet)]) == 0
    results = json.loads(figures.read_text())
    # The four frames are all alike: their mean is the truth itself.
    assert results['mean target']['normals']['mean_deg'] == pytest.approx(0, abs=0.1)
    assert results['mean target']['depth']['abs_rel'] < 0.02
    assert results['model']['normals']['mean_deg'] > 1
    # Each of the four frames: a line of text of 24 px, and 240 x 320 px three times, 4 px apart.
    assert cv2.imread(str(tmp_path / 'worst' / 'depth.png')).shape == (4 * 264, 3 * 320 + 8, 3)
    recorded = read_config(out / 'checkpoint.yaml').metrics['model']['depth']['abs_rel']
    assert recorded == pytest.approx(results['model']['depth']['abs_rel'], abs=1e-4)
    assert 'abs_rel' in capsys.readouterr().out


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda file: file.stem)
def test_every_recipe_has_only_valid_options(recipe: Path) -> None:
    arguments = parse(
        train_command.parser(), ['--recipe', str(recipe), '--out', 'x', '--data', 'y']
    )
    config = from_options(TrainingConfig, arguments)
    assert config.batch_size % config.gradient_accumulation_steps == 0
    assert config.decay_steps <= config.steps
    from_options(FinetuneConfig, arguments)


def test_there_is_a_recipe_for_every_task() -> None:
    assert {f'sd21_{task}' for task in TASKS} <= {recipe.stem for recipe in RECIPES}


def test_the_command_line_overrides_the_recipe_and_that_its_parent(
    tmp_path: Path,
) -> None:
    (tmp_path / 'all.yaml').write_text('steps: 1\nbatch_size: 2\nseed: 3\ntasks: [human_pose]\n')
    (tmp_path / 'mine.yaml').write_text('extends: all.yaml\nbatch_size: 20\nseed: 30\n')
    words = ['--recipe', str(tmp_path / 'mine.yaml'), '--seed', '300']
    words += ['--base', 'b', '--data', 'd', '--out', 'o']
    arguments = parse(train_command.parser(), words)
    assert (arguments.steps, arguments.batch_size, arguments.seed) == (1, 20, 300)
    assert arguments.tasks == ['human_pose']


def test_an_unknown_option_in_a_recipe_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'mine.yaml').write_text('lerning_rate: 1e-3\n')
    words = ['--recipe', str(tmp_path / 'mine.yaml'), '--base', 'b', '--data', 'd', '--out', 'o']
    with pytest.raises(SystemExit):
        parse(train_command.parser(), words)
    assert '--lerning-rate' in capsys.readouterr().err


def test_task_options_are_used_and_saved(base: Path, frames: Path, tmp_path: Path) -> None:
    options = [
        'segmentation.classes=[low, high, wide]',
        'segmentation.palette=000000 ffffff ff0000',
    ]
    arguments = words(base, frames, tmp_path / 'out', '--steps', 1, '--batch-size', 1)[3:]
    tasks = ['--tasks', 'segmentation', '--task-options', *options]
    assert train_command.main([*arguments, *tasks]) == 0
    model, _ = checkpoint.load(str(tmp_path / 'out'))
    assert model.tasks['segmentation'].class_names == ('low', 'high', 'wide')
    other = [*arguments, *tasks, '--out', str(tmp_path / 'other'), '--task-options']
    with pytest.raises(ValueError, match=r"options of \['poses'\], but the tasks are"):
        train_command.main([*other, 'poses.x=1'])
    assert train_command.main([*other, 'human_pose.x=1']) == 0  # nobody trains poses


def test_a_checkpoint_can_be_fine_tuned_with_its_heads_and_new_ones(
    frames: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    options = {'segmentation': {'classes': [], 'palette': '000000 ffffff'}}
    tasks = ['segmentation', 'depth']
    further = model_to_finetune(tiny_checkpoint, tasks, 'light', options=options)
    before, _ = checkpoint.load(str(tiny_checkpoint))
    for name, value in further.heads['depth'].state_dict().items():
        torch.testing.assert_close(value, before.heads['depth'].state_dict()[name])
    assert further.tasks['segmentation'].channels == 2
    # What only the loss or the search for peaks reads leaves a readout as it is.
    relative = model_to_finetune(
        tiny_checkpoint, ['depth'], 'light', options={'depth': {'relative': 1.0}}
    )
    assert relative.tasks['depth'].relative == 1
    for name, value in relative.heads['depth'].state_dict().items():
        torch.testing.assert_close(value, before.heads['depth'].state_dict()[name])
    arguments = words(tiny_checkpoint, frames, tmp_path / 'out', '--steps', 1, '--batch-size', 1)[
        3:
    ]
    assert train_command.main([*arguments, '--tasks', *tasks]) == 0
    assert tasks_of(str(tmp_path / 'out')) == tasks


def test_long_side_px_has_the_scale_of_the_training_windows(
    base: Path, frames: Path, tmp_path: Path
) -> None:
    for fit, side in (('crop', 64), ('cover', 32)):  # of 64x48 pictures, windows of 32x24
        out = tmp_path / fit
        more = ('--steps', 1, '--batch-size', 1, '--fit', fit)
        assert train_command.main(words(base, frames, out, *more)[3:]) == 0
        assert read_config(out / FILE).long_side_px == side
    # A square window is covered by 43x32 pixels of such a picture, and the model sees all 43.
    out = tmp_path / 'square'
    more = ('--steps', 1, '--batch-size', 1, '--fit', 'cover', '--sizes', '32x32')
    assert train_command.main(words(base, frames, out, *more)[3:]) == 0
    assert read_config(out / FILE).long_side_px == 43


def test_a_checkpoint_with_its_autoencoder_in_another_folder_is_a_base(
    frames: Path, tmp_path: Path
) -> None:
    away = save_base(tmp_path / 'away', 'sd')
    mine = tmp_path / 'mine' / FILE
    mine.parent.mkdir()
    entry = f'{{unet: {away}/unet, head: decoder}}'
    mine.write_text(f'base: {away}\ntasks:\n  depth: {entry}\n')
    numbers = ('--tasks', 'depth', '--steps', 1, '--batch-size', 1)
    assert train_command.main(words(mine.parent, frames, tmp_path / 'out', *numbers)[3:]) == 0


def test_a_run_with_other_task_options_is_another_run(
    base: Path, frames: Path, tmp_path: Path
) -> None:
    opened = open_data([str(frames)])

    def run(y_sign: int) -> Iterator[tuple[int, dict[str, float]]]:
        model = model_to_finetune(
            base, ['normals'], 'light', options={'normals': {'y_sign': y_sign}}
        )
        config = TrainingConfig(steps=2, batch_size=1, save_every=1)
        return run_training(model, opened, None, config, [(24, 32)], tmp_path)

    next(run(-1))
    with pytest.raises(ValueError, match=r"state is of another run, with tasks .*'y_sign': -1"):
        next(run(1))


def test_a_transformer_is_trained_by_the_same_command_and_keeps_its_base_s_licence(
    frames: Path, tmp_path: Path
) -> None:
    base, out = save_base(tmp_path / 'base', 'mmdit'), tmp_path / 'out'
    (base / 'README.md').write_text('---\nlicense: cc-by-nc-4.0\n---\n')
    arguments = ['--base', base, '--data', frames, '--out', out, '--sizes', '32x24']
    numbers = ['--tasks', 'depth', '--steps', '2', '--batch-size', '2']
    assert train_command.main([str(word) for word in (*arguments, *numbers)]) == 0
    config = read_config(out / 'checkpoint.yaml')
    assert config.license == 'cc-by-nc-4.0'
    assert config.tasks['depth'].unet == 'transformer'
    assert (config.prediction_type, config.timestep, config.alpha) == ('flow_prediction', 1000, 0)
