"""What a method contributes to the report of a run.

    # METHOD = Method(..., section="package.module:make_section")
    def make_section(results: Results) -> Section | None:
        state = results.part("shuffling", ShufflingState)
        if state is None:  # the run did not shuffle
            return None
        return Section(TEMPLATES / "shuffling.html.j2", {"swaps": state.swaps})

The template is Jinja's. It sees `results`, the section's values, the filters and macros of
`polyclinic.reporting.page`, and whatever else lies in its own folder. What it prints is escaped.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from polyclinic.federation.method import methods
from polyclinic.reporting.results import Results

Tile = tuple[str, str]  # a figure, and its caption


@dataclass(frozen=True)
class Summary:
    """The result of a run in a sentence, one that puts it in proportion, and a few figures.

    Attributes:
        lead: The result.
        support: What puts it in proportion.
        tiles: Figures for the top of the page.
        worst: A sentence about the worst hospital, before the others; may be empty.
    """

    lead: str
    support: str = ""
    tiles: tuple[Tile, ...] = ()
    worst: str = ""


@dataclass(frozen=True)
class ArmNote:
    """What a method says of one of its arms in the summary of a run.

    Attributes:
        subject: Of the verdict: "Training together" helped, or did not help.
        lead: The result in one sentence where no hospital trained alone to compare with; may be
            empty.
        support: A sentence that puts it in proportion; may be empty.
        tiles: Figures for the top of the page.
    """

    subject: str
    lead: str = ""
    support: str = ""
    tiles: tuple[Tile, ...] = ()


@dataclass(frozen=True)
class Pointer:
    """A sentence, and the anchor on the page where a reader finds more; empty if there is none."""

    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Section:
    """A method's part of the page of a run, and its tables for the terminal.

    Example:
        ```python
        Section(Path("templates") / "shuffling.html.j2", {"swaps": 3})
        ```

    Attributes:
        template: File of the Jinja template.
        values: What the template needs besides `results`.
        css: File with the style of the section.
        leads: Whether the section takes the place of the summary and of the table of all scores.
        summary: Takes the place of the page's own summary.
        arms: Notes on the method's arms, by name.
        kinds: A word on how an arm's model was made, by name, in place of the page's own.
        tables: For the terminal; they take the place of the table of all scores if the section
            leads.
        participation: Who took part when, in place of the table of rounds.
        procedure: How the figures were obtained, a sentence or two each.
        trains: Whether the run trained its models; else nothing is known of what they saw.
    """

    template: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    css: Path | None = None
    leads: bool = False
    summary: Summary | None = None
    arms: Mapping[str, ArmNote] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    participation: tuple[Pointer, ...] = ()
    procedure: tuple[str, ...] = ()
    trains: bool = True


def make_sections(results: Results) -> tuple[Section, ...]:
    """Ask every installed method for its section of a run's report; one that leads comes first."""
    makers = [method.load("section") for method in methods().values()]
    found = [make(results) for make in makers if make is not None]
    sections = [section for section in found if section is not None]
    return tuple(sorted(sections, key=lambda section: not section.leads))
