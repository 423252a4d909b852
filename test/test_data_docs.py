"""docs/data.md: its example runs as it stands, and its table has every kind."""

from __future__ import annotations

from pathlib import Path
import re
import shlex

import pytest

from sd_perception_ros.__main__ import main
from sd_perception_ros.checkpoint import config_file
from sd_perception_ros.data.formats import dataset_class, KINDS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / 'docs' / 'data.md').read_text(encoding='utf-8')


def block(language: str) -> str:
    found = re.search(rf'```{language}\n(.*?)```', PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_writes_a_data_set_that_can_be_inspected_and_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(block('python'), {})
    for line in block('sh').splitlines():
        command = line.removeprefix('python -m sd_perception_ros ')
        assert command != line
        assert main(shlex.split(command)) == 0
    out = capsys.readouterr().out
    assert '2 frames with depth_m, labels, joints' in out
    assert 'labels     far ' in out
    assert (tmp_path / 'mine.png').is_file()
    assert config_file.tasks_of('runs/mine') == ['depth', 'segmentation']


def test_every_kind_is_in_the_table_with_its_parts() -> None:
    rows = {row[1]: row[2] for row in re.finditer(r'^\| `(\w+)` \| ([^|]*)\|', PAGE, re.MULTILINE)}
    assert rows.keys() == KINDS.keys()
    for kind, parts in rows.items():
        named = [part for part in dataset_class(kind).splits if not part.startswith('<')][:1]
        assert all(part in parts for part in named if part not in ('', 'all')), kind
