"""Central differential privacy of whole hospitals: clipped updates of equal weight, and noise.

Flower's own wrapper divides by the length of an update, which is 0 where a hospital returns what
it got; its noise is that of an equal mean while the mean is weighted; and it aggregates nothing
unless exactly `num_sampled_clients` hospitals answer. Here the mean is equal, the noise is that of
the hospitals that answered, and it comes from the operating system's randomness.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Strategy,
)

from polyclinic.config.release import Release, gaussian
from polyclinic.errors import ConfigError
from polyclinic.federation.envelope import array_values, wrap

AT_ONCE = 2**20  # numbers for which noise is drawn
log = logging.getLogger("polyclinic.central_privacy")


class CentralPrivacy(DifferentialPrivacyServerSideFixedClipping):
    """A mean of updates, each at most `clipping_norm` long, with Gaussian noise.

    Whoever sees the models learns about each hospital no more than `epsilon` says; the coordinator
    sees all. McMahan et al. 2018, https://arxiv.org/abs/1710.06963.

    Args:
        strategy: One that averages as `FedAvg` does.
        noise_multiplier: Standard deviation of the noise on the sum of the updates, in lengths of
            the longest update.
        clipping_norm: Length to which longer updates are shortened.
        num_sampled_clients: Of earlier versions; the hospitals that answer are counted.

    Raises:
        ConfigError: The strategy combines updates otherwise, so that the noise would not fit.
    """

    def __init__(
        self,
        strategy: Strategy,
        noise_multiplier: float,
        clipping_norm: float,
        num_sampled_clients: int = 1,
    ) -> None:
        if getattr(type(strategy), "aggregate_train", None) is not FedAvg.aggregate_train:
            raise ConfigError(
                f"privacy=server_side_dp has noise for a mean, and {type(strategy).__name__} makes "
                "none: choose strategy=averaging/fedavg or averaging/fedprox."
            )
        super().__init__(strategy, noise_multiplier, clipping_norm, num_sampled_clients)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average clipped updates, each of equal weight, and add noise."""
        clipped = list(self._clip(reply for reply in replies if not reply.has_error()))
        arrays, metrics = self.strategy.aggregate_train(server_round, clipped)
        if arrays is None:
            return None, metrics
        deviation = self.noise_multiplier * self.clipping_norm / len(clipped)
        noisy = ArrayRecord()
        for name, array in arrays.items():
            noisy[name] = Array(_with_noise(array_values(array), deviation))
        return noisy, metrics

    def _clip(self, replies: Iterable[Message]) -> Iterator[Message]:
        """Yield the replies with updates of bounded length; leave out what is not finite."""
        for reply in replies:
            content = RecordDict(dict(reply.content.items()))
            for key, record in reply.content.array_records.items():
                found = self._clip_record(record)
                if found is None:
                    log.warning("the weights of node %d: not finite", reply.metadata.src_node_id)
                    break
                content[key] = found
            else:
                for key, metrics in reply.content.metric_records.items():
                    equal = {getattr(self.strategy, "weighted_by_key", "num-examples"): 1}
                    content[key] = MetricRecord({**dict(metrics), **equal})
                yield wrap(content, reply.metadata)

    def _clip_record(self, record: ArrayRecord) -> ArrayRecord | None:
        """Return the weights with a shortened update; None where it is not finite."""
        sent = {name: array_values(self.current_arrays[name]).astype(np.float64) for name in record}
        updates = {
            name: array_values(array).astype(np.float64) - sent[name]
            for name, array in record.items()
        }
        length = float(np.sqrt(sum(float(np.vdot(each, each)) for each in updates.values())))
        if not np.isfinite(length):
            return None
        share = min(1.0, self.clipping_norm / length) if length > 0 else 1.0
        clipped = ArrayRecord()
        for name, update in updates.items():
            dtype = array_values(record[name]).dtype
            clipped[name] = Array((sent[name] + share * update).astype(dtype))
        return clipped


def describe_privacy(noise_multiplier: float, rounds: int, delta: float) -> str:
    """Say in a sentence what all models of a run together tell about one hospital."""
    if noise_multiplier == 0:
        return "privacy=server_side_dp without noise protects nobody: set privacy.noise_multiplier."
    epsilon = Release(noise_multiplier=noise_multiplier, delta=delta).epsilon(rounds)
    return (
        f"Central differential privacy of whole hospitals: epsilon {epsilon:.3g} for {rounds} "
        f"rounds (delta {delta:g}). Each hospital's update weighs the same."
    )


def _with_noise(values: np.ndarray[Any, Any], deviation: float) -> np.ndarray[Any, Any]:
    """Copy an array with Gaussian noise."""
    flat = values.reshape(-1).astype(np.float64)
    for start in range(0, flat.size if deviation > 0 else 0, AT_ONCE):
        part = flat[start : start + AT_ONCE]
        part += deviation * gaussian(part.size).numpy()
    return flat.reshape(values.shape).astype(values.dtype)
