"""Flower's strategies on any grid.

A strategy of Flower's makes its messages with `Message(..., dst_node_id=...)`, which raises where
Flower started no task. `Addressed` makes them with `grid.create_message`, which every grid has.
tests/strategies/averaging/test_addressed.py fails when Flower changes what this rests on.
"""

import random
from collections.abc import Iterable
from functools import cache

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from polyclinic.federation.news import pause
from polyclinic_strategies.averaging.slices import COORDINATEWISE, Sliced

LOOK_S = 1.0  # between two looks whether enough hospitals are there


class Addressed(FedAvg):
    """The questions of a strategy of Flower's, as `FedAvg` asks them.

    It comes last among the base classes, `class AnyGridFedProx(FedProx, Addressed)`: what the
    strategy itself adds to a question comes before.
    """

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask a share of the hospitals to train."""
        config["server-round"] = server_round
        least = (self.min_train_nodes, self.min_available_nodes)
        nodes = _sample(grid, self.fraction_train, *least)
        return self._ask(grid, nodes, arrays, config, MessageType.TRAIN)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask a share of the hospitals to evaluate."""
        config["server-round"] = server_round
        least = (self.min_evaluate_nodes, self.min_available_nodes)
        nodes = _sample(grid, self.fraction_evaluate, *least)
        return self._ask(grid, nodes, arrays, config, MessageType.EVALUATE)

    def _ask(
        self,
        grid: Grid,
        nodes: Iterable[int],
        arrays: ArrayRecord,
        config: ConfigRecord,
        message_type: str,
    ) -> list[Message]:
        content = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        return [grid.create_message(content, message_type, node, group_id="") for node in nodes]


def addressed(strategy: Strategy) -> Strategy:
    """Let a strategy, and the one that it wraps, ask hospitals on any grid.

    One that does not build on `FedAvg` stays as it is; it has to call `grid.create_message` itself.
    """
    inner = getattr(strategy, "strategy", None)
    if isinstance(inner, Strategy):  # differential privacy wraps another strategy
        addressed(inner)
    if isinstance(strategy, FedAvg) and not isinstance(strategy, Addressed):
        strategy.__class__ = _with_addressed(type(strategy))  # its settings stay as they are
    return strategy


@cache
def _with_addressed(kind: type[FedAvg]) -> type[FedAvg]:
    bases: tuple[type[FedAvg], ...] = (Addressed,) if kind is FedAvg else (kind, Addressed)
    if kind in COORDINATEWISE:
        bases = (Sliced, *bases)
    return type(kind.__name__, bases, {"__module__": kind.__module__, "__doc__": kind.__doc__})


def _sample(grid: Grid, share: float, least: int, available: int) -> list[int]:
    """Draw hospitals, as Flower does: equal seeds give equal hospitals."""
    if share == 0.0:
        return []
    size = max(int(len(list(grid.get_node_ids())) * share), least)
    while len(nodes := list(grid.get_node_ids())) < max(available, size):
        pause(grid, LOOK_S)
    return random.sample(nodes, size)
