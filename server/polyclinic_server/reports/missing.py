"""Who is missing in a run's result: what a report says first, on the page and in the terminal.

A run goes on without a hospital that is away. Its figures then look like those of a whole run.
"""

from collections.abc import Iterator

from polyclinic.federation.events import Joined, Refused, Returned, Waiting
from polyclinic.reporting.formats import plural
from polyclinic.reporting.results import Results
from polyclinic_server.reports.participation import list_rounds


def find_missing(results: Results) -> tuple[str, ...]:
    """Say who was expected and did not come, was refused, trained too little, or was not tested."""
    return (
        *_not_come(results),
        *_refused(results),
        *_rounds_missed(results),
        *_not_contributed(results),
        *_not_tested(results),
    )


def _not_come(results: Results) -> Iterator[str]:
    wanted = max((each.wanted for each in results.events if isinstance(each, Waiting)), default=0)
    came = len(results.trained)
    if came < wanted:
        yield f"{plural(wanted, 'hospital')} were expected, {came} took part"


def _refused(results: Results) -> Iterator[str]:
    last: dict[str, str] = {}
    for event in results.events:
        if isinstance(event, Refused):
            last[event.site] = event.reason
        elif isinstance(event, Joined | Returned):
            last.pop(event.site, None)
    for site, reason in last.items():
        yield f"{site} did not take part: {reason}"


def _rounds_missed(results: Results) -> Iterator[str]:
    for arm in results.arms:
        if not arm.federated or not arm.has_rounds:
            continue
        for site, states in list_rounds(results, arm).items():
            begun = [state for state in states if state != "pending"]
            trained = begun.count("trained")
            if trained < len(begun):
                rounds = plural(len(begun), "round")
                yield f"{site} trained in {trained} of {rounds} of {arm.title}"


def _not_contributed(results: Results) -> Iterator[str]:
    for arm in results.arms:
        if not arm.federated or arm.has_rounds:
            continue
        events = (each for each in results.events if each.arm == arm.name)
        contributed = {site for each in events for site in each.contributors}
        if contributed:
            for site in sorted(set(results.trained) - contributed):
                yield f"{site} contributed nothing to {arm.title}"


def _not_tested(results: Results) -> Iterator[str]:
    for arm in results.arms:
        if arm.federated:
            tests = [
                each for each in results.metrics if (each.arm, each.phase) == (arm.name, "test")
            ]
            for site in sorted({each.site for each in tests if each.missing}):
                yield f"{site} did not test the model of {arm.title}"
