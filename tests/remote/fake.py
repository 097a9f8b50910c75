"""One server on loopback that speaks the wire format of every vendor, and misbehaves on request.

As a program it prints its port, serves until its standard input ends, and then prints its counts
as JSON: ``python fake.py [--latency S] [--throttle SHARE] [--drop SHARE] [--labels a=0.9,b=0.1]``.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import random
import socket
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import numpy as np
import PIL.Image

KEY = "the-right-key-0123456789"
Scores = list[tuple[str, float]]


class Trouble(Enum):
    """What a request meets instead of an answer."""

    THROTTLED = "throttled"
    BUSY = "busy"  # throttled, with Retry-After
    FAILED = "failed"
    DROPPED = "dropped"
    CUT = "cut"  # half of an answer, then the connection ends
    STALLED = "stalled"
    GARBAGE = "garbage"
    STRANGE = "strange"  # JSON, but not of the vendor
    REJECTED = "rejected"
    KEY = "wrong key"
    QUOTA = "quota"
    MODEL = "unknown model"
    SCHEMA = "no JSON schemas"
    EMPTY = "no labels"
    UPDATED = "another version"
    TRICKLED = "byte by byte"
    HEAD_TRICKLED = "headers byte by byte"
    HUGE = "huge"  # an answer behind HUGE_BYTES spaces
    BOMB = "bomb"  # the same, compressed to a thousandth


HUGE_BYTES = 2**26

Script = Callable[[int, str], Trouble | None]
"""From the number of the request, from 0, and the hash of its image to its trouble."""


def by_chance(weights: dict[str, float]) -> Callable[[bytes], Scores]:
    """Labels by the hash of the image."""
    names, bounds = list(weights), np.cumsum(list(weights.values()))

    def scores(image: bytes) -> Scores:
        uniform = int.from_bytes(hashlib.sha256(image).digest()[:7], "big") / 2**56
        place = int(np.searchsorted(bounds / bounds[-1], uniform, side="right"))
        top = names[min(place, len(names) - 1)]
        return [(top, 0.9), *((name, 0.1) for name in names if name != top)]

    return scores


class Wire:
    """How one vendor's requests and answers look."""

    errors: ClassVar[dict[Trouble, tuple[int, Any]]]
    kind = "application/json"

    def image(self, body: bytes) -> bytes:
        raise NotImplementedError

    def answer(self, scores: Scores, version: str, request: Any) -> Any:
        raise NotImplementedError

    def error(self, trouble: Trouble) -> tuple[int, Any]:
        return self.errors[trouble]

    def key(self, headers: Any, path: str) -> str | None:
        return (headers.get("Authorization") or "").removeprefix("Bearer ") or None


class Amazon(Wire):
    kind = "application/x-amz-json-1.1"
    errors: ClassVar[dict[Trouble, tuple[int, Any]]] = {
        Trouble.THROTTLED: (400, {"__type": "ProvisionedThroughputExceededException"}),
        Trouble.BUSY: (400, {"__type": "ThrottlingException", "message": "Rate exceeded"}),
        Trouble.FAILED: (500, {"__type": "InternalServerError", "message": "try again"}),
        Trouble.REJECTED: (400, {"__type": "InvalidImageFormatException", "message": "bad image"}),
        Trouble.KEY: (400, {"__type": "UnrecognizedClientException", "message": "bad token"}),
        Trouble.QUOTA: (400, {"__type": "AccessDeniedException", "message": "account closed"}),
        Trouble.MODEL: (404, {"__type": "UnknownOperationException"}),
    }

    def image(self, body: bytes) -> bytes:
        return base64.b64decode(json.loads(body)["Image"]["Bytes"])

    def answer(self, scores: Scores, version: str, request: Any) -> Any:
        labels = [
            {"Name": name, "Confidence": 100 * score, "Instances": [], "Parents": []}
            for name, score in scores
        ]
        return {"Labels": labels, "LabelModelVersion": version}

    def key(self, headers: Any, path: str) -> str | None:
        return KEY if f"Credential={KEY}/" in headers.get("Authorization", "") else "other"


class Google(Wire):
    errors: ClassVar[dict[Trouble, tuple[int, Any]]] = {
        Trouble.THROTTLED: (429, "RESOURCE_EXHAUSTED"),
        Trouble.BUSY: (429, "RESOURCE_EXHAUSTED"),
        Trouble.FAILED: (500, "INTERNAL"),
        Trouble.REJECTED: (
            200,
            {"responses": [{"error": {"code": 3, "message": "Bad image data."}}]},
        ),
        Trouble.KEY: (403, "PERMISSION_DENIED"),
        Trouble.QUOTA: (403, "PERMISSION_DENIED"),
        Trouble.MODEL: (404, "NOT_FOUND"),
    }

    def image(self, body: bytes) -> bytes:
        return base64.b64decode(json.loads(body)["requests"][0]["image"]["content"])

    def answer(self, scores: Scores, version: str, request: Any) -> Any:
        labels = [
            {"mid": "/m/0", "description": name, "score": score, "topicality": score}
            for name, score in scores
        ]
        return {"responses": [{"labelAnnotations": labels} if labels else {}]}

    def error(self, trouble: Trouble) -> tuple[int, Any]:
        status, told = self.errors[trouble]
        if isinstance(told, dict):
            return status, told
        return status, {"error": {"code": status, "message": told.lower(), "status": told}}

    def key(self, headers: Any, path: str) -> str | None:
        return headers.get("X-Goog-Api-Key")


class Azure(Wire):
    errors: ClassVar[dict[Trouble, tuple[int, Any]]] = {
        Trouble.THROTTLED: (429, "429"),
        Trouble.BUSY: (429, "429"),
        Trouble.FAILED: (500, "InternalServerError"),
        Trouble.REJECTED: (400, "InvalidImageFormat"),
        Trouble.KEY: (401, "401"),
        Trouble.QUOTA: (403, "QuotaExceeded"),
        Trouble.MODEL: (404, "404"),
    }

    def image(self, body: bytes) -> bytes:
        return body

    def answer(self, scores: Scores, version: str, request: Any) -> Any:
        values = [{"name": name, "confidence": score} for name, score in scores]
        tags = {"tagsResult": {"values": values}} if values else {}
        return {"modelVersion": version, "metadata": {"width": 1, "height": 1}, **tags}

    def error(self, trouble: Trouble) -> tuple[int, Any]:
        status, code = self.errors[trouble]
        return status, {"error": {"code": code, "message": f"it is {trouble.value}"}}

    def key(self, headers: Any, path: str) -> str | None:
        return headers.get("Ocp-Apim-Subscription-Key")


class Clarifai(Wire):
    errors: ClassVar[dict[Trouble, tuple[int, Any]]] = {
        Trouble.THROTTLED: (429, 11005),
        Trouble.BUSY: (429, 11005),
        Trouble.FAILED: (500, 10020),
        Trouble.REJECTED: (400, 30002),
        Trouble.KEY: (401, 11009),
        Trouble.QUOTA: (402, 11006),
        Trouble.MODEL: (404, 21200),
    }

    def image(self, body: bytes) -> bytes:
        return base64.b64decode(json.loads(body)["inputs"][0]["data"]["image"]["base64"])

    def answer(self, scores: Scores, version: str, request: Any) -> Any:
        concepts = [{"id": name, "name": name, "value": score} for name, score in scores]
        model = {"id": "general", "model_version": {"id": version}}
        ok = {"code": 10000, "description": "Ok"}
        output = {"status": ok, "model": model, "data": {"concepts": concepts} if concepts else {}}
        return {"status": ok, "outputs": [output]}

    def error(self, trouble: Trouble) -> tuple[int, Any]:
        status, code = self.errors[trouble]
        return status, {"status": {"code": code, "description": trouble.value}}

    def key(self, headers: Any, path: str) -> str | None:
        return (headers.get("Authorization") or "").removeprefix("Key ") or None


class OpenAI(Wire):
    errors: ClassVar[dict[Trouble, tuple[int, Any]]] = {
        Trouble.THROTTLED: (429, "rate_limit_exceeded"),
        Trouble.BUSY: (429, "rate_limit_exceeded"),
        Trouble.FAILED: (500, "server_error"),
        Trouble.REJECTED: (400, "invalid_image"),
        Trouble.KEY: (401, "invalid_api_key"),
        Trouble.QUOTA: (429, "insufficient_quota"),
        Trouble.MODEL: (404, "model_not_found"),
        Trouble.SCHEMA: (400, "response_format.type must be text"),
    }

    def image(self, body: bytes) -> bytes:
        content = json.loads(body)["messages"][0]["content"]
        return base64.b64decode(content[1]["image_url"]["url"].split(",")[1])

    def answer(self, scores: Scores, version: str, request: Any) -> Any:
        named, allowed = json.loads(request).get("response_format"), [name for name, _ in scores]
        if named is not None:
            allowed = named["json_schema"]["schema"]["properties"]["label"]["enum"]
        label = next((name for name, _ in scores if name in allowed), None)
        content = None if label is None else json.dumps({"label": label})
        message = {"role": "assistant", "content": content, "refusal": None}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": f"vision-{version}",
            "choices": [choice],
        }

    def error(self, trouble: Trouble) -> tuple[int, Any]:
        status, code = self.errors[trouble]
        told = f"Incorrect API key provided: {KEY[:3]}***" if trouble is Trouble.KEY else code
        return status, {"error": {"message": told, "type": code, "code": code}}


class Own(Wire):
    """A server of one's own: the file in, a list of predictions out."""

    errors: ClassVar[dict[Trouble, tuple[int, Any]]] = {
        Trouble.THROTTLED: (429, {"detail": "slow down"}),
        Trouble.BUSY: (503, {"detail": "slow down"}),
        Trouble.FAILED: (500, {"detail": "an accident"}),
        Trouble.REJECTED: (422, {"detail": "not an image"}),
        Trouble.KEY: (401, {"detail": "who are you?"}),
        Trouble.QUOTA: (402, {"detail": "pay first"}),
        Trouble.MODEL: (404, {"detail": "no such model"}),
    }

    def image(self, body: bytes) -> bytes:
        return body

    def answer(self, scores: Scores, version: str, request: Any) -> Any:
        return {"predictions": [{"label": name, "score": score} for name, score in scores]}


class Triton(Own):
    """The v2 protocol with float pixels in and label names out."""

    metadata: ClassVar[dict[str, Any]] = {
        "name": "resnet",
        "versions": ["1"],
        "platform": "pytorch",
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 3, -1, -1]}],
        "outputs": [{"name": "label", "datatype": "BYTES", "shape": [-1, 1]}],
    }

    def image(self, body: bytes) -> bytes:
        (tensor,) = json.loads(body)["inputs"]
        assert tensor["name"] == "pixels"
        pixels = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])[0]
        levels = (pixels * 255).round().astype(np.uint8)
        file = io.BytesIO()
        PIL.Image.fromarray(levels.transpose(1, 2, 0)).save(file, "PNG")
        return file.getvalue()

    def answer(self, scores: Scores, version: str, request: Any) -> Any:
        names = [name for name, _ in scores[:1]]
        output = {"name": "label", "datatype": "BYTES", "shape": [1, len(names)], "data": names}
        return {"model_name": "resnet", "model_version": version, "outputs": [output]}


WIRES: dict[str, Wire] = {
    "aws": Amazon(),
    "google": Google(),
    "azure": Azure(),
    "clarifai": Clarifai(),
    "openai": OpenAI(),
    "http": Own(),
    "kserve": Triton(),
}


def wire_of(path: str, headers: Any) -> Wire:
    if "X-Amz-Target" in headers:
        return WIRES["aws"]
    for part, name in (
        ("/v1/images:annotate", "google"),
        ("/computervision/", "azure"),
        ("/users/", "clarifai"),
        ("/chat/completions", "openai"),
        ("/v2/models/", "kserve"),
    ):
        if part in path:
            return WIRES[name]
    return WIRES["http"]


class FakeVendor:
    """The server; ``script`` may be replaced while it runs.

    ``requests`` notes the hash of each image and what became of it, in the order of arrival.
    """

    def __init__(
        self,
        scores: Callable[[bytes], Scores] | None = None,
        script: Script | None = None,
        latency: float = 0.0,
        stall: float = 3.0,
        retry_after: float = 1.0,
    ) -> None:
        self.scores = scores or by_chance({"cat": 0.9, "dog": 0.1})
        self.script: Script = script or (lambda number, image: None)
        self.latency, self.stall, self.retry_after = latency, stall, retry_after
        self.requests: list[tuple[str, str]] = []
        self.in_flight, self.most_in_flight = 0, 0
        self.paths: list[str] = []
        self.accepted = KEY
        self.metadata = Triton.metadata
        self.sent = 0  # bytes of huge answers
        self.body: Callable[[Any], bytes] | None = None
        """What is sent for a right answer."""
        self.lock = threading.Lock()
        self.ended = threading.Event()
        server = _Server(("127.0.0.1", 0), _Handler)
        server.fake = self
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeVendor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def attempts(self) -> int:
        return len(self.requests)

    def counts(self) -> Counter[str]:
        """How many requests had which end."""
        return Counter(end for _, end in self.requests)

    def answered_twice(self) -> list[str]:
        """Images that were answered more than once."""
        answered = Counter(image for image, end in self.requests if end == "answered")
        return [image for image, times in answered.items() if times > 1]


@lru_cache
def _packed_spaces() -> tuple[bytes, Any]:
    """HUGE_BYTES spaces compressed, and what can compress more behind them."""
    packer, spaces = zlib.compressobj(wbits=31), b" " * 2**20
    return b"".join([packer.compress(spaces) for _ in range(HUGE_BYTES // 2**20)]), packer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    fake: FakeVendor

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536
    server: _Server

    def log_message(self, *arguments: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._reply(200, self.server.fake.metadata if "resnet" in self.path else {})

    def do_POST(self) -> None:
        fake = self.server.fake
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        wire = wire_of(self.path, self.headers)
        image = wire.image(body)
        digest = hashlib.sha256(image).hexdigest()
        with fake.lock:
            number = len(fake.requests)
            trouble = fake.script(number, digest)
            if trouble is None and wire.key(self.headers, self.path) not in (
                fake.accepted,
                KEY,
                None,
            ):
                trouble = Trouble.KEY
            paid = trouble in (None, Trouble.EMPTY, Trouble.UPDATED)
            fake.requests.append((digest, "answered" if paid else trouble.value))
            fake.paths.append(self.path)
            fake.in_flight += 1
            fake.most_in_flight = max(fake.most_in_flight, fake.in_flight)
        try:
            if fake.latency:
                time.sleep(fake.latency)
            self._meet(wire, trouble, image, body)
        finally:
            with fake.lock:
                fake.in_flight -= 1

    def _meet(self, wire: Wire, trouble: Trouble | None, image: bytes, body: bytes) -> None:
        fake = self.server.fake
        if trouble is Trouble.STALLED:
            fake.ended.wait(fake.stall)
        if trouble in (Trouble.DROPPED, Trouble.CUT, Trouble.STALLED):
            if trouble is Trouble.CUT:
                self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"La')
                self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if trouble is Trouble.GARBAGE:
            self._send(200, b"<html>Welcome to the hotel's network</html>", wire.kind, {})
            return
        if trouble is Trouble.STRANGE:
            self._reply(200, {"outputs": 7, "choices": [], "Labels": 5, "responses": []}, wire.kind)
            return
        if trouble in wire.errors:
            status, told = wire.error(trouble)
            more = {"Retry-After": f"{fake.retry_after:g}"} if trouble is Trouble.BUSY else {}
            self._reply(status, told, wire.kind, more)
            return
        if trouble in (Trouble.TRICKLED, Trouble.HEAD_TRICKLED, Trouble.HUGE, Trouble.BOMB):
            answer = json.dumps(wire.answer(fake.scores(image), "3.0", body)).encode()
            self._unusual(trouble, answer, wire.kind)
            return
        scores = [] if trouble is Trouble.EMPTY else fake.scores(image)
        version = "4.0" if trouble is Trouble.UPDATED else "3.0"
        answer = wire.answer(scores, version, body)
        if fake.body is not None:
            self._send(200, fake.body(answer), wire.kind, {})
            return
        self._reply(200, answer, wire.kind)

    def _unusual(self, trouble: Trouble, answer: bytes, kind: str) -> None:
        """Send a right answer slowly, or behind many spaces."""
        self.close_connection = True
        spaces, more = b" " * 2**20, ""
        if trouble is Trouble.BOMB:
            packed, before = _packed_spaces()
            packer = before.copy()
            answer = packed + packer.compress(answer) + packer.flush()
            more = "Content-Encoding: gzip\r\n"
        length = len(answer) + (HUGE_BYTES if trouble is Trouble.HUGE else 0)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{more}\r\n"
        slow = head.encode() if trouble is Trouble.HEAD_TRICKLED else b""
        slow += answer if trouble is Trouble.TRICKLED else b""
        if trouble is not Trouble.HEAD_TRICKLED:
            self.wfile.write(head.encode())
        for place in range(len(slow)):
            self.wfile.write(slow[place : place + 1])
            self.wfile.flush()
            if self.server.fake.ended.wait(0.05):
                return
        if trouble is Trouble.HUGE:
            for _ in range(HUGE_BYTES // 2**20):
                self.wfile.write(spaces)
                self.server.fake.sent += len(spaces)
        if trouble is not Trouble.TRICKLED:
            self.wfile.write(answer)
        self.wfile.flush()

    def _reply(
        self,
        status: int,
        told: Any,
        kind: str = "application/json",
        more: dict[str, str] | None = None,
    ) -> None:
        self._send(status, json.dumps(told).encode(), kind, more or {})

    def _send(self, status: int, data: bytes, kind: str, more: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


def at_random(shares: dict[Trouble, float], seed: int = 0) -> Script:
    """Trouble for shares of the requests."""
    source = random.Random(seed)

    def script(number: int, image: str) -> Trouble | None:
        uniform = source.random()
        for trouble, share in shares.items():
            if uniform < share:
                return trouble
            uniform -= share
        return None

    return script


def in_turn(troubles: Sequence[Trouble | None]) -> Script:
    """These for the first requests, then none."""
    return lambda number, image: troubles[number] if number < len(troubles) else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--throttle", type=float, default=0.0)
    parser.add_argument("--drop", type=float, default=0.0)
    parser.add_argument("--labels", default="cat=0.9,dog=0.1")
    given = parser.parse_args()
    weights = {name: float(w) for name, w in (p.split("=") for p in given.labels.split(","))}
    shares = {Trouble.THROTTLED: given.throttle, Trouble.DROPPED: given.drop}
    with FakeVendor(by_chance(weights), at_random(shares), given.latency) as fake:
        print(fake.port, flush=True)
        for line in sys.stdin:  # any line asks for the counts so far
            twice = len(fake.answered_twice())
            told = {"attempts": fake.attempts, "twice": twice, "counts": fake.counts()}
            print(json.dumps(told), flush=True)
            if line.strip() == "end":
                break


if __name__ == "__main__":
    main()
