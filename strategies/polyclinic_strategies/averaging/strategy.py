"""Synchronous rounds with Flower's own strategies, named in `conf/strategy/averaging/`.

Flower's classes do the aggregation, unchanged. Here they get one flat vector of the shared tensors
and the hospitals to ask, and are watched after every round. FedBN and `local
only` use the same aggregation: they share fewer tensors.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from polyclinic.config.compose import instantiate
from polyclinic.config.schemas import Part
from polyclinic.errors import ConfigError
from polyclinic.federation.envelope.content import weights_from_record, weights_to_record
from polyclinic.federation.records import Order, ask_for_test, order_to_config
from polyclinic_strategies.averaging.addressed import addressed
from polyclinic_strategies.averaging.slices import Sliced

ADAPTIVE = ("FedAdam", "FedYogi", "FedAdagrad")
OnRound = Callable[[int, Tensor], None]


class Averaging:
    """One way of averaging, as a node of `conf/strategy/averaging/` describes it.

    Args:
        title: Name in tables.
        personal: Tensors that stay at the hospital: none, norm, all.
        aggregation: One of Flower's strategies, with its own settings.
    """

    def __init__(self, title: str, personal: str, aggregation: Mapping[str, Any]) -> None:
        self.title = title
        self.personal = personal
        self.aggregation = dict(aggregation)

    def build(self, privacy: Part, shared: list[str]) -> Strategy:
        """Make Flower's strategy, wrapped for differential privacy if that is configured.

        Args:
            privacy: A node of `conf/privacy/`; without `_target_`, nothing is wrapped. Its
                `release` is for statistics, which averaging does not ask for.
            shared: Names of the tensors that are averaged.

        Raises:
            ConfigError: An adaptive server optimizer would average running variances, which it can
                make negative.
        """
        target = str(self.aggregation.get("_target_", "")).rpartition(".")[2]
        if target in ADAPTIVE and any(name.endswith("running_var") for name in shared):
            raise ConfigError(
                f"{target} can make the running variances of batch normalization negative: "
                "choose a model with instance or group normalization (model=unet), "
                "or keep normalization at the hospital (strategy.personal=norm)."
            )
        strategy = instantiate(
            self.aggregation, min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1
        )
        if privacy.get("_target_"):
            wrapper = {
                key: value
                for key, value in privacy.items()
                if key not in ("release", "sums", "patients")
            }
            strategy = instantiate({**wrapper, "_partial_": True})(strategy)
        assert isinstance(strategy, Strategy)
        return addressed(strategy)

    def run(
        self,
        grid: Grid,
        strategy: Strategy,
        order: Order,
        weights: Tensor,
        on_round: OnRound,
        folder: Path | None = None,
    ) -> Tensor:
        """Train for `order.rounds - order.offset` rounds.

        Args:
            grid: Connection to the hospitals; see
                `polyclinic.federation.grids.reliable_grid.ReliableGrid`.
            strategy: From `build`.
            order: Order for every hospital.
            weights: Initial shared weights, (parameters,).
            on_round: Called after every round with its number and the shared weights.
            folder: On whose disk large averages lie while they are needed.

        Returns:
            The shared weights after the last round.
        """
        latest = weights
        inner = getattr(strategy, "strategy", strategy)  # of one that differential privacy wraps
        if isinstance(inner, Sliced):
            inner.folder = folder

        def watch(server_round: int, arrays: ArrayRecord) -> None:
            nonlocal latest
            if server_round:  # before the first round they are those that are here already
                latest = weights_from_record(arrays)
                on_round(order.offset + server_round, latest)

        strategy.start(
            grid=grid,
            initial_arrays=weights_to_record(weights),
            num_rounds=order.rounds - order.offset,
            train_config=order_to_config(order),
            evaluate_config=order_to_config(order),
            evaluate_fn=watch,
        )
        return latest

    def test(self, grid: Grid, order: Order, weights: Tensor) -> None:
        """Ask every hospital for its final figures; they reach the run as events of the grid."""
        grid.send_and_receive([ask_for_test(order, weights, node) for node in grid.get_node_ids()])
