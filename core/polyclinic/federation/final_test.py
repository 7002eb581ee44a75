"""What the strategies without rounds share within a run: how they begin, where their ledger lies, what they are for, and final figures."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from flwr.serverapp import Grid
from torch import Tensor

from polyclinic.config.schemas import Config, DeploymentConfig
from polyclinic.federation.attendance import Attendance
from polyclinic.federation.events import ArmStart, Event, Resumed
from polyclinic.federation.records import Order, ask_for_test
from polyclinic.federation.reliable_grid import ReliableGrid
from polyclinic.federation.run_folder import RunFolder

RETURN_S = 10.0  # how long a coordinator that is started again waits for hospitals to come back


class FinalTest:
    """Test figures of models at the hospitals that are here; what was tested before a restart is not tested again.

    Args:
        folder: The run's.
        grid: Flower's grid.
        attendance: Who takes part.
        deployment: Time-outs; figures are taken from whoever is here, the report says who is missing.
    """

    def __init__(
        self, folder: RunFolder, grid: Grid, attendance: Attendance, deployment: DeploymentConfig
    ) -> None:
        self._folder = folder
        self._grid = grid
        self._attendance = attendance
        self._deployment = replace(deployment, min_hospitals=1)

    def is_done(self, name: str) -> bool:
        """Whether an arm was tested."""
        return self._marker(name).exists()

    def run(self, order: Order, weights_for: Callable[[str], Tensor | None]) -> None:
        """Test an arm, unless that is done.

        Args:
            order: Of the arm that it names.
            weights_for: A site's model; None: that site has none to test.
        """
        if self.is_done(order.arm):
            return
        messages = []
        for site, member in self._attendance.refresh().items():
            weights = weights_for(site)
            if weights is not None:
                messages.append(ask_for_test(order, weights, member.node))
        ReliableGrid(
            self._grid, self._attendance, self._deployment, record_as(self._folder, order.arm)
        ).send_and_receive(messages)
        self._marker(order.arm).parent.mkdir(parents=True, exist_ok=True)
        self._marker(order.arm).touch()

    def _marker(self, name: str) -> Path:
        return self._folder.path / "arms" / name / "tested"


def announce(folder: RunFolder, order: Order, title: str, expected: int) -> None:
    """Say that a strategy begins, or that it goes on after a restart."""
    earlier = any(
        isinstance(event, ArmStart) and event.arm == order.arm for event in folder.events()
    )
    folder.record(ArmStart(arm=order.arm, title=title, rounds=order.rounds, expected=expected))
    if earlier:
        folder.record(Resumed())


def list_before(folder: RunFolder, arm: str, other: Mapping[str, str]) -> None:
    """List in run.json, before an arm, another model that it is compared with."""
    arms = [each for each in folder.describe()["arms"] if each["name"] != other["name"]]
    place = next((number for number, each in enumerate(arms) if each["name"] == arm), len(arms))
    folder.update(arms=[*arms[:place], dict(other), *arms[place:]])


def task_of(config: Config) -> str:
    """What a contribution must be for: two tasks never mix."""
    return f"{config.data.task}: {', '.join(config.data.labels)}"


def record_as(folder: RunFolder, name: str) -> Callable[[Event], None]:
    """Record events as another arm's: those of a model that is compared with."""

    def tell(event: Event) -> None:
        folder.record(event.model_copy(update={"arm": name}))

    return tell
