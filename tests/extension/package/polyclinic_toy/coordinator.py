"""Consensus at the coordinator."""

import json
from dataclasses import dataclass, replace

import torch
from flwr.app import Message, RecordDict
from torch import Tensor

from polyclinic.config.compose import instantiate
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError
from polyclinic.federation.coordinator import RunContext
from polyclinic.federation.envelope import make_message
from polyclinic.federation.envelope.content import (
    ARRAYS,
    CONFIG,
    weights_from_message,
    weights_to_record,
)
from polyclinic.federation.events import ArmEnd, ArmStart, RoundEnd
from polyclinic.federation.final_test import FinalTest
from polyclinic.federation.grids.reliable_grid import ReliableGrid
from polyclinic.federation.jobs import describe_model, make_order, start_network
from polyclinic.federation.records import Order, order_to_config
from polyclinic.learning.state_dict import pack, save_state, shared_names, unpack
from polyclinic_toy.events import Agreed


@dataclass(frozen=True)
class Consensus:
    """Settings of the strategy."""

    title: str
    personal: str


class ConsensusCoordinator:
    """One consensus strategy of a run."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._settings: Consensus = instantiate(config.strategy, _recursive_=False)

    @property
    def title(self) -> str:
        """Name of the strategy in tables."""
        return self._settings.title

    def check(self) -> None:
        """Refuse a federation of two, whose median is whoever is lower."""
        if self._config.deployment.min_hospitals < 2:
            raise ConfigError("strategy=consensus needs deployment.min_hospitals=2 or more.")

    def run(self, context: RunContext) -> None:
        """Train in rounds, then test."""
        config, folder = self._config, context.folder
        folder.update(state="running")
        network = start_network(config)
        order = make_order(folder, config, network)
        names = shared_names(network, "none")
        weights = pack(network.state_dict(), names)
        grid = ReliableGrid(context.grid, context.attendance, config.deployment, folder.record)
        folder.record(ArmStart(arm=order.arm, title=self.title, rounds=order.rounds))
        spreads: list[float] = []
        for number in range(1, order.rounds + 1):
            asked = [train_order(order, weights, node, number) for node in grid.get_node_ids()]
            rows = torch.stack(list(map(weights_from_message, grid.send_and_receive(asked))))
            weights = rows.median(dim=0).values
            spreads.append(float(rows.std(dim=0).mean()))
            folder.record(Agreed(round=number, spread=spreads[-1]))
            folder.record(RoundEnd(round=number))
        folder.update(consensus={"spreads": spreads})
        test = FinalTest(folder, context.grid, context.attendance, config.deployment)
        test.run(order, lambda _site: weights)
        state = {**network.state_dict(), **unpack(weights, network.state_dict(), names)}
        described = json.dumps(describe_model(order, order.rounds, True))
        path = folder.path / "arms" / order.arm / "model.safetensors"
        save_state(state, path, {"polyclinic": described})
        folder.record(ArmEnd(arm=order.arm))


def train_order(order: Order, weights: Tensor, node: int, number: int) -> Message:
    """Ask a hospital for a round of training."""
    config = order_to_config(replace(order, round=number))
    config["server-round"] = number
    content = RecordDict({ARRAYS: weights_to_record(weights), CONFIG: config})
    return make_message(content, node, "train")
