"""Bar that demos show while they write images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

OnScan = Callable[[int, int, str], None]  # scans done, scans in all, name of the last one


@contextmanager
def counting(console: Console, text: str) -> Iterator[OnScan]:
    """Show a bar while inside; yield what is told of every scan.

    Args:
        console: Where the bar is drawn.
        text: What is being written.
    """
    columns = (
        TextColumn(text),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def tell(done: int, total: int, name: str) -> None:
            progress.update(task, completed=done, total=total, description=name)

        yield tell
