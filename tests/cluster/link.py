"""What lies between a worker and the API, and can be cut: packets get lost, or a proxy finds nobody behind it."""

import socket
import threading
from contextlib import suppress
from enum import Enum, auto

CHUNK_BYTES = 65_536
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Fault(Enum):
    """What becomes of requests."""

    LOST = auto()
    """They are taken, and nothing ever comes back."""
    UNAVAILABLE = auto()
    """They are answered with 503."""


class Link:
    """Passes on what comes to an address of its own, until it is told otherwise."""

    def __init__(self, port: int):
        self._port = port
        self._fault: Fault | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._severed: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="link", daemon=True).start()

    def cut(self, fault: Fault) -> None:
        """Let nothing through any more."""
        with self._lock:
            self._fault = fault
            self._severed |= self._open
            self._open.clear()
        if fault is Fault.UNAVAILABLE:
            self._end_severed()

    def mend(self) -> None:
        self._fault = None
        self._end_severed()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut(Fault.LOST)
        self._end_severed()

    def _end_severed(self) -> None:
        with self._lock:
            severed, self._severed = self._severed, set()
        for end in severed:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(caller,), name="link", daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with self._lock:
            fault = self._fault
            if fault is Fault.LOST:
                self._severed.add(caller)
        with suppress(OSError):
            if fault is Fault.UNAVAILABLE:
                _refuse(caller)
            elif fault is None:
                record = socket.create_connection(("127.0.0.1", self._port))
                with self._lock:
                    (self._open if self._fault is None else self._severed).update((caller, record))
                threading.Thread(target=self._pass_on, args=(record, caller), name="link", daemon=True).start()
                self._pass_on(caller, record)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                if source in self._open:
                    target.sendall(data)
        with self._lock:
            if source in self._severed:
                # Nobody learns of it.
                return
            self._open -= {source, target}
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def _refuse(caller: socket.socket) -> None:
    """Read a request to its end, and answer it."""
    with caller:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := caller.recv(CHUNK_BYTES)):
                return
            head += data
        head, _, body = head.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        missing = int(lengths[0]) - len(body) if lengths else 0
        while missing > 0 and (data := caller.recv(CHUNK_BYTES)):
            missing -= len(data)
        caller.sendall(UNAVAILABLE)
