"""Generates `segue/v1` and `segue/internal/v1` from `proto/`: `python proto/generate.py [TARGET]`.

File paths match imports and packages, so any `protoc -I proto` can read them. The plugins are named
by path, because PATH may not contain the environment that runs this.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grpc_tools

PROTO = Path(__file__).resolve().parent


def generate(target: Path) -> None:
    """Writes the generated modules under `target`, in `segue/v1/` and `segue/internal/v1/`."""
    tools = Path(sys.executable).parent
    well_known = Path(next(iter(grpc_tools.__path__))) / "_proto"
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{PROTO}",
        f"-I{well_known}",
        f"--plugin=protoc-gen-mypy={tools / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={tools / 'protoc-gen-mypy_grpc'}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out={target}",
        f"--mypy_grpc_out={target}",
        *sorted(str(path.relative_to(PROTO)) for path in (PROTO / "segue").rglob("*.proto")),
    ]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTO.parent)
