"""Files that an earlier version wrote, copied so that the code of today may work on them."""

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

V010 = Path(__file__).parent / "v0.1.0"
RUNS = ("fedavg", "merging", "refinement", "universal")
LEDGERS = ("merging", "refinement", "universal")
SITES = ("mprage-3t", "spgr-1.5t")
FIGURE = re.compile(r"\b[0-9a-f]{8,64}\b|\d+\.\d+")


def said(name: str) -> str:
    """Return what the earlier version printed."""
    told: dict[str, list[str]] = json.loads((V010 / "said.json").read_text())
    return "\n".join(told[name])


def figures(text: str) -> list[str]:
    """List figures with decimals, and digests, in their order."""
    return FIGURE.findall(text)


def copy_files(folder: Path) -> Path:
    """Copy everything, with keys that only their owner can read, as they were."""
    shutil.copytree(V010, folder)
    for path in folder.rglob("*.key"):
        path.chmod(0o600)
    return folder


def module_consoles() -> Sequence[Console]:
    """List the consoles that commands print to."""
    modules = [each for name, each in sys.modules.items() if name.startswith("polyclinic")]
    found = [getattr(module, "console", None) for module in modules]
    return [console for console in found if isinstance(console, Console)]
