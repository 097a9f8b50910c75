"""Bounds on answers: a time limit for all of an answer, and a limit on its decoded size."""

from __future__ import annotations

import socket
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from denoised_smoothing.remote.limits import LARGEST_ANSWER
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.vendors.base import VendorError, header

PIECE = 2**16
"""Bytes that are read or decoded at once."""
PLAIN = {"Accept-Encoding": "identity"}
"""Headers that ask for answers that are not compressed."""


def decoded(
    pieces: Iterator[bytes], headers: Mapping[str, str], largest: int = LARGEST_ANSWER
) -> Iterator[bytes]:
    """Yield the content of an answer, decoded in small pieces.

    Args:
        pieces: as they were received.
        headers: of the answer.
        largest: maximum bytes of the decoded answer.

    Raises:
        VendorError: it has more, or is compressed in another way than by gzip or deflate.
    """
    coding = (header(headers, "content-encoding") or "identity").strip().casefold()
    if coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise VendorError(
            Outcome.GARBLED, f"the answer is compressed with {coding!r}, which was not asked for"
        )
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32) if "gzip" in coding else None
    decoder = zlib.decompressobj() if coding == "deflate" else decoder
    total = 0
    for piece in pieces:
        for part in [piece] if decoder is None else _inflated(decoder, piece):
            total += len(part)
            if total > largest:
                raise VendorError(
                    Outcome.GARBLED,
                    f"the answer has more than {largest:,} bytes and was not read; "
                    "--largest-answer sets the maximum",
                )
            yield part


def _inflated(decoder: Any, piece: bytes) -> Iterator[bytes]:
    """Yield what a piece decodes to; a small one may hold gigabytes."""
    try:
        while piece and not decoder.eof:
            yield decoder.decompress(piece, PIECE)
            piece = decoder.unconsumed_tail
    except zlib.error as error:
        raise VendorError(
            Outcome.GARBLED, f"the answer cannot be decompressed ({error})"
        ) from error


def library_of(kind: type) -> Any:
    """Return the library that a class comes from: httpx, or the copy of it that an SDK has."""
    return import_module(kind.__module__.partition(".")[0])


class Watch:
    """Bounds the answers that one client gets; one thread at a time uses it.

    ``hooks`` are the ``event_hooks`` of an ``httpx.Client``. The time limit is for all of a query,
    from connecting to the last byte: when it has passed, the connection is shut down.

    Args:
        timeout: seconds.
        largest: maximum bytes of a decoded answer.
    """

    def __init__(self, timeout: float, largest: int = LARGEST_ANSWER) -> None:
        self._timeout, self._largest, self._lock = timeout, largest, threading.Lock()
        self._socket: socket.socket | None = None
        self._query, self._expired = 0, False
        self.hooks = {"request": [self._sent], "response": [self._received]}

    @contextmanager
    def limit(self) -> Iterator[None]:
        """Limit the time of a query.

        Raises:
            VendorError: the time has passed; an exception that this caused is its cause.
        """
        with self._lock:
            self._query += 1
            self._expired = False
        timer = threading.Timer(self._timeout, self._expire, [self._query])
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception as error:
            if self._expired and self._socket is not None:  # else it never connected
                raise self._late() from error
            raise
        finally:
            timer.cancel()
            with self._lock:
                self._query += 1  # a timer that runs already is too late
        if self._expired:  # the connection may have ended early
            raise self._late()

    def use(self, connection: socket.socket | None) -> None:
        """Note the socket of the query; it is shut down at once if the time has passed."""
        with self._lock:
            self._socket = connection
            if self._expired:
                self._shut()

    def _late(self) -> VendorError:
        return VendorError(Outcome.TIMEOUT, f"no whole answer within {self._timeout:g} s")

    def _expire(self, query: int) -> None:
        with self._lock:
            if query == self._query:
                self._expired = True
                self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # it is closed already
                self._socket.shutdown(socket.SHUT_RDWR)

    def _sent(self, request: Any) -> None:
        request.extensions = {**request.extensions, "trace": self._trace}

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Learn the socket of a new connection, which the client keeps for further queries."""
        stage, _, end = event.rpartition(".")
        if not stage.endswith(("connect_tcp", "start_tls")):
            return
        if end == "complete":
            self.use(info["return_value"].get_extra_info("socket"))
        elif stage.endswith("connect_tcp"):
            self.use(None)

    def _received(self, response: Any) -> None:
        """Read an answer, and leave it decoded."""
        content = b"".join(decoded(iter(response.stream), response.headers, self._largest))
        response.stream.close()
        response.stream = library_of(type(response)).ByteStream(content)
        response.headers.pop("content-encoding", None)
