"""Planning's part at a hospital: its fingerprint, within its release policy. Nothing is trained."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from polyclinic.config.release import Release
from polyclinic.errors import ConfigError, PolyclinicError, UnknownName
from polyclinic.federation.hospital import CommonTask
from polyclinic.federation.records import Order
from polyclinic.federation.site import Site, check_labels
from polyclinic.imaging.dataset_checks import check_agreement
from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.planning.events import DOING
from polyclinic_strategies.planning.fingerprint import NAME, take_fingerprint


class PlanningHospital(CommonTask):
    """Hospital that tells how large its images and voxels are."""

    def prepare(self, site: Site, order: Order) -> str:
        """Refuse other classes or channels than the federation's; no image is read."""
        job = site.job(order)
        check_labels(job, site.dataset)
        check_agreement(site.dataset, job.data)
        return ""

    def describe(
        self,
        site: Site,
        order: Order,
        names: Sequence[str],
        release: Release,
        weights: Tensor | None,  # noqa: ARG002
    ) -> tuple[StateDict, int]:
        """Take the fingerprint of the training cases; return it and the number of patients.

        Raises:
            TooFewSubjects: There are so few that a mean would show them.
            UnknownName: The coordinator asks for something else.
            ConfigError: Noise is demanded, which a fingerprint has not.
        """
        for name in names:
            if name != NAME:
                raise UnknownName("statistic", name[:80], [NAME])
        demanded = release.strictest(site.release_policy)

        def tell(number: int, cases: int) -> None:
            site.say(order, DOING, step=number, steps=cases)

        try:
            found = take_fingerprint(site.dataset, site.job(order).data, demanded, tell)
        except PolyclinicError as error:
            site.say(order, "failed", force=True, reason=str(error))
            raise
        site.say(order, "waiting", force=True)
        parts = {name: torch.from_numpy(values).float() for name, values in found.parts.items()}
        return {name: values.flatten() for name, values in parts.items()}, found.subjects

    def receive(
        self,
        site: Site,  # noqa: ARG002
        order: Order,  # noqa: ARG002
        weights: Tensor,  # noqa: ARG002
        number: int,  # noqa: ARG002
    ) -> Path:
        """Refuse a model.

        Raises:
            ConfigError: Always: a plan has none.
        """
        raise ConfigError("Planning sends no model to a hospital.")


HOSPITAL = PlanningHospital()
