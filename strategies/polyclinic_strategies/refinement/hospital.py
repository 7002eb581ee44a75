"""What a hospital does that only says what its images are like: describe them, and keep the model that was made for them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from polyclinic.config.release import Release
from polyclinic.describing.statistics import STATISTICS, describe
from polyclinic.errors import ConfigError, PolyclinicError
from polyclinic.federation.records import Order
from polyclinic.learning.preparation import prepare_image
from polyclinic.learning.state_dict import StateDict, shared_names, unpack
from polyclinic_client.site.outbox import REFINED
from polyclinic_client.site.release_policy import own_release
from polyclinic_client.site.site import Site, save_model


def describe_images(
    site: Site, order: Order, names: Sequence[str], release: Release, weights: Tensor | None
) -> tuple[StateDict, int]:
    """Means over all the site's subjects, labelled or not; returns them and the number of subjects.

    Args:
        site: The hospital.
        order: What the network and the data are.
        names: Of `STATISTICS`.
        release: What may leave, as the coordinator asks; the hospital may demand more for itself.
        weights: The base; None if no statistic is made of its features.

    Raises:
        TooFewSubjects: There are so few that a mean would show them.
        ConfigError: There is no such statistic.
    """
    if unknown := sorted(set(names) - set(STATISTICS)):
        raise ConfigError(
            f"The coordinator asks for a statistic {unknown[0][:80]!r}: it runs another version of polyclinic."
        )
    job = site.job(order)
    network = site.build_network(order, job)
    if weights is not None:
        network.load_state_dict(
            {
                **network.state_dict(),
                **unpack(weights, network.state_dict(), shared_names(network, "none")),
            }
        )
    cases = site.dataset.cases

    def images() -> Iterator[Tensor]:
        for number, case in enumerate(cases):
            site.say(order, "describing", step=number, steps=len(cases))
            yield prepare_image(case.image, job.data)[0]

    try:
        found = describe(names, images(), network, release.strictest(own_release(site.state)))
    except PolyclinicError as error:
        site.say(
            order, "failed", force=True, reason=str(error)
        )  # the client, another process, ends with it
        raise
    site.say(order, "waiting", force=True)
    return found, len(cases)


def keep_refined(site: Site, order: Order, weights: Tensor, number: int) -> Path:
    """Keep the model that the coordinator made for this hospital, ready for `polyclinic-client predict`."""
    network = site.build_network(order, site.job(order))
    state = network.state_dict()
    path = site.state / REFINED
    save_model(
        {**state, **unpack(weights, state, shared_names(network, "none"))}, path, order, number
    )
    site.say(order, "refined", number=number, force=True)
    return path
