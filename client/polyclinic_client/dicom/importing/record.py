"""`dicom.json` in a data folder: that it came from DICOM, which cases are done, what was left out.

It holds names of this hospital's making, counts and sentences of this program, nothing of the
files. `check` tells it, and an interrupted import goes on by it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from polyclinic.errors import DatasetInvalid
from polyclinic.system.durable import write_durably
from polyclinic.system.text import clean, parse_json

FILE = "dicom.json"
MOST_BYTES = 2**26
MOST = 1_000_000
Count = Annotated[int, Field(ge=0, le=10**9)]
Word = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9_.-]*$")]
Sentence = Annotated[str, Field(max_length=1000)]
STRICT = ConfigDict(frozen=True, extra="forbid")


class Imported(BaseModel):
    """A case that is done.

    Attributes:
        patient: Name of the patient.
        key: What it was made of, and how: a keyed hash.
        labelled: Whether it has a label map.
        resampled: Number of channels that were resampled onto the grid of another.
        overlapping: Voxels that several labels claimed.
    """

    model_config = STRICT

    patient: Word
    key: Word
    labelled: bool
    resampled: Count = 0
    overlapping: Count = 0


class Record(BaseModel):
    """What a dicom.json says.

    Attributes:
        source: Where the series came from.
        patients: Number found.
        studies: Number found.
        series: Number found.
        splits: Name of a patient to the split of its cases.
        cases: Name of a case to what is known of it.
        left_out: Reason, and the number of series, files or studies.
    """

    model_config = STRICT

    format: Literal[1] = 1
    source: Literal["folder", "PACS"]
    patients: Count = 0
    studies: Count = 0
    series: Count = 0
    splits: Annotated[
        Mapping[Word, Literal["training", "validation", "test"]], Field(max_length=MOST)
    ] = {}
    cases: Annotated[Mapping[Word, Imported], Field(max_length=MOST)] = {}
    left_out: Annotated[Mapping[Sentence, Count], Field(max_length=MOST)] = {}

    def sentences(self) -> list[str]:
        """Return where the data came from and what was left out, one sentence each."""
        labelled = sum(case.labelled for case in self.cases.values())
        where = "a folder of DICOM files" if self.source == "folder" else "a PACS"
        found = [
            f"imported from {where}: {len(self.cases)} cases ({labelled} with labels) of "
            f"{len({case.patient for case in self.cases.values()})} patients; found were "
            f"{self.series} series of {self.patients} patients"
        ]
        found += [f"left out: {count} x {clean(why)}" for why, count in self.left_out.items()]
        resampled = sum(case.resampled > 0 for case in self.cases.values())
        overlapping = sum(case.overlapping > 0 for case in self.cases.values())
        if resampled:
            found.append(f"{resampled} cases have channels resampled onto another's grid")
        if overlapping:
            found.append(
                f"{overlapping} cases have voxels of several labels; the last label in series.yaml "
                "counts"
            )
        return found


def read_record(data: Path) -> Record | None:
    """Read the dicom.json of a data folder; None where there is none.

    Raises:
        DatasetInvalid: It is damaged.
    """
    path = data / FILE
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError("it is too large")
        return Record.model_validate(parse_json(content))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, ValueError, TypeError, RecursionError) as error:
        raise DatasetInvalid(
            path, "this is no record of an import", "Import again into an empty folder."
        ) from error


def write_record(data: Path, record: Record) -> None:
    """Write the dicom.json of a data folder."""
    write_durably(data / FILE, json.dumps(record.model_dump(mode="json"), indent=1))
