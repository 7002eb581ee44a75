"""`series.yaml`: which series become which channel, and which drawn structures which label.

The first import proposes it from what it found, the site edits it, and every later import keeps
it. It is the site's own: descriptions and names of structures stand in it as people typed them.
"""

import fnmatch
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from polyclinic.imaging.dataset_json import MAX_CHANNELS
from polyclinic.imaging.listing.labels import MAX_CLASSES
from polyclinic.imaging.listing.values import MAX_NAME
from polyclinic.system.durable import write_durably
from polyclinic.system.plain_yaml import parse_yaml
from polyclinic_client.dicom.errors import MappingInvalid
from polyclinic_client.dicom.reading.instances import Instance

FILE = "series.yaml"
MOST_BYTES = 2**20
UNCONFIRMED, CONFIRMED = "confirmed: false", "confirmed: true"


def _printable(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("is not a text of plain characters")
    return text


Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_printable)]
Pattern = Annotated[str, Field(max_length=MAX_NAME)]
STRICT = ConfigDict(frozen=True, extra="forbid")


class Match(BaseModel):
    """Patterns that a series must fit, all of them; `*` is anything, case does not count."""

    model_config = STRICT

    modality: Pattern = "*"
    description: Pattern = "*"
    protocol: Pattern = "*"
    sequence: Pattern = "*"

    def fits(self, image: Instance) -> bool:
        """Tell whether a series, of which this is a file, fits."""
        found = (image.modality, *image.texts)
        wanted = (self.modality, self.description, self.protocol, self.sequence)
        return all(_fits(text, pattern) for text, pattern in zip(found, wanted, strict=True))


class Channel(BaseModel):
    """A channel, and the series that are taken for it."""

    model_config = STRICT

    name: Name
    match: Annotated[tuple[Match, ...], Field(min_length=1, max_length=1000)]


class Label(BaseModel):
    """A class, and the names of segments (SEG) or regions (RTSTRUCT) that are taken for it."""

    model_config = STRICT

    name: Name
    match: Annotated[tuple[Pattern, ...], Field(min_length=1, max_length=1000)]

    def fits(self, structure: str) -> bool:
        """Tell whether a structure is taken for this label."""
        return any(_fits(structure, pattern) for pattern in self.match)


class Mapping(BaseModel):
    """What a series.yaml says.

    Attributes:
        confirmed: Whether a person has looked at it.
        name: Name of the data set.
        channels: In the order of the federation's channels.
        labels: Classes 1, 2, ...; where two overlap, the later one counts.
        several: What to do when several series of a study fit a channel.
        derived: Whether series that were computed of others may be taken.
        unlabelled: Whether images without labels are listed, as test cases.
    """

    model_config = STRICT

    confirmed: bool = False
    name: Name
    channels: Annotated[tuple[Channel, ...], Field(min_length=1, max_length=MAX_CHANNELS)]
    labels: Annotated[tuple[Label, ...], Field(max_length=MAX_CLASSES - 1)] = ()
    several: Literal["leave out", "most slices"] = "leave out"
    derived: bool = False
    unlabelled: bool = True

    def label_names(self) -> tuple[str, ...]:
        """Return the names of class 0, 1, ...; a data set has two classes at least."""
        return ("background", *([each.name for each in self.labels] or ["foreground"]))


def read_mapping(path: Path) -> Mapping:
    """Read a series.yaml.

    Raises:
        MappingInvalid: It cannot be read, or says something else.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise MappingInvalid(path, "it is larger than 1 MiB")
        found = Mapping.model_validate(parse_yaml(content.decode()))
    except OSError as error:
        raise MappingInvalid(path, f"it cannot be read ({error.strerror})") from error
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise MappingInvalid(path, f"it is no YAML{line}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:MAX_NAME] or "it"
        raise MappingInvalid(path, f"{where}: {first['msg']}") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise MappingInvalid(path, "it is no plain YAML in UTF-8") from error
    names = [each.name for each in found.labels]
    channels = [each.name for each in found.channels]
    if len(set(names)) < len(names) or len(set(channels)) < len(channels):
        raise MappingInvalid(path, "two labels, or two channels, have the same name")
    return found


def write_mapping(path: Path, text: str) -> None:
    """Write a series.yaml for this user alone."""
    write_durably(path, text)


def confirm(path: Path) -> None:
    """Note in a series.yaml, which may have a person's remarks, that a person has looked at it."""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("confirmed:"):
            lines[number] = CONFIRMED
            break
    else:
        lines.insert(0, CONFIRMED)
    write_durably(path, "\n".join(lines) + "\n")


def _fits(text: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(text.casefold(), pattern.casefold())
