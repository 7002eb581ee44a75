"""Eight hospitals, three runs of three methods at once: each has the bits that it has alone.

Hospital 4 takes part in all three, hospitals 0, 2 and 3 in two. One run and one hospital are killed
meanwhile, and come back.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort
from polyclinic_demos.federation import family_of
from tests.e2e.federation import kill
from tests.e2e.served import ServedFederation, assert_same, run_alone, serving

pytestmark = pytest.mark.e2e
COUNT = 8


def chosen(*numbers: int) -> tuple[str, ...]:
    named = ",".join(f"{{{number}}}" for number in numbers)
    count = len(numbers)
    return (
        f"deployment.hospitals={count}",
        f"deployment.min_hospitals={count}",
        f"deployment.sites=[{named}]",
    )


SITES = {"bn": (0, 1, 2, 3, 4), "mean": (2, 3, 4, 5), "refined": (0, 4, 6, 7)}
RUNS: dict[str, tuple[str, ...]] = {
    "bn": ("strategy=averaging/fedbn", "rounds=3", *chosen(*SITES["bn"])),
    "mean": ("strategy=merging/mean", "rounds=2", "strategy.poll_s=0.5", *chosen(*SITES["mean"])),
    "refined": (
        "strategy=refinement", "rounds=2", "strategy.base_rounds=1",
        "strategy.contributions.poll_s=0.5", "strategy.statistics=[average_image]",
        "strategy.rules=[softmax]", "strategy.sharpness=[0.2]", "privacy.release.min_subjects=1",
        *chosen(*SITES["refined"]),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The data of eight hospitals."""
    scanners = [
        replace(HOSPITALS[number % len(HOSPITALS)], name=f"site-{number}", voxel_mm=(6.0, 6.0, 7.0))
        for number in range(COUNT)
    ]
    return write_cohort(
        tmp_path_factory.mktemp("eight"), sites=COUNT, subjects=(1, 1, 1), seed=5, scanners=scanners
    )


def test_each_run_has_its_own_bits_while_others_die(
    tmp_path_factory: pytest.TempPathFactory, eight: list[Path]
) -> None:
    alone = ServedFederation(tmp_path_factory.mktemp("alone"), eight, RUNS)
    run_alone(alone)
    together = ServedFederation(tmp_path_factory.mktemp("together"), eight, RUNS)
    with serving(together) as one:
        names = list(one.sites)
        for run in RUNS:
            one.start_run(run)
        one.wait_until(lambda: one.events_of("bn", "round_end"), "a round")
        kill(one.process_of("bn").pid)
        assert one.followers["bn"].wait(60) == 5
        victim = names[SITES["refined"][-1]]
        for process in family_of(one.hospitals[victim].pid):
            kill(process.pid)
        kill(one.hospitals[victim].pid)
        one.hospitals[victim].wait(10)
        one.join(victim, "--wait", "120")
        one.command("resume", "bn")
        one.until_finished()
        for run, numbers in SITES.items():
            joined = {each["site"] for each in one.events_of(run, "joined")}
            assert joined == {names[number] for number in numbers}, run
            assert run == "refined" or not one.events_of(run, "failed"), run
    assert_same(together, alone)
