"""Keys: read without what does not belong to them, shown nowhere, sent to no other host."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest
from fake import KEY, FakeVendor
from hypothesis import given
from hypothesis import strategies as st
from test_faults import picture
from vendors import BY_NAME, CASES, Case, prepare

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.client import QueryClient
from denoised_smoothing.remote.credentials import SHORTEST, cleaned, credential
from denoised_smoothing.remote.labels import AnswerRule
from denoised_smoothing.remote.limits import ClientSettings
from denoised_smoothing.remote.log import MemoryLog
from denoised_smoothing.remote.records import CopyKey, Outcome
from denoised_smoothing.remote.vendors.base import FaultSource, VendorError

SECRETS = st.text(st.characters(codec="utf-8"), min_size=SHORTEST, max_size=20)
AROUND = st.text("xyz ", max_size=5)


@given(SECRETS, AROUND, AROUND)
def test_a_secret_is_masked_wherever_and_however_it_is_quoted(
    secret: str, before: str, after: str
) -> None:
    for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe="")):
        text = cleaned(f"{before}<{form}>{after}", [secret])
        assert "[secret]" in text
        assert f"<{form}>" not in text


def test_what_is_too_short_to_be_a_secret_stays() -> None:
    assert cleaned("a cat", ["cat"]) == "a cat"


class TestCredential:
    @pytest.mark.parametrize("around", ["{}", "{}\n", " {}\r\n", "\t{} "])
    def test_blanks_around_a_key_are_not_part_of_it(
        self, around: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOKEN", around.format("the-key"))
        assert credential("TOKEN") == "the-key"

    @pytest.mark.parametrize("value", ["", " \n"])
    def test_blanks_alone_are_no_key(self, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOKEN", value)
        assert credential("TOKEN") is None

    @pytest.mark.parametrize("wrong", ["\n", " ", "\x7f", "é", "\u200b"])
    def test_a_key_that_no_header_carries_is_refused_without_showing_it(
        self, wrong: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOKEN", f"first{wrong}second")
        with pytest.raises(SettingError, match=r"variable TOKEN has .* at place 6 of 12\.") as said:
            credential("TOKEN")
        assert "first" not in str(said.value)
        assert "second" not in str(said.value)


@pytest.mark.parametrize("name", [case.name for case in CASES if case.name != "aws"])
def test_every_vendor_takes_a_key_with_a_line_break_at_its_end(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = BY_NAME[name]
    variables = case.environment("http://127.0.0.1:1")
    variables[case.secret] += "\n"
    with_break = Case(name, case.make, lambda url: variables, case.secret)
    vendor = prepare(monkeypatch, with_break, "http://127.0.0.1:1")
    vendor.connect(timeout=1, in_flight=1)
    assert vendor.secrets() == (variables[case.secret].strip(),)
    vendor.close()


class _Redirects(BaseHTTPRequestHandler):
    """Redirects every request to another host, or notes that one came."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server = self.server
        assert isinstance(server, _Server)
        server.requests += 1
        self.send_response(200 if server.target is None else 307)
        if server.target is not None:
            self.send_header("Location", server.target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET = _answer

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    requests, target = 0, None

    def __init__(self, target: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Redirects)
        self.target = target


@contextmanager
def served(target: str | None = None) -> Iterator[_Server]:
    server = _Server(target)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_vendor_follows_a_redirect_to_another_host(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served() as other:
        target = f"http://localhost:{other.server_address[1]}/new"
        with served(target) as server:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            vendor = prepare(monkeypatch, case, url)
            vendor.connect(timeout=30, in_flight=1)
            with pytest.raises(VendorError) as caught:
                vendor.send(picture(0))
            vendor.close()
            assert server.requests == 1
        assert other.requests == 0
    assert (caught.value.outcome, caught.value.source) == (Outcome.REFUSED, FaultSource.SETUP)
    assert f"redirects to {target}, which is not followed" in str(caught.value)


@pytest.mark.parametrize("place", [180, 187, 450, 470])
def test_no_part_of_a_token_is_left_where_a_message_is_cut(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeVendor() as fake:
        vendor = prepare(monkeypatch, BY_NAME["kserve"], fake.url)
        fake.metadata = {"echo": "x" * place + KEY}
        vendor.connect(timeout=5, in_flight=1)
        client = QueryClient(vendor, AnswerRule(), log := MemoryLog(), ClientSettings(rate=None))
        (future,) = client.submit([CopyKey("i", Stage.SELECTION, 0)], [partial(picture, 0)])
        message = str(future.exception(10))
        client.close()
        vendor.close()
    assert "has no metadata" in message
    for text in (message, *map(str, log.history())):
        assert KEY[:6] not in text
