"""Refinement's part at a hospital: merging's, a description of the images, and a refined model.

A hospital that only describes itself needs no labels, and none is read.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from polyclinic.config.release import Release
from polyclinic.describing.statistics import describe
from polyclinic.errors import PolyclinicError
from polyclinic.federation.records import Order
from polyclinic.federation.site import Site, save_site_model
from polyclinic.imaging.subjects import number_subjects
from polyclinic.learning.preparation import prepare_image
from polyclinic.learning.state_dict import StateDict, shared_names, unpack
from polyclinic_strategies.merging.hospital import MergingHospital


class RefinementHospital(MergingHospital):
    """Hospital that may describe its images, and gets a model for them."""

    def describe(
        self,
        site: Site,
        order: Order,
        names: Sequence[str],
        release: Release,
        weights: Tensor | None,
    ) -> tuple[StateDict, int]:
        """Compute means over all subjects, labelled or not; return them and the number of subjects.

        Args:
            site: The hospital; it may demand more for itself than `release` does.
            order: What network and data are.
            names: Names of the statistics that are asked for.
            release: What may leave, as far as the coordinator asks.
            weights: The base; None if no statistic is made of its features.

        Raises:
            TooFewSubjects: There are so few that a mean would show them.
            UnknownName: There is no such statistic.
        """
        job, network = site.job(order), site.build_network(order)
        if weights is not None:
            state = network.state_dict()
            network.load_state_dict(
                {**state, **unpack(weights, state, shared_names(network, "none"))}
            )
        cases, demanded = site.dataset.cases, release.strictest(site.release_policy)
        subjects = number_subjects(cases)

        def images() -> Iterator[Tensor]:
            for number, case in enumerate(cases):
                site.say(order, "describing", step=number, steps=len(cases))
                yield prepare_image(case.image, job.data)[0]

        try:
            found = describe(names, images(), subjects, network, demanded)
        except PolyclinicError as error:
            # the client, another process, reads this and ends
            site.say(order, "failed", force=True, reason=str(error))
            raise
        site.say(order, "waiting", force=True)
        return found, len(set(subjects))

    def receive(self, site: Site, order: Order, weights: Tensor, number: int) -> Path:
        """Keep the refined model, ready for `polyclinic-client predict`; return its file.

        Raises:
            ModelInvalid: The weights are of another network, or not finite.
        """
        network = site.build_network(order)
        state = network.state_dict()
        refined = {**state, **unpack(weights, state, shared_names(network, "none"))}
        save_site_model(refined, site.received_model, order, number)
        site.say(order, "refined", number=number, force=True)
        return site.received_model


HOSPITAL = RefinementHospital()
