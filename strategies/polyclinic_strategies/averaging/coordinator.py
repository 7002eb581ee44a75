"""Averaging at the coordinator: rounds from the initial weights, or from the last saved ones."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flwr.serverapp import Grid
from torch import Tensor, nn

from polyclinic.config.compose import instantiate
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError
from polyclinic.federation.coordinator import RunContext
from polyclinic.federation.events import ArmEnd, ArmStart, Note, RoundEnd
from polyclinic.federation.grids.reliable_grid import ReliableGrid
from polyclinic.federation.jobs import (
    build_network,
    describe_model,
    make_order,
    start_network,
)
from polyclinic.federation.records import Order
from polyclinic.federation.run_folder import RunFolder
from polyclinic.learning.state_dict import load_state, pack, save_state, shared_names, unpack
from polyclinic_strategies.averaging.best import BestRound
from polyclinic_strategies.averaging.central_privacy import describe_privacy
from polyclinic_strategies.averaging.patients import check_patients, told_patients
from polyclinic_strategies.averaging.strategy import Averaging
from polyclinic_strategies.averaging.summing import SummingGrid, check_sums, describe_sums

Finish = Callable[[nn.Module, Order, Path], None]  # trained network, its order, its folder


class AveragingCoordinator:
    """Coordinator of one strategy that works in rounds.

    Args:
        config: Configuration of the strategy.
        finish: Called with the trained network, its order and its folder at the end; a method may
            write further files there.
    """

    def __init__(self, config: Config, finish: Finish | None = None) -> None:
        self._config = config
        self._finish = finish
        self._strategy: Averaging = instantiate(config.strategy, _recursive_=False)
        # a strategy that shares nothing has nothing to sum
        shares = self._strategy.personal != "all"
        self._sums = config.privacy.get("sums") if shares else None

    @property
    def title(self) -> str:
        """Name of the strategy in tables."""
        return self._strategy.title

    def check(self) -> None:
        """Refuse a base for strategies that keep tensors at the hospital, and noise that is none.

        Raises:
            ConfigError: The hospital's own tensors would not get the weights of `base`, or the
                strategy's aggregation does not go with the privacy that is configured.
        """
        built = self._strategy.build(self._config.privacy, [])
        if self._sums is not None:
            check_sums(self._sums, type(built), self._config.deployment)
        if self._config.privacy.get("patients") is not None:
            check_patients(self._config, build_network(self._config), self._strategy.personal)
        if self._config.base is not None and self._strategy.personal != "none":
            raise ConfigError(
                f"base={self._config.base}: {self.title} keeps tensors at the hospital, which do "
                "not get their weights from it. Leave base out, or choose another strategy."
            )

    def run(self, context: RunContext) -> None:
        """Wait for hospitals, train in rounds, and test; do nothing if the strategy was tested.

        Raises:
            TooFewHospitals: Fewer than the minimum came or answered in time.
        """
        config, folder = self._config, context.folder
        deployment, minimum = config.deployment, config.deployment.min_hospitals
        wanted = max(deployment.hospitals, minimum)
        context.attendance.wait_for(wanted, minimum, deployment.wait_s)
        folder.update(hospitals=context.attendance.describe(), state="running")
        random.seed(config.seed)
        network = start_network(config)
        order = make_order(folder, config, network)
        names = shared_names(network, order.personal)
        path = folder.path / "arms" / order.arm / "model.safetensors"
        weights, done, tested = _take_up(path, network, names)
        if tested:
            return
        order = replace(order, offset=done)
        folder.record(ArmStart(arm=order.arm, title=self.title, rounds=order.rounds, offset=done))

        best = BestRound(path.parent)
        if order.personal == "none":  # elsewhere a model is more than what hospitals share
            folder.listeners.append(best.listen)

        def keep(number: int, latest: Tensor, tested: bool = False) -> None:
            state = {**network.state_dict(), **unpack(latest, network.state_dict(), names)}
            described = describe_model(order, number, tested)
            if not tested:
                best.offer(number, state, described)
            save_state(state, path, {"polyclinic": json.dumps(described)})
            if not tested:
                folder.record(RoundEnd(round=number))
            elif self._finish is not None:
                network.load_state_dict(state)
                self._finish(network, order, path.parent)

        grid = ReliableGrid(context.grid, context.attendance, deployment, folder.record)
        asking = self._protected(grid, folder, done)
        if done < order.rounds:
            aggregation = self._strategy.build(config.privacy, names)
            with told_patients(config, folder):
                weights = self._strategy.run(asking, aggregation, order, weights, keep, folder.path)
        if best.listen in folder.listeners:
            folder.listeners.remove(best.listen)
        self._strategy.test(grid, order, weights)
        keep(order.rounds, weights, tested=True)
        folder.record(ArmEnd(arm=order.arm))

    def _protected(self, grid: ReliableGrid, folder: RunFolder, done: int) -> Grid:
        """Return the grid that asks for rounds, after a note of what protects hospitals."""
        if self._config.privacy["_target_"]:
            folder.record(Note(text=self._describe_privacy()))
        if self._sums is None:
            return grid
        folder.record(Note(text=describe_sums(self._sums)))
        delta = self._config.privacy["release"].delta
        return SummingGrid(grid, self._sums, self._config.deployment, delta, done)

    def _describe_privacy(self) -> str:
        noise = self._config.privacy.get("noise_multiplier", 0.0)
        assert isinstance(noise, int | float)
        delta = self._config.privacy["release"].delta
        return describe_privacy(float(noise), self._config.rounds, delta)


def _take_up(path: Path, network: nn.Module, names: list[str]) -> tuple[Tensor, int, bool]:
    """Return the packed weights, the number of their rounds, and whether they were tested."""
    if not path.exists():
        return pack(network.state_dict(), names), 0, False
    state, metadata = load_state(path)
    described = json.loads(metadata["polyclinic"])
    return pack(state, names), int(described["round"]), bool(described["tested"])
