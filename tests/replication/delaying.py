"""A TCP proxy that hands on everything a while later: latency, where the kernel has no netem.

    python delaying.py ADDRESS PORT TARGET-PORT SECONDS

It listens on ADDRESS and connects to 127.0.0.1. Bytes on their way are few: whoever sends too much has to wait.
"""

import queue
import socket
import sys
import threading
import time

_PART = 1 << 14
_PARTS = 64


def forward(source: socket.socket, target: socket.socket, seconds: float) -> None:
    """Hand on one direction of a connection until it ends."""
    waiting: queue.Queue[tuple[float, bytes]] = queue.Queue(_PARTS)

    def write() -> None:
        while True:
            due, data = waiting.get()
            time.sleep(max(due - time.monotonic(), 0.0))
            try:
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)
            except OSError:
                return

    threading.Thread(target=write, daemon=True).start()
    while True:
        try:
            data = source.recv(_PART)
        except OSError:
            data = b""
        waiting.put((time.monotonic() + seconds, data))
        if not data:
            return


def main(address: str, port: int, target: int, seconds: float) -> None:
    with socket.create_server((address, port)) as server:
        print("ready", flush=True)
        while True:
            one, _ = server.accept()
            other = socket.create_connection(("127.0.0.1", target))
            for ends in ((one, other), (other, one)):
                threading.Thread(target=forward, args=(*ends, seconds), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
