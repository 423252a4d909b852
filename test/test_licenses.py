"""The licence of weights: where it is looked for, and who is warned of it."""

from __future__ import annotations

import logging
from pathlib import Path

from models import save_base, save_tiny
import pytest
import yaml

from sd_perception_ros.checkpoint.catalog import known_checkpoints
from sd_perception_ros.checkpoint.checkpoint import find_files
from sd_perception_ros.checkpoint.licenses import (
    commercial_use,
    join_licenses,
    known_terms,
    NOT_STATED,
    Terms,
    terms_of,
)
from sd_perception_ros.engine import Engine

GENPERCEPT = 'guangkaixu/genpercept-models'
NON_COMMERCIAL = 'BSD-2-Clause, for non-commercial academic use'
APACHE = '                     Apache License\n               Version 2.0, January 2004\n'
BSD = 'Redistribution and use in source and binary forms, with or without modification, are'
RAIL = 'Copyright (c) 2022 Robin Rombach\n\nCreativeML Open RAIL++-M\ndated November 24, 2022'


@pytest.mark.parametrize(
    ('text', 'name', 'commercial'),
    [
        (APACHE, 'Apache-2.0', 'allowed'),
        ('MIT License\n\nCopyright (c) 2024', 'MIT', 'allowed'),
        ('Copyright 2024\n\nPermission is hereby granted, free of charge, to', 'MIT', 'allowed'),
        ('BSD 3-Clause License\n', 'BSD-3-Clause', 'allowed'),
        (f'Copyright 2024\n{BSD} permitted', 'BSD-2-Clause', 'allowed'),
        (f'Copyright 2024\n{BSD} ...\n3. Neither the name of', 'BSD-3-Clause', 'allowed'),
        ('Creative Commons Legal Code\n\nCC0 1.0 Universal\n', 'CC0-1.0', 'allowed'),
        ('Attribution 4.0 International\n', 'CC-BY-4.0', 'allowed'),
        ('Creative Commons Attribution-NonCommercial 4.0', 'CC-BY-NC-4.0', 'not allowed'),
        ('Attribution-NonCommercial-ShareAlike 4.0', 'CC-BY-NC-SA-4.0', 'not allowed'),
        (RAIL, 'OpenRAIL++-M', 'allowed'),
        ('CreativeML Open RAIL-M\ndated August 22, 2022', 'OpenRAIL-M', 'allowed'),
        (
            'For non-commercial academic use, under the 2-clause BSD License.',
            'BSD-2-Clause, for non-commercial use',
            'not allowed',
        ),
        ('# Terms of the Moon\n\nAsk us first.', 'Terms of the Moon', 'not known'),
    ],
)
def test_a_license_file_is_recognized_by_its_first_lines(
    tmp_path: Path, text: str, name: str, commercial: str
) -> None:
    file = tmp_path / 'LICENSE.txt'
    file.write_text(text)
    assert terms_of(tmp_path, 'unet') == Terms(name, str(file))
    assert commercial_use(name) == commercial


def test_the_licence_of_the_model_comes_before_that_of_the_code(tmp_path: Path) -> None:
    (tmp_path / 'LICENSE.txt').write_text(APACHE)
    (tmp_path / 'LICENSE-MODEL.txt').write_text(RAIL)
    assert terms_of(tmp_path, 'unet').name == 'OpenRAIL++-M'


def test_the_card_comes_before_the_license_file_and_this_before_the_known_project(
    tmp_path: Path,
) -> None:
    folder = tmp_path / GENPERCEPT / 'unet_depth_v2'
    folder.mkdir(parents=True)
    assert terms_of(folder, str(folder)).name == NON_COMMERCIAL
    (folder.parent / 'LICENSE').write_text('MIT License')
    assert terms_of(folder, str(folder)).name == 'MIT'
    (folder.parent / 'README.md').write_text('---\nlicense: cc0-1.0\n---\n')
    assert terms_of(folder, str(folder)) == Terms('cc0-1.0', str(folder.parent / 'README.md'))


def test_a_license_file_outside_of_the_pipeline_s_folder_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / 'LICENSE').write_text('MIT License')
    (tmp_path / 'pipeline').mkdir()
    assert terms_of(tmp_path / 'pipeline', 'pipeline', levels=0).name == NOT_STATED


@pytest.mark.parametrize(
    ('folder', 'location'),
    [
        ('x', f'hub:{GENPERCEPT}@main/unet_depth_v2'),
        ('models--guangkaixu--genpercept-models/snapshots/0a/unet_depth_v2', '.'),
        (f'weights/{GENPERCEPT}/unet_depth_v2', '.'),
    ],
)
def test_a_known_project_is_found_by_owner_and_name(
    tmp_path: Path, folder: str, location: str
) -> None:
    terms = terms_of(tmp_path / folder, location)
    source = 'https://github.com/aim-uofa/GenPercept, README.md, section License'
    assert terms == Terms(NON_COMMERCIAL, source)
    assert terms_of(tmp_path, 'hub:guangkaixu/other').name == NOT_STATED


def test_every_known_project_names_the_source_of_its_terms() -> None:
    assert all(terms.name and terms.source for terms in known_terms().values())
    on_the_hub = [c for c in known_checkpoints() if c.config.license_source]
    assert {c.config.license for c in on_the_hub} == {t.name for t in known_terms().values()}


def test_the_licence_of_the_base_is_not_that_of_the_weights(tmp_path: Path) -> None:
    """As GenPercept beside Stable Diffusion, whose card says openrail++."""
    for name in ('base', 'own'):
        save_base(tmp_path / name, 'sd')
    (tmp_path / 'base/README.md').write_text('---\nlicense: openrail++\n---\n')
    values = {'base': 'base', 'tasks': {'depth': {'unet': 'own/unet'}}}
    (tmp_path / 'checkpoint.yaml').write_text(yaml.safe_dump(values))
    assert find_files(str(tmp_path)).config.license == NOT_STATED
    (tmp_path / 'own/LICENSE').write_text('MIT License')
    config = find_files(str(tmp_path)).config
    assert (config.license, config.license_source) == ('MIT', str(tmp_path / 'own/LICENSE'))
    values |= {'license': 'my own'}
    (tmp_path / 'checkpoint.yaml').write_text(yaml.safe_dump(values))
    assert find_files(str(tmp_path)).config.license == 'my own'


def test_of_several_licences_the_strictest_counts() -> None:
    assert commercial_use(join_licenses(['MIT', 'Apache-2.0', 'MIT'])) == 'allowed'
    assert commercial_use(join_licenses(['MIT', NOT_STATED])) == 'not known'
    assert commercial_use(join_licenses(['MIT', NOT_STATED, NON_COMMERCIAL])) == 'not allowed'
    assert join_licenses(['MIT', '', 'MIT', NOT_STATED]) == 'MIT; not stated by the authors'


@pytest.mark.parametrize(('accept', 'warnings'), [(False, 1), (True, 0)])
def test_a_non_commercial_licence_gives_a_warning_until_it_is_accepted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, accept: bool, warnings: int
) -> None:
    folder = save_tiny(tmp_path)
    file = folder / 'checkpoint.yaml'
    file.write_text(file.read_text().replace('Apache-2.0', 'cc-by-nc-4.0'))
    engine = Engine.load(str(folder), device='cpu', accept_license=accept)
    seen = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert [t for t in seen if 'excludes commercial use: cc-by-nc-4.0' in t] == seen[:warnings]
    assert len([t for t in seen if 'accept_license: true' in t]) == warnings
    assert engine.commercial_use == 'not allowed'
