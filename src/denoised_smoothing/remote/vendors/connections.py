"""Connections of vendors, through httpx, requests and botocore, with bounds on every answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from queue import SimpleQueue
from typing import Any

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.vendors.base import VendorError
from denoised_smoothing.remote.vendors.bounds import PIECE, Watch, decoded

_thread = threading.local()


class ClientPool:
    """Clients of httpx, one per query in flight.

    A client with many connections looks through all of them at each request.
    """

    def __init__(self) -> None:
        self._clients: SimpleQueue[tuple[Any, Watch]] = SimpleQueue()

    def fill(self, httpx: Any, make: Callable[[Watch, Any], Any], watches: Sequence[Watch]) -> None:
        """Make a client for each watch.

        Args:
            httpx: the library, or the copy of it that an SDK has.
            make: a client from its watch and a context of TLS.

        Raises:
            SettingError: the proxy or the certificates in the environment cannot be used.
        """
        try:
            context = httpx.create_ssl_context()
            for watch in watches:
                self._clients.put((make(watch, context), watch))
        except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
            # Its text may hold the password of a proxy.
            self.close()
            raise SettingError(
                f"The connection cannot be set up ({type(error).__name__}). Check HTTP_PROXY, "
                "HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR."
            ) from error

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Lend a client for one query, whose time is limited."""
        client, watch = self._clients.get()
        try:
            with watch.limit():
                yield client
        finally:
            self._clients.put((client, watch))

    def close(self) -> None:
        """Close all clients."""
        while not self._clients.empty():
            self._clients.get()[0].close()


@contextmanager
def limited(timeout: float) -> Iterator[None]:
    """Limit the time of a query of this thread through a :func:`watched` manager.

    Raises:
        VendorError: the time has passed.
    """
    _thread.watch = watch = Watch(timeout)
    try:
        with watch.limit():
            yield
    finally:
        _thread.watch = None


def watched(manager: Any) -> Any:
    """Have the connections of a pool manager of urllib3 report their sockets to :func:`limited`."""
    kinds = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {scheme: _watched(kind) for scheme, kind in kinds.items()}
    return manager


def _watched(pool: Any) -> Any:
    """Return a class of connection pools, with watched connections."""
    kind = pool.ConnectionCls
    if kind.__name__ == "WatchedConnection":
        return pool

    def connect(self: Any) -> None:
        kind.connect(self)
        _use(self.sock)

    def putrequest(self: Any, *arguments: Any, **options: Any) -> None:
        if self.sock is not None:  # a connection that was kept
            _use(self.sock)
        kind.putrequest(self, *arguments, **options)

    methods = {"connect": connect, "putrequest": putrequest}
    connection = type("WatchedConnection", (kind,), methods)
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


def _use(connection: Any) -> None:
    if (watch := getattr(_thread, "watch", None)) is not None:
        watch.use(connection)


def bound_session(session: Any, in_flight: int, largest: int) -> None:
    """Bound the answers of a session of requests, and keep a connection per query in flight.

    The session refuses redirects: the image, and maybe the key, would reach a host that the user
    did not name.

    Args:
        largest: maximum bytes of a decoded answer.
    """

    def read(response: Any, *_: object, **__: object) -> None:
        _read(response, largest)

    session.hooks["response"].append(read)
    for prefix in ("https://", "http://"):
        adapter = import_module("requests.adapters").HTTPAdapter(pool_maxsize=in_flight)
        watched(adapter.poolmanager)
        through = adapter.proxy_manager_for
        adapter.proxy_manager_for = lambda *a, through=through, **k: watched(through(*a, **k))
        session.mount(prefix, adapter)


class BoundSession:
    """Wraps the session of botocore, to bound its answers and to refuse redirects.

    Args:
        session: a ``URLLib3Session``.
        largest: maximum bytes of a decoded answer.
    """

    def __init__(self, session: Any, largest: int) -> None:
        self._session, self._largest = session, largest
        if (manager := getattr(session, "_manager", None)) is not None:
            # The managers of proxies are made later, with these classes.
            session._pool_classes_by_scheme = watched(manager).pool_classes_by_scheme

    def send(self, request: Any) -> Any:
        """Send a request; return the answer, whose content is read."""
        request.stream_output = True  # else the session reads it all
        response = self._session.send(request)
        _read(response, self._largest)
        return response

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


class _Content(BytesIO):
    """Content that was read, for readers of urllib3's responses."""

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        """Yield the content."""
        yield self.read()


def _read(response: Any, largest: int) -> None:
    """Read a response on top of one of urllib3, and leave it decoded; refuse a redirect."""
    raw = response.raw
    try:
        if 300 <= response.status_code < 400:
            raise VendorError.of_status(response.status_code, "no answer", response.headers)
        # read() waits for a whole piece.
        pieces = iter(lambda: raw.read1(PIECE, decode_content=False), b"")
        content = b"".join(decoded(pieces, response.headers, largest))
    except VendorError:
        raw.close()  # the rest would be taken for the next answer
        raise
    except Exception as error:  # of urllib3
        raw.close()
        outcome = Outcome.TIMEOUT if "timed out" in str(error) else Outcome.DROPPED
        raise VendorError(outcome, f"the connection ended ({error})") from error
    raw.release_conn()
    response.raw = _Content(content)
    response.headers.pop("content-encoding", None)
