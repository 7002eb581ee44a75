"""Consensus in the report."""

from pathlib import Path

from pydantic import BaseModel

from polyclinic.reporting.results import Results
from polyclinic.reporting.section import Section

TEMPLATE = Path(__file__).parent / "templates" / "consensus.html.j2"


class ConsensusState(BaseModel):
    """What run.json keeps of consensus."""

    spreads: tuple[float, ...]


def make_section(results: Results) -> Section | None:
    """Show how the hospitals came closer; None where the run had no consensus."""
    state = results.part("consensus", ConsensusState)
    return Section(TEMPLATE, {"spreads": state.spreads}) if state else None
