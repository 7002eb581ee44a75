"""Flower's strategies on a grid that is not Flower's, in a process where Flower runs nothing."""

import random

import flwr.serverapp.strategy as flowers
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg, FedProx

from polyclinic.config.compose import instantiate, list_names, load_config
from polyclinic.simulation.grid import MemoryGrid, MemoryNode
from polyclinic_strategies.averaging.addressed import Addressed, addressed

HOSPITALS, LENGTH = 5, 8
AVERAGING = [name for name in list_names("strategy") if name.startswith("averaging/")]


def hospital(number: int) -> MemoryNode:
    def answer(message: Message) -> Message:
        figures: dict[str, int | float] = {"num-examples": number, "loss": 1.0}
        content = RecordDict({"metrics": MetricRecord({**figures})})
        if message.metadata.message_type == "train":
            weights = message.content["arrays"]["weights"].numpy()
            content["arrays"] = ArrayRecord({"weights": Array(weights + np.float32(number))})
        return Message(content, reply_to=message)

    return MemoryNode(number, answer)


def grid() -> MemoryGrid:
    return MemoryGrid([hospital(number + 1) for number in range(HOSPITALS)])


def weights() -> ArrayRecord:
    return ArrayRecord({"weights": Array(np.zeros(LENGTH, dtype=np.float32))})


def test_flower_alone_cannot_ask() -> None:
    """Once it can, `Addressed` may go."""
    with pytest.raises(RuntimeError, match="TaskIdentity"):
        FedAvg().start(grid(), weights(), num_rounds=1)


MEANS = [f"averaging/{name}" for name in ("fedavg", "fedbn", "fedprox")]


@pytest.mark.parametrize(
    ("name", "privacy"),
    [(name, "none") for name in AVERAGING] + [(name, "server_side_dp") for name in MEANS],
)
def test_every_strategy_runs_rounds(name: str, privacy: str) -> None:
    config = load_config([f"strategy={name}", f"privacy={privacy}"])
    made = instantiate(config.strategy, _recursive_=False).build(config.privacy, ["0.weight"])
    result = made.start(grid(), weights(), num_rounds=3)

    assert sorted(result.train_metrics_clientapp) == [1, 2, 3]
    assert sorted(result.evaluate_metrics_clientapp) == [1, 2, 3]
    found = result.arrays["weights"].numpy()
    assert found.shape == (LENGTH,)
    assert np.isfinite(found).all()
    assert np.abs(found).min() > 0


@pytest.mark.parametrize("name", ["FedAvgM", "FedAdagrad", "MultiKrum", "Bulyan"])
def test_strategies_that_a_package_may_name_run_rounds(name: str) -> None:
    result = addressed(getattr(flowers, name)()).start(grid(), weights(), num_rounds=2)

    assert sorted(result.train_metrics_clientapp) == [1, 2]


def test_the_average_is_flowers() -> None:
    result = addressed(FedAvg()).start(grid(), weights(), num_rounds=1)
    expected = sum(n * n for n in range(1, 6)) / sum(range(1, 6))

    np.testing.assert_allclose(result.arrays["weights"].numpy(), expected, rtol=1e-6)


def test_what_a_strategy_adds_to_a_question_stays() -> None:
    made = addressed(FedProx(proximal_mu=0.25))
    asked = list(made.configure_train(2, weights(), ConfigRecord(), grid()))

    assert type(made).__name__ == "FedProx"
    assert dict(asked[0].content["config"]) == {"proximal-mu": 0.25, "server-round": 2}
    assert [type(each) for each in asked] == [Message] * HOSPITALS


def test_a_share_of_the_hospitals_is_drawn_with_the_seed() -> None:
    def drawn() -> list[int]:
        random.seed(3)
        made = addressed(FedAvg(fraction_train=0.5, min_train_nodes=1))
        asked = made.configure_train(1, weights(), ConfigRecord(), grid())
        return [message.metadata.dst_node_id for message in asked]

    random.seed(3)
    assert drawn() == random.Random(3).sample([1, 2, 3, 4, 5], 2)
    assert not addressed(FedAvg(fraction_train=0.0)).configure_train(
        1, weights(), ConfigRecord(), grid()
    )


def test_a_wrapped_strategy_is_addressed_too() -> None:
    inner = FedAvg()
    made = DifferentialPrivacyServerSideFixedClipping(inner, 0.1, 1.0, 2)

    assert addressed(made) is made
    assert isinstance(inner, Addressed)
