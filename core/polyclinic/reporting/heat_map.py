"""Distances between hospitals as the coordinates of an SVG: the darker a field, the more alike the two hospitals' images are.

One hue from dark to pale, which every kind of colour vision tells apart; the number is in every field.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from polyclinic.reporting.curves import shorten

FIELD_WIDTH, FIELD_HEIGHT, GAP = 50, 34, 12
LETTER, LONGEST_NAME = 7.4, 17
SLOPE = 0.6  # how much of a slanted name's length is above its column
BOTTOM = 34
PALEST = 2.0  # medians: at least so far until a field is pale
NEAR_COLOUR, FAR_COLOUR = (9, 66, 112), (240, 245, 250)
EMPTY = "#dde3e8"


@dataclass(frozen=True)
class Field:
    """A pair of hospitals: where, the distance, colours of field and number, and words for who points at it."""

    x: float
    y: float
    text: str
    fill: str
    ink: str
    words: str


@dataclass(frozen=True)
class Label:
    """A hospital's name beside its row or above its column; `later` if it joined with a description alone."""

    at: float
    title: str
    name: str
    later: bool


@dataclass(frozen=True)
class HeatMap:
    """What the template draws; brackets are x from, x to and words under the columns."""

    fields: tuple[Field, ...]
    rows: tuple[Label, ...]
    columns: tuple[Label, ...]
    brackets: tuple[tuple[float, float, str], ...]
    left: float
    top: float
    bottom: float
    width: int
    height: int
    field_width: int = FIELD_WIDTH
    field_height: int = FIELD_HEIGHT


def draw_heat_map(
    sites: Sequence[str], distances: Sequence[Sequence[float | None]], later: Collection[str]
) -> HeatMap | None:
    """Place a matrix on the canvas, those that took part first; None when there are no two hospitals."""
    if len(sites) < 2:
        return None
    order = sorted(range(len(sites)), key=lambda number: sites[number] in later)
    first = sum(site not in later for site in sites)
    longest = max(min(len(site), LONGEST_NAME) for site in sites) * LETTER
    left, top = round(longest + 16), round(longest * SLOPE + 26)
    known = [value for row in distances for value in row if value is not None]
    far = max(PALEST, *known) if known else PALEST

    def step(place: int, size: int) -> float:
        return place * size + (GAP if place >= first > 0 else 0)

    fields = []
    for row, one in enumerate(order):
        for column, other in enumerate(order):
            value = None if one == other else distances[one][other]
            fill, ink = _paint(value, far)
            words = (
                f"{sites[one]} and {sites[other]}: {_text(value)}" if one != other else sites[one]
            )
            fields.append(
                Field(
                    left + step(column, FIELD_WIDTH),
                    top + step(row, FIELD_HEIGHT),
                    _text(value, one == other),
                    fill,
                    ink,
                    words,
                )
            )
    labels = [(place, sites[number]) for place, number in enumerate(order)]
    right, bottom = (
        left + step(len(sites) - 1, FIELD_WIDTH) + FIELD_WIDTH,
        top + step(len(sites) - 1, FIELD_HEIGHT) + FIELD_HEIGHT,
    )
    brackets: tuple[tuple[float, float, str], ...] = ()
    if 0 < first < len(sites):
        split = left + first * FIELD_WIDTH
        brackets = ((left, split - 3, "took part"), (split + GAP, right - 3, "joined later"))
    return HeatMap(
        fields=tuple(fields),
        rows=tuple(
            _label(top + step(place, FIELD_HEIGHT) + FIELD_HEIGHT / 2, site, later)
            for place, site in labels
        ),
        columns=tuple(
            _label(left + step(place, FIELD_WIDTH) + FIELD_WIDTH / 2, site, later)
            for place, site in labels
        ),
        brackets=brackets,
        left=left,
        top=top,
        bottom=bottom,
        width=round(right + longest * 0.8 + 8),
        height=round(bottom + (BOTTOM if brackets else 6)),
    )


def _label(at: float, site: str, later: Collection[str]) -> Label:
    return Label(at, shorten(site, LONGEST_NAME), site, site in later)


def _text(value: float | None, same: bool = False) -> str:
    return "" if same else "?" if value is None else f"{value:.2f}"


def _paint(value: float | None, far: float) -> tuple[str, str]:
    """The colours of a field and of the number in it."""
    if value is None:
        return EMPTY, "#17212b"
    share = min(1.0, max(0.0, value / far))
    red, green, blue = (
        round(a + share * (b - a)) for a, b in zip(NEAR_COLOUR, FAR_COLOUR, strict=True)
    )
    return f"#{red:02x}{green:02x}{blue:02x}", "#ffffff" if share < 0.36 else "#17212b"
