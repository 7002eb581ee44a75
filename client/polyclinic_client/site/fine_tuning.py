"""`python -m polyclinic_client.site.fine_tuning SITE DATA STATE [KEY]`: make a contribution.

It fine-tunes in a process of its own, outside of any message: it may take weeks. After every pass
over the cases it keeps what it needs to go on. A crash costs one pass, and the result is the same,
bit for bit.
"""

import logging
import math
import sys
import time
from importlib.metadata import version
from pathlib import Path

from polyclinic.errors import ConfigError, ModelInvalid, OutOfMemory, PolyclinicError
from polyclinic.federation.assignment import Assignment
from polyclinic.federation.records import order_to_config
from polyclinic.learning.state_dict import load_state, shared_names
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.system.faults import explain, shareable
from polyclinic.system.machine import limit_memory
from polyclinic.system.processes import end_with_parent
from polyclinic_client.policy.asked import read_asked
from polyclinic_client.policy.gate import enter
from polyclinic_client.policy.limits import within_limits
from polyclinic_client.policy.policy import read_policy
from polyclinic_client.site.dispatch import hospital_of
from polyclinic_client.site.outbox import Outbox
from polyclinic_client.site.site import Site
from polyclinic_client.site.status import FINE_TUNING

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
        LimitExceeded: It asks for statistics, as many other questions did before.
        PolyclinicError: Whatever is wrong with data or settings.
    """
    order = assignment.order
    if order.patients is not None:
        raise ConfigError("A contribution has no training that protects each patient.")
    if assignment.statistics:
        site.release_book.note(key)
    network = site.build_network(order)
    base = load_state(outbox.base_path(assignment.base))[0]
    if set(base) != set(shared_names(network, "none")):
        raise ModelInvalid(
            f"The base {assignment.base[:12]} is not of the network {order.names['model']}."
        )
    network.load_state_dict({**network.state_dict(), **base})
    checkpoint = outbox.state / "training" / f"{key}.pt"
    learned = hospital_of(order).contribute(site, assignment, network, base, checkpoint)
    contribution = Contribution(
        site=site.name,
        base=assignment.base,
        task=assignment.task,
        num_examples=len(site.dataset.training),
        # a hospital without any foreground has no score
        metrics={name: value for name, value in learned.metrics.items() if math.isfinite(value)},
        created=time.time(),
        version=version("polyclinic"),
    )
    path = write_contribution(
        outbox.folder, contribution, learned.task_vector, learned.statistics, assignment.rank
    )
    outbox.put(path, key)
    checkpoint.unlink(missing_ok=True)
    score = {name: value for name, value in contribution.metrics.items() if name == "score"}
    site.say(order, "waiting", force=True, **score)
    return path


def work(
    name: str, data: Path, state: Path, opened: Site | None = None, key: str | None = None
) -> None:
    """Do what the outbox says is to be done; nothing if there is nothing.

    Args:
        name: The hospital's.
        data: Folder with dataset.json.
        state: Folder with the outbox.
        opened: The hospital, where this process has opened it; its prepared cases are used if its
            list of cases has not changed since.
        key: Names the work; what is next if None.

    Raises:
        PolyclinicError: Whatever is wrong with data or settings; the outbox remembers it.
    """
    outbox = Outbox(state, data)
    key = key or outbox.todo()
    wanted = None if key is None else outbox.wanted(key)
    if key is None or wanted is None:
        return
    try:
        assignment = Assignment.from_json(wanted.values)
        asked = read_asked(order_to_config(assignment.order))
        enter(state, asked, trains=True)
        site = Site(name, data, state, FINE_TUNING)
        if opened is not None and opened.dataset == site.dataset:
            site = opened
        with within_limits(state):
            contribute(site, outbox, assignment, key)
    except Exception as error:
        found = explain(error)
        if found is error or isinstance(found, OutOfMemory):  # trying again would change nothing
            outbox.fail(key, shareable(error))
        if found is None or found is error:
            raise
        raise found from error


def main() -> None:
    """Run the module's command."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    end_with_parent()
    name, data, state = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    try:
        limit_memory(read_policy(state).memory_bytes)
        work(name, data, state, key=next(iter(sys.argv[4:]), None))
    except PolyclinicError as error:
        log.error("%s", error, exc_info=error.__cause__)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
