"""`segue chat` at a terminal: its end, its history, its suggestions."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from scripts.terminal import CTRL_C, CTRL_D, UP, Start, Terminal, terminal
from segue.demo import SUGGESTIONS
from tests.cli.conftest import Command
from tests.cli.fake_router import BROKEN, ENDLESS, FakeRouter, fake_router

PROGRAM = Path(sys.executable).parent / "segue"
Chatting = Callable[..., AbstractContextManager[Terminal]]
"""`at_terminal` without `start`."""
CLOSING = "/help lists what can be typed; Ctrl-D or /exit ends the conversation."


@pytest.fixture
def router() -> Iterator[FakeRouter]:
    with fake_router() as router:
        yield router


@pytest.fixture
def chatting(start_segue: Start) -> Chatting:
    return partial(at_terminal, start=start_segue)


def at_terminal(
    router: FakeRouter,
    state: Path,
    *options: str,
    columns: int = 80,
    start: Start | None = None,
) -> AbstractContextManager[Terminal]:
    command = [str(PROGRAM), "chat", "--target", router.address, *options]
    env = {**os.environ, "XDG_STATE_HOME": str(state)}
    # The terminal's width.
    env.pop("COLUMNS", None)
    return terminal(command, columns=columns, env=env, start=start)


@pytest.mark.parametrize("ending", [CTRL_C, CTRL_D, "/exit\n", "/quit\n"])
def test_a_conversation_ends_at_the_prompt(
    chatting: Chatting, router: FakeRouter, tmp_path: Path, ending: str
) -> None:
    with chatting(router, tmp_path) as screen:
        at_prompt = screen.wait_for("you ")
        screen.type("Hello\n")
        answered = screen.wait_for("answer 1", since=at_prompt)
        screen.wait_for("you ", since=answered)

        assert screen.wait_for_end(timeout_s=20, pressing=ending) == 0
        assert "Traceback" not in screen.screen
        # The shell's own prompt starts on a new line.
        assert screen.screen.endswith("\n")


def test_ctrl_c_cancels_the_answer_and_the_conversation_continues(
    chatting: Chatting, router: FakeRouter, tmp_path: Path
) -> None:
    with chatting(router, tmp_path) as screen:
        screen.wait_for("you ")
        screen.type(f"{ENDLESS}\n")
        screen.wait_for("more more ")
        screen.type(CTRL_C)
        cancelled = screen.wait_for("cancelled")
        screen.wait_for("you ", since=cancelled)
        screen.type("Hello\n")
        # The cancelled turn is not part of the history.
        answered = screen.wait_for("answer 1", since=cancelled)
        screen.wait_for("you ", since=answered)
        screen.type(CTRL_D)

        assert screen.wait_for_end(timeout_s=20) == 0
        assert "Traceback" not in screen.screen
    assert router.num_cancelled == 1


def test_ctrl_c_during_a_single_turn_ends_the_program(router: FakeRouter, tmp_path: Path) -> None:
    with at_terminal(router, tmp_path, ENDLESS) as screen:
        screen.wait_for("more more ")
        screen.type(CTRL_C)

        assert screen.wait_for_end(timeout_s=20) == 130
        assert "Traceback" not in screen.screen
    _wait_until(lambda: router.num_cancelled == 1)


def test_typed_lines_can_be_recalled_in_the_next_conversation(
    chatting: Chatting, router: FakeRouter, tmp_path: Path
) -> None:
    for typed in ("a first question\n", f"{UP}\n"):
        with chatting(router, tmp_path) as screen:
            screen.wait_for("you ")
            screen.type(typed)
            answered = screen.wait_for("answer 1")
            screen.wait_for("you ", since=answered)
            assert screen.wait_for_end(timeout_s=20, pressing=CTRL_C) == 0

    history = tmp_path / "segue" / "chat_history"
    assert router.asked == ["a first question"] * 2
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_a_line_can_be_edited(chatting: Chatting, router: FakeRouter, tmp_path: Path) -> None:
    with chatting(router, tmp_path) as screen:
        screen.wait_for("you ")
        # Two characters back, one deleted, one typed.
        screen.type("hallo\x1b[D\x1b[D\x1b[D\x7fe\n")
        screen.wait_for("answer 1")

    assert router.asked == ["hello"]


@pytest.mark.parametrize("option", ["--no-history", ""])
def test_an_unwanted_or_unwritable_history_is_not_kept(
    chatting: Chatting, router: FakeRouter, tmp_path: Path, option: str
) -> None:
    state = tmp_path / "state"
    if not option:
        state.write_text("no folder")
    with chatting(router, state, *([option] if option else [])) as screen:
        screen.wait_for("you ")
        screen.type("Hello\n")
        answered = screen.wait_for("answer 1")
        screen.wait_for("you ", since=answered)

        assert screen.wait_for_end(timeout_s=20, pressing=CTRL_C) == 0
        assert "Traceback" not in screen.screen
    assert not (state / "segue").exists()


def test_questions_that_the_demo_model_can_answer_are_suggested(
    chatting: Chatting, router: FakeRouter, tmp_path: Path
) -> None:
    with chatting(router, tmp_path) as screen:
        screen.wait_for("you ")

        assert all(f"  {suggestion}\n" in screen.screen for suggestion in SUGGESTIONS)
        assert CLOSING in screen.screen


def test_nothing_is_suggested_for_another_model(chatting: Chatting, tmp_path: Path) -> None:
    with fake_router("Qwen/Qwen3.5-0.8B") as router, chatting(router, tmp_path) as screen:
        screen.wait_for("you ")

        assert not any(suggestion in screen.screen for suggestion in SUGGESTIONS)
        assert CLOSING in screen.screen


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_timings_under_an_answer_fit_the_terminal(
    chatting: Chatting, router: FakeRouter, tmp_path: Path, columns: int
) -> None:
    with chatting(router, tmp_path, "Hello", columns=columns) as screen:
        assert screen.wait_for_end(timeout_s=20) == 0

    timings = screen.screen.partition("answer 1\n")[2].splitlines()
    assert len(timings) == (1 if columns == 200 else 2)
    assert " ".join(timings).split(" · ")[0] == "7 in, 2 out"
    assert "prefill-0 → decode-0 · stop" in timings[0]
    # A terminal narrower than 80 columns wraps lines itself.
    assert all(len(line) <= max(columns, 80) for line in timings)


def test_an_empty_line_prompts_again_and_help_lists_the_commands(
    chatting: Chatting, router: FakeRouter, tmp_path: Path
) -> None:
    with chatting(router, tmp_path) as screen:
        asked = screen.wait_for("you ")
        for line, answer in (
            ("\n", ""),
            ("  \n", ""),
            ("/help\n", "/exit"),
            ("/x\n", "command /x;"),
        ):
            screen.type(line)
            asked = screen.wait_for("you ", since=screen.wait_for(answer, since=asked))
        screen.type("/usr/bin is a folder\n")
        answered = screen.wait_for("answer 1", since=asked)
        screen.wait_for("you ", since=answered)

        assert screen.wait_for_end(timeout_s=20, pressing=CTRL_D) == 0
    assert router.asked == ["/usr/bin is a folder"]


def piped(router: FakeRouter, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), "chat", "--target", router.address, *options]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


def test_input_from_a_pipe_gets_answers_and_no_prompts(router: FakeRouter) -> None:
    done = piped(router, "one\n\n/help\n/exit\nthree\n")

    assert (done.returncode, done.stderr) == (0, "")
    answers = [line for line in done.stdout.splitlines() if "answer" in line or "you" in line]
    assert answers == ["answer 1", "answer 3"]
    assert done.stdout.startswith("answer 1\n")
    assert router.asked == ["one", "/help"]


def test_with_output_into_a_pipe_prompts_go_to_stderr(router: FakeRouter, tmp_path: Path) -> None:
    written = tmp_path / "written"
    script = f"'{PROGRAM}' chat --no-history --target {router.address} > '{written}'"
    with terminal(["sh", "-c", script], columns=80, env=dict(os.environ)) as screen:
        screen.wait_for(CLOSING)
        screen.wait_for("you ")
        screen.type("Hello\n")
        _wait_until(lambda: "answer 1" in written.read_text())

        assert screen.wait_for_end(timeout_s=20, pressing=CTRL_D) == 0
    assert written.read_text().startswith("answer 1\n7 in, 2 out")
    assert "you" not in written.read_text()


@pytest.mark.parametrize("message", ["", "  "])
def test_an_empty_message_is_refused(run_here: Command, router: FakeRouter, message: str) -> None:
    refused = run_here("chat", "--target", router.address, message)

    assert refused.returncode == 1
    assert refused.stderr == (
        "error InvalidRequest: the message is empty: expected text to answer\n"
    )
    assert router.asked == []


ROUTER_PROGRAM = """\
import time
from tests.cli.fake_router import fake_router
with fake_router() as router:
    print(router.address, flush=True)
    time.sleep(60)
"""


def test_a_router_that_dies_during_an_answer_is_waited_for_until_ctrl_c(
    chatting: Chatting, tmp_path: Path
) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", ROUTER_PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with chatting(FakeRouter(address=address), tmp_path) as screen:
            screen.wait_for("you ")
            screen.type(f"{ENDLESS}\n")
            screen.wait_for("more more ")
            process.kill()
            process.wait(10)
            screen.type(CTRL_C)
            cancelled = screen.wait_for("cancelled; the conversation continues without this turn")
            screen.wait_for("you ", since=cancelled)
            assert screen.wait_for_end(timeout_s=20, pressing=CTRL_D) == 0


def test_the_error_that_ends_an_answer_is_on_its_own_line(
    chatting: Chatting, router: FakeRouter, tmp_path: Path
) -> None:
    with chatting(router, tmp_path, columns=200) as screen:
        screen.wait_for("you ")
        screen.type(f"{BROKEN}\n")
        failed = screen.wait_for("error TransferFailed: ")
        screen.wait_for("you ", since=failed)
        assert screen.wait_for_end(timeout_s=20, pressing=CTRL_D) == 0

    shown = screen.screen[screen.screen.index("more ") :]
    assert shown.startswith(
        "more \nerror TransferFailed: the bytes did not arrive\n"
        "the conversation can continue without this turn\n"
    )


def _wait_until(holds, timeout_s: float = 10.0) -> None:  # type: ignore[no-untyped-def]
    ends_at = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.02)
