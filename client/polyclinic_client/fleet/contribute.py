"""`polyclinic-client contribute`: one contribution, for a hospital that is online now and then.

It joins, learns what is wanted, trains in the foreground and leaves as soon as the coordinator has
said what became of the result. Each of these steps may be interrupted; the next call goes on from
there.
"""

import time
from pathlib import Path

from polyclinic.errors import RunError, ServerUnreachable
from polyclinic.store.refusals import ContributionRefused
from polyclinic_client.fleet.fine_tuner import FineTuner
from polyclinic_client.fleet.join import connect, find_failure, leave, only_client
from polyclinic_client.fleet.supervisor import Supervisor
from polyclinic_client.network.connection import Connection, Say
from polyclinic_client.site.outbox import Outbox
from polyclinic_client.site.status import FINE_TUNING, StatusNews, fine_tuning_news

FAREWELL_S = 5.0
HELLO = "query.hello"  # who cannot answer this is asked nothing else


def contribute(
    connection: Connection | None, data: Path, name: str, state: Path, wait_s: float, say: Say
) -> str:
    """Train and hand over, once.

    Args:
        connection: The coordinator; None trains for what the coordinator last asked, and leaves the
            result in the outbox.
        data: Folder with dataset.json.
        name: What this hospital is called.
        state: Folder of its models, logs and outbox.
        wait_s: Seconds to wait for the coordinator, and for its question.
        say: Told what happens, a line at a time.

    Returns:
        A sentence on what became of it.

    Raises:
        ContributionRefused: The coordinator did not take it; the text says why.
        RunError: Training failed, or the coordinator asks for nothing.
        AdmissionRefused: One of the two does not want the other.
        ServerUnreachable: Nobody answered in time.
    """
    with only_client(state):
        trainer = FineTuner(name, data.resolve(), state.resolve(), say)
        news = StatusNews(state / FINE_TUNING, fine_tuning_news, say)
        trainer.outbox.forget_failure()
        if connection is None:
            return _work_offline(trainer, news)
        connect(connection, wait_s, say)
        supervisor = Supervisor(connection, data.resolve(), state.resolve(), say)
        try:
            supervisor.start()
            said = _work(supervisor, trainer, news, connection.server, wait_s)
            supervisor.settle(FAREWELL_S)  # the coordinator's last question gets its answer
            return said
        finally:
            leave(supervisor, trainer)


def _work(
    supervisor: Supervisor, trainer: FineTuner, news: StatusNews, server: str, wait_s: float
) -> str:
    """Work until the coordinator has spoken."""
    outbox = trainer.outbox
    began, since = time.time(), time.monotonic()
    while True:
        time.sleep(0.25)
        supervisor.tend()
        trainer.tend()
        news.tend()
        greeting = {kind: why for kind, why in supervisor.failures.items() if kind == HELLO}
        if failure := find_failure(outbox.state, began, greeting):
            supervisor.settle(FAREWELL_S)  # the coordinator learns of it
            raise RunError(f"No contribution could be made: {failure}")
        asked_at = outbox.asked_at()
        if asked_at is None or asked_at < began:
            if time.monotonic() - since > wait_s:
                raise ServerUnreachable(
                    server,
                    f"it answers, but asked for no contribution within {wait_s:.0f} s: nobody has "
                    "started a run that wants one, or it is another hospital's turn",
                )
            continue
        verdict = _verdict(outbox, began)
        if verdict is not None:
            return verdict


def _work_offline(trainer: FineTuner, news: StatusNews) -> str:
    """Work until the contribution lies in the outbox."""
    outbox = trainer.outbox
    if outbox.assignment() is None:
        raise RunError(
            "No coordinator has asked this hospital for anything yet: call `contribute` with --kit "
            "once."
        )
    try:
        while outbox.todo() is not None or trainer.working:
            trainer.tend()
            news.tend()
            time.sleep(0.25)
    finally:
        trainer.child.stop()
    return _verdict(outbox, 0.0) or (
        "The contribution lies in the outbox. Call `contribute` with --kit, or `join`, to hand it "
        "over."
    )


def _verdict(outbox: Outbox, since: float) -> str | None:
    """Return what was said of the work of all runs that asked since then; None while one has not.

    Args:
        outbox: The hospital's.
        since: Time in seconds since 1970.

    Raises:
        RunError: Training failed.
        ContributionRefused: A coordinator did not take the contribution.
    """
    wanted = [each for each in outbox.assignments.all() if each.asked >= since]
    for each in wanted:
        if failure := outbox.failure(outbox.key(each.values)):
            raise RunError(
                f"Fine-tuning failed ({failure.reason}); {outbox.state / 'fine_tuning.log'} has "
                "the details."
            )
    outcomes = [outbox.outcome(outbox.key(each.values), each.ledger) for each in wanted]
    for outcome in outcomes:
        if outcome is not None and not outcome.accepted:
            raise ContributionRefused(f"The coordinator refused the contribution: {outcome.reason}")
    if not outcomes or None in outcomes:
        return None
    return "The coordinator has the contribution for good."
