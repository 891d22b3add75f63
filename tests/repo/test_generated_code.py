"""The committed wire code is what the .proto files generate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def generated_in(folder: Path) -> dict[str, str]:
    """Every generated file of a tree by its path."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in (folder / "segue").rglob("*_pb2*")
        if path.suffix in (".py", ".pyi")
    }


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "proto" / "generate.py"), str(tmp_path)],
        check=True,
        capture_output=True,
    )

    assert len(generated_in(tmp_path)) == 16
    assert generated_in(ROOT) == generated_in(tmp_path)


def test_plain_protoc_reads_the_files(tmp_path: Path) -> None:
    files = sorted((ROOT / "proto" / "segue").rglob("*.proto"))
    for path in files:
        package = ".".join(path.parent.relative_to(ROOT / "proto").parts)
        assert f"\npackage {package};\n" in path.read_text()

    protoc = [sys.executable, "-m", "grpc_tools.protoc"]
    done = subprocess.run(
        [
            *protoc,
            "-I",
            "proto",
            "-o",
            str(tmp_path / "descriptors"),
            *(str(path.relative_to(ROOT)) for path in files),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")
