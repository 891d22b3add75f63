"""The Dockerfile names files, extras and commands that exist. No image can be built here."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import yaml

from segue.cli.main import app
from tests.deploy.chart import CHART

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "docker" / "Dockerfile"
IGNORED = FILE.with_name("Dockerfile.dockerignore")
COMPILERS = {"gcc", "g++", "clang", "build-essential", "make", "cmake"}


def instructions() -> list[tuple[str, str]]:
    """Keyword and rest of each, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (word, rest)
        for word, _, rest in (line.partition(" ") for line in text.splitlines())
        if word
    ]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Each with the instructions of those that it builds upon."""
    found: dict[str, list[tuple[str, str]]] = {}
    own: list[tuple[str, str]] = []
    for word, rest in instructions():
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            own = found[name] = list(found.get(base, [(word, base)]))
        elif found:
            own.append((word, rest))
    return found


def test_hadolint_finds_no_problem() -> None:
    checked = subprocess.run(["hadolint", FILE], capture_output=True, text=True, check=False)

    assert (checked.returncode, checked.stdout) == (0, "")


def test_the_base_is_pinned_and_is_a_python_that_the_project_supports() -> None:
    (argument,) = (rest for word, rest in instructions() if word == "ARG")
    version = re.fullmatch(r"PYTHON_IMAGE=python:(\d+)\.(\d+)\.\d+-slim-\w+", argument)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    used = set(re.findall(r"python(3\.\d+)/site-packages", FILE.read_text()))

    assert version is not None
    assert project["requires-python"] == f">={version[1]}.{version[2]}"
    assert used == {f"{version[1]}.{version[2]}"}
    for name in ("cpu", "cuda"):
        assert stages()[name][0] == ("FROM", "${PYTHON_IMAGE}")


def test_copied_files_exist_and_are_in_the_context() -> None:
    allowed = {line[1:] for line in IGNORED.read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert copied == allowed
    assert all((ROOT / path).exists() for path in copied)
    assert copied >= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])


def test_each_image_has_its_own_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]

    for name in ("cpu", "cuda"):
        (built,) = (rest for word, rest in stages()[f"build-{name}"] if "uv pip install" in rest)
        (copied,) = (rest for word, rest in stages()[name] if word == "COPY")
        assert re.findall(r"'\.\[([\w,]+)\]'", built) == [f"{name},traces"]
        assert {name, "traces"} <= set(extras)
        assert f"--from=build-{name} " in copied


def test_images_run_as_a_user_without_compilers_and_report_their_health() -> None:
    for name in ("cpu", "cuda"):
        last = dict(stages()[name])
        installed = set(last["RUN"].split())

        assert last["USER"] == "1000:1000"
        assert not installed & COMPILERS
        # The chart starts processes with it.
        assert "tini" in installed
        check = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
        for command in (check, json.loads(last["CMD"])):
            assert command[0] == "segue"
            assert command[1] in {
                c.name or c.callback.__name__ for c in app.registered_commands if c.callback
            }


def test_the_chart_runs_the_images_as_their_user_and_by_their_tags() -> None:
    tags = set(re.findall(r"-t segue:(\S+)", FILE.read_text()))
    recipes = [yaml.safe_load(path.read_text()) for path in (CHART / "values").glob("*.yaml")]
    used = {recipe["image"]["tag"] for recipe in recipes if "image" in recipe}
    used.add(yaml.safe_load((CHART / "values.yaml").read_text())["image"]["tag"])

    assert used == tags
    assert "runAsUser: 1000" in (CHART / "templates" / "_helpers.tpl").read_text()
