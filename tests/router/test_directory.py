from __future__ import annotations

from router.directory import SessionDirectory
from router.policy import Residence
from segue.types import SessionId, WorkerId

HERE = Residence(prefill=WorkerId("p"), decode=WorkerId("d"))


def test_the_longest_unused_session_is_forgotten_first() -> None:
    directory = SessionDirectory(max_sessions=2)
    for name in ("a", "b", "a", "c"):
        directory.remember(SessionId(name), HERE)

    assert directory.find(SessionId("a")) == HERE
    assert directory.find(SessionId("b")) is None
    assert len(directory) == 2
