"""The only codec between Flower's messages and our objects.

What travels to a hospital: names, bounded scalars and one vector of weights. What comes back: the
vector and scalars. How they lie in a message is in `polyclinic.federation.envelope.content`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from pydantic import Field
from pydantic.dataclasses import dataclass as validated
from torch import Tensor

from polyclinic.config.schemas import STRICT, ClippingNorm, Count, Epsilon
from polyclinic.config.validation import (
    MOST_ENTRIES,
    NAME,
    PLUGIN,
    SETTING,
    JobNames,
    JobSettings,
    Schema,
    validate,
)
from polyclinic.errors import ConfigError
from polyclinic.federation.envelope import make_message
from polyclinic.federation.envelope.content import (
    ARRAYS,
    CONFIG,
    METRICS,
    pack_content,
    unpack_content,
    weights_to_record,
)
from polyclinic.learning.measures.wire import comparison_items, measure_items
from polyclinic.learning.metrics import Evaluation

SCORE, DIGEST = "score.", "digest."
# field of `PatientTerms` -> its name in an order's scalars
PATIENTS = {"epsilon": "epsilon", "delta": "delta", "clipping_norm": "clipping-norm"}


Word = Annotated[str, Field(strict=True, max_length=200)]
Words = Annotated[Mapping[Word, Word], Field(max_length=MOST_ENTRIES)]
# a name that may become a folder's, and leads nowhere else
FolderName = Annotated[str, Field(strict=True, pattern=r"^\w[\w.-]{0,99}$")]
Number = Annotated[int, Field(ge=0, le=1_000_000)]


@validated(frozen=True, config=STRICT)
class PatientTerms:
    """What is asked of training with differential privacy for each patient.

    Attributes:
        epsilon: Most that all training for the run may tell about one patient of the hospital.
        delta: For which epsilon counts; a hospital may take a smaller one.
        clipping_norm: Euclidean length to which one patient's gradient is shortened.
    """

    epsilon: Epsilon
    delta: Annotated[float, Field(gt=0, lt=1)]
    clipping_norm: ClippingNorm


@validated(frozen=True, config=STRICT)
class Order:
    """What the coordinator asks of a hospital.

    Attributes:
        run: Name of the run.
        arm: Name of the run's strategy.
        seed: Seed of the network's first weights, and of all that hospitals draw.
        rounds: Number of rounds.
        personal: What stays at the hospital, see `polyclinic.learning.state_dict.shared_names`.
        version: The coordinator's version of polyclinic.
        names: Group of conf/ to name.
        settings: Dotted key to value, where a setting differs from what those names say.
        digests: SHA-256 of each resolved group, and of the layout of what travels.
        offset: Number of rounds that an earlier attempt completed.
        round: Number of the round, from 1, counted over all attempts; 0 outside rounds.
        proximal_mu: Weight of FedProx's term.
        restoration: What is done to a model before it is scored: none, statistics, steps.
        restoration_steps: Number of steps of the last of these.
        method: Name of the federation's method; empty for the plain one, as before 0.2.
        plugins: Packages other than polyclinic that the work needs, with versions.
        protections: What the run promises for updates, see
            `polyclinic.config.schemas.SECURE_SUMS`; a hospital holds it to that.
        patients: How training protects each patient; None where it does not.
    """

    run: FolderName
    arm: FolderName
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    rounds: Count
    personal: Word
    version: Word
    names: JobNames
    settings: JobSettings = field(default_factory=dict)
    digests: Words = field(default_factory=dict)
    offset: Number = 0
    round: Number = 0
    proximal_mu: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0
    restoration: Word = "none"
    restoration_steps: Number = 0
    method: Word = ""
    plugins: Words = field(default_factory=dict)
    protections: Annotated[tuple[Word, ...], Field(max_length=16)] = ()
    patients: PatientTerms | None = None


@dataclass(frozen=True)
class Hello:
    """What a hospital says of itself when it is greeted.

    Attributes:
        site: Its name.
        version: Its version of polyclinic.
        counts: Number of cases of each split.
        modality: Of its images.
        refusal: Why it cannot take part; empty when it can.
        mode: train; or describe, if it says what its images are like and never trains or scores.
        task: Where tasks are the hospitals' own: its declaration, without names of classes.
    """

    site: str
    version: str
    counts: Mapping[str, int]
    modality: str = ""
    refusal: str = ""
    mode: str = "train"
    task: str = ""


def order_to_config(order: Order) -> ConfigRecord:
    """Turn an order into flat scalars."""
    flat: dict[str, Any] = {
        "run": order.run,
        "arm": order.arm,
        "seed": order.seed,
        "rounds": order.rounds,
        "offset": order.offset,
        "personal": order.personal,
        "version": order.version,
        "method": order.method,
    }
    if order.protections:
        flat["protections"] = list(order.protections)
    if order.patients is not None:
        flat |= {name: getattr(order.patients, ours) for ours, name in PATIENTS.items()}
    if order.restoration != "none":
        flat |= {"restoration": order.restoration, "restoration-steps": order.restoration_steps}
    flat |= {f"{NAME}{group}": name for group, name in order.names.items()}
    flat |= {f"{DIGEST}{group}": value for group, value in order.digests.items()}
    flat |= {f"{PLUGIN}{package}": version for package, version in order.plugins.items()}
    flat |= {
        f"{SETTING}{key}": list(value) if isinstance(value, list) else value
        for key, value in order.settings.items()
    }
    return ConfigRecord(flat)


def order_from_message(message: Message) -> Order:
    """Read the order inside a message, with what a Flower strategy added to it.

    Raises:
        ConfigError: Something is missing or of another kind.
    """
    flat = config_of(message)

    def under(prefix: str) -> dict[str, Any]:
        return {
            key.removeprefix(prefix): value for key, value in flat.items() if key.startswith(prefix)
        }

    plain = ("run", "arm", "seed", "rounds", "personal", "version", "offset", "restoration")
    found = {key: flat[key] for key in (*plain, "method") if key in flat}
    if "restoration-steps" in flat:
        found["restoration_steps"] = flat["restoration-steps"]
    if "protections" in flat:
        found["protections"] = flat["protections"]
    if "epsilon" in flat:
        found["patients"] = {ours: flat[name] for ours, name in PATIENTS.items() if name in flat}
    return read_values(
        Order,
        {
            **found,
            "round": round_of(message),
            "proximal_mu": flat.get("proximal-mu", 0.0),
            "names": under(NAME),
            "settings": under(SETTING),
            "digests": under(DIGEST),
            "plugins": under(PLUGIN),
        },
        "order.",
    )


def read_values(schema: type[Schema], values: Mapping[str, Any], prefix: str) -> Schema:
    """Make a typed value of what a question says.

    Raises:
        ConfigError: A value is missing, of another kind, or beyond its bound.
    """
    try:
        return validate(schema, values, prefix)
    except ConfigError as error:
        raise ConfigError(
            f"{error} The coordinator runs another version of polyclinic, or its message was "
            "changed."
        ) from error


def config_of(message: Message) -> dict[str, Any]:
    """Return the scalars of a question, as they arrived.

    Raises:
        ConfigError: The message holds none.
    """
    record = unpack_content(message.content).get(CONFIG) if message.has_content() else None
    if not isinstance(record, ConfigRecord):
        raise ConfigError(
            "The message holds no order: the other side runs another version of polyclinic."
        )
    return dict(record)


def training_reply(
    message: Message,
    weights: Tensor,
    num_examples: int,
    loss: float,
    seconds: float,
    epsilon: float | None = None,
) -> Message:
    """Make a hospital's answer to `train`."""
    figures = training_figures(num_examples, loss, seconds, epsilon)
    content = RecordDict({ARRAYS: weights_to_record(weights), METRICS: MetricRecord(figures)})
    return Message(pack_content(content), reply_to=message)


def training_figures(
    num_examples: int, loss: float, seconds: float, epsilon: float | None
) -> dict[str, Any]:
    """Return what is told of a training besides its weights; epsilon only if there is one."""
    told = {} if epsilon is None else {"epsilon": epsilon}
    return {"num-examples": num_examples, "loss": loss, "seconds": seconds, **told}


def evaluation_reply(message: Message, evaluation: Evaluation, seconds: float) -> Message:
    """Make a hospital's answer to `evaluate`."""
    flat: dict[str, Any] = {
        "num-examples": evaluation.num_examples,
        "score": evaluation.score,
        "seconds": seconds,
    }
    flat |= {"loss": float("nan") if evaluation.loss is None else evaluation.loss}
    flat |= {f"{SCORE}{label}": value for label, value in evaluation.scores.items()}
    flat |= dict(measure_items(evaluation.measures))
    flat |= dict(comparison_items(evaluation.comparisons))
    return Message(RecordDict({METRICS: MetricRecord(flat)}), reply_to=message)


def hello_reply(message: Message, hello: Hello) -> Message:
    """Make a hospital's answer to `query.hello`."""
    flat: dict[str, Any] = {
        "site": hello.site,
        "version": hello.version,
        "modality": hello.modality,
        "refusal": hello.refusal,
    }
    flat |= {"mode": hello.mode, "task": hello.task}
    flat |= {f"count.{split}": count for split, count in hello.counts.items()}
    return Message(RecordDict({CONFIG: ConfigRecord(flat)}), reply_to=message)


def greeting(order: Order, node: int, ttl_s: float) -> Message:
    """Ask a node who it is, and whether it can do what the run asks."""
    content = RecordDict({CONFIG: order_to_config(order)})
    return make_message(content, node, "query.hello", ttl=ttl_s)


def readdress(message: Message, node: int) -> Message:
    """Address a message to another node: a hospital that came back."""
    sent = message.metadata
    return make_message(message.content, node, sent.message_type, ttl=sent.ttl, group=sent.group_id)


def round_of(message: Message) -> int:
    """Return a message's round, counted over all attempts; 0 outside rounds.

    Raises:
        ConfigError: It is no number.
    """
    config = config_of(message)
    number, offset = config.get("server-round", 0), config.get("offset", 0)
    if type(number) is not int or type(offset) is not int:
        raise ConfigError(
            "The message's round is no number: the other side runs another version of polyclinic."
        )
    return number + offset if number else 0


def ask_for_test(order: Order, weights: Tensor, node: int) -> Message:
    """Ask a hospital for its final figures, on its test cases and their own grid."""
    config = order_to_config(order)
    config["server-round"] = order.rounds - order.offset
    content = RecordDict({ARRAYS: weights_to_record(weights), CONFIG: config})
    return make_message(content, node, "evaluate.test")
