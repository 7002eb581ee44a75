"""Distances between hospitals: the darker a field, the more alike the images of two hospitals are.

One hue from dark to pale, which every kind of colour vision tells apart. The number is in every
field. The macro `heat_map` of marks.html.j2 draws it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from polyclinic.reporting.axes import shorten

FIELD_WIDTH, FIELD_HEIGHT, GAP = 50, 34, 12
LETTER, LONGEST_NAME = 7.4, 17
SLOPE = 0.6  # share of a slanted name's length that is above its column
BOTTOM = 34
PALEST = 2.0  # medians: a field is not pale before
NEAR_COLOUR, FAR_COLOUR = (9, 66, 112), (240, 245, 250)
EMPTY = "#dde3e8"
DARK, LIGHT = "#17212b", "#ffffff"  # numbers on pale and on dark fields
LIGHT_UNTIL = 0.36  # share of the way from near to far


@dataclass(frozen=True)
class HeatField:
    """A pair of hospitals.

    Attributes:
        text: The distance.
        fill, ink: Colours of the field and of the text.
        words: What is shown to whoever points at it.
    """

    x: float
    y: float
    text: str
    fill: str
    ink: str
    words: str


@dataclass(frozen=True)
class HospitalLabel:
    """A hospital's name beside its row or above its column.

    Attributes:
        at: Pixel of the row's or column's middle.
        title: As much of the name as there is room for.
        later: Whether the hospital joined with a description alone.
    """

    at: float
    title: str
    name: str
    later: bool


@dataclass(frozen=True)
class HeatMap:
    """What the template draws; brackets are the pixels and the words under some columns."""

    fields: tuple[HeatField, ...]
    rows: tuple[HospitalLabel, ...]
    columns: tuple[HospitalLabel, ...]
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
    """Place a matrix on the canvas; None when there are no two hospitals.

    Args:
        sites: Names of the hospitals.
        distances: Square matrix over them; None where nobody knows the distance.
        later: Hospitals that joined with a description alone; they are drawn last.
    """
    if len(sites) < 2:
        return None
    order = sorted(range(len(sites)), key=lambda number: sites[number] in later)
    first = sum(site not in later for site in sites)
    longest = max(min(len(site), LONGEST_NAME) for site in sites) * LETTER
    left, top = round(longest + 16), round(longest * SLOPE + 26)

    def at(place: int, size: int) -> float:
        return place * size + (GAP if place >= first > 0 else 0)

    columns = [left + at(place, FIELD_WIDTH) for place in range(len(sites))]
    rows = [top + at(place, FIELD_HEIGHT) for place in range(len(sites))]
    right, bottom = columns[-1] + FIELD_WIDTH, rows[-1] + FIELD_HEIGHT
    brackets: tuple[tuple[float, float, str], ...] = ()
    if 0 < first < len(sites):
        split = left + first * FIELD_WIDTH
        brackets = ((left, split - 3, "took part"), (split + GAP, right - 3, "joined later"))
    names = [sites[number] for number in order]
    values = [[distances[one][other] for other in order] for one in order]
    return HeatMap(
        fields=_fields(names, values, rows, columns),
        rows=_labels(names, rows, FIELD_HEIGHT, later),
        columns=_labels(names, columns, FIELD_WIDTH, later),
        brackets=brackets,
        left=left,
        top=top,
        bottom=bottom,
        width=round(right + longest * 0.8 + 8),
        height=round(bottom + (BOTTOM if brackets else 6)),
    )


def _fields(
    names: Sequence[str],
    values: Sequence[Sequence[float | None]],
    rows: Sequence[float],
    columns: Sequence[float],
) -> tuple[HeatField, ...]:
    far = max([PALEST, *(value for row in values for value in row if value is not None)])
    found = []
    for one, y, row in zip(names, rows, values, strict=True):
        for other, x, distance in zip(names, columns, row, strict=True):
            value = None if one == other else distance
            text = "?" if value is None else f"{value:.2f}"
            fill, ink = _paint(value, far)
            if one == other:
                found.append(HeatField(x, y, "", fill, ink, one))
            else:
                found.append(HeatField(x, y, text, fill, ink, f"{one} and {other}: {text}"))
    return tuple(found)


def _labels(
    names: Sequence[str], starts: Sequence[float], size: int, later: Collection[str]
) -> tuple[HospitalLabel, ...]:
    return tuple(
        HospitalLabel(start + size / 2, shorten(name, LONGEST_NAME), name, name in later)
        for name, start in zip(names, starts, strict=True)
    )


def _paint(value: float | None, far: float) -> tuple[str, str]:
    """Choose the colours of a field and of the number in it."""
    if value is None:
        return EMPTY, DARK
    share = min(1.0, max(0.0, value / far))
    red, green, blue = (
        round(a + share * (b - a)) for a, b in zip(NEAR_COLOUR, FAR_COLOUR, strict=True)
    )
    return f"#{red:02x}{green:02x}{blue:02x}", LIGHT if share < LIGHT_UNTIL else DARK
