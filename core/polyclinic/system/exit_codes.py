"""Exit codes, and how both command lines end.

Exit codes: 0 done; 1 unexpected; 2 wrong usage or setting; 3 data or model files; 4 network; 5 a
run that could not go on; 6 disk or memory; 130 interrupted.
"""

import os
import platform
import signal
import sys
import tempfile
import traceback
from types import FrameType

import click
import typer

from polyclinic.errors import PolyclinicError, ResourceError
from polyclinic.system.faults import explain
from polyclinic.system.machine import name_user
from polyclinic.system.text import clean_lines

OWNER_ALONE = 0o077  # pictures, logs, ledgers and label maps tell of patients
INTERRUPTED = 130
WINDOWS = (
    "polyclinic needs Linux: on Windows, use its container images with Docker (see "
    "docs/how-to/containers.md), or install it in the Windows Subsystem for Linux."
)
EXIT_CODES = (
    "Exit codes: 0 done, 2 wrong usage or setting, 3 data or model files, 4 network, "
    "5 a run that could not go on, 6 disk or memory, 130 interrupted."
)


def end_like_ctrl_c(_number: int, _frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt on SIGTERM, so that a program ends its children as after Ctrl-C."""
    raise KeyboardInterrupt


def run_command(app: typer.Typer) -> None:
    """Run a command line and exit; an error ends it with one plain sentence and its exit code.

    Whatever the command and its child processes write can be read by its user alone.
    """
    os.umask(OWNER_ALONE)
    signal.signal(signal.SIGTERM, end_like_ctrl_c)
    # a shell starts what it puts into the background with SIGINT ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if platform.system() == "Windows":
        _say(f"error: {WINDOWS}")
        sys.exit(ResourceError.exit_code)
    name_user()
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        sys.exit(INTERRUPTED)
    except PolyclinicError as error:
        _say(f"error: {error}")
        sys.exit(error.exit_code)
    except Exception as error:
        _unexpected(error)


def _unexpected(error: Exception) -> None:
    """Report a fault of the machine, or of polyclinic itself, with the traceback in a file."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="polyclinic-", suffix=".log", delete=False
    ) as file:
        traceback.print_exception(error, file=file)
    if (found := explain(error)) is not None:
        _say(f"error: {found} {file.name} has the details.")
        sys.exit(found.exit_code)
    _say(
        f"error: something went wrong inside polyclinic ({type(error).__name__}). Please report it "
        f"with {file.name}."
    )
    sys.exit(1)


def _say(text: str) -> None:
    sys.stderr.write(f"{clean_lines(text)}\n")
    sys.stderr.flush()
