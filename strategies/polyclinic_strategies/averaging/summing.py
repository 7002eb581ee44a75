"""Rounds whose updates are summed: a strategy of Flower's gets their mean as one answer.

Flower's means of one answer are that answer, bit for bit. What builds on the mean, such as FedAdam,
works unchanged.
"""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    FedYogi,
    Strategy,
)

from polyclinic.config.schemas import DeploymentConfig, SumsConfig
from polyclinic.errors import ConfigError
from polyclinic.federation.envelope import BufferArray, array_values
from polyclinic.federation.envelope.content import ARRAYS, CONFIG, METRICS, WEIGHTS, weights_of
from polyclinic.federation.grids.passing import PassingGrid
from polyclinic.federation.grids.reliable_grid import ReliableGrid
from polyclinic.federation.secure_sums.collector import Collector
from polyclinic.federation.secure_sums.exchange import (
    add_up,
    check_protection,
    concentrated,
    make_terms,
)
from polyclinic.federation.secure_sums.messages import (
    PREFIX,
    TRAIN,
    Offered,
    read_offered,
    to_config,
)
from polyclinic.federation.secure_sums.noise import epsilon
from polyclinic.federation.secure_sums.quantization import EXTRA, Losses
from polyclinic.federation.secure_sums.terms import Terms

MEANS = (FedAvg, FedProx, FedAvgM, FedAdam, FedYogi, FedAdagrad)  # what they need is a mean


class SummingGrid(PassingGrid):
    """A grid whose rounds of training end with one answer: the mean of all.

    Args:
        grid: Asks the hospitals.
        sums: How updates are summed.
        deployment: Minimum number of hospitals.
        delta: For which epsilon is told.
        done: Number of rounds that an earlier attempt completed.
    """

    def __init__(
        self,
        grid: ReliableGrid,
        sums: SumsConfig,
        deployment: DeploymentConfig,
        delta: float,
        done: int,
    ) -> None:
        super().__init__(grid)
        self._reliable, self._sums = grid, sums
        self._delta, self._done, self._rho = delta, done, 0.0
        self._minimum = max(deployment.min_hospitals, sums.least_hospitals)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Ask as the inner grid does; sum the updates of a round of training.

        Raises:
            TooFewHospitals: Fewer than the minimum answered in time.
            SumRefused: There are too few hospitals for a sum, or too many.
        """
        asked = list(messages)
        if not asked or asked[0].metadata.message_type != MessageType.TRAIN:
            return self._reliable.send_and_receive(asked, timeout=timeout)
        weights = weights_of(asked[0])
        assert weights is not None
        terms = make_terms(self._sums)
        numbers = int(weights.shape[0])
        answers = self._reliable.ask(
            TRAIN,
            self._questions(asked, terms),
            partial(read_offered, numbers=numbers + EXTRA, masked=terms.masked),
            self._minimum,
            phase=MessageType.TRAIN,
        )
        collector = Collector(terms, numbers + EXTRA)
        order = dict(asked[0].content[CONFIG])
        total, members = add_up(self._reliable, collector, answers, order)
        count = len(members)
        if terms.sigma > 0:
            self._tell_epsilon(terms, count, numbers)
        else:
            self._tell(terms.grid.losses(total, count), numbers * count)
        mean = terms.grid.mean(total[:-EXTRA], count, array_values(weights))
        return [_answer(asked[0], mean, answers)]

    def _questions(self, asked: list[Message], terms: Terms) -> dict[str, RecordDict]:
        """Add the terms to each question; equal questions share their content."""
        made: dict[int, RecordDict] = {}
        sites = self._reliable.sites(message.metadata.dst_node_id for message in asked)
        for message in asked:
            content = message.content
            if id(content) not in made:
                config = {**dict(content[CONFIG]), **to_config(terms, PREFIX)}
                made[id(content)] = RecordDict(
                    {ARRAYS: content[ARRAYS], CONFIG: ConfigRecord(config)}
                )
        return {site: made[id(message.content)] for site, message in zip(sites, asked, strict=True)}

    def _tell_epsilon(self, terms: Terms, count: int, numbers: int) -> None:
        """Say what all models so far tell about one hospital."""
        if self._done:  # how many were in those sums is not known any more: as few as there may be
            self._rho += self._done * concentrated(terms, terms.least, numbers)
            self._done = 0
        self._rho += concentrated(terms, count, numbers)
        spent = epsilon(self._rho, self._delta)
        self._reliable.tell(
            f"differential privacy of whole hospitals so far: epsilon {spent:.4g} (delta "
            f"{self._delta:g})"
        )

    def _tell(self, lost: Losses, numbers: int) -> None:
        """Say how far the mean may be from the one of the updates as they were."""
        text = f"the sum's mean is within {lost.distance:.3g} (Euclidean) of the exact mean"
        if lost.clipped:
            share = lost.clipped / numbers
            text += (
                f"; {lost.clipped} of the updates' numbers ({share:.2g}) were beyond "
                f"privacy.sums.clip={self._sums.clip:g}: raise it"
            )
        self._reliable.tell(text)


def check_sums(sums: SumsConfig, strategy: type[Strategy], deployment: DeploymentConfig) -> None:
    """Refuse what cannot be done with a sum alone.

    Raises:
        ConfigError: The strategy needs single updates; or there are too few hospitals, or too many.
    """
    if strategy.__name__ not in {each.__name__ for each in MEANS}:  # others build on FedAvg too
        raise ConfigError(
            f"A sum of updates hides single ones, and {strategy.__name__} needs them: choose "
            "strategy=averaging/fedavg, averaging/fedprox or averaging/fedadam; or privacy=none."
        )
    check_protection(sums)
    if sums.masked and 0 < deployment.hospitals < sums.least_hospitals:
        raise ConfigError(
            f"deployment.hospitals={deployment.hospitals}, and a secure sum needs "
            f"{sums.least_hospitals} (privacy.sums.least_hospitals)."
        )


def describe_sums(sums: SumsConfig) -> str:
    """Say in a sentence what sums change."""
    seen = "sees their sum alone" if sums.masked else "sees every update: this protects nobody"
    return (
        f"Hospitals' updates travel as {sums.bits}-bit numbers up to {sums.clip:g} and the "
        f"coordinator {seen}. Every hospital weighs the same. The checks of single updates are off "
        "(deployment.max_update_ratio, deployment.max_examples_ratio, unlike and repeated updates)."
    )


def _answer(asked: Message, mean: np.ndarray[Any, Any], answers: Mapping[str, Offered]) -> Message:
    """Make the one answer: the mean of the weights, and of the losses."""
    losses = [each.figures.loss for each in answers.values() if each.figures.loss is not None]
    arrays = ArrayRecord()  # given a dictionary, it would copy the array
    arrays[WEIGHTS] = BufferArray(mean)
    metrics = MetricRecord({"num-examples": 1, "loss": fmean(losses) if losses else math.nan})
    return Message(RecordDict({ARRAYS: arrays, METRICS: metrics}), reply_to=asked)
