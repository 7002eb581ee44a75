"""Where commands print to."""

import os
import sys
from typing import Any

from rich.console import Console

WIDE = 120  # columns of tables when output goes to a file


class LineConsole(Console):
    """Console that breaks no sentence: a path that somebody copies from it is whole.

    Tables are wide where nobody says how wide the output is.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        known = stream.isatty() or "COLUMNS" in os.environ
        super().__init__(stderr=stderr, highlight=False, width=None if known else WIDE)

    def say(self, text: str) -> None:
        """Print a sentence as it is."""
        self.print(text, markup=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `rich.console.Console` does, with `soft_wrap` for what is only text."""
        options.setdefault("soft_wrap", all(isinstance(each, str) for each in objects))
        super().print(*objects, **options)
