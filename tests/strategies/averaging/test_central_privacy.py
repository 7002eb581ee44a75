"""Central differential privacy: clipping, equal weights, noise of the right size."""

import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian

from polyclinic.errors import ConfigError
from polyclinic.federation.envelope import make_message, wrap
from polyclinic_strategies.averaging.addressed import addressed
from polyclinic_strategies.averaging.central_privacy import CentralPrivacy, describe_privacy

SENT = np.linspace(-1, 1, 8, dtype=np.float32)


def record(values: np.ndarray) -> ArrayRecord:  # type: ignore[type-arg]
    return ArrayRecord({"weights": Array(values.astype(np.float32))})


def reply(values: np.ndarray, examples: int = 1) -> Message:  # type: ignore[type-arg]
    question = make_message(RecordDict(), 1, "train")
    content = RecordDict(
        {"arrays": record(values), "metrics": MetricRecord({"num-examples": examples})}
    )
    return Message(content, reply_to=question)


def aggregate(
    *replies: Message,
    sent: np.ndarray = SENT,  # type: ignore[type-arg]
    noise: float = 0.0,
    clip: float = 1.0,
) -> np.ndarray:  # type: ignore[type-arg]
    strategy = addressed(CentralPrivacy(FedAvg(), noise, clip))
    assert isinstance(strategy, CentralPrivacy)
    strategy.current_arrays = record(sent)
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays is not None
    return arrays["weights"].numpy()


def test_weights_that_come_back_unchanged_change_nothing() -> None:
    np.testing.assert_array_equal(aggregate(reply(SENT), reply(SENT)), SENT)


def test_updates_are_clipped_and_weigh_the_same_whatever_a_hospital_says() -> None:
    far, near = SENT.copy(), SENT.copy()
    far[0] += 100
    near[1] += 0.5
    found = aggregate(reply(far, 10**6), reply(near, 1))
    expected = SENT.copy()
    expected[:2] += (0.5, 0.25)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_is_not_finite_or_failed_is_left_out() -> None:
    near, bad = SENT.copy(), SENT.copy()
    near[1] += 0.5
    bad[0] = math.nan
    failed = wrap(Error(code=1, reason="it fell over"), reply(SENT).metadata)
    np.testing.assert_allclose(aggregate(failed, reply(bad), reply(near)), near, atol=1e-6)


def test_noise_is_that_of_the_hospitals_that_answered() -> None:
    sent = np.zeros(20_000, dtype=np.float32)
    replies = [reply(sent) for _ in range(4)]
    found, again = (aggregate(*replies, sent=sent, noise=2.0, clip=3.0) for _ in range(2))
    assert float(found.std()) == pytest.approx(2.0 * 3.0 / 4, rel=0.05)
    assert abs(float(found.mean())) < 0.05
    assert not np.array_equal(found, again)


def test_another_aggregation_is_refused() -> None:
    with pytest.raises(ConfigError, match="FedMedian"):
        CentralPrivacy(FedMedian(), 1.0, 1.0)


def test_a_run_tells_its_epsilon() -> None:
    assert "epsilon 4.38" in describe_privacy(1.0, 1, 1e-5)
    assert "noise_multiplier" in describe_privacy(0.0, 1, 1e-5)
