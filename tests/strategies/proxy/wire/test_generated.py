"""What is generated from `segmentation.proto` is what lies beside it."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4] / "strategies"
PROTO = "polyclinic_strategies/proxy/wire/segmentation.proto"


def test_the_generated_code_is_not_stale(tmp_path: Path) -> None:
    protoc = pytest.importorskip(
        "grpc_tools.protoc", reason="grpcio-tools is not installed: pip install -e '.[dev]'"
    )
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python", "pyi")]
    assert protoc.main(["protoc", f"-I{ROOT}", *outputs, str(ROOT / PROTO)]) == 0
    generated = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*"))
    assert len(generated) == 3
    stale = [
        str(path)
        for path in generated
        if (tmp_path / path).read_text() != (ROOT / path).read_text()
    ]
    assert not stale, (
        f"{', '.join(stale)}: generated from another segmentation.proto, or by another version of "
        "grpcio-tools. Run `make proto`."
    )
