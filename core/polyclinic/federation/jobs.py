"""The job of a run: the network that it starts from, and the order to every hospital."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from polyclinic.config.compose import instantiate
from polyclinic.config.folders import plugins_named
from polyclinic.config.jobs import job_digests, job_settings, job_tree
from polyclinic.config.schemas import SECURE_SUMS, Config, JobConfig
from polyclinic.errors import ConfigError
from polyclinic.federation.live_state import LiveState
from polyclinic.federation.method import method_of, provider_of
from polyclinic.federation.records import Order, PatientTerms
from polyclinic.federation.run_folder import RunFolder, now, versions
from polyclinic.learning.bundles.weights import load_weights
from polyclinic.learning.state_dict import layout_digest, shared_names
from polyclinic.system.plugins import (
    METHODS,
    OWN,
    STATISTICS,
    is_own,
    offered,
    plugins,
    provider,
)
from polyclinic.system.text import first_line


def build_network(config: Config) -> nn.Module:
    """Make the network with its initial weights; equal seeds give equal weights on both sides."""
    torch.manual_seed(config.seed)
    network = instantiate(config.model)
    assert isinstance(network, nn.Module)
    return network


def start_network(config: Config) -> nn.Module:
    """Make the network with the weights that every strategy starts from: those of `base`, if any.

    Raises:
        ConfigError: `base` belongs to another network.
        ModelInvalid: `base` is missing or damaged.
    """
    network = build_network(config)
    if config.base is not None:
        given, state = load_weights(Path(config.base)), network.state_dict()
        names = shared_names(network, "none")
        if any(name not in given or given[name].shape != state[name].shape for name in names):
            raise ConfigError(
                f"base={config.base} is of another network than model={config.choices['model']}: "
                "choose the model that the file was made with."
            )
        network.load_state_dict({**state, **{name: given[name] for name in names}})
    return network


def check_network(network: nn.Module, config: Config) -> None:
    """Run the network once on a sample of zeros, before any hospital is asked.

    Raises:
        ConfigError: The network cannot take a patch of this size, or the shape of its output is
            not the one that the task needs.
    """
    kind, outputs = config.data.kind, len(config.data.labels)
    wanted = kind.output_shape(outputs, config.data.patch)
    network.eval()
    try:
        with torch.inference_mode():
            shape = tuple(network(torch.zeros(1, config.data.channels, *config.data.patch)).shape)
    except (RuntimeError, ValueError, AttributeError) as error:
        reason = first_line(error)
        raise ConfigError(
            f"The model cannot take a patch of {list(config.data.patch)} voxels ({reason}): "
            "change data.patch."
        ) from error
    finally:
        network.train()
    if shape != wanted and config.data.task != "own":  # each hospital adds a head of its own
        raise ConfigError(
            f"The model's output has shape {shape}, but {kind.title} with {outputs} labels needs "
            f"{wanted}: choose another model."
        )


def arm_name(config: Config) -> str:
    """Return the strategy's name in folders.

    It is `fedavg` for `averaging/fedavg`, `merging-ties` for `merging/ties`, and `refinement` for
    `refinement`.
    """
    group, _, name = config.choices["strategy"].rpartition("/")
    method = method_of(config)
    alone = not group or (method.pace == "rounds" and provider_of(method) == OWN)
    return name if alone else f"{group}-{name}"


def strategy_titles(configs: Sequence[Config]) -> dict[str, str]:
    """Title of each strategy, by its name in folders."""
    return {
        arm_name(config): str(config.strategy.get("title", arm_name(config))) for config in configs
    }


def follow_run(configs: Sequence[Config]) -> LiveState:
    """Make what is known of a run before its first event."""
    first = configs[0]
    without = frozenset(
        arm_name(config) for config in configs if method_of(config).pace != "rounds"
    )
    titles, score_name = strategy_titles(configs), first.data.kind.score_name
    return LiveState(titles, first.rounds, score_name, without)


def describe_run(folder: RunFolder, configs: Sequence[Config], **more: object) -> None:
    """Write run.json, as it is before the first strategy; `more` is written as well."""
    first, arms = configs[0], []
    for config, (name, title) in zip(configs, strategy_titles(configs).items(), strict=True):
        method = method_of(config)
        kind = {} if method.pace == "rounds" else {"kind": method.name}
        arms.append({"name": name, "title": title, **kind})
    described = folder.describe() if (folder.path / "run.json").exists() else {}
    folder.update(
        name=folder.name,
        started=described.get("started", now()),
        finished=None,
        reason=None,
        versions=versions(),
        seed=first.seed,
        rounds=first.rounds,
        arms=arms,
        task=first.data.task,
        score_name=first.data.kind.score_name,
        labels=list(first.data.labels),
        hospitals={},
        **more,
    )


def make_order(folder: RunFolder, config: Config, network: nn.Module) -> Order:
    """Make what every hospital is told about a strategy."""
    names, settings = job_settings(config)
    job = JobConfig(config.model, config.data, config.training)
    digests = job_digests(job)
    digests["layout"] = layout_digest(network.state_dict(), shared_names(network, "none"))
    method = method_of(config).name
    personal = str(config.strategy.get("personal", "none"))
    sums = config.privacy.get("sums")
    summed = sums is not None and sums.masked and personal != "all"
    return Order(
        run=folder.name,
        arm=arm_name(config),
        seed=config.seed,
        rounds=config.rounds,
        personal=personal,
        version=versions()["polyclinic"],
        names=names,
        settings=settings,
        digests=digests,
        method=method,
        plugins=needed_plugins(job, names, method, statistics_in(config.strategy)),
        protections=(SECURE_SUMS,) if summed else (),
        patients=patient_terms(config),
    )


def patient_terms(config: Config) -> PatientTerms | None:
    """Return how training shall protect each patient; None where it does not."""
    asked = config.privacy.get("patients")
    if asked is None:
        return None
    return PatientTerms(asked.epsilon, config.privacy["release"].delta, asked.clipping_norm)


def needed_plugins(
    job: JobConfig, names: Mapping[str, str], method: str, statistics: Iterable[str] = ()
) -> dict[str, str]:
    """List the packages, other than polyclinic, that a hospital needs for a job.

    Args:
        job: Its `_target_` may name classes of packages.
        names: Group of conf/ to name; a package's conf/ may hold it.
        method: Name of an installed method; empty for the plain one.
        statistics: Names of statistics; those that are not installed do not count.

    Returns:
        Package to version.
    """
    entries = [offered(METHODS)[method]] if method else []
    entries += [offered(STATISTICS)[name] for name in statistics if name in offered(STATISTICS)]
    found = {provider(entry) for entry in entries if not is_own(entry)}
    known = plugins()
    return {**plugins_named(names, job_tree(job)), **{name: known[name] for name in sorted(found)}}


def statistics_in(node: object) -> Iterator[str]:
    """Find the names under each key `statistics` of a strategy's configuration."""
    if isinstance(node, Mapping):
        named = node.get("statistics")
        if isinstance(named, list | tuple):
            yield from map(str, named)
        for value in node.values():
            yield from statistics_in(value)


def describe_model(order: Order, number: int, tested: bool) -> dict[str, object]:
    """Return the metadata of a file of weights, from which the network can be built again.

    Args:
        order: Order under which the weights were made.
        number: Number of the last round, or of the stage, that is in the weights.
        tested: Whether the weights have final figures.
    """
    return {
        "names": dict(order.names),
        "settings": dict(order.settings),
        "run": order.run,
        "arm": order.arm,
        "round": number,
        "seed": order.seed,
        "personal": order.personal,
        "version": order.version,
        "tested": tested,
    }
