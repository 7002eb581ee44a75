"""Exchange of hospital and coordinator: the encoder's task vector, and a declaration in numbers.

Whole, or as factors of low rank: both sides ask here which.
"""

from collections.abc import Mapping

from polyclinic.learning.site_tasks import SiteTask
from polyclinic.learning.state_dict import StateDict, subtract
from polyclinic.store.contribution import TensorFile
from polyclinic.store.entries import Entry
from polyclinic_strategies.universal.networks import low_rank
from polyclinic_strategies.universal.networks.network import UniversalNetwork
from polyclinic_strategies.universal.teaching.teachers import Teacher

TASK = "universal encoder"  # what every contribution is for, whatever its hospital's own task
# statistics that an assignment asks for: of the embeddings of the training images
EMBEDDING = "embedding"
MOST_CLASSES = 10_000  # that a declaration may name; and channels


def layout_of(base: StateDict, rank: int) -> dict[str, tuple[int, ...]]:
    """List names and shapes of what travels.

    Args:
        base: The encoder's tensors, `encoder.*`.
        rank: 0 for the whole encoder.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in base.items()}
    return low_rank.layout(shapes, rank) if rank else shapes


def prepare_tuning(network: UniversalNetwork, rank: int) -> None:
    """Leave to be trained what travels, and the hospital's own part."""
    if rank:
        low_rank.attach(network.encoder, rank)


def task_vector(network: UniversalNetwork, base: StateDict, rank: int) -> StateDict:
    """Return what travels of a trained network: of its encoder alone."""
    if rank:
        return low_rank.factors(network, base)
    state = network.state_dict()
    return subtract({name: state[name].detach().cpu() for name in base}, base)


def declare_in_numbers(task: SiteTask) -> dict[str, float]:
    """Write a declaration as a contribution's metrics keep it."""
    numbers = {"classes": task.classes, "channels": task.channels, "dimensions": task.dimensions}
    return {
        name: float(value)
        for name, value in {**numbers, "segmentation": task.kind == "segmentation"}.items()
    }


def read_declaration(metrics: Mapping[str, float]) -> SiteTask | None:
    """Undo `declare_in_numbers`; None where there is no declaration, or an impossible one."""
    try:
        kind = "segmentation" if metrics["segmentation"] else "classification"
        numbers = [int(metrics[key]) for key in ("classes", "channels", "dimensions")]
    except KeyError:
        return None
    possible = all(1 <= number <= MOST_CLASSES for number in numbers)
    return SiteTask(kind, *numbers) if possible else None  # type: ignore[arg-type]


def make_teacher(entry: Entry, base: StateDict, rank: int) -> Teacher:
    """Make a teacher of a contribution: the base plus the task vector that came.

    Args:
        entry: Entry of the ledger.
        base: Encoder that the contribution was made on.
        rank: Rank of what travelled.
    """
    with TensorFile(entry.path) as file:
        vector = {name: file.task_vector(name) for name in file.names}
        statistics = {name: file.statistic(name) for name in file.statistics}
    if rank:
        vector = low_rank.expand(
            vector, {name: tuple(tensor.shape) for name, tensor in base.items()}
        )
    encoder = {name: tensor + vector[name] for name, tensor in base.items()}
    return Teacher(
        entry.site,
        encoder,
        statistics,
        entry.num_examples,
        str(read_declaration(entry.metrics) or ""),
    )
