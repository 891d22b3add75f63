"""What `segue serve` prints if it cannot start: one line, soon, without a traceback."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from segue.demo import checkpoint_dir
from segue.launch.serve import chat_words, http_words
from segue.security.config import SecurityConfig
from tests.cli.conftest import Command

WITHIN_S = 15.0
"""Long enough for any load on the machine."""
OPTIONS = ("serve", "--port", "0", "--no-http")

Refused = Callable[..., str]


@pytest.fixture
def refused(run_here: Command, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """The error line of a `segue serve` that starts nothing."""

    def refused(*arguments: str, **environment: str) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return error_line(lambda: run_here(*OPTIONS, *arguments))

    return refused


def error_line(run: Callable[[], subprocess.CompletedProcess[str]]) -> str:
    """All other lines that it printed are progress."""
    started_at = time.monotonic()
    done = run()
    elapsed_s = time.monotonic() - started_at
    assert done.returncode == 1
    assert elapsed_s < WITHIN_S
    *progress, error = done.stderr.splitlines()
    assert error.startswith("error ")
    assert all(" s " in line for line in progress), done.stderr
    assert done.stdout == ""
    return error


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (None, "cannot read the API keys in "),
        ("[tenants.acme]\nkeys = []\nfoo = 1\n", "[tenants.acme] has no 'foo'"),
    ],
)
def test_api_keys_are_read_before_ray_starts(
    refused: Refused, tmp_path: Path, keys: str | None, message: str
) -> None:
    path = tmp_path / "keys.toml"
    if keys is not None:
        path.write_text(keys)

    assert message in refused("--api-keys", str(path))


def test_a_tokenizer_that_was_cut_off_is_noticed_before_ray_starts(
    refused: Refused, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint_dir(), tmp_path / "model")
    (folder / "tokenizer.json").write_text("{")

    assert "tokenizer.json is truncated: download it again" in refused(str(folder))


def test_the_first_commands_say_what_tls_and_keys_need() -> None:
    tls = SecurityConfig(certificate="own.pem", key="own.key", ca="ca.pem")
    both = replace(tls, http_client_certificates=True)

    assert chat_words("h:1", SecurityConfig(), has_keys=False) == "segue chat --target h:1 'Hello'"
    assert chat_words("h:1", tls, has_keys=True) == (
        "SEGUE_API_KEY=KEY segue chat --target h:1 --tls-ca ca.pem --tls-cert FILE --tls-key FILE "
        "'Hello'"
    )
    _, curl, python = http_words(["h:2"], tls)
    assert "--cacert ca.pem -d" in curl
    assert 'http_client=openai.DefaultHttpxClient(verify="ca.pem"))' in python
    _, curl, python = http_words(["h:2"], both, has_keys=True)
    assert '--cacert ca.pem --cert FILE --key FILE -H "Authorization' in curl
    assert 'verify="ca.pem", cert=("FILE", "FILE"))' in python


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RAY_ADDRESS": "127.0.0.1:1"}, "Unavailable: nothing answers at 127.0.0.1:1"),
        ({"RAY_ADDRESS": "somewhere"}, "InvalidConfig: a Ray cluster's address is host:port"),
        ({"RAY_TMPDIR": "/proc/nowhere"}, "folder /proc/nowhere/ray cannot be written"),
        ({"RAY_TMPDIR": "/tmp/" + "x" * 90}, "is too long for its sockets"),
    ],
)
def test_rays_own_variables_are_checked_before_ray_starts(
    refused: Refused, environment: dict[str, str], message: str
) -> None:
    assert message in refused(**environment)


def test_too_few_open_files_are_refused() -> None:
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / "segue"), *OPTIONS],
            capture_output=True,
            text=True,
            timeout=60,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        )

    assert "a process may open 64 files here" in error_line(run)


def test_an_address_option_where_nothing_listens_is_refused(refused: Refused) -> None:
    error = refused("--ray-address", "127.0.0.1:1", RAY_ADDRESS="127.0.0.1:2")

    assert "nothing answers at 127.0.0.1:1, where Ray should be" in error


def test_errors_in_the_model_folder_are_reported_before_rays(
    refused: Refused, tmp_path: Path
) -> None:
    error = refused(str(tmp_path), RAY_TMPDIR="/proc/nowhere")

    assert f"InvalidCheckpoint: {tmp_path} is empty" in error


def test_errors_in_the_model_folder_are_reported_before_ray_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from segue.launch.config import ClusterConfig, Config\n"
        "from segue.launch.prepare import prepare\n"
        "from segue.api.errors import InvalidCheckpoint\n"
        f"config = Config(cluster=ClusterConfig(model={str(tmp_path)!r}))\n"
        "try:\n"
        "    prepare(config, lambda stage: None)\n"
        "except InvalidCheckpoint:\n"
        "    print([m for m in ('ray', 'torch') if m in sys.modules])\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
