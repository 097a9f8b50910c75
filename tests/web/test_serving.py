"""The command serve, as a process of its own: refusals, a kill, a stop."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.cli import main
from denoised_smoothing.cli.serve import KEY_VARIABLE, pairs, read_key
from denoised_smoothing.errors import SettingError
from denoised_smoothing.web.served import ServedModels


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    arguments = ["serve", "--port", "0", "--sigma", "0.5", "--engine", "torch", "--grace", "1"]
    arguments += ["--denoiser", "stability=digits-stability"]
    process = subprocess.Popen(
        [sys.executable, "-m", "denoised_smoothing", *arguments],
        cwd=folder, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://127.0.0.1:\d+", line)
        assert found, line + process.stderr.read()
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                if httpx.get(f"{found[0]}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield process, found[0]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


def begin(address: str, n: int) -> str:
    """Begin a request that takes a while, and store it."""
    reply = httpx.post(
        f"{address}/v1/certificates", json={"example": "0", "n": n},
        headers={"prefer": "respond-async"}, timeout=60,
    )  # fmt: skip
    assert reply.status_code == 202, reply.text
    return str(reply.json()["job"])


def test_killed_stopped_and_resumed(tmp_path: Path, models: ServedModels) -> None:
    """The same counts as if it had never been interrupted."""
    with serving(tmp_path) as (process, address):
        job = begin(address, 20_000)
        time.sleep(0.8)
        process.kill()
        process.wait()
    with serving(tmp_path) as (process, address):
        held = httpx.get(f"{address}/v1/jobs/{job}").json()
        assert held["state"] == "interrupted"
        stopped = begin(address, 99_000)
        resumed = httpx.post(f"{address}/v1/jobs/{job}/resume", timeout=120)
        assert resumed.status_code == 200, resumed.text
        certificate = Certificate.from_json(json.dumps(resumed.json()["certificate"]))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, 128 + signal.SIGTERM)
    again = (
        models.model("digits")
        .smoothed("white box (stability)", 0.5)
        .certify(models.model("digits").example("0").image, n=20_000, seed=certificate.seed)
    )
    assert again.counts.votes == certificate.counts.votes
    with sqlite3.connect(tmp_path / "runs.sqlite") as database:
        query = "SELECT state, image IS NULL FROM service_jobs WHERE id = ?"
        assert database.execute(query, (stopped,)).fetchone() == ("interrupted", 0)
    database.close()


def test_other_machines_need_a_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--host", "0.0.0.0", "--port", "0"])
    assert ended.value.code == 2
    assert "needs a key" in capsys.readouterr().err.replace("\n", " ")


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit):
        main(["serve", "--port", str(taken.getsockname()[1])])
    assert "--port" in capsys.readouterr().err


def test_keys_are_read_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert read_key(None) is None
    monkeypatch.setenv(KEY_VARIABLE, "0123456789abcdef")
    assert read_key(None) == "0123456789abcdef"
    path = tmp_path / "key"
    path.write_text("fedcba9876543210\n")
    assert read_key(path) == "fedcba9876543210"
    path.write_text("short")
    with pytest.raises(SettingError, match="must have at least 16 characters, got 5"):
        read_key(path)
    with pytest.raises(SettingError, match="Cannot read the API key file"):
        read_key(tmp_path / "none")
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(SettingError, match=r"Cannot read the API key file .* not in UTF-8"):
        read_key(path)


def test_names_of_specs() -> None:
    given = ["mine=python:models:make", "onnx:model.onnx?mean=0.5", "photo"]
    assert pairs("--classifier", given) == {
        "mine": "python:models:make",
        "onnx:model.onnx?mean=0.5": "onnx:model.onnx?mean=0.5",
        "photo": "photo",
    }
    with pytest.raises(SettingError, match="twice"):
        pairs("--classifier", ["a=b", "a=c"])
    for text in ("=digits", "a=", ""):
        with pytest.raises(SettingError, match="--classifier must be NAME=SPEC or SPEC"):
            pairs("--classifier", [text])
