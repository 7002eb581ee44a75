"""Training that protects each patient, as the coordinator checks it and tells of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError
from polyclinic.federation.events import Answered, Event, Note
from polyclinic.federation.run_folder import RunFolder
from polyclinic.learning.private.plan import check_network
from polyclinic.learning.state_dict import shared_names


def check_patients(config: Config, network: nn.Module, personal: str) -> None:
    """Refuse what would protect nobody, or would leave without protection.

    Raises:
        ConfigError: What it is.
    """
    if personal == "all":
        raise ConfigError(
            f"privacy={config.choices['privacy']} protects what leaves a hospital, and strategy="
            f"{config.choices['strategy']} shares nothing: choose strategy=averaging/fedavg, or "
            "privacy=none."
        )
    check_network(network, config.training, shared_names(network, personal))


@contextmanager
def told_patients(config: Config, folder: RunFolder) -> Iterator[None]:
    """Record what is promised, and after the rounds what each hospital says that it told."""
    asked, told = config.privacy.get("patients"), dict[str, float | None]()
    if asked is None:
        yield
        return

    def listen(event: Event) -> None:
        if isinstance(event, Answered) and event.phase == "train":
            told[event.site] = event.epsilon

    delta = config.privacy["release"].delta
    text = (
        f"Hospitals train so that all rounds together tell at most epsilon {asked.epsilon:g} about "
        f"one patient (delta {delta:g} or less). Scores on validation and test cases, of other "
        "patients, have no noise."
    )
    folder.record(Note(text=text))
    folder.listeners.append(listen)
    try:
        yield
    finally:
        folder.listeners.remove(listen)
    if told:
        folder.record(Note(text=describe_told(told)))


def describe_told(told: Mapping[str, float | None]) -> str:
    """Say what each hospital's training has told about one patient."""
    each = [
        f"{site} {'not told' if value is None else format(value, '.4g')}"
        for site, value in sorted(told.items())
    ]
    return f"differential privacy of each patient in this run, epsilon: {', '.join(each)}"
