"""Waiting for hospitals: until a grid tells news, or for a moment where a grid never tells any.

A grid that tells news has `wait_for_news(timeout_s)`. It returns as soon as an answer has arrived,
or a hospital came or left, since it returned last. Flower's own grids have to be asked again and
again.
"""

from flwr.serverapp import Grid

from polyclinic.system import clock


def tells_news(grid: Grid) -> bool:
    """Return whether the grid tells news by itself, so that looking for them costs nothing."""
    return bool(getattr(grid, "tells_news", hasattr(grid, "wait_for_news")))


def pause(grid: Grid, seconds: float) -> None:
    """Wait for this number of seconds, or until the grid has news."""
    if tells_news(grid):
        grid.wait_for_news(seconds)  # type: ignore[attr-defined]
    else:
        clock.sleep(seconds)
