"""`polyclinic-client contribute`: one contribution by hand, for a hospital that is online only now and then.

It joins, learns what is wanted, trains in the foreground and leaves as soon as the coordinator has said what became of the result. Any
of these steps may be interrupted: the next call goes on where this one stopped.
"""

import json
import time
from pathlib import Path
from typing import Any

from polyclinic.errors import RunError, ServerUnreachable
from polyclinic.store.refusals import ContributionRefused
from polyclinic.system.processes import stop_all
from polyclinic_client.fleet.connection import Connection
from polyclinic_client.fleet.join import Pair, PairWatch, Say, Trainer, meet, only_client
from polyclinic_client.site.outbox import TRAINING_STATUS, Outbox


def contribute(
    connection: Connection | None, data: Path, name: str, state: Path, wait_s: float, say: Say
) -> str:
    """Train and hand over, once.

    Args:
        connection: The coordinator; None trains for what the coordinator last asked, and leaves the result in the outbox.
        data: The folder with dataset.json.
        name: What this hospital is called.
        state: Where it keeps its models, logs and outbox.
        wait_s: How long to wait for the coordinator, and for its question.
        say: Told what happens, a line at a time.

    Returns:
        A sentence on what became of it.

    Raises:
        ContributionRefused: The coordinator would not have it, for this reason.
        RunError: Training failed, or the coordinator asks for nothing.
        AdmissionRefused: One of the two does not want the other.
        ServerUnreachable: Nobody answered in time.
    """
    with only_client(state):
        trainer = Trainer(name, data.resolve(), state.resolve(), say)
        trainer.outbox.forget_failure()
        if connection is None:
            return _work_offline(trainer, say)
        welcome = meet(connection, wait_s, say)
        pair = Pair(connection, data.resolve(), state.resolve())
        watch = PairWatch(pair, welcome, say)
        try:
            pair.start()
            return _work(watch, trainer, connection.server, wait_s, say)
        finally:
            stop_all([trainer.child, *pair.children], patience_s=4.0)


def _work(watch: PairWatch, trainer: Trainer, server: str, wait_s: float, say: Say) -> str:
    """Until the coordinator has spoken."""
    outbox, told = trainer.outbox, ""
    began, since = time.time(), time.monotonic()
    while True:
        time.sleep(0.25)
        watch.tend()
        trainer.tend()
        told = _report(outbox, told, say)
        asked_at = outbox.asked_at()
        if asked_at is None or asked_at < began:
            if time.monotonic() - since > wait_s:
                raise ServerUnreachable(
                    server, f"it answers, but asked for no contribution within {wait_s:.0f} s"
                )
            continue
        verdict = _verdict(outbox)
        if verdict is not None:
            return verdict


def _work_offline(trainer: Trainer, say: Say) -> str:
    """Until the contribution lies in the outbox."""
    outbox, told = trainer.outbox, ""
    if outbox.assignment() is None:
        raise RunError(
            "No coordinator has asked this hospital for anything yet: call `contribute` with --kit once."
        )
    try:
        while outbox.todo() is not None or trainer.working:
            trainer.tend()
            told = _report(outbox, told, say)
            time.sleep(0.25)
    finally:
        trainer.child.stop()
    verdict = _verdict(outbox)
    return (
        verdict
        or "The contribution lies in the outbox. Call `contribute` with --kit, or `join`, to hand it over."
    )


def _verdict(outbox: Outbox) -> str | None:
    """What the coordinator said of the work that it asks for; None while it has not."""
    assignment = outbox.assignment()
    if assignment is None:
        return None
    key = outbox.key(assignment)
    failure = outbox.failure()
    if failure and failure["key"] == key:
        raise RunError(
            f"Fine-tuning failed ({failure['reason']}); {outbox.state / 'fine_tuning.log'} has the details."
        )
    outcome = outbox.outcome(key)
    if outcome is None:
        return None
    if not outcome["accepted"]:
        raise ContributionRefused(f"The coordinator refused the contribution: {outcome['reason']}")
    return "The coordinator has the contribution for good."


def _report(outbox: Outbox, told: str, say: Say) -> str:
    """Say how far training is, in steps of ten percent."""
    try:
        status: dict[str, Any] = json.loads((outbox.state / TRAINING_STATUS).read_text())
    except (OSError, json.JSONDecodeError):
        return told
    if status.get("doing") != "training" or not status.get("steps"):
        return told
    news = (
        f"fine-tuning: {10 * (10 * status['step'] // status['steps'])} %, loss {status['loss']:.3f}"
    )
    if news.partition(",")[0] != told.partition(",")[0]:
        say(news)
        return news
    return told
