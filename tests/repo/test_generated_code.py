"""The committed wire code is what the .proto files generate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "proto" / "generate.py"), str(tmp_path)],
        check=True,
        capture_output=True,
    )

    generated = {p.name: p.read_text() for p in (tmp_path / "segue" / "wire").iterdir()}
    committed = {p.name: p.read_text() for p in (ROOT / "segue" / "wire").glob("*_pb2*")}
    assert committed == generated
