"""A PostgreSQL server of the tests' own, which they may restart, and a network that fails."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

LOCKED = "locked"
"""The name of a database for which the server asks for a password."""
NONE = "no PostgreSQL is installed (initdb)"


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian keeps out of the path."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


class Server:
    """A cluster in a folder of its own, on a free port of this machine."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._data, self._programs = folder / "data", programs
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._run("initdb", "--auth=trust", "--username=tester", "--no-sync")
        rules = self._data / "pg_hba.conf"  # the first rule that fits counts
        rules.write_text(f"host {LOCKED} all 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        self._databases = 0

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -F"
        self._run("pg_ctl", "-o", options, "-w", "-l", str(self._data / "log"), "start")

    def stop(self) -> None:
        """At once, as after a crash."""
        self._run("pg_ctl", "-m", "immediate", "-w", "stop")

    def database(self, encoding: str | None = None) -> str:
        """The URL of a new, empty one, in the encoding of the server by default."""
        self._databases += 1
        name = f"runs_{self._databases}"
        engine = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            more = f"encoding '{encoding}' template template0 lc_collate 'C' lc_ctype 'C'"
            connection.exec_driver_sql(f"create database {name} {more if encoding else ''}")
        engine.dispose()
        return self.url(name)

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://tester@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, "-D", self._data, *arguments],
            user=self._user, cwd="/", check=True, timeout=120,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


@contextmanager
def running() -> Iterator[Server]:
    pytest.importorskip("psycopg")
    programs = binaries()
    if programs is None:
        pytest.skip(NONE)
    folder = Path(tempfile.mkdtemp(prefix="denoised-smoothing-postgresql-"))
    try:
        server = Server(folder, programs)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Proxy:
    """Stands between a driver and its server; ``cut`` until ``heal``, nothing goes through."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._whole = threading.Event()
        self._whole.set()
        self._pairs: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole.clear()

    def heal(self) -> None:
        """What was connected stays lost, as behind a router that has forgotten it."""
        self._drop()
        self._whole.set()

    def close(self) -> None:
        self._listener.close()
        self.heal()

    def _drop(self) -> None:
        pairs, self._pairs = self._pairs, []
        for end in pairs:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                self._whole.wait()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._pairs += [client, server]
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._whole.wait()
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
