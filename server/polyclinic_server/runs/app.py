"""The strategies of a run, one after another, with the same hospitals."""

from flwr.serverapp import Grid

from polyclinic.config.compose import load_config
from polyclinic.config.mirroring import describe_mirroring
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError
from polyclinic.federation.attendance import Attendance
from polyclinic.federation.coordinator import Coordinator, RunContext
from polyclinic.federation.events import Note
from polyclinic.federation.grids.traffic import CountingGrid
from polyclinic.federation.jobs import build_network, check_network, make_order
from polyclinic.federation.method import method_of, methods
from polyclinic.federation.run_folder import RunFolder


def coordinate(grid: Grid, folder: RunFolder) -> None:
    """Run all strategies of a run to their final figures; go on where an earlier attempt ended.

    Args:
        grid: Flower's grid to the hospitals.
        folder: Folder of the run; its `overrides.json` holds the settings of each strategy.

    Raises:
        PolyclinicError: A setting is wrong, or a strategy cannot go on.
    """
    asked = folder.settings()
    configs = [load_config(overrides) for overrides in asked]
    parts = [make_coordinator(config) for config in configs]
    for text in dict.fromkeys(describe_mirroring(config.data) for config in configs):
        if text:
            folder.record(Note(text=text))
    first = configs[0]
    check_network(build_network(first), first)
    counting = CountingGrid(grid)
    order = make_order(folder, first, build_network(first))
    attendance = Attendance(counting, order, folder.record)
    for config, overrides, part in zip(configs, asked, parts, strict=True):
        part.run(RunContext(counting, attendance, folder, config, tuple(overrides)))
        folder.update(hospitals=attendance.describe())


def make_coordinator(config: Config) -> Coordinator:
    """Make the coordinator of a strategy, and check its settings.

    Raises:
        ConfigError: Settings do not fit together, or something is missing.
    """
    method = method_of(config)
    if config.data.task == "own" and not method.site_tasks:
        able = [f"strategy={name}" for name, each in methods().items() if each.site_tasks]
        raise ConfigError(
            f"strategy={config.choices['strategy']} needs one task for all hospitals. For "
            f"hospitals with tasks of their own, choose {' or '.join(able)}."
        )
    if config.privacy["_target_"] and method.pace != "rounds":
        raise ConfigError(
            f"privacy={config.choices['privacy']} protects the mean of rounds alone, and strategy="
            f"{config.choices['strategy']} does not work in rounds: leave it out, or choose "
            "strategy=averaging/fedavg."
        )
    if config.privacy.get("sums") is not None and not method.sums:
        able = [f"strategy={name}" for name, each in methods().items() if each.sums]
        raise ConfigError(
            f"privacy={config.choices['privacy']} sums updates, and strategy="
            f"{config.choices['strategy']} needs single ones: choose {' or '.join(able)}; or "
            "privacy=none."
        )
    if config.privacy.get("patients") is not None and not method.patients:
        able = [f"strategy={name}" for name, each in methods().items() if each.patients]
        raise ConfigError(
            f"privacy={config.choices['privacy']} protects each patient while hospitals train, and "
            f"strategy={config.choices['strategy']} cannot train so: choose {' or '.join(able)}; "
            "or privacy=none."
        )
    part: Coordinator = method.load("coordinator")(config)
    part.check()
    return part
