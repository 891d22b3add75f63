"""A follower without a model: `python -m tests.parallel.echo_follower FD`."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Future
from multiprocessing.connection import Connection

from segue.parallel.following import Leader


def later(value: object) -> Future[object]:
    """Answered on another thread."""
    answer: Future[object] = Future()
    threading.Timer(0.01, answer.set_result, [value]).start()
    return answer


def fail(words: str) -> None:
    raise ValueError(words)


def never() -> Future[None]:
    return Future()


def main() -> None:
    leader = Leader(Connection(int(sys.argv[1])))
    name = leader.setup()
    noted: list[object] = []
    leader.serve(
        {
            "name": lambda: name,
            "note": noted.append,
            "noted": lambda: noted,
            "later": later,
            "fail": fail,
            "never": never,
        }
    )


if __name__ == "__main__":
    main()
