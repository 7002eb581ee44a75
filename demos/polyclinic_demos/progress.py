"""What demos show of long work: a bar for images, and the last line of another process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from polyclinic.system.text import clean

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


@contextmanager
def following(console: Console, text: str, log: Path) -> Iterator[Callable[[], None]]:
    """Show what is done and the newest line of a log; yield what looks at the log again.

    Without a terminal, every new line is printed.

    Args:
        console: Where it is shown.
        text: What is being done.
        log: Of the process that does it.
    """
    shown = ""
    with console.status(text) as status:

        def look() -> None:
            nonlocal shown
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            newest = clean(lines[-1]) if lines else ""
            if newest != shown:
                shown = newest
                status.update(Text(f"{text}: {newest}"))
                if not console.is_terminal:
                    console.print(newest, markup=False)

        yield look
