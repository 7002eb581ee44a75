"""Evaluation at a hospital: models are scored on its test cases, and compared case by case."""

import math
from dataclasses import asdict, replace

from torch import Tensor

from polyclinic.errors import ConfigError, WeightsInvalid
from polyclinic.federation.hospital import CommonTask
from polyclinic.federation.records import Order
from polyclinic.federation.site import Site, check_labels, load_weights
from polyclinic.imaging.dataset_checks import check_agreement
from polyclinic.imaging.datasets import Case, evaluation_cases
from polyclinic.imaging.subjects import number_subjects
from polyclinic.learning.measures.estimates import Estimate
from polyclinic.learning.measures.paired import compare_by_case
from polyclinic.learning.metrics import Evaluation
from polyclinic.learning.prediction import CaseScore, evaluate_natively
from polyclinic.learning.preparation import check_case
from polyclinic.learning.state_dict import packed_digest
from polyclinic.system.text import json_digest
from polyclinic_strategies.evaluation.case_scores import CaseScores, keep_scores, read_scores
from polyclinic_strategies.evaluation.exchange import WEIGHTS, compared_models

CHECKED = "evaluation cases"  # key of what is kept between two messages


class EvaluationHospital(CommonTask):
    """Hospital that scores models on its test cases; without any, on its validation cases."""

    def prepare(self, site: Site, order: Order) -> str:
        """Read the cases once, so that a damaged one is met before the work.

        Raises:
            ConfigError: The labels differ from the models', or no case has a label.
        """
        job = site.job(order)
        check_labels(job, site.dataset)
        check_agreement(site.dataset, job.data)
        cases = evaluation_cases(site.dataset)
        if not cases:
            raise ConfigError("This hospital has no labelled test or validation case.")
        checked = f"{CHECKED} {json_digest(asdict(job.data))}"  # runs may differ in it
        if checked not in site.kept:
            for number, case in enumerate(cases, 1):
                check_case(case, job.data)
                site.say(order, "preparing", step=number, steps=len(cases))
            site.kept[checked] = True
        return ""

    def test(self, site: Site, order: Order, weights: Tensor) -> Evaluation:
        """Score a model, and compare it with those that were scored before.

        Raises:
            WeightsInvalid: Other weights arrived than the order names.
        """
        digest = packed_digest(weights)
        if digest != order.digests.get(WEIGHTS):
            raise WeightsInvalid("Other weights arrived than the order names: ask again.")
        job, network = site.job(order), site.build_network(order)
        load_weights(site, order, network, weights, 0)
        cases, done = evaluation_cases(site.dataset), 0

        def tell(_case: Case, _answer: Tensor, _truth: Tensor) -> None:
            nonlocal done
            done += 1
            site.say(order, "testing", step=done, steps=len(cases))

        site.say(order, "testing", force=True)
        found, scored = evaluate_natively(network, site.dataset, job.data, on_case=tell)
        scores = CaseScores(digest=digest, scores=name_scores(scored))
        keep_scores(site.folder(order), scores)
        site.say(order, "waiting", score=found.score, force=True)
        return replace(found, comparisons=self._compare(site, order, scores, cases))

    def _compare(
        self, site: Site, order: Order, scores: CaseScores, cases: tuple[Case, ...]
    ) -> dict[str, Estimate]:
        """Compute the mean differences to the models that were scored before in this run."""
        numbers = number_subjects(cases)
        subjects = {name_case(place, case.name): numbers[place] for place, case in enumerate(cases)}
        found = {}
        for model, digest in compared_models(order.digests).items():
            others = read_scores(site.folder(replace(order, arm=model)))
            if others is None or others.digest != digest:
                continue
            difference = compare_by_case(scores.scores, others.scores, subjects)
            if difference is not None:
                found[model] = difference
        return found


def name_case(place: int, name: str) -> str:
    """Name a case by its place among all, for two cases may have one name."""
    return f"{place} {name}"


def name_scores(scored: list[CaseScore]) -> dict[str, float]:
    """Return the scores of cases that have one."""
    return {
        name_case(place, each.name): each.score
        for place, each in enumerate(scored)
        if not math.isnan(each.score)
    }


HOSPITAL = EvaluationHospital()
