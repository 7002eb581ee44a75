"""How numbers, times and lists are written in reports."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise

EN_DASH, MINUS, NO_BREAK = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"


def subtract(score: float, other: float) -> float:
    """Subtract two scores as they are shown, so that a reader who subtracts finds the same."""
    return round(round(score, 3) - round(other, 3), 3)


def show_score(score: float | None) -> str:
    """Write a score with three decimals, or a dash where there is none."""
    return EN_DASH if score is None else f"{score:.3f}"


def show_difference(difference: float) -> str:
    """Write a difference with its sign; what rounds to nothing has none."""
    return "±0.000" if round(difference, 3) == 0 else f"{difference:+.3f}".replace("-", MINUS)


def show_number(value: float) -> str:
    """Write a number with two decimals."""
    return f"{value:.2f}".replace("-", MINUS)


def show_mm(length_mm: float | None) -> str:
    """Write a length in millimetres, or a dash."""
    return EN_DASH if length_mm is None else f"{length_mm:.1f} mm"


def show_percent(share: float | None) -> str:
    """Write a share in whole percent, or a dash."""
    return EN_DASH if share is None else f"{round(share * 100)} %".replace("-", MINUS)


def show_share(share: float | None) -> str:
    """Write a share in percent, with two digits where it is small, or a dash."""
    if share is None:
        return EN_DASH
    percent = 100 * share
    digits = f"{percent:.0f}" if percent >= 10 or percent == 0 else f"{percent:.2g}"
    return f"{digits}{NO_BREAK}%"


def show_interval(low: float | None, high: float | None) -> str:
    """Write the two ends of an interval, or a dash."""
    return EN_DASH if low is None or high is None else f"{low:.2f}{EN_DASH}{high:.2f}"


def show_figure(value: float | None, digits: int = 3) -> str:
    """Write a measure, with fewer decimals where it is large; a dash for None."""
    if value is None:
        return EN_DASH
    digits = digits if abs(value) < 100 else min(digits, 1)
    return f"{value:.{digits}f}".replace("-", MINUS)


def show_range(low: float | None, high: float | None, digits: int = 3) -> str:
    """Write an interval of a measure; nothing where there is none."""
    if low is None or high is None:
        return ""
    return f"{show_figure(low, digits)} to {show_figure(high, digits)}"


def show_rounds(rounds: Sequence[int]) -> str:
    """Write round numbers with neighbours joined: 2 to 4, then 7."""
    ordered = sorted(set(rounds))
    breaks = [(before, after) for before, after in pairwise(ordered) if after != before + 1]
    starts = [*ordered[:1], *(after for _, after in breaks)]
    ends = [*(before for before, _ in breaks), *ordered[-1:]]
    spans = zip(starts, ends, strict=True)
    return ", ".join(f"{a}" if a == b else f"{a}{EN_DASH}{b}" for a, b in spans)


def show_date(moment: str) -> str:
    """Write an ISO time as a person does; anything else as it is."""
    parsed = _parse_time(moment)
    if parsed is None:
        return moment
    zone = f" {parsed:%Z}" if parsed.tzinfo else ""
    return f"{parsed.day} {parsed:%B %Y, %H:%M}{zone}"


def show_duration(started: str, finished: str) -> str:
    """Write the time between two ISO times, or nothing where one is missing."""
    first, last = _parse_time(started), _parse_time(finished)
    if first is None or last is None or (first.tzinfo is None) != (last.tzinfo is None):
        return ""
    seconds = round((last - first).total_seconds())
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def show_span(seconds: float) -> str:
    """Write a time in its two largest units."""
    whole = round(seconds)
    parts = (
        (whole // 86400, "d"),
        (whole // 3600 % 24, "h"),
        (whole // 60 % 60, "min"),
        (whole % 60, "s"),
    )
    first = next((place for place, (count, _) in enumerate(parts) if count), None)
    if first is None:
        return "0"
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)


def show_seconds(seconds: float | None) -> str:
    """Write a short time exactly, a long one in its two largest units; None is a dash."""
    if seconds is None:
        return EN_DASH
    if seconds < 1:
        return f"{seconds:.2f} s"
    return f"{seconds:.1f} s" if seconds < 60 else show_span(seconds)


def show_bytes(count: int | None) -> str:
    """Write a number of bytes with three digits and a unit; a dash where there is none."""
    if count is None:
        return EN_DASH
    if count < 1000:
        return f"{count} B" if count else "0"
    unit, factor = next(
        (each for each in (("kB", 1e3), ("MB", 1e6)) if count < 999.5 * each[1]), ("GB", 1e9)
    )
    return f"{count / factor:.3g} {unit}"


def list_bytes(moved: Mapping[str, int]) -> str:
    """List hospitals with the bytes that each of them moved."""
    return join_words([f"{site} {show_bytes(count)}" for site, count in sorted(moved.items())])


def plural(count: int, noun: str) -> str:
    """Write a number of things."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def were(count: int) -> str:
    """Return the verb for a number of things."""
    return "was" if count == 1 else "were"


def join_words(words: Sequence[str]) -> str:
    """Join words: one, two and three."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def compare_scores(score: float, other: float) -> str:
    """Say where a score is beside another one, of the three decimals that are shown."""
    difference = subtract(score, other)
    if difference == 0:
        return "level with"
    return f"{abs(difference):.3f} {'above' if difference > 0 else 'below'}"


def _parse_time(moment: str) -> datetime | None:
    try:
        return datetime.fromisoformat(moment)
    except ValueError:
        return None
