"""Planning at the coordinator: every hospital's fingerprint, then the plan."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from polyclinic.config.compose import instantiate
from polyclinic.config.plan_files import FILE, Plan, read_plan, write_plan
from polyclinic.config.schemas import Config, DataConfig
from polyclinic.errors import ConfigError, TooFewHospitals
from polyclinic.federation.answers import Failure, take
from polyclinic.federation.attendance import Member
from polyclinic.federation.coordinator import RunContext
from polyclinic.federation.events import ArmEnd, Asked, Event, Failed
from polyclinic.federation.final_test import record_start
from polyclinic.federation.grids.reliable_grid import ReliableGrid
from polyclinic.federation.jobs import arm_name, build_network, make_order
from polyclinic.federation.records import Order
from polyclinic.system import clock
from polyclinic_strategies.planning.cohort import Cohort, combine
from polyclinic_strategies.planning.events import Fingerprinted, Measuring, Planned
from polyclinic_strategies.planning.fingerprint import Fingerprint, class_count
from polyclinic_strategies.planning.messages import (
    DESCRIBE,
    ask_for_fingerprint,
    read_fingerprint,
)
from polyclinic_strategies.planning.plan import make_plan
from polyclinic_strategies.planning.strategy import Planning


class PlanningCoordinator:
    """Coordinator of a run that makes a plan and trains nothing.

    Args:
        config: Configuration of the strategy.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._planning: Planning = instantiate(config.strategy)

    @property
    def title(self) -> str:
        """Name of the strategy in tables."""
        return self._planning.title

    def check(self) -> None:
        """Refuse what cannot be planned.

        Raises:
            ConfigError: The task is no segmentation, of classes or regions.
        """
        check_plannable(self._config.data)

    def run(self, context: RunContext) -> None:
        """Ask every hospital for its fingerprint, and write the plan.

        Raises:
            TooFewHospitals: Fewer than the minimum came or answered.
            ConfigError: The memory is too little for any patch.
        """
        config, folder = self._config, context.folder
        deployment, minimum = config.deployment, config.deployment.min_hospitals
        path = plan_path(folder.path, config)
        if path.exists():
            return
        wanted = max(deployment.hospitals, minimum)
        members = context.attendance.wait_for(wanted, minimum, deployment.wait_s)
        folder.update(hospitals=context.attendance.describe(), state="running")
        order = replace(make_order(folder, config, build_network(config)), rounds=1)
        record_start(folder, order, self.title, len(members))
        found = self._ask(context, order, members)
        cohort = combine(found, deployment.max_examples_ratio)
        for site, count in cohort.weights.items():
            patients = found[site].subjects
            folder.record(Fingerprinted(site=site, patients=patients, counted=count))
        plan = self._write(cohort, path)
        folder.record(Planned(plan=str(path), digest=plan.digest))
        folder.record(ArmEnd(arm=order.arm))

    def _write(self, cohort: Cohort, path: Path) -> Plan:
        return write_plan(make_plan(cohort, self._config.data, self._planning), path)

    def _ask(
        self, context: RunContext, order: Order, members: Mapping[str, Member]
    ) -> dict[str, Fingerprint]:
        """Ask the hospitals, and read their answers, each within its bounds.

        Raises:
            TooFewHospitals: Fewer than the minimum answered, or answered with what is of use.
        """
        config, folder = self._config, context.folder
        start = clock.monotonic()
        release = config.privacy["release"]
        asked = [ask_for_fingerprint(order, release, member.node) for member in members.values()]

        def record(event: Event) -> None:
            folder.record(event)
            if isinstance(event, Asked):
                member = members.get(event.site)
                cases = member.hello.counts.get("training", 0) if member else 0
                folder.record(Measuring(site=event.site, cases=cases))

        grid = ReliableGrid(context.grid, context.attendance, config.deployment, record)
        data, found, failed = config.data, dict[str, Fingerprint](), dict[str, str]()
        read = partial(read_fingerprint, channels=data.channels, classes=class_count(data))
        for reply in grid.send_and_receive(asked):
            site = context.attendance.site_of(reply.metadata.src_node_id)
            answer = take(reply, read)
            if isinstance(answer, Failure):
                failed[site] = answer.reason
                folder.record(Failed(site=site, phase=DESCRIBE, reason=answer.reason))
            else:
                found[site] = _within(answer, members.get(site))
        minimum = config.deployment.min_hospitals
        if len(found) < minimum:
            missing = [f"{site} ({reason})" for site, reason in sorted(failed.items())]
            waited_s = clock.monotonic() - start
            raise TooFewHospitals("For fingerprints", sorted(found), missing, minimum, waited_s)
        return found


def check_plannable(data: DataConfig) -> None:
    """Refuse what a plan cannot be made for.

    Raises:
        ConfigError: The task is no segmentation, of classes or regions.
    """
    if not data.kind.per_voxel:
        raise ConfigError(
            f"A plan is made for segmentation, and data.task is {data.task}: choose "
            "data=segmentation or data=regions, and name your classes in data.labels."
        )


def plan_path(run: Path, config: Config) -> Path:
    """Return where a run writes its plan."""
    return run / "arms" / arm_name(config) / FILE


def find_plan(run: Path) -> tuple[Path, Plan]:
    """Find the plan that a run wrote.

    Raises:
        ConfigError: There is none, or it is damaged.
    """
    paths = sorted((run / "arms").glob(f"*/{FILE}"))
    if not paths:
        raise ConfigError(f"{run}: this run made no plan.")
    return paths[0], read_plan(paths[0])


def _within(found: Fingerprint, member: Member | None) -> Fingerprint:
    """Let a hospital count no more patients than it had training cases when it was greeted."""
    greeted = max(1, member.hello.counts.get("training", 0)) if member else 1
    return Fingerprint(min(found.subjects, greeted), found.parts)
