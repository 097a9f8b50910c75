"""Certificates, predictions and attacks over HTTP."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.images import to_png
from denoised_smoothing.web.schemas import AttackAnswer, CertificateAnswer, PredictionAnswer
from denoised_smoothing.web.served import ServedModels
from denoised_smoothing.web.service import Service

STABILITY = "white box (stability)"


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for part in text.strip().split("\n\n"):
        name, _, data = part.partition("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def same_as_library(models: ServedModels, answer: dict[str, Any], image: np.ndarray) -> bool:
    """Whether the library draws the same counts with the seed of the answer, of the same model."""
    certificate = Certificate.from_json(json.dumps(answer["certificate"]))
    smoothed = models.model("digits").smoothed(STABILITY, certificate.sigma)
    again = smoothed.certify(
        image, plan=certificate.plan, alpha=certificate.alpha, seed=certificate.seed
    )
    return [stage.votes for stage in again.stages] == [
        stage.votes for stage in certificate.stages
    ] and (again.radius, again.identity) == (certificate.radius, certificate.identity)


def test_certificate_is_that_of_the_library(client: TestClient, models: ServedModels) -> None:
    image = models.model("digits").example("3").image
    encoded = base64.b64encode(to_png(image)).decode()
    request = {"image": encoded, "denoiser": STABILITY, "sigma": 0.25, "n": 500}
    answer = client.post("/v1/certificates", json=request).json()
    CertificateAnswer.model_validate(answer)
    assert answer["label"] == 2
    assert answer["label_name"] == "2"
    assert answer["radius"] > 0.1
    assert answer["calls"] == 600
    assert f"cannot change within radius {str(answer['radius'])[:6]}" in answer["sentence"]
    assert same_as_library(models, answer, image)


def test_form_and_json_take_the_same(client: TestClient, models: ServedModels) -> None:
    image = to_png(models.model("digits").example("0").image)
    fields = {"plan": "anytime", "radii": "0.1,0.25", "max_n": "2000", "sigma": "0.5"}
    answer = client.post("/v1/certificates", data=fields, files={"image": image}).json()
    plan = answer["certificate"]["plan"]
    assert plan["kind"] == "anytime"
    assert plan["radii"] == [0.1, 0.25]
    assert same_as_library(models, answer, models.model("digits").example("0").image)


def test_prediction(client: TestClient) -> None:
    answer = client.post("/v1/predictions", json={"example": "0", "n": 500}).json()
    PredictionAnswer.model_validate(answer)
    assert answer["label"] == 0
    assert answer["prediction"]["p_value"] <= 0.001


def test_no_two_answers_have_the_same_noise(client: TestClient) -> None:
    """The attacker must not know the noise."""
    seeds = {
        client.post("/v1/certificates", json={"example": "0", "n": 50}).json()["certificate"][
            "seed"
        ]
        for _ in range(3)
    }
    assert len(seeds) == 3


def test_many_clients_share_batches_and_get_their_own_answers(
    live: str, models: ServedModels
) -> None:
    def ask(number: int) -> tuple[int, dict[str, Any]]:
        example = str(number % 24)
        request = {"example": example, "n": 150 + 50 * (number % 3), "sigma": 0.5}
        reply = httpx.post(f"{live}/v1/certificates", json=request, timeout=120)
        assert reply.status_code == 200, reply.text
        return number, reply.json()

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(24)))
    assert len({answer["job"] for _, answer in answers}) == 24
    for number, answer in answers:
        assert answer["certificate"]["plan"]["n"] == 150 + 50 * (number % 3)
        assert same_as_library(
            models, answer, models.model("digits").example(str(number % 24)).image
        )


def test_events_show_the_progress(client: TestClient) -> None:
    request = {"example": "0", "n": 3000, "pictures": True, "denoiser": STABILITY}
    reply = client.post("/v1/certificates", json=request, headers={"accept": "text/event-stream"})
    received = events(reply.text)
    names = [name for name, _ in received]
    assert names[0] == "accepted"
    assert names[-1] == "result"
    assert {"copies", "progress"} <= set(names)
    copies = [copy for name, values in received if name == "copies" for copy in values["copies"]]
    assert len(copies) == 24
    assert all(copy["noisy"].startswith("data:image/png") and copy["denoised"] for copy in copies)
    progress = [values for name, values in received if name == "progress"]
    assert all(a["calls"] < b["calls"] for a, b in pairwise(progress))
    assert not any(values["proven"] for values in progress)
    result = received[-1][1]
    assert result["perturbation"]["norm"] < result["radius"]
    assert result["perturbation"]["norm"] > 0.9 * result["radius"]


def test_shown_copies_are_the_first_that_are_counted(
    client: TestClient, models: ServedModels
) -> None:
    request = {"example": "0", "n": 50, "pictures": True, "denoiser": STABILITY, "sigma": 0.5}
    reply = client.post("/v1/certificates", json=request, headers={"accept": "text/event-stream"})
    received = events(reply.text)
    labels = [copy["label"] for name, v in received if name == "copies" for copy in v["copies"]]
    seed = int(received[-1][1]["certificate"]["seed"])
    smoothed, image = (
        models.model("digits").smoothed(STABILITY, 0.5),
        models.model("digits").example("0").image,
    )
    plan = SamplingPlan.from_dict({"kind": "fixed", "n0": 100, "n": 24})
    counts = smoothed.certify(image, plan=plan, seed=seed).counts
    assert Counter(labels) == counts.votes


@pytest.mark.parametrize(("share", "outcome"), [(0.9, "stands"), (20.0, None)])
def test_an_attack_within_the_radius_fails(
    client: TestClient, share: float, outcome: str | None
) -> None:
    who = {"example": "0", "denoiser": STABILITY, "sigma": 0.5}
    certificate = client.post("/v1/certificates", json={**who, "n": 2000}).json()
    request = {**who, "label": 0, "epsilon": share * certificate["radius"], "pictures": True}
    answer = client.post("/v1/attacks", json=request).json()
    AttackAnswer.model_validate(answer)
    found = answer["attack"]
    assert 0 < found["norm"] < found["epsilon"]
    assert found["outcome"] == outcome or (outcome is None and found["outcome"] != "stands")
    assert answer["image"]["picture"] != found["change"]


def test_requests_are_found_later(client: TestClient, service: Service) -> None:
    reply = client.post(
        "/v1/predictions", json={"example": "1", "n": 200}, headers={"prefer": "respond-async"}
    )
    assert reply.status_code == 202
    path = f"/v1/jobs/{reply.json()['job']}"
    until = time.monotonic() + 60
    while (held := client.get(path).json())["state"] == "running" and time.monotonic() < until:
        time.sleep(0.05)
    assert held["state"] == "done"
    assert held["answer"]["label"] == 4
    assert [job["job"] for job in client.get("/v1/jobs").json()] == [held["job"]]
    assert client.get("/v1/jobs/0000").status_code == 404
    resumed = client.post(f"{path}/resume")
    assert resumed.status_code == 422
    assert "only interrupted requests" in resumed.json()["detail"]


def leave(url: str, request: dict[str, Any], headers: dict[str, str]) -> None:
    """Send a request, and disconnect after the first line of the answer or a moment."""
    with (
        suppress(httpx.ReadTimeout),
        httpx.stream("POST", url, json=request, headers=headers, timeout=0.3) as reply,
    ):
        next(reply.iter_lines())


def test_a_client_that_goes_away_frees_its_work(live: str, service: Service) -> None:
    for headers in ({}, {"accept": "text/event-stream"}):
        leave(f"{live}/v1/certificates", {"example": "0", "n": 19_000}, headers)
        until = time.monotonic() + 20
        while len(service._jobs) and time.monotonic() < until:
            time.sleep(0.05)
        assert len(service._jobs) == 0
    states = {job["state"] for job in httpx.get(f"{live}/v1/jobs").json()}
    assert states == {"cancelled"}


@pytest.mark.parametrize("headers", [{}, {"accept": "text/event-stream"}])
def test_a_client_that_goes_away_frees_the_place_of_its_attack(
    live: str, service: Service, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """At once, even during a step."""
    step = threading.Event()

    def slow(*args: Any, **_: Any) -> np.ndarray:
        step.wait(60)
        return np.asarray(args[1])

    monkeypatch.setattr("denoised_smoothing.web.jobs.attack", slow)
    assert service.ready.wait(60)
    try:
        leave(f"{live}/v1/attacks", {"example": "0", "label": 0, "epsilon": 0.5}, headers)
        until = time.monotonic() + 20
        while len(service._jobs) and time.monotonic() < until:
            time.sleep(0.05)
        assert len(service._jobs) == 0
    finally:
        step.set()
    assert [job["state"] for job in httpx.get(f"{live}/v1/jobs").json()] == ["cancelled"]


def test_what_is_refused_says_why(client: TestClient) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "Send an image or the name of an example"),
        ({"example": "0", "image": "AAAA"}, "not both"),
        ({"example": "x"}, "The example 'x' is not served"),
        ({"example": "0", "classifier": "python:os:getcwd"}, "The classifier"),
        ({"example": "0", "denoiser": "unet:/etc/passwd"}, "The denoiser"),
        ({"example": "0", "sigma": 0.3}, "expected one of 0.25, 0.5"),
        ({"example": "0", "n": 10**6}, "at most 20,000 are allowed"),
        ({"example": "0", "plan": "anytime", "n": 5}, "does not accept n"),
        ({"example": "0", "n0": 0}, "n0"),
        ({"example": "0", "alpha": 0}, "alpha"),
        ({"example": "0", "path": "/etc/passwd"}, "path"),
        ({"image": "no base64!"}, "base64"),
        ({"image": "AAAA"}, "PNG, JPEG, BMP, WEBP"),
    ]
    for request, said in cases:
        reply = client.post("/v1/certificates", json=request)
        assert reply.status_code == 422, (request, reply.text)
        assert said in reply.json()["detail"], (request, reply.text)
    assert client.post("/v1/certificates", content=b"{").status_code == 415
    broken = client.post(
        "/v1/certificates", content=b"{", headers={"content-type": "application/json"}
    )
    assert broken.status_code == 400
