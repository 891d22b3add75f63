"""Names in the documents exist: functions, links, metrics, commands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import segue
from segue.api.errors import SegueError
from segue.cli.main import app
from segue.wire.error_details import KINDS
from tests.repo.test_metric_names import DECODE, GATEWAY, GEN_AI, PREFILL, ROUTER

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FUNCTION = re.compile(r"`([\w./]+\.py):([\w.]+)`")
# Only of this repository: a path that starts with one of our folders, with or without a file.
PATH = re.compile(
    r"`((?:segue|router|prefill_worker|decode_worker|kv_transfer|proto|tests|docs)/[\w./-]*)`"
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
METRIC = re.compile(r"\b(?:segue|gen_ai)_\w+")
COMMAND = re.compile(r"^\| `segue (\w+)", re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def prose(path: Path) -> str:
    """A document without its code blocks."""
    return FENCE.sub("", path.read_text())


def functions(path: Path) -> set[str]:
    """Functions, classes and methods of a module, as `name` and `Class.name`."""
    return set(_defined(ast.parse(path.read_text()).body, ""))


def _defined(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _defined(node.body, f"{prefix}{node.name}.")


def anchors(path: Path) -> set[str]:
    """Headings as links name them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in HEADING.findall(prose(path))
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_functions_that_a_document_names_exist(document: Path) -> None:
    missing = [
        f"{file}:{name}"
        for file, name in FUNCTION.findall(prose(document))
        if not (ROOT / file).is_file() or name not in functions(ROOT / file)
    ]

    assert missing == []


def test_the_description_of_a_turn_names_few_files() -> None:
    page = ROOT / "docs" / "request.md"

    assert len(FUNCTION.findall(prose(page))) > 40
    assert len(set(re.findall(r"[\w/]+/\w+\.py", page.read_text()))) <= 20


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_that_a_document_names_exist(document: Path) -> None:
    missing = [path for path in PATH.findall(prose(document)) if not (ROOT / path).exists()]

    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in LINK.findall(prose(document)):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (document.parent / file).resolve() if file else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


def test_operations_explains_every_metric_and_no_other() -> None:
    named = set(METRIC.findall(prose(ROOT / "docs" / "operations.md"))) - set(GEN_AI)

    # prometheus-client adds `_total` to a counter's name only when it is scraped.
    assert {name.removesuffix("_total") for name in named} == {*ROUTER, *PREFILL, *DECODE, *GATEWAY}


def test_operations_explains_every_error_reason() -> None:
    rows = re.findall(r"^\| `\w.*$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    kinds = {kind.__name__: reason for kind, (reason, _) in KINDS.items() if kind is not SegueError}

    for name, reason in kinds.items():
        assert any(f"`{name}`" in row and f"`{reason}`" in row for row in rows), name


def test_the_readme_shows_every_command_and_no_other() -> None:
    shown = COMMAND.findall((ROOT / "README.md").read_text())

    assert sorted(shown) == sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # a group by construction


def test_the_readmes_programs_import_existing_names() -> None:
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)

    assert len(programs) >= 2
    for program in programs:
        compile(program, "README.md", "exec")
        (names,) = re.findall(r"^from segue import (.*)$", program, re.M)
        assert set(names.split(", ")) <= set(segue.__all__)
