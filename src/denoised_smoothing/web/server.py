"""The HTTP server (uvicorn); when it stops, requests end or are stored."""

from __future__ import annotations

import socket
from types import FrameType

import uvicorn

from denoised_smoothing.errors import SettingError
from denoised_smoothing.web.app import create_app
from denoised_smoothing.web.security import Access
from denoised_smoothing.web.service import Service

_CONNECTIONS = 1_000
_IDLE_SECONDS = 15


class _Server(uvicorn.Server):
    """Closes the service at the signal, before clients are disconnected."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.begin_closing()
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """Open a socket before models are loaded; port 0 takes a free one.

    Raises:
        SettingError: the address is not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host.strip("[]"), port))
    except OSError as error:
        opened.close()
        raise SettingError(
            f"Cannot listen on {host} port {port}: {error.strerror or error}. Choose a free port "
            "with --port, and an address of this machine with --host."
        ) from error
    return opened


def serve(service: Service, opened: socket.socket, access: Access) -> None:
    """Answer requests until SIGINT or SIGTERM, and pending ones until their grace ends."""
    config = uvicorn.Config(
        create_app(service, access),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=service.limits.grace,
    )
    _Server(config, service).run(sockets=[opened])
