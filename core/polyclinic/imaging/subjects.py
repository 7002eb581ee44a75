"""Who is who among cases: a patient with several visits, or a file that is listed twice."""

from collections.abc import Iterator, Sequence

from polyclinic.imaging.datasets import Case


def number_subjects(cases: Sequence[Case]) -> list[int]:
    """Give each case the number of its subject, from 0 in the order of the cases.

    Two cases are of one subject if dataset.json names the same one, or if they share a file,
    whichever way its path is written. Numbers are as many as there are different subjects.
    """
    leaders: dict[str, str] = {}

    def leader(mark: str) -> str:
        while leaders.setdefault(mark, mark) != mark:
            mark = leaders[mark]
        return mark

    firsts = []
    for case in cases:
        first, *others = _marks(case)
        for other in others:
            leaders[leader(other)] = leader(first)
        firsts.append(first)
    numbers: dict[str, int] = {}
    return [numbers.setdefault(leader(first), len(numbers)) for first in firsts]


def count_subjects(cases: Sequence[Case]) -> int:
    """Count the different subjects."""
    return len(set(number_subjects(cases)))


def _marks(case: Case) -> Iterator[str]:
    """Yield what only cases of the same subject have in common."""
    for path in case.image:
        found = path.stat() if path.exists() else None
        yield f"file {found.st_dev} {found.st_ino}" if found else f"path {path.resolve()}"
    if case.subject:
        yield f"subject {case.subject}"
