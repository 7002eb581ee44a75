import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polyclinic.learning.state_dict import load_metadata, load_state
from polyclinic.store.ledger import Ledger
from tests.core.store.ledger_cases import flip, hand_over, model
from tests.core.store.ledger_damage import execute
from tests.server.cli.commands import Run

JOB = {"network": "unet"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two hospitals, one of them twice; a base and two published models."""
    folder = tmp_path / "runs" / "first" / "ledger"
    with Ledger.open(folder) as ledger:
        ledger.add_base(model(), json.dumps(JOB))
        for site, created in (("north", 1.0), ("north", 2.0), ("[red]south[/red]", 3.0)):
            hand_over(ledger, site, created)
        active = [entry.digest for entry in ledger.active()]
        ledger.publish(model(1.0), {"rule": "Ties", "parameters": {"keep": 0.2}}, active)
        ledger.publish(model(2.0), {"rule": "Mean"}, active[:1])
    return folder


def ended_plainly(ran: subprocess.CompletedProcess[str], code: int, *named: str) -> None:
    """Check for an exit code, and one line on stderr with these words."""
    assert ran.returncode == code, ran.stderr
    assert [word for word in named if word not in ran.stderr] == []
    assert "Traceback" not in ran.stdout + ran.stderr
    assert ran.stderr.count("\n") == 1


def test_list_shows_who_counts(run_cli: Run, place: Path) -> None:
    listed = run_cli("ledger", "list", "--ledger", str(place))
    assert listed.returncode == 0, listed.stderr
    assert "2 active, 1 superseded, 0 withdrawn" in listed.stdout
    assert "[red]south[/red]" in listed.stdout  # a hospital's name is text, not markup


def test_the_newest_run_is_the_default(
    run_cli: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = place.parents[1]
    (place.parent / "run.json").write_text('{"started": "2026-01-01"}')
    (runs / "second").mkdir()
    (runs / "second" / "run.json").write_text('{"started": "2026-01-02"}')  # it has no ledger
    monkeypatch.chdir(runs.parent)
    assert "2 active" in run_cli("ledger", "list").stdout
    assert "2 active" in run_cli("ledger", "list", "--ledger", "runs/latest/ledger").stdout
    monkeypatch.chdir(runs)
    ended_plainly(run_cli("ledger", "list"), 5, "ledger")


def test_show_tells_everything(run_cli: Run, place: Path) -> None:
    by_site = run_cli("ledger", "show", "north", "--ledger", str(place))
    assert by_site.stdout.count("made") >= 2
    assert "superseded" in by_site.stdout
    with Ledger.open(place) as ledger:
        digest = ledger.active()[0].digest
    by_digest = run_cli("ledger", "show", digest[:20], "--ledger", str(place))
    assert digest in by_digest.stdout
    assert "[red]south[/red]" in by_digest.stdout
    ended_plainly(run_cli("ledger", "show", "west", "--ledger", str(place)), 5, "'west'")


def test_withdraw_keeps_the_reason(run_cli: Run, place: Path) -> None:
    withdrawn = run_cli(
        "ledger", "withdraw", "north", "--reason", "wrong labels", "--ledger", str(place)
    )
    assert withdrawn.returncode == 0 and "north" in withdrawn.stdout
    with Ledger.open(place) as ledger:
        assert [entry.site for entry in ledger.active()] == ["[red]south[/red]"]
    history = run_cli("ledger", "history", "--limit", "1", "--ledger", str(place)).stdout
    assert "withdrawn" in history
    assert "wrong labels" in history
    ended_plainly(
        run_cli("ledger", "withdraw", "north", "--reason", "again", "--ledger", str(place)),
        5,
        "north",
    )


def test_history_shows_every_line(run_cli: Run, place: Path) -> None:
    history = run_cli("ledger", "history", "--ledger", str(place))
    assert history.returncode == 0, history.stderr
    for said in (
        "opened",
        "base",
        "10 examples",
        "model 1: Ties(keep=0.2) of 2 contributions",
        "model 2: Mean of 1",
    ):
        assert said in history.stdout


def test_verify_says_what_it_checked(run_cli: Run, place: Path) -> None:
    checked = run_cli("ledger", "verify", "--ledger", str(place))
    assert checked.returncode == 0, checked.stderr
    assert "sound: 7 lines, 3 files, 3 models" in checked.stdout
    with Ledger.open(place) as ledger:
        assert ledger.history()[-1].hash in checked.stdout


def test_verify_names_the_first_fault(run_cli: Run, place: Path) -> None:
    with Ledger.open(place) as ledger:
        flip(ledger.entries()[0].path)
        damaged = ledger.entries()[0].digest
    ended_plainly(run_cli("ledger", "verify", "--ledger", str(place)), 5, damaged)
    execute(
        place, "DROP TRIGGER journal_no_UPDATE", "UPDATE journal SET body = '{}' WHERE sequence = 3"
    )
    ended_plainly(run_cli("ledger", "verify", "--ledger", str(place)), 5, "line 3")


def test_export_writes_contributions_and_models(run_cli: Run, place: Path, tmp_path: Path) -> None:
    with Ledger.open(place) as ledger:
        entry, publication = ledger.entries()[0], ledger.publications()[0]

    def export(digest: str, to: Path) -> subprocess.CompletedProcess[str]:
        return run_cli("ledger", "export", digest, "--to", str(to), "--ledger", str(place))

    exported = export(entry.digest[:16], tmp_path / "out" / "c.safetensors")
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "out" / "c.safetensors").read_bytes() == entry.path.read_bytes()
    assert export(publication.digest, tmp_path / "m.safetensors").returncode == 0
    state, metadata = load_state(tmp_path / "m.safetensors")
    assert torch.equal(state["conv.bias"], torch.ones(2))
    assert load_metadata(metadata, tmp_path) == JOB  # so that `predict` can build the network
    ended_plainly(export("", tmp_path / "x"), 5, "6 digests")
    assert not (tmp_path / "x").exists()


def test_models_list_says_what_they_were_made_of(run_cli: Run, place: Path) -> None:
    listed = run_cli("models", "list", "--ledger", str(place))
    assert listed.returncode == 0, listed.stderr
    with Ledger.open(place) as ledger:
        parts = [f"{entry.site} {entry.digest[:8]}" for entry in ledger.active()]
    assert "Ties(keep=0.2)" in listed.stdout
    assert all(part in listed.stdout for part in parts)


def test_init_refuses_what_is_no_database(run_cli: Run, tmp_path: Path) -> None:
    made = run_cli("ledger", "init", str(tmp_path / "new"), "--url", "mysql://host/x")
    ended_plainly(made, 5, "mysql")


def test_init_makes_a_ledger_elsewhere(run_cli: Run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.sqlite'}"
    made = run_cli("ledger", "init", str(tmp_path / "new"), "--url", url)
    assert made.returncode == 0, made.stderr
    assert "0 contributions" in made.stdout
    assert (tmp_path / "elsewhere.sqlite").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["ledger"],
        ["models"],
        *(
            ["ledger", name]
            for name in ("list", "show", "withdraw", "history", "verify", "export", "init")
        ),
    ],
)
def test_help_is_there_without_torch(command: list[str]) -> None:
    code = f"import sys; sys.argv = ['x', *{command!r}, '--help']\n"
    code += "from polyclinic_server.cli.main import app\n"
    code += "app(standalone_mode=False)\nassert not {'torch', 'sqlalchemy'} & set(sys.modules)"
    helped = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert helped.returncode == 0, helped.stderr
    assert "Usage" in helped.stdout
