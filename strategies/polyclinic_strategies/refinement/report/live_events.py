"""What refinement has to tell while it goes on: a line for the board, and what to put beside the hospital."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from polyclinic.federation.metrics import finite_items
from polyclinic.reporting.formats import list_bytes, plural, show_seconds
from polyclinic_strategies.refinement.report.membership_events import WITHDRAWAL, find_moved
from polyclinic_strategies.refinement.report.narrative import tell_shares

KINDS = frozenset({"described", "refined", "delivered", "recalculated", "traffic"})


@dataclass(frozen=True)
class News:
    """A line worth printing, if it is one, and what hospitals are doing now."""

    line: str | None = None
    doing: Mapping[str, str] = field(default_factory=dict)


class RefinementNews:
    """Takes events in; some are told together."""

    def __init__(self) -> None:
        self._subjects: dict[str, int] = {}
        self._left: dict[
            str, str
        ] = {}  # hospitals that left, and what that made: told once it is known who else noticed

    def take(self, event: Mapping[str, Any]) -> News:
        """One of `KINDS`."""
        kind, site = event["kind"], str(event.get("site", ""))
        if kind == "described":
            self._subjects[site] = int(event.get("subjects") or 0)
            return News(doing={site: f"described {plural(self._subjects[site], 'image')}"})
        if kind == "refined":
            return self._take_refined(site, event)
        if kind == "delivered":
            seconds = event.get("seconds")
            after = (
                f" after {show_seconds(float(seconds))}" if isinstance(seconds, int | float) else ""
            )
            return News(f"{site} has its model{after}", {site: "has its model"})
        return (
            self._take_recalculated(event)
            if kind == "recalculated"
            else self._take_traffic(site, event)
        )

    def _take_refined(self, site: str, event: Mapping[str, Any]) -> News:
        made = tell_shares(finite_items(event.get("coefficients")))
        fallback = f" ({event['fallback']})" if event.get("fallback") else ""
        model = f"its model is {made}{fallback}"
        how = {
            "join": f"joined with a description of {plural(self._subjects.get(site, 0), 'image')}",
            "update": "handed in a contribution",
        }.get(str(event.get("why")))
        return News(f"{site} {how}; {model}" if how else None, {site: "its model is on its way"})

    def _take_recalculated(self, event: Mapping[str, Any]) -> News:
        seconds = event.get("seconds")
        fast = f" in {show_seconds(float(seconds))}" if isinstance(seconds, int | float) else ""
        text = f"{plural(len(event.get('sites') or ()), 'model')} recalculated{fast}"
        gone = [str(site) for site in event.get("gone") or ()]
        self._left |= {site: f"{site} left; {text}" for site in gone}
        return News(None if gone else text, dict.fromkeys(gone, "left"))

    def _take_traffic(self, site: str, event: Mapping[str, Any]) -> News:
        others = find_moved(site, str(event.get("why")), event.get("bytes") or {}).others
        left = self._left.pop(site, None) if event.get("why") == WITHDRAWAL else None
        if left:
            return News(
                f"{left}, "
                f"{f'others moved too: {list_bytes(others)}' if others else 'nobody else moved a byte'}"
            )
        return News(
            f"for {site} others sent or received too: {list_bytes(others)}" if others else None
        )
