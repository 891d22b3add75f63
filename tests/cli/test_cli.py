"""The command line as a person uses it: real processes, real files, exit statuses."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO

import pytest

from scripts.terminal import Start
from scripts.transcripts import README, blocks_of, differences, recorded_at, snippet_of
from segue import Client, SegueError, StopConditions, TokenInput
from segue.api.types import Message
from segue.cli.input import read_messages
from segue.demo import checkpoint_dir
from tests.cli.conftest import Command


def segue(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "segue"
    return subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, timeout=120, input=stdin
    )


@contextmanager
def serving(
    *arguments: str, stderr: IO[str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A `segue serve` that is ready, and the line that reports it."""
    program = Path(sys.executable).parent / "segue"
    process = subprocess.Popen(
        [str(program), "serve", *arguments], stdout=subprocess.PIPE, stderr=stderr, text=True
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


def all_logged(output: str) -> dict[str, set[str]]:
    """The levels of all lines, for each log of a `segue serve` with this output."""
    found = re.search(r"logs are in (\S+): segue-\*\.log", output)
    assert found is not None, output
    return {
        log.name: {line.split()[2] for line in log.read_text().splitlines()}
        for log in Path(found[1]).glob("segue-*.log")
    }


@dataclass(frozen=True, slots=True)
class Served:
    process: subprocess.Popen[str]
    ready: str
    """The line that reports it."""
    stderr: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A `segue serve` for the next two tests; the second one ends it."""
    path = tmp_path_factory.mktemp("served") / "stderr"
    with (
        path.open("w") as stderr,
        serving("--port", "0", "--http-port", "0", stderr=stderr) as (process, ready),
    ):
        assert ready.startswith("ready at 127.0.0.1:"), path.read_text()
        yield Served(process, ready, path)


def test_the_readmes_transcripts_equal_a_run(served: Served, start_segue: Start) -> None:
    readme = README.read_text()

    made = recorded_at(readme, served.ready, start_segue)

    assert differences(blocks_of(readme), made) == []
    assert "Client(" in snippet_of(readme)
    drawn = [line for text in made.values() for line in text.splitlines() if "·" in line]
    assert max(map(len, drawn)) <= 80


def test_serve_answers_and_ends_cleanly_on_sigterm(
    served: Served, run_here: Command, tmp_path: Path
) -> None:
    messages = tmp_path / "messages.json"
    messages.write_text(json.dumps([{"role": "user", "content": "Hello"}]))
    target = ("--target", served.ready.split()[2])

    whole = segue("generate", "--messages", str(messages), "--json", *target)
    by_ids = run_here(
        "generate",
        "--input-ids",
        "5,6,7",
        "--ignore-eos",
        "--max-tokens",
        "3",
        "--prompt-logprobs",
        "2",
        "--json",
        *target,
    )
    one = run_here("chat", "Hello", "--session", "agent", *target)
    why = run_here("explain", "agent", *target)
    why_json = run_here("explain", "agent", "--json", *target)
    unknown = run_here("explain", "nobody", *target)
    talk = segue("chat", *target, stdin="Hello\n\n")
    status = run_here("status", "--json", *target)
    table = run_here("status", *target)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 0

    assert all_logged(served.stderr.read_text()) == {
        "segue-gateway.log": {"INFO"},
        "segue-router.log": {"INFO"},
        "segue-prefill-0.log": {"INFO"},
        "segue-decode-0.log": {"INFO"},
    }
    answer = json.loads(whole.stdout)
    assert set(answer) >= {
        "text",
        "token_ids",
        "finish_reason",
        "usage",
        "timings",
        "prefill_worker",
        "decode_worker",
    }
    assert answer["finish_reason"] == "stop"
    assert answer["usage"]["shipped_bytes"] > 0
    assert answer["prompt_logprobs"] is None
    scored = json.loads(by_ids.stdout)
    assert len(scored["token_ids"]) == 3
    assert [token["token_id"] for token in scored["prompt_logprobs"]] == [5, 6, 7]
    assert [len(token["top_logprobs"]) for token in scored["prompt_logprobs"]] == [0, 2, 2]
    assert answer["text"] in one.stdout
    assert "first after" in one.stdout
    assert answer["text"] in talk.stdout
    assert status.returncode == table.returncode == 0
    assert json.loads(status.stdout)["ready"] is True
    assert {w["worker_id"] for w in json.loads(status.stdout)["workers"]} == {
        "prefill-0",
        "decode-0",
    }
    assert "decode-0" in table.stdout
    assert "▶ compute  prefill-0→decode-0" in why.stdout
    assert "ms taken" in why.stdout
    explanation = json.loads(why_json.stdout)
    assert explanation["candidates"][0]["chosen"] is True
    assert explanation["actual_s"] > 0
    assert unknown.returncode == 1
    assert "NotFound: no decision is remembered" in unknown.stderr


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_running_turns(tmp_path: Path) -> None:
    settings = tmp_path / "segue.toml"
    settings.write_text("[engine]\nnum_threads = 1\ncache_bytes = 67108864\n")
    progress = tmp_path / "progress"

    with (
        progress.open("w") as errors,
        serving("--port", "0", "--config", str(settings), stderr=errors) as (server, line),
    ):

        async def interrupt_a_turn() -> None:
            endless = StopConditions(max_tokens=8000, ignore_eos=True)
            async with Client(line.split()[2]) as client:
                async for _ in client.stream(TokenInput((5, 6, 7)), stop=endless):
                    break_in(server, progress)

        with pytest.raises(SegueError):
            asyncio.run(interrupt_a_turn())
        assert server.wait(20) == 0

    assert "draining: 1 turn running, waiting 30 s at most; Ctrl-C again stops now" in (
        progress.read_text()
    )
    assert progress.read_text().endswith(" stopped\n")


def break_in(server: subprocess.Popen[str], progress: Path) -> None:
    """Ctrl-C, and again once it reports that it drains."""
    if "draining" not in progress.read_text():
        server.send_signal(signal.SIGINT)
        ends_at = time.monotonic() + 20
        while "draining" not in progress.read_text():
            assert time.monotonic() < ends_at
            time.sleep(0.05)
        server.send_signal(signal.SIGINT)


def test_print_config_shows_the_effective_settings_and_can_be_read_back(
    run_here: Command, tmp_path: Path
) -> None:
    shown = run_here("serve", "--print-config", "--decode", "3")
    again = tmp_path / "again.toml"
    again.write_text(shown.stdout)

    assert "decode = 3" in shown.stdout
    assert run_here("serve", "--print-config", "--config", str(again)).stdout == shown.stdout


def test_simulated_acceptance_is_announced_and_needs_a_probability(run_here: Command) -> None:
    shown = run_here("serve", "--print-config", "--simulate-acceptance", "0.8")
    plain = run_here("serve", "--print-config")
    refused = run_here("serve", "--print-config", "--simulate-acceptance", "1.5")

    assert "simulate_acceptance = 0.8" in shown.stdout
    assert (
        "warning drafts are accepted at random (0.8): answers are NOT the model's" in shown.stderr
    )
    assert "NOT the model's" not in plain.stderr
    assert refused.returncode == 1
    assert "InvalidConfig: [decode] simulate_acceptance must be a probability" in refused.stderr


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A copy of the demo checkpoint, to be broken."""
    return Path(shutil.copytree(checkpoint_dir(), tmp_path / "model"))


def test_serve_refuses_a_folder_without_config(run_here: Command, broken: Path) -> None:
    (broken / "config.json").unlink()

    refused = run_here("serve", str(broken), "--port", "0")

    assert refused.returncode == 1
    assert f"InvalidCheckpoint: {broken} has no config.json" in refused.stderr


def test_serve_refuses_a_folder_with_a_missing_shard(run_here: Command, broken: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))

    refused = run_here("serve", str(broken), "--port", "0")

    assert refused.returncode == 1
    assert "lacks the weights model-00002-of-00002.safetensors (model.safe" in refused.stderr


def test_serve_refuses_an_unsupported_architecture(run_here: Command, broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(
        json.dumps(config | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    )

    refused = run_here("serve", str(broken), "--port", "0")

    assert refused.returncode == 1
    assert "LlamaForCausalLM" in refused.stderr
    assert "Qwen3_5ForCausalLM" in refused.stderr


def test_serve_refuses_a_taken_port(run_here: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        refused = run_here("serve", "--port", str(port))

    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in refused.stderr


def test_serve_refuses_a_taken_port_of_http(run_here: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        refused = run_here("serve", "--port", "0", "--http-port", str(port))

    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in refused.stderr
    assert "--http-port" in refused.stderr


def test_the_version_is_the_packages() -> None:
    shown = segue("--version")

    assert shown.returncode == 0
    assert shown.stdout == f"segue {metadata.version('segue')}\n"


def test_help_explains_the_options(run_here: Command) -> None:
    assert "Show the version and exit." in run_here("--help").stdout


@pytest.mark.parametrize(
    "command",
    [["status"], ["chat"], ["chat", "Hello"], ["generate", "--prompt", "x"], ["explain", "agent"]],
)
def test_if_nothing_listens_the_error_names_the_command_to_start(
    run_here: Command, command: list[str]
) -> None:
    with socket.socket() as bound:
        # Bound but not listening: every connection is refused.
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"

        refused = run_here(*command, "--target", address)

    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr == (
        f"error Unavailable: router {address}: connection refused, nothing listens there: "
        "start one with `segue serve`, or name its address with --target\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "--target", "127.0.0.1:1"], "Unavailable: router 127.0.0.1:1"),
        (["generate", "--target", "127.0.0.1:1"], "give exactly one of --prompt"),
        (
            ["generate", "--prompt", "x", "--input-ids", "1"],
            "one of --prompt, --messages and --input-ids, got --prompt and --input-ids\n",
        ),
        (["generate", "--input-ids", "1,x"], "takes comma-separated numbers"),
        (["generate", "--prompt", "x", "--temperature", "-1"], "temperature must be between"),
        (["generate", "--messages", "/nowhere.json"], "cannot read /nowhere.json"),
        (["generate", "--prompt", "x", "--thinking"], "need --messages"),
        (["generate", "--prompt", "x", "--json-schema", "/nowhere"], "cannot read /nowhere"),
        (["generate", "--prompt", "x", "--logprobs", "2"], "--logprobs needs --json"),
        (["generate", "--prompt", "x", "--prompt-logprobs", "2"], "--prompt-logprobs needs --json"),
        (
            ["generate", "--prompt", "x", "--prompt-logprobs", "21", "--json"],
            "prompt_logprobs must be between 0 and 20",
        ),
        (["serve", "--config", "/nowhere.toml"], "cannot read configuration /nowhere.toml"),
        (["serve", "--prefill", "0"], "[cluster] prefill must be >= 1, got 0"),
    ],
)
def test_an_error_is_reported_in_one_line(
    run_here: Command, arguments: list[str], message: str
) -> None:
    refused = run_here(*arguments)

    assert refused.returncode == 1
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"role": "user", "content": "\\ud800"}]', "half of a surrogate pair"),
        (b'[{"role": "user", "content": 5}]', "messages[0].content must be a text or a list"),
        (b'[{"role": "user", "content": "\xff"}]', "is not valid JSON"),
        (b"[" + b"9" * 5000 + b"]", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"messages": [], "tools": 1}', "tools must be a JSON array"),
    ],
)
def test_an_invalid_file_is_refused_by_its_name(
    run_here: Command, tmp_path: Path, content: bytes, message: str
) -> None:
    messages = tmp_path / "messages.json"
    messages.write_bytes(content)

    refused = run_here("generate", "--messages", str(messages))

    assert refused.returncode == 1
    assert message in refused.stderr
    assert str(messages) in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_file_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    messages = tmp_path / "messages.json"
    messages.write_text('[{"role": "user", "content": "q"}]', "utf-8-sig")

    assert read_messages(messages).messages == (Message(role="user", content="q"),)
