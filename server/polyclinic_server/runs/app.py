"""What Flower calls a ServerApp: compose the configuration, build the strategy, let it run, keep what comes of it."""

import json
import random
from dataclasses import replace

import torch
from flwr.serverapp import Grid

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError
from polyclinic.federation.attendance import Attendance
from polyclinic.federation.jobs import (
    build_network,
    check_network,
    describe_model,
    make_order,
    start_network,
)
from polyclinic.federation.reliable_grid import PatientGrid
from polyclinic.federation.run_folder import RunFolder
from polyclinic.federation.traffic import CountingGrid
from polyclinic.learning.state_dict import load_state, pack, save_state, shared_names, unpack
from polyclinic_strategies.averaging.strategy import Averaging
from polyclinic_strategies.proxy.parts import write_parts
from polyclinic_strategies.proxy.system import ProxySystem


def coordinate(grid: Grid, folder: RunFolder) -> None:
    """Every strategy of a run, one after another, with the same hospitals."""
    asked: list[list[str]] = json.loads((folder.path / "overrides.json").read_text())
    configs = [load_config(overrides) for overrides in asked]
    first = configs[0]
    for config in configs:
        check_strategy(config)
    check_network(build_network(first), first)
    counting = CountingGrid(grid)
    attendance = Attendance(
        counting, make_order(folder, first, build_network(first)), folder.record
    )
    patient = PatientGrid(counting, attendance, first.deployment, folder.record)
    minimum = first.deployment.min_hospitals
    for config, overrides in zip(configs, asked, strict=True):
        if is_merging(config):
            from polyclinic_strategies.merging.coordinator import MergingArm

            folder.update(state="running")
            MergingArm(counting, attendance, folder, config, overrides).run()
        elif is_refinement(config):
            from polyclinic_strategies.refinement.coordinator import RefinementArm

            folder.update(state="running")
            RefinementArm(counting, attendance, folder, config).run()
        elif is_universal(config):
            from polyclinic_strategies.universal.coordinator import UniversalArm

            folder.update(state="running")
            UniversalArm(counting, attendance, folder, config).run()
        else:
            attendance.wait_for(
                max(first.deployment.hospitals, minimum), minimum, first.deployment.wait_s
            )
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
        raise ConfigError(
            "strategy=proxy trains the deformation proxy's networks: add model=proxy data=proxy_brain training=proxy."
        )
    if config.base is not None and order.personal != "none":
        raise ConfigError(
            f"base={config.base}: {strategy.title} keeps tensors at the hospital, where a base does not reach."
        )
    names = shared_names(network, order.personal)
    path = folder.path / "arms" / order.arm / "model.safetensors"
    weights, done = pack(network.state_dict(), names), 0
    if path.exists():
        state, metadata = load_state(path)
        weights, done = pack(state, names), int(json.loads(metadata["polyclinic"])["round"])
        if json.loads(metadata["polyclinic"])["tested"]:
            return
    order = replace(order, offset=done)
    folder.record(
        {
            "kind": "arm_start",
            "arm": order.arm,
            "title": strategy.title,
            "rounds": order.rounds,
            "offset": done,
        }
    )

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
        from polyclinic_strategies.universal.coordinator import check_universal

        check_universal(config)
    elif config.data.task == "own":
        raise ConfigError(
            f"Hospitals with tasks of their own share an encoder: strategy=universal, not {config.choices['strategy']}."
        )
