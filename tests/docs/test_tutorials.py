"""The files that the tutorials show work as the tutorials say."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, code_blocks

TUTORIALS = ("own-rule", "own-statistic", "own-strategy")
SOURCES = ("core", "strategies", "server", "client", "demos")
SHORT = ("training.batch_size=8", "data.samples_per_case=1")


def write_files(tutorial: str, folder: Path) -> dict[str, str]:
    """Write the files of a tutorial; returns them."""
    blocks = [block for block in code_blocks(DOCS / "tutorials" / f"{tutorial}.md") if block.title]
    for block in blocks:
        path = folder / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    return {block.title: block.text for block in blocks}


def install(tutorial: str, folder: Path) -> dict[str, str]:
    """Write a tutorial's package, and what an installation of it would; returns the environment."""
    files = write_files(tutorial, folder)
    project = tomllib.loads(files["pyproject.toml"])["project"]
    called = f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    (folder / called).mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (folder / called / "METADATA").write_text(metadata)
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (folder / called / "entry_points.txt").write_text("\n".join(lines) + "\n")
    paths = [folder, *(ROOT / source for source in SOURCES), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(str(each) for each in paths if str(each))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run(environment: dict[str, str], folder: Path, *command: str) -> str:
    """Run Python; returns what it printed."""
    ran = subprocess.run(
        [sys.executable, *command],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("tutorial", TUTORIALS)
def test_the_package_of_a_tutorial_passes_its_own_tests(tutorial: str, tmp_path: Path) -> None:
    environment = install(tutorial, tmp_path)
    printed = run(environment, tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", ".")
    assert " passed" in printed


@pytest.mark.parametrize(
    ("tutorial", "setting", "shown"),
    [
        ("own-rule", "strategy=merging/median", "_target_: polyclinic_median.Median"),
        ("own-statistic", "strategy=refinement", "quantiles"),
        ("own-strategy", "strategy=clipping", "strategy: clipping"),
    ],
)
def test_settings_show_what_the_package_adds(
    tutorial: str, setting: str, shown: str, tmp_path: Path
) -> None:
    environment = install(tutorial, tmp_path)
    package = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    program = ("-m", "polyclinic_server.cli.main", "settings")
    printed = run(environment, tmp_path, *program, setting)
    assert shown in printed
    assert f"{package['name']} {package['version']}" in " ".join(printed.split())


def test_every_part_of_the_method_is_there(tmp_path: Path) -> None:
    environment = install("own-strategy", tmp_path)
    parts = ("coordinator", "hospital", "events", "section")
    program = (
        "from polyclinic.federation.method import method_named\n"
        f"print(*(method_named('clipping').load(part) for part in {parts}), sep='\\n')"
    )
    printed = run(environment, tmp_path, "-c", program)
    assert len(printed.splitlines()) == len(parts)
    assert "None" not in printed


def test_the_readme_shows_the_rule_of_the_tutorial() -> None:
    shown = [
        block.text for block in code_blocks(ROOT / "README.md") if "class Median" in block.text
    ]
    (rule,) = [
        block.text
        for block in code_blocks(DOCS / "tutorials" / "own-rule.md")
        if block.title.endswith("__init__.py")
    ]
    assert shown == [rule]
    assert len([line for line in rule.splitlines() if line.strip()]) <= 12


@pytest.mark.e2e
@pytest.mark.parametrize("tutorial", ["own-data", *TUTORIALS])
def test_the_trial_of_a_tutorial_runs(tutorial: str, tmp_path: Path) -> None:
    write_files("own-data", tmp_path)
    run({**os.environ}, tmp_path, "make_data.py")
    (tmp_path / "try.py").unlink()
    environment = install(tutorial, tmp_path) if tutorial != "own-data" else with_sources()
    write_files(tutorial, tmp_path)
    text = (tmp_path / "try.py").read_text()
    assert "rounds=4" in text
    short = "".join(f'    "{setting}",\n' for setting in SHORT)
    text = text.replace("rounds=4", "rounds=2").replace("SETTINGS = [\n", f"SETTINGS = [\n{short}")
    text = text.replace('    "data.samples_per_case=2",\n', "")
    (tmp_path / "try.py").write_text(text)
    if (tmp_path / "look.py").exists():
        assert run(environment, tmp_path, "look.py").count("0.0") >= 3  # each one's to itself
    printed = run(environment, tmp_path, "try.py")
    assert all(site in printed for site in ("north", "south", "west"))


def with_sources() -> dict[str, str]:
    """Return an environment that imports this checkout."""
    paths = [*(str(ROOT / source) for source in SOURCES), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
