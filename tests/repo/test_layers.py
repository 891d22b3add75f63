"""The import rules of the design. Adding one is a design decision."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SEES = {
    "segue": {"segue"},
    "kv_transfer": {"segue", "kv_transfer"},
    "prefill_worker": {"segue", "kv_transfer", "prefill_worker"},
    "decode_worker": {"segue", "kv_transfer", "decode_worker"},
    "router": {"segue", "router"},
}
LAUNCH_SEES = set(SEES)

INSIDE = {
    # For each part of segue, the parts that it may import. Every part is listed.
    "api": {"api"},
    "answers": {"answers", "api"},
    "cache": {"api", "cache", "parallel"},
    "kernels": {"kernels"},
    "text": {"answers", "api", "process", "text"},
    "grammar": {"api", "grammar", "text"},
    "model": {"api", "cache", "kernels", "model", "parallel"},
    "parallel": {"kernels", "parallel"},
    "engine": {"api", "cache", "engine", "kernels", "model", "parallel", "process", "text"},
    "process": {"api", "process"},
    "security": {"api", "config", "security"},
    "config": {"api"},
    "cost_line": set(),
    "wire": {"api", "internal", "process", "security", "v1", "wire"},
    "sdk": {"answers", "api", "sdk", "security", "text", "v1", "wire"},
    "worker": {
        *("api", "cache", "config", "engine", "grammar", "model", "parallel", "process"),
        *("security", "text", "wire", "worker"),
    },
    "demo": {"demo"},
    "gateway": {"answers", "api", "config", "gateway", "process", "sdk", "security"},
    "upgrade": {"api", "process", "sdk", "security", "upgrade"},
    "cli": {"api", "cli", "demo", "launch", "sdk", "security", "upgrade"},
    "launch": {
        *("api", "config", "engine", "gateway", "launch", "model", "parallel", "process", "sdk"),
        *("security", "wire", "worker"),
    },
    "v1": {"v1"},
    "internal": {"internal", "v1"},
    "__init__": {"api", "sdk", "security"},
}


@functools.cache
def imports_of(path: Path) -> frozenset[str]:
    return frozenset(_imports_in(ast.parse(path.read_text())))


def imports_at_run_time(path: Path) -> set[str]:
    return set(_imports_in(_AtRunTime().visit(ast.parse(path.read_text()))))


class _AtRunTime(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.If | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else node


def _imports_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(folder: str) -> list[Path]:
    return [p for p in sorted((ROOT / folder).rglob("*.py")) if "_pb2" not in p.name]


@pytest.mark.parametrize("package", SEES)
def test_packages_import_only_allowed_packages(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(package)
        for name in sorted(imports_of(path))
        if name.split(".")[0] in SEES and name.split(".")[0] not in _allowed(package, path)
    ]

    assert wrong == []


def _allowed(package: str, path: Path) -> set[str]:
    is_launch = path.is_relative_to(ROOT / "segue" / "launch")
    return LAUNCH_SEES if is_launch else SEES[package]


def test_every_part_of_segue_is_listed() -> None:
    parts = {path.stem for path in (ROOT / "segue").iterdir() if path.suffix in {"", ".py"}}

    assert parts - {"__pycache__"} == set(INSIDE)


@pytest.mark.parametrize("part", INSIDE)
def test_parts_of_segue_import_only_allowed_parts(part: str) -> None:
    folder = ROOT / "segue" / part
    files = sources(f"segue/{part}") if folder.is_dir() else [folder.with_suffix(".py")]
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in sorted(imports_of(path))
        if name.startswith("segue.") and name.split(".")[1] not in INSIDE[part]
    ]

    assert wrong == []


@pytest.mark.parametrize(
    "module", ["router.__main__", "segue.gateway.__main__", "segue.sdk.client", "segue.cli.main"]
)
def test_the_command_line_starts_without_torch_and_ray(module: str) -> None:
    code = (
        f"import sys, {module}; "
        "print([m for m in ('torch', 'ray', 'transformers', 'mooncake') if m in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_only_launch_imports_ray_and_only_its_transport_imports_mooncake() -> None:
    users = {
        name: {
            path.relative_to(ROOT).as_posix()
            for package in SEES
            for path in sources(package)
            if any(imported.split(".")[0] == name for imported in imports_of(path))
        }
        for name in ("ray", "mooncake", "transformers")
    }

    assert all(path.startswith("segue/launch/") for path in users["ray"])
    assert users["mooncake"] == {"kv_transfer/transport/mooncake.py"}
    assert all(path.startswith("segue/demo/") for path in users["transformers"])


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions count; those for type checkers alone do not."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for package in SEES
        for path in sources(package)
    }
    known = files.keys() - {name for name in files if name.endswith("__init__")}
    graph = {name: known & imports_at_run_time(path) for name, path in files.items()}

    TopologicalSorter(graph).prepare()


def test_a_folder_has_at_most_ten_modules() -> None:
    folders = {
        str(path.parent.relative_to(ROOT)): [
            module.name
            for module in path.parent.glob("*.py")
            if not module.stem.startswith("__") and not module.stem.endswith(("_pb2", "_pb2_grpc"))
        ]
        for package in SEES
        for path in (ROOT / package).rglob("*.py")
    }

    assert {folder: len(of) for folder, of in folders.items() if len(of) > 10} == {}
