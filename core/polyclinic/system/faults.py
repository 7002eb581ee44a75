"""What is wrong with the machine when an error is not one of polyclinic's own.

A full disk, a network share that went away and memory that ran out reach Python as OSError,
MemoryError, or an error of torch's. Whoever ends with an error asks here first.
"""

import errno
import shutil
from pathlib import Path

from polyclinic.errors import (
    DiskFull,
    OutOfMemory,
    PolyclinicError,
    StorageFailed,
    shareable_text,
)

FULL = (errno.ENOSPC, errno.EDQUOT)
# of a file or a file system, even where the error names none
STORAGE = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOLCK, errno.EMFILE, errno.ENFILE)
NO_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")  # torch, CUDA, cuBLAS


def explain(error: BaseException) -> PolyclinicError | None:
    """Return the error of ours that says what is wrong; None if it is not the machine."""
    if isinstance(error, PolyclinicError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory("GPU" if "CUDA" in str(error) else "machine")
    if not isinstance(error, OSError):
        return None
    named = error.filename if isinstance(error.filename, str | Path) else None
    if error.errno in FULL:
        folder = Path(named).parent if named else Path.cwd()
        free_bytes = shutil.disk_usage(folder if folder.exists() else Path.cwd()).free
        return DiskFull(folder, free_bytes, free_bytes + 2**20)
    if error.errno is None or (named is None and error.errno not in STORAGE):
        return None
    return StorageFailed(Path(named or Path.cwd()), error.strerror or str(error))


def shareable(error: BaseException) -> str:
    """Return what of any error may leave a hospital."""
    return shareable_text(explain(error) or error)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out; torch, which need not be installed, has errors of its own."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    )
