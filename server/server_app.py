"""What Flower calls a ServerApp: compose the configuration, build the strategy, let it run, keep what comes of it."""

import json
import random
from dataclasses import replace
from pathlib import Path

import torch
from flwr.serverapp import Grid
from torch import nn

from polyclinic.config import instantiate, job_digests, job_settings, load_config
from polyclinic.errors import ConfigError
from polyclinic.networks.universal import UniversalNetwork
from polyclinic.schemas import Config, JobConfig
from polyclinic.state_dict import layout_digest, load_state, pack, save_state, shared_names, unpack
from server.attendance import Attendance
from server.grid import PatientGrid
from server.run_folder import RunFolder, versions
from strategies.averaging.strategy import Averaging
from strategies.proxy.parts import write_parts
from strategies.proxy.system import ProxySystem
from strategies.records import Order
from strategies.refinement.traffic import CountingGrid


def coordinate(grid: Grid, folder: RunFolder) -> None:
    """Every strategy of a run, one after another, with the same hospitals."""
    asked: list[list[str]] = json.loads((folder.path / "overrides.json").read_text())
    configs = [load_config(overrides) for overrides in asked]
    first = configs[0]
    for config in configs:
        check_strategy(config)
    check_network(build_network(first), first)
    counting = CountingGrid(grid)
    attendance = Attendance(counting, make_order(folder, first, build_network(first)), folder.record)
    patient = PatientGrid(counting, attendance, first.deployment, folder.record)
    minimum = first.deployment.min_hospitals
    for config, overrides in zip(configs, asked, strict=True):
        if is_merging(config):
            from server.merging_arm import MergingArm

            folder.update(state="running")
            MergingArm(counting, attendance, folder, config, overrides).run()
        elif is_refinement(config):
            from server.refinement_arm import RefinementArm

            folder.update(state="running")
            RefinementArm(counting, attendance, folder, config).run()
        elif is_universal(config):
            from server.universal_arm import UniversalArm

            folder.update(state="running")
            UniversalArm(counting, attendance, folder, config).run()
        else:
            attendance.wait_for(max(first.deployment.hospitals, minimum), minimum, first.deployment.wait_s)
            folder.update(hospitals=attendance.describe(), state="running")
            run_arm(patient, folder, config)
        folder.update(hospitals=attendance.describe())


def run_arm(grid: PatientGrid, folder: RunFolder, config: Config) -> None:
    """One strategy, from its initial or last kept weights to its final figures."""
    random.seed(config.seed)
    network = start_network(config)
    order = make_order(folder, config, network)
    strategy: Averaging = instantiate(config.strategy, _recursive_=False)
    if (config.choices["strategy"] == "proxy") and not isinstance(network, ProxySystem):
        raise ConfigError("strategy=proxy trains the deformation proxy's networks: add model=proxy data=proxy_brain training=proxy.")
    if config.base is not None and order.personal != "none":
        raise ConfigError(f"base={config.base}: {strategy.title} keeps tensors at the hospital, where a base does not reach.")
    names = shared_names(network, order.personal)
    path = folder.path / "arms" / order.arm / "model.safetensors"
    weights, done = pack(network.state_dict(), names), 0
    if path.exists():
        state, metadata = load_state(path)
        weights, done = pack(state, names), int(json.loads(metadata["polyclinic"])["round"])
        if json.loads(metadata["polyclinic"])["tested"]:
            return
    order = replace(order, offset=done)
    folder.record({"kind": "arm_start", "arm": order.arm, "title": strategy.title, "rounds": order.rounds, "offset": done})

    def keep(number: int, latest: torch.Tensor, tested: bool = False) -> None:
        state = {**network.state_dict(), **unpack(latest, network.state_dict(), names)}
        save_state(state, path, {"polyclinic": json.dumps(describe_model(order, number, tested))})
        if not tested:
            folder.record({"kind": "round_end", "round": number})
        elif isinstance(network, ProxySystem):
            network.load_state_dict(state)
            write_parts(network, config.data.labels, order.settings, path.parent)

    if done < order.rounds:
        weights = strategy.run(grid, strategy.build(config.privacy, names), order, weights, keep)
    strategy.test(grid, order, weights)
    keep(order.rounds, weights, tested=True)
    folder.record({"kind": "arm_end", "arm": order.arm})


def build_network(config: Config) -> nn.Module:
    """The network with its initial weights: the same seed gives the same on both sides."""
    torch.manual_seed(config.seed)
    network = instantiate(config.model)
    assert isinstance(network, nn.Module)
    return network


def start_network(config: Config) -> nn.Module:
    """The network with the weights that every strategy starts from.

    Raises:
        ConfigError: `base` is of another network.
        ModelInvalid: `base` is missing or damaged.
    """
    network = build_network(config)
    if config.base is not None:
        given, state = load_state(Path(config.base))[0], network.state_dict()
        names = shared_names(network, "none")
        if any(name not in given or given[name].shape != state[name].shape for name in names):
            raise ConfigError(f"base={config.base} is of another network than model={config.choices['model']}.")
        network.load_state_dict({**state, **{name: given[name] for name in names}})
    return network


def check_network(network: nn.Module, config: Config) -> None:
    """Try the network on an empty sample, before any hospital is asked to.

    Raises:
        ConfigError: It cannot take a patch of this size, or its answer is not what the task needs.
    """
    classes, own = len(config.data.labels), isinstance(network, UniversalNetwork)
    wanted: tuple[int, ...] = (1, classes) if config.data.task == "classification" else (1, classes, *config.data.patch)
    network.eval()
    try:
        with torch.inference_mode():
            shape = tuple(network(torch.zeros(1, config.data.channels, *config.data.patch)).shape)
    except (RuntimeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"The model cannot take a patch of {list(config.data.patch)} voxels ({reason}): change data.patch.") from error
    finally:
        network.train()
    if shape != wanted and not (own and config.data.task == "own"):  # heads are the hospitals'
        raise ConfigError(
            f"The model answers with shape {shape}, a {config.data.task} into {classes} classes needs {wanted}: choose another model."
        )


def arm_name(config: Config) -> str:
    """The strategy's name in folders: `fedavg` for `averaging/fedavg`, `merging-ties` for `merging/ties`, `refinement` for itself."""
    group, _, name = config.choices["strategy"].rpartition("/")
    return name if group in ("averaging", "") else f"{group}-{name}"


def is_merging(config: Config) -> bool:
    """Whether hospitals contribute whenever they like, rather than in rounds."""
    return config.choices["strategy"].startswith("merging/")


def is_refinement(config: Config) -> bool:
    """Whether every hospital gets a model of its own."""
    return config.choices["strategy"] == "refinement"


def is_universal(config: Config) -> bool:
    """Whether hospitals with tasks of their own share an encoder."""
    return config.choices["strategy"] == "universal"


def check_strategy(config: Config) -> None:
    """Refuse what no hospital need be asked for.

    Raises:
        ConfigError: Tasks of their own without the strategy for them, or that strategy without what it needs.
    """
    if is_universal(config):
        from server.universal_arm import check_universal

        check_universal(config)
    elif config.data.task == "own":
        raise ConfigError(f"Hospitals with tasks of their own share an encoder: strategy=universal, not {config.choices['strategy']}.")


def make_order(folder: RunFolder, config: Config, network: nn.Module) -> Order:
    """What every hospital is told about a strategy."""
    names, settings = job_settings(config)
    personal = str(config.strategy.get("personal", "none"))
    digests = job_digests(JobConfig(config.model, config.data, config.training))
    digests["layout"] = layout_digest(network.state_dict(), shared_names(network, "none"))
    return Order(
        run=folder.name, arm=arm_name(config), seed=config.seed, rounds=config.rounds, personal=personal,
        version=versions()["polyclinic"], names=names, settings=settings, digests=digests,
    )  # fmt: skip


def describe_model(order: Order, number: int, tested: bool) -> dict[str, object]:
    """What a file of weights says about itself: enough to build its network again."""
    return {
        "names": dict(order.names), "settings": dict(order.settings), "run": order.run, "arm": order.arm, "round": number,
        "seed": order.seed, "personal": order.personal, "version": order.version, "tested": tested,
    }  # fmt: skip
