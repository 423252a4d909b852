"""The documentation: generated pages are current, links resolve, the site builds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
import importlib
import os
from pathlib import Path
import re
import subprocess
import sys

import pytest
import test_layers

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
sys.path.insert(0, str(DOCS))

benchmark_tables = importlib.import_module('benchmark_tables')
generate = importlib.import_module('generate')

CARD = ROOT / 'sd_perception_ros/assets/checkpoints/bundled/README.md'
PAGES = sorted([*ROOT.glob('*.md'), *DOCS.glob('*.md'), CARD])
LINK = re.compile(r'\]\(([^)\s]+)\)')
FENCE = re.compile(r'^```.*?^```', re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    text = FENCE.sub('', page.read_text(encoding='utf-8'))
    headings = re.findall(r'^#+ (.+)$', text, re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def broken_links(page: Path) -> Iterator[str]:
    """List the links of a page to files or headings that do not exist."""
    for link in LINK.findall(FENCE.sub('', page.read_text(encoding='utf-8'))):
        if link.startswith(('http://', 'https://')):
            continue
        name, _, anchor = link.partition('#')
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize('name', generate.PAGES)
def test_generated_pages_are_what_the_generator_writes(name: str) -> None:
    current = generate.PAGES[name]()
    assert (DOCS / name).read_text(encoding='utf-8') == current, 'run python docs/generate.py'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page: Path) -> None:
    assert list(broken_links(page)) == []


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_named_in_the_text_exist(page: Path) -> None:
    text = FENCE.sub('', page.read_text(encoding='utf-8'))
    named = set(re.findall(r'`((?:[a-z]\w*/)+(?:\w+\.(?:py|yaml|md|txt|xml))?)`', text))
    of_users = {'image/', 'raw/', 'train2017/', 'front/', 'rear/', 'site/', 'demo_output/'}
    places = (ROOT, ROOT / 'sd_perception_ros', page.parent)
    missing = {name for name in named if not any((place / name).exists() for place in places)}
    assert missing - of_users == set()


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / 'page.md'
    page.write_text('# One Two\n[a](page.md#one-two) [b](page.md#three) [c](none.md)\n')
    assert list(broken_links(page)) == ['page.md#three', 'none.md']


def test_the_index_links_every_page() -> None:
    linked = set(LINK.findall((DOCS / 'index.md').read_text(encoding='utf-8')))
    assert {page.name for page in DOCS.glob('*.md')} - {'index.md'} == linked


def test_the_layers_of_the_architecture_are_those_of_the_layer_test() -> None:
    page = (ROOT / 'ARCHITECTURE.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| \d+ \| ([^|]+) \|', page, re.MULTILINE)
    described = [
        {name.removesuffix('/').removesuffix('.py') for name in re.findall('`([^`]+)`', row)}
        for row in reversed(rows)
    ]
    # Above the package: launch/ and config/ in the page, __main__ in the test.
    assert described[:-1] == [set(row) for row in test_layers.ROWS[:-1]]


def test_the_readme_is_short() -> None:
    assert len((ROOT / 'README.md').read_text(encoding='utf-8').splitlines()) <= 130


@pytest.mark.parametrize('name', ['README.md', 'docs/python.md'])
def test_the_example_in_python_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / name).read_text(encoding='utf-8')
    code = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    assert len(code) == 1
    monkeypatch.chdir(ROOT)
    exec(code[0], {})
    assert capsys.readouterr().out


def test_the_parameters_page_needs_no_ros() -> None:
    code = (
        "import sys; sys.path.insert(0, 'docs'); sys.modules['rclpy'] = None; "
        'import generate; generate.parameters(); generate.benchmarks()'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('name', benchmark_tables.TABLES)
def test_every_benchmark_table_has_rows_of_one_width(name: str) -> None:
    make, _ = benchmark_tables.TABLES[name]  # also those that are not shown
    if not (rows := make()):
        pytest.skip('not measured yet')
    lines = rows.splitlines()
    assert len(lines) > 3
    assert len({line.count(' | ') for line in lines}) == 1


def test_results_of_changed_trees_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    commits = {'epyc_2_cores_ros_auto': '0123456789ab', 'epyc_2_cores_ros_torch': '0-dirty'}
    monkeypatch.setattr(benchmark_tables, '_commit', commits.__getitem__)
    shown = benchmark_tables.show('through_ros')
    assert '0-dirty' in shown
    assert '|' not in shown
    commits['epyc_2_cores_ros_torch'] = '0123456789ab'
    assert benchmark_tables.show('through_ros').endswith('Commit: 0123456789ab.')


def test_the_table_of_tiny_autoencoders_is_hidden_until_it_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result: dict[str, object] = {'commit': '0123456789ab', 'median_s': {'x': 12.0}}
    monkeypatch.setattr(benchmark_tables, '_read', lambda _: result)
    monkeypatch.setattr(benchmark_tables, '_commit', lambda _: '0123456789ab')
    assert benchmark_tables.show('tiny_vae') == '*Not measured yet. Run the command above.*'
    name = 'ours, decoder, tiny VAE'
    result['tiny_vae'] = {name: {'times_as_fast': 4.0}}
    result['median_s'] = {'x': 12.0, name: 3.0}
    assert '| ours, decoder | 12.0 s | 3.0 s | 4.00 |' in benchmark_tables.show('tiny_vae')


def diagnostic_keys() -> set[str]:
    """Return the keys that the code of the node counts, times and sets."""
    keys = set()
    for path in (ROOT / 'sd_perception_ros' / 'ros').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if not is_call or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            owner = ast.unparse(node.func.value)
            if owner.endswith('stats') and node.func.attr in ('count', 'set', 'time'):
                suffix = '_ms' if node.func.attr == 'time' else ''
                keys.add(f'{node.args[0].value}{suffix}')
    return keys


def test_every_launch_argument_is_explained() -> None:
    tree = ast.parse((ROOT / 'launch' / 'perception.launch.py').read_text(encoding='utf-8'))
    tables = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'ARGUMENTS'
    ]
    assert len(tables) == 1
    assert isinstance(tables[0], ast.Dict)
    page = (DOCS / 'running.md').read_text(encoding='utf-8')
    names = [key.value for key in tables[0].keys if isinstance(key, ast.Constant)]
    assert 'image_topic' in names
    assert [name for name in names if f'`{name}`' not in page] == []


def test_every_diagnostic_key_is_explained() -> None:
    page = (DOCS / 'diagnostics.md').read_text(encoding='utf-8')
    keys = diagnostic_keys()
    assert {'received', 'latency_ms'} <= keys
    assert [key for key in sorted(keys) if f'`{key}' not in page] == []


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert 'WARNING' not in done.stderr
    assert (tmp_path / 'parameters.html').is_file()


def test_every_test_that_the_page_of_reliability_names_exists() -> None:
    """In the last column: the file, and after a colon words of the names of its tests."""
    page = (DOCS / 'reliability.md').read_text(encoding='utf-8')
    named = re.findall(r'`(test_\w+)`(?:: ((?:(?!`)[^|])+))?', page)
    assert len(named) > 30
    missing = []
    for name, words in named:
        file = ROOT / 'test' / f'{name}.py'
        tests = re.findall(r'def (test_\w+)', file.read_text()) if file.is_file() else []
        phrases = [part.strip().replace(' ', '_').replace('-', '_') for part in words.split(',')]
        missing += [
            f'{name}: {phrase}'
            for phrase in phrases
            if not tests or not any(phrase in test for test in tests)
        ]
    assert missing == []
