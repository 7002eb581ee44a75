"""The `refine` command: a hospital's model from a ledger, and the hospitals in it."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from polyclinic.config.compose import load_config
from polyclinic.errors import RunError
from polyclinic.federation.jobs import build_network, describe_model, make_order
from polyclinic.federation.run_folder import RunFolder
from polyclinic.learning.model_file import load_model
from polyclinic.learning.state_dict import load_state, shared_names
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.store.ledger import Ledger
from polyclinic.store.requirements import Requirements
from polyclinic_server.cli import main as cli
from polyclinic_strategies.merging.publisher import Publisher
from polyclinic_strategies.refinement.offline import CHOICE, read_choice, refine_offline
from polyclinic_strategies.refinement.refine import Recipe
from polyclinic_strategies.refinement.refiner import Description, Refiner
from tests.e2e.federation import TINY
from tests.server.cli.test_ledger import Run, ended_plainly

BATCHNORM = [
    "model=unet_batchnorm",
    "data=brain_tissue",
    "model.channels=[4,8]",
    "model.strides=[2]",
    "model.num_res_units=0",
]
LEFT_OUT, OWN = Recipe("softmax", sharpness=0.5), Recipe("norm_local")
PLACES = {"a": 0.0, "b": 1.0, "[red]c[/red]": 4.0}  # median of 1, 3 and 4: 3


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The console script, in this process."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli.console, "width", 200)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["polyclinic-server", "refine", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(
            arguments, int(ended.value.code or 0), said.out, said.err
        )

    yield run
    signal.signal(signal.SIGTERM, before)


def make_ledger(folder: Path, overrides: list[str]) -> Path:
    """Three contributions, a newcomer near b, one far from everybody; no recipe is chosen yet."""
    config = load_config(overrides)
    network = build_network(config)
    order = make_order(RunFolder(folder), config, network)
    base = {name: network.state_dict()[name] for name in shared_names(network, "none")}
    layout = {name: tuple(tensor.shape) for name, tensor in base.items()}
    with Ledger.open(folder / "ledger") as ledger:
        digest = ledger.add_base(base, json.dumps(describe_model(order, 0, False)))
        for number, (site, place) in enumerate(PLACES.items()):
            vector = {
                name: torch.full_like(tensor, 0.01 * (number + 1)) for name, tensor in base.items()
            }
            described = {"site/average_image": torch.tensor([place])}
            made = write_contribution(
                folder, Contribution(site, digest, "t", 3, {}, 1.0, "1"), vector, described
            )
            ledger.receive(made, site, Requirements(digest, layout, "t", None, 2**30, 0.0, {}, 0))
        refiner = Refiner(Publisher(ledger, 0, 0.5))
        for site, place in (("st-mary", 1.3), ("far", 100.0)):
            refiner.describe(site, Description(digest, 4, {"average_image": torch.tensor([place])}))
    return folder / "ledger"


def choose(
    ledger: Path,
    left_out: Recipe = LEFT_OUT,
    own: Recipe = OWN,
    normalization: tuple[str, ...] = (),
) -> None:
    kept = {
        "normalization": normalization,
        "left_out": [{"recipe": asdict(left_out)}],
        "own": [{"recipe": asdict(own)}],
    }
    (ledger / CHOICE).write_text(json.dumps(kept))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    ledger = make_ledger(tmp_path, TINY)
    choose(ledger)
    return ledger


def last_words(text: str) -> set[str]:
    """Return the words below the table."""
    words = unwrapped(text.rpartition("\u2518")[2]).split()
    return {word.strip(",.:") for word in words}


def rows(said: str) -> dict[str, list[str]]:
    """The table's cells by hospital."""
    cells = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in said.splitlines()
        if line.startswith("│")
    ]
    return {name: rest for name, *rest in cells}


def unwrapped(said: str) -> str:
    """A table's title is as wide as the table."""
    return " ".join(said.split())


def test_explain_shows_whose_vectors_and_how_far(run_cli: Run, place: Path) -> None:
    told = run_cli("--for", "st-mary", "--explain", "--ledger", str(place))
    assert told.returncode == 0, told.stderr
    assert f"st-mary: {LEFT_OUT}" in unwrapped(told.stdout)
    distances = torch.tensor([1.3, 0.3, 2.7]) / 3
    shares = torch.softmax(-distances / 0.5, 0)
    table = rows(told.stdout)
    # the largest share first; a name is text, not markup
    assert list(table) == ["b", "a", "[red]c[/red]"]
    for number, site in enumerate(PLACES):
        assert table[site] == [f"{distances[number]:.2f}", f"{100 * shares[number]:.0f} %"]
    assert {"b", "0.10"} <= last_words(told.stdout)


def test_a_fallback_says_why(run_cli: Run, place: Path) -> None:
    told = run_cli("--for", "far", "--explain", "--ledger", str(place)).stdout
    assert {"uniform", "[red]c[/red]", "32.0"} <= last_words(told)
    assert {cells[1] for cells in rows(told).values()} == {"33 %"}


def test_a_contributor_has_a_recipe_of_its_own_and_left_out_that_of_newcomers(
    run_cli: Run, place: Path
) -> None:
    own = run_cli("--for", "b", "--explain", "--ledger", str(place)).stdout
    assert str(OWN) in unwrapped(own) and "uniform" in last_words(own)
    left_out = run_cli("--for", "b", "--explain", "--left-out", "--ledger", str(place)).stdout
    assert str(LEFT_OUT) in unwrapped(left_out)
    assert set(rows(left_out)) == {"a", "[red]c[/red]"}
    assert {"a", "0.25"} <= last_words(left_out)  # of the one distance that is left, 4
    choose(place, own=LEFT_OUT)
    own = run_cli("--for", "b", "--explain", "--ledger", str(place)).stdout
    assert {"b", "contributed"} <= last_words(own)


def test_a_newcomer_with_the_images_of_a_contributor_did_not_contribute(
    run_cli: Run, place: Path
) -> None:
    with Ledger.open(place) as ledger:
        Refiner(Publisher(ledger, 0, 0.5)).describe(
            "twin", Description(ledger.bases()[-1], 4, {"average_image": torch.tensor([1.0])})
        )
    told = run_cli("--for", "twin", "--explain", "--ledger", str(place)).stdout
    assert {"b", "0.00"} <= last_words(told) and "contributed" not in last_words(told)


@pytest.mark.parametrize("overrides", [TINY, BATCHNORM], ids=["instance norm", "batch norm"])
def test_the_file_is_the_model_and_can_be_used(
    run_cli: Run, tmp_path: Path, overrides: list[str]
) -> None:
    ledger, target = make_ledger(tmp_path, overrides), tmp_path / "models" / "a.safetensors"
    with Ledger.open(ledger) as opened:
        base = opened.load_model(opened.bases()[-1])
    norms = sorted(set(base) - set(shared_names(build_network(load_config(overrides)), "norm")))
    choose(ledger, normalization=tuple(norms))
    written = run_cli("--for", "a", "--to", str(target), "--ledger", str(ledger))
    assert written.returncode == 0, written.stderr
    assert str(target) in written.stdout and "MiB" in written.stdout
    network, _ = load_model(target)
    state = network.state_dict()
    assert norms and set(norms) < set(base)
    for name, tensor in base.items():
        step = 0.01 if name in norms else 0.02  # its own, and the mean of 0.01, 0.02 and 0.03
        torch.testing.assert_close(state[name], tensor + step)
    assert json.loads(load_state(target)[1]["polyclinic"])["arm"] == "refinement-a"


def test_left_out_the_file_has_nothing_of_the_hospital(
    run_cli: Run, place: Path, tmp_path: Path
) -> None:
    for options, steps in (([], 0.02), (["--left-out"], 0.01)):
        choose(place, left_out=Recipe("nearest"))
        assert (
            run_cli(
                "--for", "b", "--to", str(tmp_path / "out"), *options, "--ledger", str(place)
            ).returncode
            == 0
        )
        with Ledger.open(place) as ledger:
            base = ledger.load_model(ledger.bases()[-1])
        state, _ = load_state(tmp_path / "out")
        for name, tensor in base.items():
            torch.testing.assert_close(state[name], tensor + steps)


def test_the_ledger_stays_as_it_is(place: Path, tmp_path: Path) -> None:
    with Ledger.open(place) as ledger:
        before = [line.hash for line in ledger.history()]
    found = refine_offline("st-mary", place, tmp_path / "out", left_out=False)
    assert found == refine_offline(
        "st-mary", place, None, left_out=True
    )  # a newcomer is left out anyhow
    with Ledger.open(place) as ledger:
        assert [line.hash for line in ledger.history()] == before


def test_an_unknown_site_lists_those_that_are_known(run_cli: Run, place: Path) -> None:
    ran = run_cli("--for", "st-marry", "--explain", "--ledger", str(place))
    ended_plainly(ran, 2, "Did you mean st-mary? Known: [red]c[/red], a, b, far, st-mary.")


def test_something_must_be_wanted(run_cli: Run, place: Path) -> None:
    ended_plainly(run_cli("--for", "st-mary", "--ledger", str(place)), 2, "--explain", "--to FILE")


def test_without_a_choice_a_run_is_recommended(run_cli: Run, place: Path) -> None:
    (place / CHOICE).unlink()
    ended_plainly(
        run_cli("--for", "st-mary", "--explain", "--ledger", str(place)),
        5,
        "strategy=refinement` chooses one",
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"left_out": [], "own": []}',
        '{"left_out": [{"recipe": {"magic": 1}}], "own": [{"recipe": {}}]}',
    ],
)
def test_a_damaged_choice_is_no_choice(tmp_path: Path, text: str) -> None:
    (tmp_path / CHOICE).write_text(text)
    with pytest.raises(RunError, match=CHOICE):
        read_choice(tmp_path / CHOICE)


def test_a_choice_comes_back_as_it_was_made(place: Path) -> None:
    assert read_choice(place / CHOICE).recipes == (LEFT_OUT, OWN)


def test_a_hospital_that_only_described_itself_can_leave(
    run_cli: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger.open(place) as ledger:
        newcomer = sorted(Refiner(Publisher(ledger, 0, 0.5)).newcomers())[0]
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "polyclinic-server",
            "ledger",
            "withdraw",
            newcomer,
            "--reason",
            "asked",
            "--ledger",
            str(place),
        ],
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    with Ledger.open(place) as ledger:
        assert newcomer not in Refiner(Publisher(ledger, 0, 0.5)).newcomers()
    assert run_cli("--for", newcomer, "--explain", "--ledger", str(place)).returncode == 2
