"""A process with one registered buffer: prints its segment and address. Starts without torch."""

from __future__ import annotations

import ctypes
import sys
import time

from mooncake.engine import TransferEngine

from kv_transfer.transport.loopback_filter import only_from_loopback

NUM_BYTES = 1 << 16
HOST = "127.0.0.1"


def main() -> None:
    engine = TransferEngine()
    with only_from_loopback():
        assert engine.initialize(HOST, "P2PHANDSHAKE", "tcp", "") == 0
    buffer = (ctypes.c_ubyte * NUM_BYTES)()
    assert engine.register_memory(ctypes.addressof(buffer), NUM_BYTES) == 0
    sys.stdout.write(f"{HOST}:{engine.get_rpc_port()} {ctypes.addressof(buffer)}\n")
    sys.stdout.flush()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
