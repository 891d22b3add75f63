"""`scripts/setup`: the torch build that it chooses, with pip and uv replaced by a script of
ours.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Replaces Python, pip and uv: it records its arguments, and answers as a test requires.
PLAYED = """#!/bin/bash
case "$*" in
  "-c import ray, "*) ;;
  "-c "*) exec {python} "$@" ;;
  *--report*) echo '{{"install": [{{"metadata": {{"version": "'$FOUND_TORCH'"}}}}]}}'; exit ;;
  *"config list"*) echo -n "$PIP_SETTINGS"; exit ;;
esac
echo "$(basename "$0") $*" >> {calls}
if [ "$(basename "$0")" = uv ]; then exit "$UV_STATUS"; fi
"""


UV = "pip install --quiet --index-strategy unsafe-best-match"


BUILD = "python -m segue.kernels.native.build"
COMPILE = "python -c import ray, "


@dataclass(frozen=True, slots=True)
class Clone:
    folder: Path

    def setup(
        self,
        *arguments: str,
        found: str = "any",
        index: str = "",
        uv_status: int = 0,
        machine: str = "x86_64",
        settings: str = "",
    ) -> subprocess.CompletedProcess[str]:
        uname = self.folder / "bin" / "uname"
        uname.parent.mkdir(exist_ok=True)
        uname.write_text(f"#!/bin/sh\necho {machine}\n")
        uname.chmod(0o755)
        environment = {
            **os.environ,
            "PATH": f"{uname.parent}:{os.environ['PATH']}",
            "FOUND_TORCH": found,
            "UV_STATUS": str(uv_status),
            "PIP_SETTINGS": settings,
            "PYTHON": sys.executable,
            "SEGUE_TORCH_INDEX": index,
        }
        return subprocess.run(
            ["bash", "scripts/setup", *(arguments or ("cpu,dev",))],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    def installs(self) -> list[str]:
        calls = self.folder / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        known = {"-m pip --quiet --disable-pip-version-check": "pip", f"uv {UV}": "uv"}
        for words, short in known.items():
            lines = [line.replace(words, short) for line in lines]
        return [line for line in lines if not line.startswith((BUILD, COMPILE))]

    def after_installing(self) -> list[str]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [line for line in lines if line.startswith((BUILD, COMPILE))]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "uv"):
        played = PLAYED.format(python=sys.executable, calls=tmp_path / "calls")
        (programs / name).write_text(played)
        (programs / name).chmod(0o755)
    return Clone(tmp_path)


def test_pips_build_is_used_if_it_is_for_cpus(clone: Clone) -> None:
    done = clone.setup(found="2.13.0+cpu")

    assert done.returncode == 0
    assert clone.installs() == ["python pip install uv", "uv torch==2.13.0+cpu -e .[cpu,dev]"]
    assert "uv, torch (2.13.0+cpu) and other packages" in done.stderr


def test_uv_gets_the_settings_of_pip(clone: Clone) -> None:
    settings = """:env:.find-links='/wheels'
global.cert='/certificates'
global.constraint='/constraints.txt'
global.extra-index-url='file:///one file:///two'
global.index-url='file:///main'
"""
    clone.setup(found="2.13.0+cpu", settings=settings)

    assert clone.installs()[-1] == (
        "uv --find-links /wheels --constraint /constraints.txt --index file:///one "
        "--index file:///two --default-index file:///main "
        "torch==2.13.0+cpu -e .[cpu,dev]"
    )


def test_pip_installs_if_uv_cannot(clone: Clone) -> None:
    done = clone.setup(found="2.13.0+cpu", uv_status=2)

    assert done.returncode == 0
    assert clone.installs()[-1] == "python pip install -e .[cpu,dev]"
    assert "uv failed; installing with pip" in done.stderr


def test_a_second_run_installs_nothing(clone: Clone) -> None:
    clone.setup(found="2.13.0+cpu")
    again = clone.setup(found="2.13.0+cpu")

    assert (again.returncode, again.stderr) == (0, "")
    assert len(clone.installs()) == 2
    build, compile_ = clone.after_installing()
    assert build == BUILD
    assert "prefill_worker.__main__" in compile_


def test_uv_finds_the_cpu_build_if_pip_would_choose_cuda(clone: Clone) -> None:
    done = clone.setup(found="2.13.0")

    assert done.returncode == 0
    assert clone.installs() == [
        "python pip install uv",
        "uv --torch-backend=cpu -e .[cpu,dev]",
    ]
    assert "downloading uv, torch (CPU build, 200 MB)" in done.stderr


def test_pip_continues_with_a_warning_if_uv_finds_no_cpu_build(clone: Clone) -> None:
    done = clone.setup(found="2.13.0", uv_status=1)

    assert done.returncode == 0
    assert clone.installs()[-1] == "python pip install -e .[cpu,dev]"
    assert "pip takes the CUDA build: 2.6 GB to download" in done.stderr


def test_an_index_that_the_user_configures_is_used(clone: Clone) -> None:
    done = clone.setup(found="2.13.0+cpu", index="file:///mirror/cpu")

    assert done.returncode == 0
    assert clone.installs()[-1] == ("uv --index file:///mirror/cpu torch==2.13.0+cpu -e .[cpu,dev]")


def test_an_index_without_a_cpu_build_is_an_error(clone: Clone) -> None:
    done = clone.setup(found="2.13.0", index="file:///mirror/other")

    assert done.returncode == 1
    assert "SEGUE_TORCH_INDEX has no CPU build" in done.stderr
    assert clone.installs() == []


def test_on_other_machines_than_x86_the_plain_build_is_for_cpus(clone: Clone) -> None:
    done = clone.setup(found="2.13.0", machine="aarch64")

    assert done.returncode == 0
    assert clone.installs() == ["python pip install uv", "uv -e .[cpu,dev]"]


def test_help_shows_the_extras_and_installs_nothing(clone: Clone) -> None:
    done = clone.setup("--help")

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: scripts/setup EXTRAS [DEBIAN_PACKAGE ...]\n")
    assert f"\n{', '.join(extras)}; " in done.stdout
    assert clone.installs() == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("",), "expected extras, got none"),
        (("--quiet",), "expected extras and Debian packages, got the option --quiet"),
        (("cpu", "-y"), "expected extras and Debian packages, got the option -y"),
        (("cpu,cud",), "expected an extra of pyproject.toml, got 'cud'"),
        (("cpu dev",), "expected an extra of pyproject.toml, got 'cpu dev'"),
    ],
)
def test_other_arguments_than_extras_and_packages_are_refused(
    clone: Clone, arguments: tuple[str, ...], error: str
) -> None:
    done = clone.setup(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"scripts/setup: {error}\nusage: ")
    assert clone.installs() == []
