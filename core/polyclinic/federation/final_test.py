"""Parts that the strategies without rounds share: the start of a strategy, and the final test."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from flwr.serverapp import Grid
from torch import Tensor

from polyclinic.config.schemas import Config, DeploymentConfig
from polyclinic.federation.attendance import Attendance
from polyclinic.federation.events import ArmStart, Event, Resumed
from polyclinic.federation.grids.reliable_grid import ReliableGrid
from polyclinic.federation.records import Order, ask_for_test
from polyclinic.federation.run_folder import RunFolder

# seconds for which a coordinator that was started again waits for hospitals to come back
RETURN_S = 10.0


class FinalTest:
    """Test of a strategy's models at the hospitals that are online.

    A strategy that was tested before a restart is not tested again. There is no minimum number of
    hospitals: the report says who is missing.

    Args:
        folder: Folder of the run.
        grid: Flower's grid.
        attendance: Hospitals of the run.
        deployment: Time-outs.
    """

    def __init__(
        self, folder: RunFolder, grid: Grid, attendance: Attendance, deployment: DeploymentConfig
    ) -> None:
        self._folder = folder
        self._grid = grid
        self._attendance = attendance
        self._deployment = replace(deployment, min_hospitals=1)

    def is_done(self, name: str) -> bool:
        """Return whether the strategy of this name was tested."""
        return self._marker(name).exists()

    def run(self, order: Order, weights_for: Callable[[str], Tensor | None]) -> None:
        """Test a strategy, unless it was tested before.

        Args:
            order: Order to the hospitals; `order.arm` names the strategy.
            weights_for: Returns the packed weights for a site, or None to leave the site out.
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


def record_start(folder: RunFolder, order: Order, title: str, expected: int) -> None:
    """Record the event that a strategy begins, and the one that it goes on after a restart.

    Args:
        folder: Folder of the run.
        order: Order to the hospitals; `order.arm` names the strategy.
        title: Name of the strategy in tables.
        expected: Number of contributions that end the first phase; 0 if that is not known.
    """
    earlier = any(
        isinstance(event, ArmStart) and event.arm == order.arm for event in folder.events()
    )
    folder.record(ArmStart(arm=order.arm, title=title, rounds=order.rounds, expected=expected))
    if earlier:
        folder.record(Resumed())


def list_before(folder: RunFolder, arm: str, other: Mapping[str, str]) -> None:
    """List a model in run.json, before the strategy that is compared with it.

    Args:
        folder: Folder of the run.
        arm: Name of the strategy.
        other: The model's fields in run.json; a model of the same name is replaced.
    """
    arms = [each for each in folder.describe()["arms"] if each["name"] != other["name"]]
    place = next((number for number, each in enumerate(arms) if each["name"] == arm), len(arms))
    folder.update(arms=[*arms[:place], dict(other), *arms[place:]])


def task_of(config: Config) -> str:
    """Return the task in words, which every contribution must repeat: two tasks never mix."""
    data = config.data
    ranges = f" in {', '.join(f'{each:g}' for each in data.ranges)}" if data.ranges else ""
    return f"{data.task}: {', '.join(data.labels)}{ranges}"


def record_as(folder: RunFolder, name: str) -> Callable[[Event], None]:
    """Return a function that records events under the name of another strategy."""

    def tell(event: Event) -> None:
        folder.record(event.model_copy(update={"arm": name}))

    return tell
