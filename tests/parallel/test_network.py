"""Connections of ranks over a network: nothing unauthenticated is unpickled."""

from __future__ import annotations

import contextlib
import hmac
import pickle
import queue
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segue.parallel.followers import Followers, Link
from segue.parallel.following import Leader
from segue.parallel.network import Credentials, Listener, MessageChannel, dial
from segue.parallel.rank import RanksLost

HOST = "127.0.0.1"
CREDENTIALS = Credentials(secret=b"the-secret-of-this-cluster")
PATIENCE_S = 30.0


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    with contextlib.closing(Listener(HOST, CREDENTIALS)) as listener:
        yield listener


OPENED: list[MessageChannel] = []


@pytest.fixture(autouse=True)
def closes_what_was_opened() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def dialled(port: int, index: int, credentials: Credentials = CREDENTIALS) -> MessageChannel:
    OPENED.append(dial(HOST, port, index, credentials))
    return OPENED[-1]


def connected(listener: Listener, index: int = 1) -> tuple[MessageChannel, MessageChannel]:
    """The leader's end and the follower's."""
    theirs = dialled(listener.port, index)
    came = listener.next(PATIENCE_S)
    assert came is not None
    assert came[0] == index
    OPENED.append(came[1])
    return came[1], theirs


def test_objects_arrive_in_order_and_both_ways_at_once() -> None:
    sent = [list(range(n)) for n in (0, 1, 1000, 300_000)] * 5
    with listening() as listener:
        leader, follower = connected(listener)
        received: dict[str, list[object]] = {"leader": [], "follower": []}

        def talk(name: str, channel: MessageChannel) -> None:
            sender = threading.Thread(target=lambda: [channel.send(one) for one in sent])
            sender.start()
            received[name] += [channel.recv() for _ in sent]
            sender.join()

        other = threading.Thread(target=talk, args=("follower", follower))
        other.start()
        talk("leader", leader)
        other.join()
        assert received == {"leader": sent, "follower": sent}

        leader.close()
        with pytest.raises((EOFError, OSError)):
            follower.recv()


def test_without_the_secret_neither_a_rank_nor_a_leader_is_accepted() -> None:
    with listening() as listener:
        stranger = dialled(listener.port, 1, Credentials(secret=b"another secret"))
        with pytest.raises((EOFError, OSError)):
            stranger.recv()
        assert listener.next(0.0) is None
        # Others are still accepted.
        leader, follower = connected(listener, 2)
        leader.send("setup")
        assert follower.recv() == "setup"

    def repeat(server: socket.socket) -> None:
        """A leader without the secret, which echoes what it receives."""
        with server.accept()[0] as accepted:
            while data := accepted.recv(4096):
                accepted.sendall(data)

    with socket.create_server((HOST, 0)) as server:
        impostor = threading.Thread(target=repeat, args=(server,))
        impostor.start()
        follower = dialled(server.getsockname()[1], 1)
        with pytest.raises(ConnectionError, match="does not carry the cluster's secret"):
            follower.recv()
        follower.close()
        impostor.join()


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self._path,)


def drain(stranger: socket.socket) -> None:
    """Reads until the other side closes the connection."""
    with contextlib.suppress(ConnectionResetError):
        while stranger.recv(4096):
            pass


def test_an_unauthenticated_pickle_is_not_read(tmp_path: Path) -> None:
    body = pickle.dumps(Touch(tmp_path / "touched"))
    pickle.loads(body)
    (tmp_path / "touched").unlink()
    for code in (bytes(32), hmac.digest(b"guessed", body, "sha256")):
        with listening() as listener, socket.create_connection((HOST, listener.port)) as stranger:
            stranger.sendall(b"segue-r1" + secrets.token_bytes(32))
            stranger.sendall(struct.pack("!Q", len(body)) + code + body)
            drain(stranger)

    assert not (tmp_path / "touched").exists()


def test_an_unauthenticated_process_cannot_make_a_leader_allocate_memory() -> None:
    with listening() as listener, socket.create_connection((HOST, listener.port)) as stranger:
        stranger.sendall(b"segue-r1" + secrets.token_bytes(32))
        stranger.sendall(struct.pack("!Q", 1 << 29) + bytes(32))
        drain(stranger)
        assert listener.next(0.0) is None


class Wire:
    """A stream whose messages can be changed before they reach the other end."""

    def __init__(self) -> None:
        self.sent: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.other: Wire = self
        self.change: Callable[[list[bytes]], list[bytes]] = lambda messages: messages
        self.kept: list[bytes] = []
        self.ready = b""

    def send_all(self, data: bytes) -> None:
        self.kept.append(data)

    def deliver(self) -> None:
        for data in self.change(self.kept):
            self.other.sent.put(data)
        self.kept = []

    def receive(self, num_bytes: int) -> bytes:
        while len(self.ready) < num_bytes:
            self.ready += self.sent.get(timeout=PATIENCE_S)
        taken, self.ready = self.ready[:num_bytes], self.ready[num_bytes:]
        return taken

    def close(self) -> None: ...


def ends() -> tuple[Wire, MessageChannel, MessageChannel]:
    """The wire from a leader, and both channels."""
    ours, theirs = Wire(), Wire()
    ours.other, theirs.other = theirs, ours
    made: list[MessageChannel] = []
    greeting = threading.Thread(
        target=lambda: made.append(MessageChannel(theirs, CREDENTIALS.secret, leads=False))
    )
    theirs.send_all = lambda data: ours.sent.put(data)  # type: ignore[method-assign]
    sends = ours.send_all
    ours.send_all = lambda data: theirs.sent.put(data)  # type: ignore[method-assign]
    greeting.start()
    leader = MessageChannel(ours, CREDENTIALS.secret, leads=True)
    greeting.join()
    ours.send_all = sends  # type: ignore[method-assign]
    return ours, leader, made[0]


CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "changed": lambda m: [m[0][:-1] + bytes([m[0][-1] ^ 1]), *m[1:]],
    "repeated": lambda m: [m[0], m[0], *m[1:]],
    "left out": lambda m: m[1:],
    "exchanged": lambda m: [m[1], m[0], *m[2:]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_tampered_message_ends_the_connection(change: str) -> None:
    wire, leader, follower = ends()
    wire.change = CHANGES[change]
    for number in range(3):
        leader.send(["message", number])
    wire.deliver()

    if change == "repeated":
        assert follower.recv() == ["message", 0]
    with pytest.raises(ConnectionError, match="does not carry the cluster's secret"):
        follower.recv()


def test_a_leaders_message_is_not_valid_as_a_followers() -> None:
    """Each direction of a connection has its own key."""
    wire, leader, _ = ends()
    wire.other = wire
    leader.send("to a follower")
    wire.deliver()

    with pytest.raises(ConnectionError, match="does not carry"):
        leader.recv()


def test_followers_receive_and_answer_messages_over_a_network() -> None:
    lost: queue.SimpleQueue[RanksLost] = queue.SimpleQueue()
    received: list[list[object]] = [[], []]

    def serve(channel: MessageChannel, index: int) -> None:
        leader = Leader(channel)
        assert leader.setup() == f"setup {index}"
        leader.serve({"note": received[index].append, "noted": lambda: list(received[index])})
        channel.close()

    with listening() as listener:
        links = []
        for index in range(2):
            channel, theirs = connected(listener, index + 1)
            threading.Thread(target=serve, args=(theirs, index), daemon=True).start()
            channel.send(f"setup {index}")
            links.append((channel, theirs))
        followers = Followers([Link(ours, f"{n}") for n, (ours, _) in enumerate(links)], lost.put)
        for number in range(50):
            followers.tell("note", number)
        assert followers.ask_all("noted") == [list(range(50))] * 2

        links[1][1].close()
        assert "rank 2 (1) has ended" in str(lost.get(timeout=PATIENCE_S))
        followers.close()
    assert lost.empty()
