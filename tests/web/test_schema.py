"""Requests generated from the description of the service: none may fail on the server's side.

The environment variable DENOISED_SMOOTHING_BAD_REQUESTS sets their number for each operation.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis")

import httpx
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from denoised_smoothing.store import Store
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.served import ServedModels
from denoised_smoothing.web.service import Service

from .conftest import running

EACH = int(os.environ.get("DENOISED_SMOOTHING_BAD_REQUESTS", "6"))
LEAKS = ("Traceback", "site-packages", "/tmp/", "/home/", "sqlite")


@pytest.fixture(scope="module")
def address(models: ServedModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    limits = Limits(copies=400, rate=10**9, queue=1_000, per_client=1_000, grace=1)
    with (
        Store(tmp_path_factory.mktemp("schema") / "runs.sqlite") as store,
        running(Service(models, store, limits)) as opened,
    ):
        yield opened


@pytest.fixture(scope="module")
def description(address: str) -> Any:
    return httpx.get(f"{address}/openapi.json").json()


def test_every_operation_is_described_with_its_refusals(description: Any) -> None:
    paths = description["paths"]
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


def test_examples_of_the_description_are_answered(address: str, description: Any) -> None:
    paths = description["paths"]
    for path, operations in paths.items():
        body = operations.get("post", {}).get("requestBody")
        for example in body["content"]["application/json"]["examples"].values() if body else ():
            value = {k: v for k, v in example["value"].items() if k not in ("n", "max_n")}
            size = {"max_n": 200} if value.get("plan") == "anytime" else {"n": 200}
            more = {"steps": 2, "copies": 4} if path.endswith("attacks") else {}
            asked = {**value, **size, **more}
            reply = httpx.post(address + path, json=asked, timeout=60)
            assert reply.status_code == 200, (path, reply.text)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_generated_request_fails_on_the_server(
    address: str, description: Any, mode: GenerationMode
) -> None:
    seen: Counter[int] = Counter()
    for result in schemathesis.openapi.from_dict(description).get_all_operations():

        @settings(
            max_examples=EACH, deadline=None, database=None, derandomize=True,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=result.ok().as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            try:
                reply = case.call(base_url=address, timeout=30)
            except (requests.exceptions.InvalidHeader, UnicodeEncodeError):  # it cannot be sent
                return
            seen[reply.status_code] += 1
            assert reply.status_code < 500, reply.text
            assert not any(leak in reply.text for leak in LEAKS), reply.text

        with suppress(Unsatisfiable):  # of operations that take nothing, nothing can be wrong
            check()
    print(mode, dict(seen))
    assert seen.total() > 5 * EACH
    assert seen[200] if mode is GenerationMode.POSITIVE else seen[422]
