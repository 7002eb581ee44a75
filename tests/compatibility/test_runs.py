"""Run folders of version 0.1.0: states, events, figures, reports, configuration."""

import json
from pathlib import Path

import psutil
import pytest
import yaml
from hydra.utils import get_object

from polyclinic.config.aliases import with_current_names
from polyclinic.config.compose import as_yaml, load_config
from polyclinic.federation.events import EventLog
from polyclinic.federation.method import method_of
from polyclinic.federation.run_folder import find_run
from polyclinic.reporting.results import read_results
from tests.compatibility.conftest import Run
from tests.compatibility.kept import RUNS, figures, said

INTERRUPTED = ("interrupted-fedavg", "interrupted-merging")
EVERY_RUN = (*RUNS, *INTERRUPTED)
# defaults that were changed on purpose: what they were, what they are; this one is the same for
# networks without statistics of normalization
CHANGED = {("strategy", "restoration"): ("none", "auto")}


def targets(tree: object) -> set[str]:
    """List every `_target_` of nested dictionaries and lists."""
    if isinstance(tree, dict):
        own = {tree["_target_"]} if isinstance(tree.get("_target_"), str) else set()
        return own.union(*map(targets, tree.values()))
    return set().union(*map(targets, tree)) if isinstance(tree, list) else set()


def test_status_lists_every_run_and_how_it_ended(
    kept: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "pid_exists", lambda _pid: False)
    listed = run("polyclinic-server", "status", "--runs", kept / "runs")
    assert listed.returncode == 0
    for name in EVERY_RUN:
        (line,) = (line for line in listed.stdout.splitlines() if f" {name} " in line)
        assert ("died" if name in INTERRUPTED else "finished") in line


@pytest.mark.parametrize("name", EVERY_RUN)
def test_every_event_is_read_by_the_models_of_today(kept: Path, name: str) -> None:
    path = kept / "runs" / name / "events.jsonl"
    written = [json.loads(line) for line in path.read_text().splitlines()]
    read = EventLog().read(path)
    assert [event.kind for event in read] == [
        line["kind"] for line in sorted(written, key=lambda line: line["time"])
    ]
    for event, line in zip(read, sorted(written, key=lambda line: line["time"]), strict=True):
        again = event.to_line()
        assert {key: again[key] for key in ("time", "arm", "kind")} == {
            key: line[key] for key in ("time", "arm", "kind")
        }
        assert again.get("site", "") == line.get("site", "")


@pytest.mark.parametrize("name", RUNS)
def test_a_report_has_the_figures_that_it_had(kept: Path, run: Run, name: str) -> None:
    reported = run("polyclinic-server", "report", name, "--runs", kept / "runs")
    assert reported.returncode == 0, reported.stderr
    assert figures(reported.stdout) == figures(said(f"report {name}"))
    page = (kept / "runs" / name / "report.html").read_text()
    scores = [line["score"] for line in _tests(kept / "runs" / name) if line["score"] is not None]
    assert scores and all(f"{score:.3f}" in page for score in scores)


def _tests(folder: Path) -> list[dict[str, object]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    shown = {arm.name for arm in read_results(folder).arms}
    return [line for line in lines if line["phase"] == "test" and line["arm"] in shown]


@pytest.mark.parametrize("name", EVERY_RUN)
def test_what_its_configuration_named_exists(kept: Path, name: str) -> None:
    documents = yaml.safe_load_all((kept / "runs" / name / "config.yaml").read_text())
    named = set().union(*(targets(with_current_names(each)) for each in documents))
    assert named and all(callable(get_object(target)) for target in named)


@pytest.mark.parametrize("name", EVERY_RUN)
def test_its_settings_compose_to_what_they_were(kept: Path, name: str) -> None:
    folder = find_run(kept / "runs", name)
    (overrides,) = json.loads((folder.path / "overrides.json").read_text())
    config = load_config(overrides)
    method_of(config)
    (written,) = yaml.safe_load_all((folder.path / "config.yaml").read_text())
    before, now = with_current_names(written), yaml.safe_load(as_yaml(config))
    assert isinstance(before, dict)
    for (part, setting), (was, is_now) in CHANGED.items():
        if before[part].get(setting) == was:
            before[part][setting] = is_now
    for part in ("model", "data", "training", "strategy", "privacy", "rounds", "seed"):
        assert _common(before[part], now[part]) == before[part], part


def _common(before: object, now: object) -> object:
    """Return what is in both: settings that are new today are passed over."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {key: _common(value, now.get(key)) for key, value in before.items()}
    return now


def test_a_finished_run_is_not_resumed(kept: Path, run: Run) -> None:
    refused = run(
        "polyclinic-server", "run", "--resume", "fedavg", f"deployment.runs={kept / 'runs'}"
    )
    assert refused.returncode == 5 and "fedavg" in refused.stderr
