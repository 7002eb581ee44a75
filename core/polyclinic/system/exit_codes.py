"""What both command lines share: how they end.

Exit codes: 0 done; 1 unexpected; 2 wrong usage or setting; 3 data or model files; 4 network; 5 a
run that could not go on; 6 disk or memory; 130 interrupted.
"""

import errno
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from types import FrameType

import click
import typer

from polyclinic.errors import DiskFull, PolyclinicError

EXIT_CODES = (
    "Exit codes: 0 done, 2 wrong usage or setting, 3 data or model files, 4 network, 5 a run that "
    "could not go on, "
    "6 disk or memory, 130 interrupted."
)


def end_like_ctrl_c(_number: int, _frame: FrameType | None) -> None:
    """Let SIGTERM unwind the program as Ctrl-C does, so that children are ended."""
    raise KeyboardInterrupt


def run_command(app: typer.Typer) -> None:
    """Run a command line; every error ends it with one plain sentence and a meaningful exit code."""
    signal.signal(signal.SIGTERM, end_like_ctrl_c)
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        sys.exit(130)
    except PolyclinicError as error:
        _say(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            _unexpected(error)
        folder = Path(error.filename).parent if isinstance(error.filename, str) else Path.cwd()
        stats = os.statvfs(folder)
        full = DiskFull(
            folder, stats.f_bavail * stats.f_frsize, stats.f_bavail * stats.f_frsize + 2**20
        )
        _say(f"error: {full}")
        sys.exit(full.exit_code)
    except Exception as error:
        _unexpected(error)


def _unexpected(error: Exception) -> None:
    """A fault of ours: one sentence, and the details in a file."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="polyclinic-", suffix=".log", delete=False
    ) as file:
        traceback.print_exception(error, file=file)
    _say(
        f"error: something went wrong inside polyclinic ({type(error).__name__}). Please report it "
        f"with {file.name}."
    )
    sys.exit(1)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
