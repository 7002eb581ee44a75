"""Strategies of Flower's that aggregate slice by slice: the bits of one that takes all at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
)

from polyclinic.federation.envelope import MappedArray, make_message, wrap
from polyclinic.simulation.grid import MemoryGrid, MemoryNode
from polyclinic_strategies.averaging import slices
from polyclinic_strategies.averaging.addressed import addressed
from polyclinic_strategies.averaging.slices import COORDINATEWISE, Sliced

LENGTH, HOSPITALS = 1003, 5
MINIMA = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
MAKE: dict[str, Callable[[], Any]] = {
    "FedAvg": lambda: FedAvg(**MINIMA),
    "FedProx": lambda: FedProx(proximal_mu=0.1, **MINIMA),
    "FedAvgM": lambda: FedAvgM(server_learning_rate=0.7, server_momentum=0.9, **MINIMA),
    "FedAdam": lambda: FedAdam(eta=0.02, beta_1=0.9, beta_2=0.99, **MINIMA),
    "FedYogi": lambda: FedYogi(eta=0.02, beta_1=0.9, beta_2=0.99, **MINIMA),
    "FedAdagrad": lambda: FedAdagrad(eta=0.02, **MINIMA),
    "FedMedian": lambda: FedMedian(**MINIMA),
    "FedTrimmedAvg": lambda: FedTrimmedAvg(beta=0.2, **MINIMA),
}


def record_of(values: np.ndarray) -> ArrayRecord:
    return ArrayRecord({"weights": Array(values)})


def replies_to(arrays: ArrayRecord, server_round: int) -> list[Message]:
    """Return what five hospitals answer, always the same."""
    rng = np.random.default_rng(server_round)
    base = arrays["weights"].numpy()
    found = []
    for node in range(1, HOSPITALS + 1):
        question = make_message(RecordDict(), node, "train")
        vector = base + rng.normal(size=LENGTH).astype(np.float32)
        metrics = MetricRecord({"num-examples": 3 * node, "loss": float(node)})
        content = RecordDict({"arrays": record_of(vector), "metrics": metrics})
        found.append(wrap(content, question.metadata))
    return found


def rounds_of(strategy: Any) -> tuple[list[np.ndarray], list[dict[str, Any]], Any]:
    """Play three rounds; return each round's vector and metrics, and the last array."""
    arrays = record_of(np.random.default_rng(0).normal(size=LENGTH).astype(np.float32))
    vectors, metrics = [], []
    for number in (1, 2, 3):
        grid = MemoryGrid([MemoryNode(node, lambda _: None) for node in range(1, HOSPITALS + 1)])
        asked = list(strategy.configure_train(number, arrays, ConfigRecord(), grid))
        assert len(asked) == HOSPITALS
        found, measured = strategy.aggregate_train(number, replies_to(arrays, number))
        assert found is not None and measured is not None
        arrays = found
        vectors.append(arrays["weights"].numpy().copy())
        metrics.append(dict(measured))
    return vectors, metrics, arrays["weights"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE", 100)
    monkeypatch.setattr(slices, "LARGE", 1000)


def test_every_coordinatewise_strategy_is_tried_here() -> None:
    assert set(MAKE) == {kind.__name__ for kind in COORDINATEWISE}


@pytest.mark.parametrize("name", MAKE)
def test_slices_give_the_same_bits_round_after_round(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = rounds_of(addressed(MAKE[name]()))
    assert not isinstance(whole[2], MappedArray)
    monkeypatch.setattr(slices, "SLICE", 100)
    monkeypatch.setattr(slices, "LARGE", 1000)
    strategy = addressed(MAKE[name]())
    assert isinstance(strategy, Sliced)
    strategy.folder = tmp_path
    sliced = rounds_of(strategy)
    assert isinstance(sliced[2], MappedArray)
    for ours, theirs in zip(sliced[0], whole[0], strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert sliced[1] == whole[1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small")
def test_what_needs_whole_vectors_gets_them() -> None:
    strategy = addressed(Krum(**MINIMA))
    assert not isinstance(strategy, Sliced)
    assert len(rounds_of(strategy)[0]) == 3


@pytest.mark.usefixtures("small")
def test_a_failed_reply_is_left_out_and_nobody_at_all_gives_nothing() -> None:
    arrays = record_of(np.zeros(LENGTH, dtype=np.float32))
    good = replies_to(arrays, 1)
    failed = wrap(Error(code=1, reason="it fell over"), good[0].metadata)
    ours, _ = addressed(FedAvg(**MINIMA)).aggregate_train(1, [failed, *good[1:]])
    theirs, _ = FedAvg(**MINIMA).aggregate_train(1, good[1:])
    assert ours is not None and theirs is not None
    np.testing.assert_array_equal(ours["weights"].numpy(), theirs["weights"].numpy())
    assert addressed(FedAvg(**MINIMA)).aggregate_train(1, [failed]) == (None, None)


@pytest.mark.usefixtures("small")
def test_differential_privacy_wraps_a_sliced_strategy() -> None:
    strategy = addressed(
        DifferentialPrivacyServerSideFixedClipping(
            FedAvg(**MINIMA), noise_multiplier=0.0, clipping_norm=1e9, num_sampled_clients=HOSPITALS
        )
    )
    (plain, *_), _, _ = rounds_of(addressed(FedAvg(**MINIMA)))
    (private, *_), _, _ = rounds_of(strategy)
    np.testing.assert_allclose(private, plain, atol=1e-6)
