"""Bounds on answers: a time limit for all of an answer, and a limit on its decoded size."""

from __future__ import annotations

import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from io import BytesIO
from typing import Any

from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.vendors.base import VendorError, header

MOST_BYTES = 16 * 2**20
"""Bytes of a decoded answer that are read at most; an answer with 20,000 labels has 2 MB."""
PIECE = 2**16
"""Bytes that are read or decoded at once."""
PLAIN = {"Accept-Encoding": "identity"}
"""Headers that ask for answers that are not compressed."""


def too_large() -> VendorError:
    """Return the error for an answer above :data:`MOST_BYTES`."""
    return VendorError(
        Outcome.GARBLED, f"the answer has more than {MOST_BYTES // 2**20} MiB, and was not read"
    )


def decoded(pieces: Iterator[bytes], headers: Mapping[str, str]) -> Iterator[bytes]:
    """Yield the content of an answer, decoded in small pieces.

    Args:
        pieces: as they were received.
        headers: of the answer.

    Raises:
        VendorError: it has more than :data:`MOST_BYTES`, or is compressed in another way than by
            gzip or deflate.
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
            if total > MOST_BYTES:
                raise too_large()
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
    """Bounds the answers that one ``httpx.Client`` gets; one thread at a time uses it.

    ``hooks`` are the client's ``event_hooks``. The time limit is for all of a query, from
    connecting to the last byte: when it has passed, the connection is shut down.

    Args:
        timeout: seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout, self._lock = timeout, threading.Lock()
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
        with self._lock:
            if end == "complete":
                self._socket = info["return_value"].get_extra_info("socket")
            elif stage.endswith("connect_tcp"):
                self._socket = None
            if self._expired:
                self._shut()

    def _received(self, response: Any) -> None:
        """Read an answer, and leave it decoded."""
        content = b"".join(decoded(iter(response.stream), response.headers))
        response.stream.close()
        response.stream = library_of(type(response)).ByteStream(content)
        response.headers.pop("content-encoding", None)


def bound_response(timeout: float) -> Callable[..., None]:
    """Return a hook for sessions of requests that reads answers within the bounds.

    The time limit holds from the first byte of the content on; each wait before it has that of
    the session.

    Args:
        timeout: seconds.
    """

    def read(response: Any, *_: object, **__: object) -> None:
        response.raw = _Content(_bounded(response.raw, response.headers, timeout))
        response.headers.pop("content-encoding", None)

    return read


class BoundSession:
    """Wraps the session of botocore, to read answers within the bounds.

    Args:
        session: a ``URLLib3Session``.
        timeout: seconds for the content, from its first byte on.
    """

    def __init__(self, session: Any, timeout: float) -> None:
        self._session, self._timeout = session, timeout

    def send(self, request: Any) -> Any:
        """Send a request; return the answer, whose content is read."""
        request.stream_output = True  # else the session reads it all
        response = self._session.send(request)
        response.raw = _Content(_bounded(response.raw, response.headers, self._timeout))
        response.headers.pop("content-encoding", None)
        return response

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


class _Content(BytesIO):
    """Content that was read, for readers of urllib3's responses."""

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        """Yield the content."""
        yield self.read()


def _bounded(raw: Any, headers: Mapping[str, str], timeout: float) -> bytes:
    """Return the decoded content of a response of urllib3."""
    ends = time.monotonic() + timeout

    def pieces() -> Iterator[bytes]:
        # read() waits for a whole piece, so that a slow answer would never reach the limit.
        while piece := raw.read1(PIECE, decode_content=False):
            if time.monotonic() > ends:
                raise VendorError(Outcome.TIMEOUT, f"no whole answer within {timeout:g} s")
            yield piece

    try:
        content = b"".join(decoded(pieces(), headers))
    except VendorError:
        raw.close()  # the rest would be taken for the next answer
        raise
    except Exception as error:  # of urllib3
        raw.close()
        outcome = Outcome.TIMEOUT if "timed out" in str(error) else Outcome.DROPPED
        raise VendorError(outcome, f"the connection ended ({error})") from error
    raw.release_conn()
    return content
