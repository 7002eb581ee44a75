"""What an import would make, as tables: names of this hospital's making, counts, and reasons.

Nothing that a file says is shown, so that a terminal's log holds nothing of a patient. Descriptions
stand in series.yaml, and files in left-out.csv.
"""

from collections import Counter
from collections.abc import Mapping as Table

from rich.console import Console
from rich.table import Table as Rows

from polyclinic.imaging.dataset_json import Split
from polyclinic.imaging.headers import Grid, spacing_of
from polyclinic_client.dicom.importing.planning import ImportPlan
from polyclinic_client.dicom.mapping import Mapping

SHOWN = 20  # cases that are listed


def show_plan(
    plan: ImportPlan, mapping: Mapping, splits: Table[str, Split], console: Console
) -> None:
    """Print what would become what, and what is left out and why."""
    console.print(
        f"patients: {plan.patients}, studies: {plan.studies}, series: {plan.series}; cases that "
        f"would be imported: {len(plan.cases)}"
    )
    cases = Rows(title="Cases", title_justify="left")
    for name in ("case", "split", *(each.name for each in mapping.channels), "labels"):
        cases.add_column(name)
    for case in plan.cases[:SHOWN]:
        grids = [_size(each.stack.grid) if each.stack else "" for each in case.channels]
        split = splits.get(case.patient, "test") if case.labels else "test, no labels"
        cases.add_row(case.name, split, *grids, str(len(case.labels) or ""))
    if plan.cases:
        console.print(cases)
    if len(plan.cases) > SHOWN:
        console.print(f"... and {len(plan.cases) - SHOWN} more")
    counts = Counter(splits[case.patient] for case in plan.cases if case.labels)
    if counts:
        console.print(", ".join(f"{count} {split}" for split, count in counts.items()))
    if plan.left_out:
        left = Rows("number", "reason", title="Left out", title_justify="left")
        for why, count in plan.reasons().items():
            left.add_row(str(count), why)
        console.print(left)


def _size(grid: Grid) -> str:
    voxels = "x".join(map(str, grid.shape))
    return f"{voxels}, {'x'.join(f'{size:.3g}' for size in spacing_of(grid.affine))} mm"
