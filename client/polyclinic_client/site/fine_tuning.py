"""`python -m polyclinic_client.site.fine_tuning SITE DATA STATE`: a hospital fine-tunes the base, in its own time, and leaves a contribution in its outbox.

A process of its own, outside any message: it may take weeks. After every pass over the data it keeps what it needs to go on, so that
a crash costs one pass, and the result is the same, bit for bit, as without the crash.
"""

import logging
import os
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from torch import nn

from polyclinic.config.release import Release
from polyclinic.config.schemas import JobConfig, ShiftsConfig
from polyclinic.describing.statistics import STATISTICS, describe
from polyclinic.errors import ModelInvalid, PolyclinicError
from polyclinic.learning import training
from polyclinic.learning.fine_tuning import Course, fit_passes
from polyclinic.learning.preparation import PreparedSite, training_loader
from polyclinic.learning.state_dict import StateDict, load_state, shared_names, subtract
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.system.processes import end_with_parent
from polyclinic_client.site.compute_slots import compute_slot
from polyclinic_client.site.outbox import TRAINING_STATUS, Outbox
from polyclinic_client.site.release_policy import own_release
from polyclinic_client.site.site import Site
from polyclinic_strategies.merging.layer_statistics import fisher_diagonal, gram_matrices
from polyclinic_strategies.merging.messages import Assignment
from polyclinic_strategies.refinement.refiner import DESCRIPTION
from polyclinic_strategies.universal import hospital as universal_work
from polyclinic_strategies.universal.hospital import Learned
from polyclinic_strategies.universal.networks.network import UniversalNetwork

STEP_PAUSE = "POLYCLINIC_STEP_PAUSE_S"  # rests so long after every step: a demo's hospitals are not equally fast
STATISTICS_BATCHES = 8
log = logging.getLogger("polyclinic.fine_tuning")


def contribute(site: Site, outbox: Outbox, assignment: Assignment, key: str) -> Path:
    """Fine-tune, and put the contribution into the outbox.

    Args:
        site: The hospital.
        outbox: Holds the base already.
        assignment: What is asked for.
        key: The outbox's name for this work.

    Raises:
        ModelInvalid: The base is damaged, or of another network.
        PolyclinicError: Whatever is wrong with data or settings.
    """
    order = assignment.order
    job = site.job(order)
    network = site.build_network(order, job)
    base = load_state(outbox.base_path(assignment.base))[0]
    names = shared_names(network, "none")
    if set(base) != set(names):
        raise ModelInvalid(
            f"The base {assignment.base[:12]} is not of the network {order.names['model']}."
        )
    network.load_state_dict({**network.state_dict(), **base})
    checkpoint = outbox.state / "training" / f"{key}.pt"
    if isinstance(network, UniversalNetwork):
        learned = universal_work.learn(
            site,
            network,
            assignment,
            base,
            checkpoint,
            lambda: _fit(site, network, assignment, checkpoint),
        )
    else:
        learned = _learn(site, network, assignment, base, checkpoint)
    contribution = Contribution(
        site=site.name, base=assignment.base, task=assignment.task, num_examples=len(site.dataset.training),
        metrics=learned.metrics, created=time.time(), version=version("polyclinic"),
    )  # fmt: skip
    path = write_contribution(outbox.folder, contribution, learned.task_vector, learned.statistics)
    outbox.put(path, key)
    checkpoint.unlink(missing_ok=True)
    site.say(
        order,
        "waiting",
        force=True,
        **{key: value for key, value in learned.metrics.items() if key == "score"},
    )
    return path


def _learn(
    site: Site, network: nn.Module, assignment: Assignment, base: StateDict, checkpoint: Path
) -> Learned:
    """The federation's task, which every hospital has in common."""
    order, job = assignment.order, site.job(assignment.order)
    prepared = site.prepared(order, job)
    described = _describe_site(
        site, network, assignment, prepared
    )  # by the base's features, which are the same for everybody
    loss = _fit(site, network, assignment, checkpoint)
    evaluation = training.evaluate(network, prepared.validation, job.data, job.training)
    tuned = {name: network.state_dict()[name].detach().cpu() for name in base}
    statistics = {
        **described,
        **_describe(network, assignment.statistics, prepared, job, site.seed(order)),
    }
    return Learned({"loss": loss, "score": evaluation.score}, subtract(tuned, base), statistics)


def _fit(site: Site, network: nn.Module, assignment: Assignment, checkpoint: Path) -> float:
    """All passes, from the last one that was kept; the loss of the last pass."""
    order, job = assignment.order, site.job(assignment.order)
    rest_s = float(os.environ.get(STEP_PAUSE, "0"))

    def tell(step: int, steps: int, value: float) -> None:
        site.say(order, "training", step=step, steps=steps, loss=value)
        time.sleep(rest_s)

    course = Course(
        order.rounds * job.training.epochs,
        lambda number: site.seed(replace(order, round=number)),
        isinstance(network, UniversalNetwork),
    )
    return fit_passes(
        network,
        site.prepared(order, job),
        job.training,
        course,
        checkpoint=checkpoint,
        on_step=tell,
        turn=compute_slot,
    )


def _describe(
    network: nn.Module, wanted: tuple[str, ...], prepared: PreparedSite, job: JobConfig, seed: int
) -> StateDict:
    """The statistics that the federation's rule asks for."""
    found: StateDict = {}
    plain = replace(job.training, shifts=ShiftsConfig())  # of the images as they are
    if "gram" in wanted:
        found |= gram_matrices(network, training_loader(prepared, plain, seed), STATISTICS_BATCHES)
    if "fisher" in wanted:
        found |= fisher_diagonal(
            network, training_loader(prepared, plain, seed), plain, STATISTICS_BATCHES
        )
    return found


def _describe_site(
    site: Site, network: nn.Module, assignment: Assignment, prepared: PreparedSite
) -> StateDict:
    """What the training images are like, as far as the federation asks; see `polyclinic.describing`."""
    names = [name for name in assignment.statistics if name in STATISTICS]
    if not names:
        return {}
    release = Release(assignment.min_subjects, assignment.noise_multiplier).strictest(
        own_release(site.state)
    )
    found = describe(names, (sample.image for sample in prepared.training), network, release)
    return {f"{DESCRIPTION}{name}": mean for name, mean in found.items()}


def work(name: str, data: Path, state: Path) -> None:
    """Do what the outbox says is to be done; nothing if there is nothing.

    Raises:
        PolyclinicError: Whatever is wrong with data or settings; the outbox remembers it.
    """
    outbox = Outbox(state, data)
    key, assignment = outbox.todo(), outbox.assignment()
    if key is None or assignment is None:
        return
    try:
        contribute(
            Site(name, data, state, TRAINING_STATUS), outbox, Assignment.from_json(assignment), key
        )
    except PolyclinicError as error:
        outbox.fail(
            key, f"{type(error).__name__}: {error}" if error.shareable else type(error).__name__
        )
        raise


def main() -> None:
    """The module's command."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    end_with_parent()
    name, data, state = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    try:
        work(name, data, state)
    except PolyclinicError as error:
        log.error("%s", error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
