"""The README's transcripts: which parts must be right. `test_cli.py` compares them with a run."""

from __future__ import annotations

import json

import pytest

from scripts.transcript_facts import facts
from scripts.transcripts import blocks_of, differences, with_blocks

ANSWERED = """\
you Where do I live?
Your city is Lisbon.
37 in (16 reused), 5 out (3 of 8 drafts accepted) · 164 tokens/s · 226 KiB
prefill-0 → decode-0 · stop
first after 26 ms (queue 3, prefill 20, transfer 3, exposed 1)
"""
EXPLAINED = """\
$ segue explain agent-7
prompt 13 tokens, answer at most 256 · decided in 107 µs
tokens computed/moved, then ms
  mode     workers             tokens  compute  overhead  total
▶ local    decode-0              28/0     22.6       3.4   26.0
  compute  prefill-0→decode-0   76/28     26.6       3.4   36.2
first token: 26.0 ms expected, 22.6 ms taken
worker     prefill: ms + µs/token  move: ms + µs/MiB  step: ms + µs/turn
decode-0   20.23 + 83.3            6.07 + 636.5       6.03 + 60.3
"""
NARROW_STATUS = """\
ready · demo · router 127.0.0.1:7411
0 turns running, 4 finished, 0 cancelled, 0 failed
1 session · 6 tokens/s
worker     health  turns      pages             slots
decode-0   ready   0 running  16378/16384 free  92/96 free
                   0 waiting  6 cached
                   24 tok/s
"""
STATUS = """\
ready · demo · router 127.0.0.1:7411
0 turns running, 4 finished, 0 cancelled, 0 failed · 1 session · 6 tokens/s
worker     health  turns                           pages                       slots
decode-0   ready   0 running, 0 waiting, 24 tok/s  16378/16384 free, 6 cached  92/96 free
"""


def answer_of(text: str) -> str:
    """The object that `segue generate --json` prints."""
    answer = {
        "text": text,
        "token_ids": [5, 6],
        "finish_reason": "stop",
        "usage": {"shipped_bytes": 1},
        "timings": {"queue_s": 0.1},
        "prefill_worker": "prefill-0",
    }
    return json.dumps(answer)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (ANSWERED, ANSWERED.replace("26 ms", "31 ms").replace("prefill 20", "prefill 5")),
        (ANSWERED, ANSWERED.replace("prefill-0 → decode-0", "decode-0").replace("226", "0")),
        (ANSWERED, ANSWERED.replace(" (16 reused)", "").replace("164 tokens/s", "-")),
        (ANSWERED, ANSWERED.replace(" (3 of 8 drafts accepted)", "").replace("KiB\n", "KiB · ")),
        (
            ANSWERED.replace("prefill-0 → decode-0", "decode-0"),
            ANSWERED.replace("\nprefill-0 → decode-0 · stop\n", " · decode-0\nstop · "),
        ),
        (EXPLAINED, EXPLAINED.replace("22.6", "18.1").replace("107 µs", "90 µs")),
        (
            EXPLAINED,
            EXPLAINED.replace("▶ local    decode-0  ", "  local    decode-0  ").replace(
                "  compute  prefill-0", "▶ compute  prefill-0"
            ),
        ),
        (STATUS, STATUS.replace("16378/", "16380/").replace(", 6 cached", ", 4 working")),
        (STATUS, NARROW_STATUS),
        (STATUS, STATUS.replace("0 turns", "1 turn").replace("6 tokens/s", "1 token/s")),
        (STATUS, STATUS.replace("7411", "40123").replace("6 tokens/s", "9 tokens/s")),
        (
            answer_of("a"),
            answer_of("a")
            .replace("0.1", "0.2")
            .replace('"shipped_bytes": 1', '"shipped_bytes": 0'),
        ),
    ],
)
def test_values_that_vary_between_runs_are_no_difference(before: str, after: str) -> None:
    assert before != after
    assert facts(before) == facts(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (ANSWERED, ANSWERED.replace("Lisbon", "Lusbon")),
        (ANSWERED, ANSWERED.replace("Where do I live?", "Where am I?")),
        (ANSWERED, ANSWERED.replace(", 5 out", ", 6 out")),
        (ANSWERED, ANSWERED.replace("exposed", "not hidden")),
        (EXPLAINED, EXPLAINED.replace("agent-7", "agent-8")),
        (EXPLAINED, EXPLAINED.replace("prompt 13", "prompt 14")),
        (EXPLAINED, EXPLAINED.replace("step: ms", "decode step: ms")),
        (EXPLAINED, EXPLAINED.replace("  compute  prefill-0→decode-0   76/28     26.6", "")),
        (STATUS, STATUS.replace("slots", "states")),
        (STATUS, STATUS.replace("/16384", "/8192")),
        (STATUS, STATUS.replace("decode-0   ready", "decode-0   lost")),
        (answer_of("a"), answer_of("b")),
        (answer_of("a"), answer_of("a").replace("[5, 6]", "[5, 7]")),
        (answer_of("a"), answer_of("a").replace("queue_s", "waited_s")),
    ],
)
def test_text_that_would_mislead_a_reader_is_a_difference(before: str, after: str) -> None:
    assert before != after
    assert facts(before) != facts(after)


def test_blocks_are_written_between_their_markers() -> None:
    page = "a\n<!-- transcript: x -->\n```\nold \\1\n```\n<!-- end -->\nb\n"

    written = with_blocks(page, {"x": "$ new \\1\n"})

    assert written == page.replace("old \\1", "$ new \\1")
    assert blocks_of(written) == {"x": "$ new \\1\n"}
    assert differences(blocks_of(page), blocks_of(written)) != []
    with pytest.raises(ValueError, match="no markers for the transcript 'y'"):
        with_blocks(page, {"y": ""})
