"""The ament linters pass: what a ROS build farm would say of this package."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHECKED = ['sd_perception_ros', 'launch', 'test', 'setup.py']


@pytest.mark.linter
def test_ament_flake8_finds_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flake8 = pytest.importorskip('ament_flake8.main')
    monkeypatch.chdir(ROOT)
    _, errors = flake8.main_with_errors(argv=['--config', 'setup.cfg', *CHECKED])
    capsys.readouterr()  # the list of files that it checked
    assert not errors, '\n'.join(errors)


@pytest.mark.linter
def test_ament_pep257_finds_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pep257 = pytest.importorskip('ament_pep257.main')
    logging.getLogger('pydocstyle.utils').setLevel(logging.WARNING)
    monkeypatch.chdir(ROOT)
    code = pep257.main(argv=CHECKED)
    assert code == 0, capsys.readouterr().err
