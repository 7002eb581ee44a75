"""`polyclinic-client import`: plan, convert, and list the cases in dataset.json.

An import that was interrupted goes on where it was: cases that are done, of the same files and by
the same series.yaml, are left alone.
"""

import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from polyclinic.imaging.dataset_json import SPLITS
from polyclinic.system.durable import make_folder, write_durably
from polyclinic_client.dicom.errors import NothingFound
from polyclinic_client.dicom.importing.converting import (
    Conversion,
    convert_all,
    image_files,
    label_file,
)
from polyclinic_client.dicom.importing.planning import ImportPlan, LeftOut, PlannedCase
from polyclinic_client.dicom.importing.record import Imported, Record, read_record, write_record
from polyclinic_client.dicom.importing.site_map import SiteMap
from polyclinic_client.dicom.importing.splits import split_patients
from polyclinic_client.dicom.mapping import Mapping

KEEP_S = 5.0  # the record names all cases: writing it for each would take the square of their time
LEFT_OUT = "left-out.csv"  # in the site's own folder: it names files
OnCase = Callable[[int, int], None]  # cases done, cases


@dataclass(frozen=True)
class Result:
    """What an import did: cases in the folder, and how many of these are new."""

    cases: int
    fresh: int


def run_import(
    plan: ImportPlan,
    mapping: Mapping,
    site: SiteMap,
    data: Path,
    source: Literal["folder", "PACS"],
    at_once: int,
    on_case: OnCase,
) -> Result:
    """Make the data folder.

    Args:
        plan: What is made.
        mapping: The site's series.yaml.
        site: The site's own map; it is written before anything else.
        data: The folder.
        source: Where the series came from.
        at_once: Number of cases in work at the same time.
        on_case: Told of every case that is done.

    Raises:
        NothingFound: No case came of it.
        DatasetInvalid: The folder's record is damaged.
        DiskFull: No room.
    """
    site.keep()
    make_folder(data)
    before = read_record(data) or Record(source=source)
    splits = split_patients({case.patient for case in plan.cases if case.labels}, before.splits)
    cases = {name: one for name, one in before.cases.items() if _is_there(data, name, one, mapping)}
    keys = {name: one.key for name, one in cases.items()}
    todo = [case for case in plan.cases if keys.get(case.name) != case.key]
    left_out = plan.reasons()
    record = Record(
        source=source,
        patients=plan.patients,
        studies=plan.studies,
        series=plan.series,
        splits=splits,
        cases=cases,
        left_out=left_out,
    )
    works = {case.name: Conversion(case, mapping.labels, data) for case in todo}
    kept = time.monotonic()
    try:
        for done, outcome in enumerate(convert_all(list(works.values()), at_once), start=1):
            case = works[outcome.case].case
            cases.pop(case.name, None)
            if outcome.problem:
                why = f"study: {outcome.problem}"
                left_out[why] = left_out.get(why, 0) + 1
                plan.left_out += _named(case, why)
            else:
                cases[case.name] = Imported(
                    patient=case.patient,
                    key=case.key,
                    labelled=bool(case.labels),
                    resampled=outcome.resampled,
                    overlapping=outcome.overlapping,
                )
            if time.monotonic() - kept > KEEP_S:
                write_record(data, record.model_copy(update={"cases": cases, "left_out": left_out}))
                kept = time.monotonic()
            on_case(done, len(todo))
    finally:  # also where it is interrupted
        if works:
            write_record(data, record.model_copy(update={"cases": cases, "left_out": left_out}))
    flattering = sum(_flatters(record, case) for case in cases.values())
    if flattering:
        left_out["study without labels, of a patient who does not test"] = flattering
    listed = site.folder / data.resolve().name / LEFT_OUT
    _write_left_out(listed, plan)
    record = record.model_copy(update={"cases": cases, "left_out": left_out})
    if not cases:
        raise NothingFound(
            str(data),
            "no case came of the series that were found",
            f"{listed} says why for each of them.",
        )
    write_record(data, record)
    write_durably(data / "dataset.json", json.dumps(_listing(record, mapping), indent=1))
    return Result(len(cases), len(todo))


def _is_there(data: Path, name: str, one: Imported, mapping: Mapping) -> bool:
    files = image_files(name, len(mapping.channels)) + ([label_file(name)] if one.labelled else [])
    return all((data / file).is_file() for file in files)


def _flatters(record: Record, case: Imported) -> bool:
    """Tell whether a case would test on a patient who trains or validates."""
    return not case.labelled and record.splits.get(case.patient, "test") != "test"


def _listing(record: Record, mapping: Mapping) -> dict[str, Any]:
    """Return the content of dataset.json."""
    lists: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for name, case in sorted(record.cases.items()):
        files = image_files(name, len(mapping.channels))
        entry: dict[str, Any] = {"image": files if len(files) > 1 else files[0]}
        if _flatters(record, case):
            continue
        if case.labelled:
            entry["label"] = label_file(name)
        lists[record.splits.get(case.patient, "test")].append({**entry, "subject": case.patient})
    return {
        "name": mapping.name,
        "description": "Imported from DICOM by polyclinic-client import.",
        "modality": {str(n): channel.name for n, channel in enumerate(mapping.channels)},
        "labels": {str(n): name for n, name in enumerate(mapping.label_names())},
        **lists,
    }


def _named(case: PlannedCase, why: str) -> Iterator[LeftOut]:
    for series in case.channels:
        yield LeftOut(why, f"{series.first.path.parent} series {series.first.series}")


def _write_left_out(path: Path, plan: ImportPlan) -> None:
    """List what was left out for the site's own eyes: it names files and series."""
    content = io.StringIO()
    table = csv.writer(content)
    table.writerow(["reason", "what"])
    table.writerows([each.why, each.what] for each in plan.left_out)
    write_durably(path, content.getvalue())
