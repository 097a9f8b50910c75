"""Requests made up from the description of the service: none may fail on this side.

As many for each operation as the environment variable DENOISED_SMOOTHING_BAD_REQUESTS says.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, Phase, given, settings
from starlette.testclient import TestClient

from denoised_smoothing.store import Store
from denoised_smoothing.web.app import create_app
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.offer import Offer
from denoised_smoothing.web.service import Service

from .conftest import HERE

EACH = int(os.environ.get("DENOISED_SMOOTHING_BAD_REQUESTS", "12"))
LEAKS = ("Traceback", "site-packages", "/tmp/", "/home/", "sqlite")


@pytest.fixture(scope="module")
def client(offer: Offer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    limits = Limits(copies=400, rate=10**9, queue=1_000, per_client=1_000, grace=1)
    with Store(tmp_path_factory.mktemp("schema") / "runs.sqlite") as store:
        service = Service(offer, store, limits)
        with TestClient(
            create_app(service), base_url=HERE, raise_server_exceptions=False
        ) as opened:
            yield opened


@pytest.fixture(scope="module")
def described(client: TestClient) -> Any:
    return schemathesis.openapi.from_dict(client.get("/openapi.json").json())


def test_every_operation_is_described_with_its_refusals(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert len(paths) >= 15
    for path, operations in paths.items():
        for method, operation in operations.items():
            assert operation["summary"], path
            assert operation["description"], path
            assert "403" in operation["responses"], path
            if method == "post" and "resume" not in path:
                forms = operation["requestBody"]["content"]
                assert set(forms) == {"application/json", "multipart/form-data"}
                assert forms["application/json"]["examples"]


def test_examples_of_the_description_are_answered(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        body = operations.get("post", {}).get("requestBody")
        for example in body["content"]["application/json"]["examples"].values() if body else ():
            value = {k: v for k, v in example["value"].items() if k not in ("n", "max_n")}
            size = {"max_n": 200} if value.get("plan") == "anytime" else {"n": 200}
            more = {"steps": 2, "copies": 4} if path.endswith("attacks") else {}
            reply = client.post(path, json={**value, **size, **more})
            assert reply.status_code == 200, (path, reply.text)


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_no_generated_request_fails_on_this_side(
    client: TestClient, described: Any, mode: str
) -> None:
    from schemathesis import GenerationMode

    seen: list[int] = []
    for result in described.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=EACH, deadline=None, database=None, derandomize=True,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
        def check(case: Any) -> None:
            sent = case.as_transport_kwargs(base_url=HERE)
            sent = {k: v for k, v in sent.items() if v is not None and k in ALLOWED}
            try:
                reply = client.request(**sent)
            except (UnicodeEncodeError, TypeError, ValueError):  # the client cannot send it
                return
            seen.append(reply.status_code)
            assert reply.status_code < 500, (sent, reply.text)
            assert not any(leak in reply.text for leak in LEAKS), (sent, reply.text)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what generates
            try:
                check()
            except Exception as error:
                if "Unsatisfiable" in type(error).__name__:  # nothing can be wrong in it
                    continue
                raise
    assert len(seen) > 5 * EACH


ALLOWED = {"method", "url", "params", "headers", "cookies", "json", "data", "files", "content"}
