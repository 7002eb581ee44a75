"""A coordinator's page over a folder of runs, served in this process."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from polyclinic.federation.events import Event
from polyclinic.federation.run_folder import RunFolder, now
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.page.fleet import Fleet, RunDeeds
from polyclinic_server.page.show import PageOptions, show_page
from polyclinic_server.page.watching import Watch


@dataclass
class Served:
    """The page: its address, its token, and what it looks at."""

    address: str
    token: str
    watch: Watch

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


@contextmanager
def served(
    runs: Path,
    authority: Authority | None = None,
    run_deeds: RunDeeds | None = None,
    fleet: Fleet | None = None,
    webhook: str | None = None,
    address: str = "127.0.0.1:0",
) -> Iterator[Served]:
    said: list[str] = []
    with ExitStack() as stack:
        watch = stack.enter_context(
            show_page(
                PageOptions(address, webhook),
                runs,
                authority,
                said.append,
                run_deeds or RunDeeds(),
                fleet=fleet,
            )
        )
        found = said[0].removeprefix("page: ")
        token = said[1].rpartition("#")[2] if len(said) > 1 else ""
        yield Served(found, token, watch)


def begin_run(runs: Path, name: str, **more: object) -> RunFolder:
    """Write the folder of a run that this process works at."""
    path = runs / name
    path.mkdir(parents=True)
    folder = RunFolder(path)
    described = {
        "name": name,
        "state": "running",
        "started": now(),
        "pid": os.getpid(),
        "rounds": 5,
        "arms": [{"name": "fedavg", "title": "FedAvg"}],
        "score_name": "Dice",
        "versions": {"polyclinic": "0.1.0"},
        **more,
    }
    folder.update(**described)
    return folder


def record(folder: RunFolder, *events: Event) -> None:
    """Append events, without TensorBoard."""
    folder._record_figures = lambda event: None  # type: ignore[method-assign]
    for event in events:
        folder.record(event)
