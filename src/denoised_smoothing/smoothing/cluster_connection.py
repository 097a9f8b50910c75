"""The connection to a Ray cluster: its address is checked before Ray begins to retry."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from concurrent.futures import Future
from typing import Any

from denoised_smoothing.errors import (
    DenoisedSmoothingError,
    MissingExtraError,
    SettingError,
    WorkerError,
    first_line,
)
from denoised_smoothing.smoothing.cluster_guard import guarded

TRIES = 5
"""Times that Ray starts a task whose process is lost."""
PROBE = 5.0
"""Seconds in which a server must accept a connection and answer its first bytes."""
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""The bytes with which a client of gRPC begins: the preface of HTTP/2, and no settings."""
_SETTINGS = 4
"""The type of the frame with which a server of gRPC begins (RFC 9113, section 6.5)."""
_START = (
    "Start a cluster (ray start --head) and give the address that it prints, or omit the address "
    "to start one here."
)

_joined: tuple[str, str] | None = None
"""The address by which this process joined a cluster, and that cluster's own."""


def connect(address: str | None, wait: float) -> Any:
    """Join or start a cluster, unless this process belongs to one; return the module of Ray.

    Args:
        address: HOST:PORT, ``auto`` for the cluster of this machine, or None to start one here.
        wait: seconds in which a cluster must have accepted this process.

    Raises:
        MissingExtraError: Ray is not installed.
        SettingError: it is no address, or this process belongs to another cluster.
        WorkerError: no cluster answers at the address, or it does not accept this process.
    """
    # Ray reads this on import. By default it never gives up a task that lacks memory.
    os.environ.setdefault("RAY_task_oom_retries", str(TRIES - 1))
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "a cluster") from error
    global _joined
    if not ray.is_initialized():
        if address is None:
            _start(ray)
        else:
            _join(ray, address, wait)
        _joined = (address or "", ray.get_runtime_context().gcs_address)
    here = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", here) and _joined != (address, here):
        raise SettingError(
            f"This process belongs to the Ray cluster at {here} and cannot join another at "
            f"{address!r}. Omit the address, or use another process."
        )
    return ray


def check_address(address: str) -> None:
    """Open a connection to the address, and check that the server speaks gRPC, as Ray does.

    Takes ``PROBE`` seconds at most, and as many for the first bytes.

    Raises:
        SettingError: it is no address.
        WorkerError: nothing answers there, or another server.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SettingError(
            f"The address of a Ray cluster must be HOST:PORT or auto, got {address!r}. Give the "
            "address that 'ray start --head' printed, for example 10.0.0.1:6379."
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE) as server:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0", "false", "False"):
                return
            server.sendall(_HTTP2)
            first = server.recv(9)
    except TimeoutError as error:
        raise WorkerError(
            f"No Ray cluster answers at {address!r} within {PROBE:g} seconds. Check "
            f"the host, the port and firewalls between. {_START}"
        ) from error
    except OSError as error:
        raise WorkerError(
            f"Found no Ray cluster at {address!r} ({first_line(error)}). {_START}"
        ) from error
    if len(first) < 4 or first[3] != _SETTINGS:
        raise WorkerError(
            f"The server at {address!r} is not the head of a Ray cluster, whose port is 6379 by "
            f"default (not that of its dashboard, 8265). {_START}"
        )


def _start(ray: Any) -> None:
    """Start a cluster on this machine, which ends with this process."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with guarded():
            ray.init(
                "local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False
            )
    except Exception as error:  # Ray raises errors of many kinds
        raise WorkerError(
            f"Ray cannot start here ({type(error).__name__}: {first_line(error)}). Check the "
            "memory and the disk of this machine, or omit --ray."
        ) from error
    finally:  # Ray's own ends the process without saving anything
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _join(ray: Any, address: str, wait: float) -> None:
    """Join the cluster; a thread waits for its name, its answer and Ray, which retry for long."""
    limit, done = max(wait, PROBE), Future[None]()
    named = os.environ.get("RAY_ADDRESS") if address == "auto" else address

    def join() -> None:
        try:
            if named and named != "auto":
                check_address(named)
            ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
        except Exception as error:  # of any kind, for the thread that waits
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=join, name="join cluster", daemon=True).start()
    try:
        done.result(limit)
    except DenoisedSmoothingError:
        raise
    except Exception as error:
        if not done.done():
            raise WorkerError(
                f"The Ray cluster at {address!r} did not accept this process within {limit:g} "
                "seconds. This machine must be a node of the cluster (ray start --address=...), "
                "with the same versions of Python and Ray. A cluster that is only slow gets more "
                "time by --ray-wait."
            ) from error
        reason = " ".join(str(error).split())[:300]
        raise WorkerError(
            f"Cannot join a Ray cluster at {address!r} ({reason}). {_START}"
        ) from error
