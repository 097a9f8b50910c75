"""smoothing/cluster_connection.py: addresses without a cluster, and clusters that never answer."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from denoised_smoothing.errors import MissingExtraError, SettingError, WorkerError
from denoised_smoothing.smoothing import cluster_connection
from denoised_smoothing.smoothing.cluster_connection import check_address, connect

GRPC = b"\0\0\0\4\0\0\0\0\0"
"""The settings with which a server of gRPC begins."""


@contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """A server on loopback that answers every connection so, or never; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        kept: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    kept.append(connection)
                    if answer is not None:
                        connection.recv(100)
                        connection.sendall(answer)
                        connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield "{}:{}".format(*listening.getsockname())
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return "{}:{}".format(*listening.getsockname())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_connection, "_joined", None)
    monkeypatch.setattr(cluster_connection, "PROBE", 0.5)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)


@pytest.mark.parametrize(
    "address",
    [
        "head",
        "head:",
        ":6379",
        "head:0",
        "head:65536",
        "head:http",
        "ray://head:10001",
        "http://x:1",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(SettingError, match=r"must be HOST:PORT or auto, got '.*'\. Give the addr"):
        check_address(address)


def test_a_port_without_a_server() -> None:
    with pytest.raises(
        WorkerError, match=r"Found no Ray cluster at '127.*refused.*\. Start a clus"
    ):
        check_address(free_address())


def test_a_server_that_never_answers() -> None:
    with server(None) as address, pytest.raises(WorkerError, match=r"answers at .* within 0.5 sec"):
        check_address(address)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"-ERR\r\n"])
def test_a_server_of_another_kind(answer: bytes) -> None:
    with server(answer) as address, pytest.raises(WorkerError, match=r"(?s)is not the head|reset"):
        check_address(address)


def test_a_server_of_grpc_is_accepted() -> None:
    with server(GRPC) as address:
        check_address(address)


def test_a_server_of_tls_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with server(b"") as address:
        check_address(address)


def test_a_server_that_answers_no_more_ends_the_driver() -> None:
    """With the real Ray, which would try again for two minutes."""
    pytest.importorskip("ray")
    code = (
        "from denoised_smoothing.smoothing.cluster import RayCluster\n"
        "import sys, time\n"
        "RayCluster(sys.argv[1], wait=1.0).submit(time.sleep, 0)\n"
    )
    with server(GRPC) as address:  # and never anything else
        ended = subprocess.run(
            [sys.executable, "-c", code, address], capture_output=True, text=True, timeout=100
        )
    assert ended.returncode == 1
    assert "did not accept this process within" in ended.stderr


class FakeRay:
    """A Ray with clusters at some addresses, none of which is left."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.gcs_address, self.meanwhile = "", meanwhile

    def is_initialized(self) -> bool:
        return bool(self.gcs_address)

    def init(self, address: str, **options: object) -> None:
        self.meanwhile()
        known = {"head:6379": "10.0.0.1:6379", "local": "127.0.0.1:5000"}
        self.gcs_address = known.get(address, address)

    def get_runtime_context(self) -> FakeRay:
        return self


def test_a_second_cluster_at_another_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_connection, "check_address", lambda address: None)
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    for address in ("head:6379", "head:6379", "10.0.0.1:6379", "auto", None):
        assert connect(address, 10.0).gcs_address == "10.0.0.1:6379"
    with pytest.raises(
        SettingError, match=r"at 10.0.0.1:6379 and cannot join another at 'other:6379'. Omit"
    ):
        connect("other:6379", 10.0)


def test_a_cluster_that_does_not_accept_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setitem(sys.modules, "ray", FakeRay(lambda: ended.wait(60) and None))
    with server(GRPC) as address:
        with pytest.raises(
            WorkerError, match=r"did not accept this process within 0.7 seconds\. .* --ray-wait"
        ):
            connect(address, 0.7)
        ended.set()


def test_what_ray_says_is_told_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 1.0")

    monkeypatch.setitem(sys.modules, "ray", FakeRay(refuse))
    with pytest.raises(
        WorkerError, match=r"Cannot join .* \(Version mismatch: .* with: Ray: 1.0\)"
    ):
        connect("auto", 10.0)
    with pytest.raises(WorkerError, match=r"Ray cannot start here \(RuntimeError: Version misma"):
        connect(None, 10.0)


def test_the_address_of_auto_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", free_address())
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    with pytest.raises(WorkerError, match="Found no Ray cluster at '127"):
        connect("auto", 10.0)


def test_a_cluster_that_is_started_leaves_the_handling_of_sigterm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    ray = FakeRay(lambda: signal.signal(signal.SIGTERM, lambda *_: sys.exit(15)) and None)
    monkeypatch.setitem(sys.modules, "ray", ray)
    try:
        connect(None, 10.0)
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'denoised-smoothing\[ray\]'"):
        connect(None, 10.0)
