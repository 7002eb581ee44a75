"""Modules whose shapes and types are checked while tests run."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("core", "strategies", "server", "client", "demos")


def shaped_modules() -> list[str]:
    """Return the modules, of the packages and of the benchmarks' package, that import jaxtyping."""
    files = [(ROOT / folder, path) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    files += [(ROOT, path) for path in (ROOT / "benchmarks" / "closed_form_heads").glob("*.py")]
    return sorted(
        ".".join(path.relative_to(root).with_suffix("").parts)
        for root, path in files
        if "from jaxtyping import" in path.read_text(encoding="utf-8")
    )
