"""Reasons why a DICOM file, a series, a mapping or a PACS is of no use, a type for each.

No text here quotes what a file says: names, dates and descriptions stay in the file. The tree of
errors is drawn in `polyclinic.errors`.
"""

from pathlib import Path

from polyclinic.errors import ConfigError, DataError, LinkError


class DicomUnreadable(DataError):
    """A file is no DICOM object, or a damaged one.

    Args:
        path: The file.
        problem: What is wrong, without anything that the file says.
    """

    def __init__(self, path: Path, problem: str) -> None:
        self.problem = problem
        super().__init__(
            f"{path}: cannot be read as DICOM ({problem}). Export it again, or leave it out."
        )


class SeriesRefused(DataError):
    """A series is no volume, or cannot be shown to be one.

    Args:
        series: What the series is called here.
        problem: Why it is refused, with a verb.
        remedy: What to do about it, a sentence.
    """

    def __init__(self, series: str, problem: str, remedy: str = "") -> None:
        self.problem = problem
        said = remedy or "Export the series again, or choose another one."
        super().__init__(f"{series}: {problem}. {said}")


class LabelsRefused(DataError):
    """A DICOM SEG or RTSTRUCT does not fit the series that it should label."""

    def __init__(self, labels: str, problem: str) -> None:
        self.problem = problem
        super().__init__(
            f"{labels}: {problem}. Correct the labels where they were drawn, or leave them out in "
            "series.yaml."
        )


class NothingFound(DataError):
    """There is nothing to import."""

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        super().__init__(f"{where}: {problem}. {remedy}")


class MappingInvalid(ConfigError):
    """A series.yaml that cannot be used; its text may quote the site's own words."""

    shareable = False

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path}: {problem}. Correct it as docs/how-to/dicom.md describes, or remove the file: "
            "the next import then proposes a new one."
        )


class SiteMapInvalid(ConfigError):
    """The site's own map of patients, or its key, cannot be used."""

    shareable = False

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path}: {problem}. Restore it from a backup. Without it, patients get new names."
        )


class PacsUnreachable(LinkError):
    """Nothing answers at the address of a PACS."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(
            f"No PACS answers at {url} ({problem}). Check the address of its DICOMweb service "
            "(--pacs URL), and that the firewall lets this machine reach it."
        )


class PacsRefused(LinkError):
    """A PACS answers, and does not give, or not take, what it was asked for."""

    def __init__(self, url: str, problem: str, remedy: str) -> None:
        super().__init__(f"The PACS at {url} {problem}. {remedy}")
