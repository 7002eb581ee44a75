"""`runs`, `approve`, `refuse` and `sent`, as a person runs them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polyclinic.errors import ConfigError
from polyclinic.learning.private.accounting import Spending, epsilon
from polyclinic_client.cli.main import app
from polyclinic_client.patients.spent import Entry, Spent
from polyclinic_client.policy.asked import Asked
from polyclinic_client.policy.decisions import note_asked
from polyclinic_client.policy.policy import keep_policy
from polyclinic_client.sent.journal import FILE, Journal, JournalDamaged, Leaving
from polyclinic_client.sent.pages import ChainBroken

ASKED = Asked("brain", "arm", "averaging", 5, names={"model": "unet", "data": "brain_tissue"})
DIGEST = "d" * 64


@pytest.fixture
def state(tmp_path: Path) -> Path:
    keep_policy(tmp_path, approval=True)
    note_asked(tmp_path, ASKED)
    journal = Journal(tmp_path / FILE)
    journal.append(Leaving("hello", 7, "a" * 64, "there:1"))
    journal.append(Leaving("update", 5000, DIGEST, "there:1", "<b>brain</b>", "arm", 2))
    journal.append(Leaving("statistics", 90, "e" * 64, "there:1", "brain", "arm", 0, 4.42))
    return tmp_path


def call(state: Path, *arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments, "--state", str(state)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_a_run_is_shown_approved_and_refused(state: Path) -> None:
    assert "waits for approval" in call(state, "runs")
    assert "brain_tissue" in call(state, "runs", "brain")
    assert ASKED.digest[:12] in call(state, "approve", "brain")
    assert "approved by" in call(state, "runs")
    call(state, "refuse", ASKED.digest[:8], "--reason", "later")
    (told,) = json.loads(call(state, "runs", "--json"))
    assert told["standing"].startswith("refused") and told["standing"].endswith("later")
    assert told["digest"] == ASKED.digest and told["asked"]["run"] == "brain"


def test_what_nobody_asked_for_cannot_be_decided(state: Path) -> None:
    for name in ("other", ASKED.digest[:5]):
        with pytest.raises(ConfigError, match="Nobody has asked"):
            call(state, "approve", name)
    with pytest.raises(ConfigError, match="at most 300"):
        call(state, "refuse", "brain", "--reason", "x" * 301)
    with pytest.raises(ConfigError, match="no state folder"):
        call(state / "other", "runs")


def test_the_journal_is_a_table_json_and_a_page(state: Path) -> None:
    shown = call(state, "sent")
    assert "5,000" in shown and "4.42" in shown and "hello" not in shown
    assert "hello" in call(state, "sent", "--all")
    told = json.loads(call(state, "sent", "--json"))
    assert [each["kind"] for each in told] == ["hello", "update", "statistics"]
    assert len(json.loads(call(state, "sent", "--json", "--run", "brain"))) == 1
    call(state, "sent", "--html", str(state / "sent.html"))
    page = (state / "sent.html").read_text()
    assert DIGEST in page and "<b>brain" not in page and "&lt;b&gt;brain" in page
    assert Journal(state / FILE).verify().newest in page


def test_what_private_training_told_is_shown_with_its_budget(state: Path) -> None:
    spent = Spending(0.5, 2.0, 10)
    assert "epsilon 0 without a budget" in call(state, "runs")
    for run in ("brain", "other"):
        entry = Entry(
            time=1.7e9, run=run, strategy="arm", round=1, question=DIGEST, patients=20,
            delta=1e-5, share=spent.share, noise=spent.noise, steps=spent.steps,
        )  # fmt: skip
        Spent(state).note(entry)
    keep_policy(state, epsilon_budget=30.0)
    both, one = (f"{epsilon([spent] * count, 1e-5):.4g}" for count in (2, 1))
    assert f"epsilon {both} of a budget of 30" in call(state, "runs")
    assert f"epsilon {one} without a budget" in call(state, "runs", "brain")
    assert f"epsilon {both} of a budget of 30" in call(state, "sent")
    assert f"epsilon {one}" in call(state, "sent", "--run", "brain")
    call(state, "sent", "--html", str(state / "sent.html"))
    assert f"epsilon {both} of a budget of 30" in (state / "sent.html").read_text()


def test_the_journal_is_verified(state: Path) -> None:
    newest = Journal(state / FILE).verify().newest
    assert newest in call(state, "sent", "--verify")
    assert newest in call(state, "sent", "--verify", "--holds", newest)
    with pytest.raises(ChainBroken):
        call(state, "sent", "--verify", "--holds", "b" * 64)
    text = (state / FILE).read_text()
    (state / FILE).write_text(text.replace("5000", "5001"))
    with pytest.raises(JournalDamaged, match="line 2: it was changed"):
        call(state, "sent", "--verify")
