"""Access, limits of requests, and security headers."""

from __future__ import annotations

import asyncio
import base64
import importlib
import io
import json
import struct
import threading
import time
import zlib
from contextlib import suppress

import httpx
import pytest
from PIL import Image
from starlette.testclient import TestClient

from denoised_smoothing.store import Store
from denoised_smoothing.web.app import create_app
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.schemas import PredictionRequest
from denoised_smoothing.web.security import Access
from denoised_smoothing.web.served import ServedModels
from denoised_smoothing.web.service import Service

from .conftest import HERE

KEY = "0123456789abcdef"


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG whose header says one size, whatever it holds."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def saved(format: str, mode: str = "L", size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, format)
    return file.getvalue()


def test_without_key_only_this_machine_is_served(models: ServedModels, store: Store) -> None:
    service = Service(models, store)
    with TestClient(create_app(service, Access(None, KEY)), base_url="http://a.example") as client:
        assert client.get("/v1/models").status_code == 401
        assert client.get("/metrics").status_code == 401
        wrong = client.get("/v1/models", headers={"authorization": "Bearer 0123456789abcdeX"})
        assert wrong.status_code == 401
        assert (
            client.get("/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
        )
        for path in ("/", "/healthz", "/static/page.css"):
            assert client.get(path).status_code == 200
        described = client.get("/openapi.json").json()
        assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_other_names_and_pages_of_other_sites_are_refused(client: TestClient) -> None:
    assert client.get("/healthz", headers={"host": "evil.example"}).status_code == 403
    cross = {"origin": "http://evil.example"}
    request = {"example": "0", "n": 10}
    assert client.post("/v1/predictions", json=request, headers=cross).status_code == 403
    same = {"origin": HERE}
    assert client.post("/v1/predictions", json=request, headers=same).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/v1/models", "/v1/nothing", "/static/../app.py", "/healthz"]
)
def test_headers_for_browsers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert "script-src 'self';" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"


def test_page_has_no_script_or_style_in_its_text(client: TestClient) -> None:
    text = client.get("/").text
    assert "<script>" not in text
    assert "<style" not in text
    assert " style=" not in text
    assert "http://" not in text
    assert "https://" not in text


def test_static_files_are_those_of_the_package(client: TestClient) -> None:
    theme = client.get("/static/theme.css")
    assert "--accent" in theme.text
    again = client.get("/static/theme.css", headers={"if-none-match": theme.headers["etag"]})
    assert again.status_code == 304
    for name in ("..%2f..%2fcli%2foptions.py", "%2e%2e/app.py", "..%5capp.py", "/etc/passwd", "x"):
        assert client.get(f"/static/{name}").status_code == 404, name


def test_rate_and_queue_are_limited_for_each_client(models: ServedModels, store: Store) -> None:
    service = Service(models, store, Limits(rate=3, grace=1))
    with TestClient(create_app(service), base_url=HERE) as client:
        replies = [client.post("/v1/predictions", json={"example": "0", "n": 10}) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
    assert 1 <= int(replies[3].headers["retry-after"]) <= 60


def test_full_queue_says_when_to_retry(models: ServedModels, store: Store) -> None:
    service = Service(models, store, Limits(per_client=1, grace=1))
    request = {"example": "0", "n": 90_000}
    with TestClient(create_app(service), base_url=HERE) as client:
        first = client.post("/v1/certificates", json=request, headers={"prefer": "respond-async"})
        second = client.post("/v1/certificates", json=request)
        assert second.status_code == 429
        assert int(second.headers["retry-after"]) >= 1
        job = f"/v1/jobs/{first.json()['job']}"
        assert client.delete(job).status_code == 204
        until = time.monotonic() + 20
        while len(service._jobs) and time.monotonic() < until:
            time.sleep(0.05)
        assert client.get(job).json()["state"] == "cancelled"
        assert client.delete(job).status_code == 404


HOSTILE = {
    "zero bytes": b"",
    "text": b"GET /etc/passwd",
    "huge dimensions": png(60_000, 60_000),
    "more pixels than allowed": saved("PNG", size=(5_001, 5_000)),
    "bomb": png(20_000, 20_000, bytes(20_000 * 2_001)),
    "truncated": saved("PNG", "RGB", (64, 64))[:60],
    "header alone": png(8, 8)[:33],
    "no rows": png(8, 8),
    "a page": b"<html><script>alert(1)</script></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "gif": saved("GIF"),
    "tiff": saved("TIFF"),
    "ico": saved("ICO", size=(16, 16)),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(/etc/passwd) run\n",
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "zip": b"PK\x03\x04" + bytes(60),
    "16 bits": saved("PNG", "I;16"),
    "transparent": saved("PNG", "RGBA"),
    "cmyk": saved("JPEG", "CMYK"),
    "1x1": saved("PNG", size=(1, 1)),
    "a thread": saved("PNG", size=(4_001, 2)),
    "a jpeg cut": saved("JPEG", "RGB", (64, 64))[:300],
    "a bmp that lies": b"BM"
    + struct.pack("<IHHIIiiHH", 100, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24)
    + bytes(24),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_images_are_refused(client: TestClient, name: str) -> None:
    began = time.monotonic()
    reply = client.post("/v1/certificates", data={"n": "50"}, files={"image": HOSTILE[name]})
    assert reply.status_code == 422, reply.text
    for leak in ("/tmp", "0x", "Traceback", "site-packages", "BytesIO"):
        assert leak not in reply.text
    assert time.monotonic() - began < 10


def test_polyglot_is_only_an_image(client: TestClient) -> None:
    """What follows an image is never stored, run or sent back."""
    both = saved("PNG") + b"<script>alert(1)</script>PK\x03\x04"
    reply = client.post(
        "/v1/predictions", data={"n": "50", "pictures": "true"}, files={"image": both}
    )
    assert reply.status_code == 200
    assert "script" not in reply.text


def test_methods_that_clients_make_up_are_counted_together(
    client: TestClient, service: Service
) -> None:
    for method in ("BREW", "X1", "X2"):
        assert client.request(method, "/healthz").status_code == 405
    client.get("/healthz")
    metrics = service.metrics.text().decode()
    assert 'http_responses_total{method="other",status="405"} 3.0' in metrics
    assert 'http_responses_total{method="GET",status="200"} 1.0' in metrics
    assert "BREW" not in metrics


def test_bodies_are_bounded_with_or_without_a_length(live: str) -> None:
    large = b"x" * 11_000_000
    headers = {"content-type": "application/json"}
    with pytest.MonkeyPatch.context():
        assert (
            httpx.post(f"{live}/v1/predictions", content=large, headers=headers).status_code == 413
        )
    chunks = (large[i : i + 65_536] for i in range(0, len(large), 65_536))
    try:
        reply = httpx.post(f"{live}/v1/predictions", content=chunks, headers=headers)
        assert reply.status_code == 413
    except httpx.WriteError:  # it hung up while the rest was being sent
        pass
    assert httpx.get(f"{live}/healthz").status_code == 200


def test_many_fields_are_refused_before_each_is_looked_at(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would be an error of its own: megabytes of them held the service for seconds."""

    def validate(*_: object) -> None:
        raise AssertionError("they are looked at")

    monkeypatch.setattr(PredictionRequest, "model_validate", validate)
    reply = client.post("/v1/predictions", json={str(i): 0 for i in range(1000)})
    assert reply.status_code == 422
    assert "1000 fields; expected some of image, example" in reply.json()["detail"]


@pytest.mark.parametrize("name", ["json.loads", "base64.b64decode"])
def test_bodies_are_read_next_to_other_requests(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Not by the thread that serves all of them."""
    called, (module, function) = [], name.split(".")
    read = getattr(importlib.import_module(module), function)

    def noted(*args: object, **options: object) -> object:
        try:
            called.append(asyncio.get_running_loop())
        except RuntimeError:
            called.append(None)
        return read(*args, **options)

    monkeypatch.setattr(f"denoised_smoothing.web.request_body.{name}", noted)
    request = {"image": base64.b64encode(saved("PNG")).decode(), "n": 10}
    body = json.dumps(request).encode()
    reply = client.post(
        "/v1/predictions", content=body, headers={"content-type": "application/json"}
    )
    monkeypatch.undo()
    assert reply.status_code == 200, reply.text
    assert called == [None]


def test_malformed_requests_end_below_500(live: str) -> None:
    """Over the wire, as clients libraries would not send them."""
    import socket
    from urllib.parse import urlsplit

    address = (urlsplit(live).hostname, urlsplit(live).port)
    head = b"Host: 127.0.0.1\r\n"

    def get(path: bytes, more: bytes = b"") -> bytes:
        return b"GET " + path + b" HTTP/1.1\r\n" + head + more + b"\r\n"

    def post(length: bytes, body: bytes, kind: bytes = b"application/json") -> bytes:
        headers = b"Content-Type: " + kind + b"\r\nContent-Length: " + length + b"\r\n\r\n"
        return b"POST /v1/predictions HTTP/1.1\r\n" + head + headers + body

    cases = [
        get(b"/", b"X-Long: " + b"a" * 200_000 + b"\r\n"),
        get(b"/" + b"a" * 200_000),
        get(b"/static/../../../../etc/passwd"),
        get(b"/v1/runs/..%2f..%2fetc%2fpasswd"),
        get(b"/v1/runs/%00"),
        get(b"/v1/runs/%ff%fe"),
        get(b"/v1/jobs/%27%20OR%201=1"),
        post(b"-5", b""),
        post(b"1e9", b""),
        post(b"99999999999", b""),
        post(b"4", b"\xff\xfe{}"),
        post(b"6", b"[1,2]\n"),
        post(b"100000", b"[" * 100_000),
        post(b"2", b"ab", b"multipart/form-data"),
        post(b"9", b"--x\r\nabcd", b"multipart/form-data; boundary=x"),
        b"BREW / HTTP/1.1\r\n" + head + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ]
    for case in cases:
        with socket.create_connection(address, timeout=10) as line:
            reply = b""
            with suppress(OSError):  # it may hang up before all is sent
                line.sendall(case)
                line.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                reply = line.recv(65_536)
        status = reply[9:12]
        assert status == b"" or int(status) < 500, (case[:80], reply[:300])
        for leak in (b"Traceback", b"/tmp", b"root:"):
            assert leak not in reply


def test_slow_bodies_do_not_hold_others(live: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("denoised_smoothing.web.security.BODY_SECONDS", 0.3)
    go = threading.Event()

    def drip():  # type: ignore[no-untyped-def]
        yield b"{"
        go.wait(20)
        yield b"}"

    headers = {"content-type": "application/json"}
    replies: list[int] = []

    def ask() -> None:
        replies.append(
            httpx.post(
                f"{live}/v1/predictions", content=drip(), headers=headers, timeout=20
            ).status_code
        )

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.8)
    assert httpx.get(f"{live}/healthz").status_code == 200
    go.set()
    asking.join()
    assert replies == [408]


def test_an_unexpected_error_shows_no_details(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret of /home/somebody")

    monkeypatch.setattr(service, "submit", fail)
    reply = client.post("/v1/predictions", json={"example": "0"})
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert "/home" not in reply.text
