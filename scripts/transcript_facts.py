"""The parts of a transcript that are the same in every run: commands, answers, table layout.

Times, speeds, bytes and the workers differ, and so do an address and the memory in use.
"""

from __future__ import annotations

import json
import re

_UNITS = r"(?:ms|µs|s|tokens?/s|KiB)"
_RULES = (
    # The text under an answer. Either worker may compute a prompt's end.
    (r"prefill-\d+ → decode-\d+", "workers"),
    (r"· decode-\d+ ·", "· workers ·"),
    (r" \(\d+ reused\)", ""),
    (r" \(\d+ of \d+ drafts accepted\)", ""),
    (rf"\d+(?:\.\d+)? {_UNITS}\b", "#"),
    (r"(queue|prefill|transfer|exposed) [\d.]+", r"\1 #"),
    (r"· - ·", "· # ·"),
    # The header of a cluster's status.
    (r"\d+ (turn|session)s?\b( running)?", r"# \1s\2"),
    (r"\d+ (finished)", r"# \1"),
    (r", (\d+) resident", ", # resident"),
    (r"127\.0\.0\.1:\d+", "#"),
)
_CANDIDATE = re.compile(r"[▶ ] (compute|local|pull) +(\S+)")
_WORKER = re.compile(r"((?:prefill|decode)-\d+) +(ready|draining|lost) ")
# Line breaks that depend on the line's length, which numbers change.
_BREAK = re.compile(r"\n(?=first after |(?:prefill-\d+ → )?decode-\d+ · |\d+ sessions? · )")


def facts(transcript: str) -> list[str]:
    """One line per fact. Transcripts with equal facts give a reader the same information."""
    lines: list[str] = []
    for line in _BREAK.sub(" · ", transcript).splitlines():
        if found := _CANDIDATE.match(line):
            lines.append(f"candidate {found[1]} {found[2]}")
        elif found := _WORKER.match(line):
            lines.append(" ".join((found[1], found[2], *re.findall(r"/\d+ free", line))))
        elif line.startswith("{") and '"token_ids"' in line:
            lines += _answer_facts(json.loads(line))
        elif not re.match(r"  +\d+ (?:waiting|running|tok/s|cached)", line):
            lines.append(_masked(line))
    return _sorted_candidates(lines)


def _masked(line: str) -> str:
    line = re.sub(r"\s+", " ", line.strip())
    if line.startswith("mode workers tokens"):
        # A part that is 0 for every candidate has no column.
        return "mode workers tokens … total"
    if re.match(r"(?:prefill|decode)-\d+ [\d.]+ \+ ", line):
        return re.sub(r"\d+\.\d+", "#", line)
    for pattern, replacement in _RULES:
        line = re.sub(pattern, replacement, line)
    return line


def _answer_facts(answer: dict[str, object]) -> list[str]:
    """The facts of the object that `segue generate --json` prints."""
    same = {name: answer[name] for name in ("text", "token_ids", "finish_reason")}
    members = {
        name: sorted(value) if isinstance(value, dict) else None for name, value in answer.items()
    }
    return [json.dumps(same, ensure_ascii=False), json.dumps(members)]


def _sorted_candidates(lines: list[str]) -> list[str]:
    """The best candidate comes first, which depends on measurements."""
    candidates = sorted(line for line in lines if line.startswith("candidate "))
    return [candidates.pop(0) if line.startswith("candidate ") else line for line in lines]
