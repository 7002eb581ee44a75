"""Where the five packages are in the checkout, and which files they hold."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "polyclinic": ROOT / "core" / "polyclinic",
    "polyclinic_strategies": ROOT / "strategies" / "polyclinic_strategies",
    "polyclinic_server": ROOT / "server" / "polyclinic_server",
    "polyclinic_client": ROOT / "client" / "polyclinic_client",
    "polyclinic_demos": ROOT / "demos" / "polyclinic_demos",
}
GENERATED = ("_pb2.py", "_pb2_grpc.py")


def is_left_out(path: Path) -> bool:
    """Tell whether a file is a cache's, and no source."""
    return "__pycache__" in path.parts or path.suffix == ".pyc"


def package_files(name: str) -> set[str]:
    """List a package's files, `polyclinic/conf` included, as they must be named in the wheel."""
    folder = PACKAGES[name]
    linked = [folder / "conf"] if name == "polyclinic" else []  # rglob enters no link
    return {
        (name / path.relative_to(folder)).as_posix()
        for start in (folder, *linked)
        for path in start.rglob("*")
        if path.is_file() and not is_left_out(path)
    }


def modules(folder: Path) -> list[Path]:
    """List the modules written by hand in a folder and those under it."""
    return sorted(path for path in folder.rglob("*.py") if not path.name.endswith(GENERATED))
