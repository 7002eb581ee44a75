"""A whole merging run in memory, with the real apps of both sides, fine-tuning and ledger."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from polyclinic.config.compose import instantiate, load_config
from polyclinic.errors import ConfigError, RunError
from polyclinic.federation.run_folder import RunFolder
from polyclinic.learning.state_dict import load_state
from polyclinic.reporting.results import read_results
from polyclinic.reporting.tables import terminal_tables
from polyclinic.store.contribution import TensorFile
from polyclinic.store.ledger import Ledger
from polyclinic_client.fleet.app import app as client_app
from polyclinic_client.policy.policy import keep_policy
from polyclinic_client.site.fine_tuning import work
from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort
from polyclinic_server.reports.page import write_report
from polyclinic_server.runs.app import coordinate
from polyclinic_strategies.merging.arithmetic.configured import describe_rule
from polyclinic_strategies.merging.offline import merge_offline
from polyclinic_strategies.merging.strategy import Merging
from tests.fakes import FakeGrid, FakeNode, serve
from tests.server.runs.test_app import SMALL

# rules with candidates, and with statistics of both kinds
OTHERS = ("ties", "regmean", "fisher")
QUICK = [
    "rounds=1",
    "strategy.poll_s=0.01",
    "deployment.hospitals=3",
    "deployment.min_hospitals=2",
    "privacy.release.min_subjects=1",
]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    coarse = [replace(scanner, voxel_mm=(9.0, 9.0, 9.0)) for scanner in HOSPITALS[:3]]
    return write_cohort(
        tmp_path_factory.mktemp("cohort"), sites=3, subjects=(1, 1, 1), scanners=coarse
    )


def hospital(config: dict[str, Any]) -> Callable[[Message], Message | None]:
    """Make a hospital that fine-tunes between two messages."""
    answer = serve(client_app, config)

    def reply(message: Message) -> Message | None:
        answered = answer(message)
        work(config["site"], Path(config["data"]), Path(config["state"]))
        return answered

    return reply


def run(folder: Path, sites: list[Path], *overrides: str) -> RunFolder:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "overrides.json").write_text(json.dumps([[*SMALL, *QUICK, *overrides]]))
    nodes = []
    for number, site in enumerate(sites, 1):
        state = str(folder / "state" / site.name)
        config = {"site": site.name, "data": str(site), "state": state}
        keep_policy(Path(state), min_subjects=1)
        nodes.append(FakeNode(number, hospital(config)))
    made = RunFolder(folder)
    arms = [{"name": "merging-mean", "title": "Merging (mean)", "kind": "merging"}]
    made.update(name="run", state="running", arms=arms, task="segmentation")
    coordinate(FakeGrid(nodes), made)  # type: ignore[arg-type]
    made.close()
    return made


def lines(folder: RunFolder, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder.path / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, sites: list[Path]) -> RunFolder:
    """Three hospitals, other rules, every control."""
    folder = tmp_path_factory.mktemp("compared") / "run"
    return run(
        folder,
        sites,
        "strategy=merging/mean",
        f"strategy.compare=[{','.join(OTHERS)}]",
        "strategy.controls=true",
    )


def test_every_opponent_is_tested_at_every_hospital(compared: RunFolder) -> None:
    figures = [line for line in lines(compared, "metrics.jsonl") if line["phase"] == "test"]
    tested = [(line["arm"], line["site"]) for line in figures]
    arms = {f"merging-{rule}" for rule in ("mean", *OTHERS)}
    arms |= {"local", "random", "random.restored", "merging-mean.restored"}
    assert arms <= {arm for arm, _ in tested}
    assert len(tested) == len(set(tested)) and len({site for _, site in tested}) == 3


def test_every_publication_was_scored_by_every_hospital(compared: RunFolder) -> None:
    published = {
        line["number"] for line in lines(compared, "events.jsonl") if line["kind"] == "published"
    }
    scored = {
        (line["round"], line["site"])
        for line in lines(compared, "metrics.jsonl")
        if line["phase"] == "validate"
    }
    assert published == {1, 2, 3}
    assert len(scored) == 9


def test_the_report_and_the_table_can_be_made_of_it(compared: RunFolder) -> None:
    assert len(terminal_tables(read_results(compared.path))) == 2
    assert "random vector" in write_report(compared.path).read_text()


def test_merging_offline_gives_the_published_bits_and_leaves_the_ledger_alone(
    compared: RunFolder, tmp_path: Path
) -> None:
    with Ledger.open(compared.path / "ledger") as ledger:
        before = [line.hash for line in ledger.history()]
    words, entries = merge_offline(
        "mean", [], compared.path / "ledger", tmp_path / "mean.safetensors"
    )
    assert words.startswith("Mean") and len(entries) == 3
    ours, _ = load_state(tmp_path / "mean.safetensors")
    theirs, _ = load_state(compared.path / "arms" / "merging-mean" / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with Ledger.open(compared.path / "ledger") as ledger:
        assert [line.hash for line in ledger.history()] == before
        assert ledger.verify() is None


@pytest.mark.parametrize(
    ("rule", "parameters", "said"),
    [("tias", [], "ties"), ("ties", ["keep=1.5"], "keep"), ("ties", ["keep"], "VALUE")],
)
def test_a_wrong_setting_of_an_offline_merge_is_named(
    compared: RunFolder, tmp_path: Path, rule: str, parameters: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        merge_offline(rule, parameters, compared.path / "ledger", tmp_path / "out.safetensors")


def test_after_a_withdrawal_the_model_has_the_bits_as_if_the_hospital_had_never_come(
    sites: list[Path], tmp_path: Path
) -> None:
    without = run(tmp_path / "two", sites[:2], "strategy=merging/mean", "deployment.hospitals=2")
    three = run(tmp_path / "three", sites, "strategy=merging/mean")
    with Ledger.open(three.path / "ledger") as ledger:
        ledger.withdraw(sites[2].name, "asked for it")
    merge_offline("mean", [], three.path / "ledger", tmp_path / "withdrawn.safetensors")
    ours, _ = load_state(tmp_path / "withdrawn.safetensors")
    theirs, _ = load_state(without.path / "arms" / "merging-mean" / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_in_which_everybody_is_refused_says_so(sites: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"events\.jsonl"):
        run(
            tmp_path / "run",
            sites[:2],
            "strategy=merging/mean",
            "strategy.sites=[nobody]",
            "strategy.end.seconds=2",
        )


def test_hospitals_choose_among_several_rules(sites: list[Path], tmp_path: Path) -> None:
    best = run(tmp_path / "run", sites[:2], "strategy=merging/best", "deployment.hospitals=2")
    strategy: Merging = instantiate(
        load_config(["strategy=merging/best"]).strategy, _recursive_=False
    )
    known = [describe_rule(rule) for rule in strategy.rules()]
    assert {each["rule"] for each in known} == {"Ties", "IsoC", "Sum"}
    assert len(known) == len({json.dumps(each, sort_keys=True) for each in known})
    with Ledger.open(best.path / "ledger") as ledger:
        newest = ledger.publications()[-1].recipe
    assert {key: newest[key] for key in ("rule", "parameters")} in known
    with pytest.raises(ConfigError, match="several rules"):
        merge_offline("best", [], best.path / "ledger", tmp_path / "out.safetensors")


def test_in_turn_there_is_no_model_of_one_hospital_alone(sites: list[Path], tmp_path: Path) -> None:
    settings = ("strategy=merging/in_turn", "strategy.controls=true", "deployment.hospitals=2")
    made = run(tmp_path / "run", sites[:2], *settings)
    described = made.describe()
    assert "local" not in {arm["name"] for arm in described["arms"]}
    entries = {entry["name"] for entry in described["comparison"]["entries"]}
    assert {"random", "base"} <= entries and not any("single" in name for name in entries)
    with Ledger.open(made.path / "ledger") as ledger:
        bases = [entry.base for entry in ledger.entries()]
        assert bases == [ledger.bases()[0], ledger.publications()[0].digest]


def test_thin_contributions_are_merged(sites: list[Path], tmp_path: Path) -> None:
    thin = run(
        tmp_path / "run",
        sites[:2],
        "strategy=merging/ties",
        "strategy.rank=1",
        "deployment.hospitals=2",
    )
    with Ledger.open(thin.path / "ledger") as ledger:
        assert ledger.verify() is None
        entries = ledger.entries()
        paths = [ledger.contribution_path(entry.digest) for entry in entries]
    assert len(paths) == 2
    for path in paths:
        with TensorFile(path) as file:
            whole = 4 * sum(math.prod(file.shape(name)) for name in file.names)
            assert file.thin
        assert path.stat().st_size < whole
    state, _ = load_state(thin.path / "arms" / "merging-ties" / "model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())


@pytest.mark.parametrize(
    ("given", "names", "expected"),
    [
        ("auto", ("a.weight", "n.running_mean"), "statistics"),
        ("auto", ("a.weight", "n.weight"), "none"),
        ("none", ("n.running_mean",), "none"),
        ("steps", ("n.running_mean",), "steps"),
    ],
)
def test_statistics_are_restored_where_a_network_has_any(
    given: str, names: tuple[str, ...], expected: str
) -> None:
    settings = load_config(["strategy=merging/ties", f"strategy.restoration={given}"])
    strategy: Merging = instantiate(settings.strategy, _recursive_=False)
    assert strategy.for_network(names).restoration == expected


def test_an_impossible_setting_is_refused_before_anybody_is_asked() -> None:
    for override, said in (
        ("strategy.restoration=magic", "restoration"),
        ("strategy.rank=-1", "rank"),
        ("strategy.start=last", "base, newest, in_turn"),
        ("+strategy.alternatives.tias={}", "ties"),
        ("+strategy.alternatives.ties.keep=[2.0]", "keep"),
        ("strategy.rule.scale=nan", "scale"),
        ("strategy.statistics=[x]", "gram"),
    ):
        with pytest.raises(ConfigError, match=said):
            instantiate(load_config(["strategy=merging/sum", override]).strategy, _recursive_=False)
