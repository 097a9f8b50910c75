"""Stored runs over HTTP: the numbers of the report, and downloads."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from denoised_smoothing.certificates.parameters import Noise
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
from denoised_smoothing.reporting.results import load_results
from denoised_smoothing.reporting.tables import certified_accuracy
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store
from denoised_smoothing.web.app import create_app
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.served import ServedModels
from denoised_smoothing.web.service import Service

from .conftest import HERE

NAMES = ["of the/stability", "none"]


@pytest.fixture(scope="module")
def client(models: ServedModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with Store(tmp_path_factory.mktemp("runs") / "runs.sqlite") as store:
        for name, denoiser in zip(NAMES, ("digits-stability", "none"), strict=True):
            smoothed = SmoothedClassifier(load_classifier("digits"), 0.5, load_denoiser(denoiser))
            CertificationRun(
                smoothed, load_dataset("digits"), FixedBudget(20, 200), 0.001, "digits", denoiser,
                name=name, limit=8,
            ).execute(store)  # fmt: skip
        service = Service(models, store, Limits(grace=1))
        with TestClient(create_app(service), base_url=HERE) as opened:
            opened.store = store  # type: ignore[attr-defined]
            yield opened


def test_list(client: TestClient) -> None:
    rows = client.get("/v1/runs").json()
    assert {row["run"]: row["finished"] for row in rows if row["run"] in NAMES} == dict.fromkeys(
        NAMES, 8
    )


def test_no_path_or_command_is_shown(client: TestClient) -> None:
    shown = client.get(f"/v1/runs/{NAMES[1]}").text + client.get("/v1/models").text
    assert "command" not in shown
    assert "spec" not in client.get("/v1/models").json()["models"][0]


def test_float_noise_is_named_as_unproven(client: TestClient) -> None:
    store = client.store  # type: ignore[attr-defined]
    smoothed = SmoothedClassifier(load_classifier("digits"), 0.5, None, noise=Noise.FLOAT)
    CertificationRun(
        smoothed, load_dataset("digits"), FixedBudget(20, 50), 0.001, "digits", "none",
        name="float", limit=2,
    ).execute(store)  # fmt: skip
    assert client.get("/v1/comparison?run=float").json()["unproven"] == ["float"]
    assert client.get("/v1/comparison?run=none").json()["unproven"] == []


def test_comparison_has_the_numbers_of_the_report(client: TestClient) -> None:
    compared = client.get("/v1/comparison", params={"run": NAMES}).json()
    assert [row[0] for row in compared["tables"][0]["rows"]] == [
        "digits-stability + digits",
        "no denoiser + digits",
    ]
    results = load_results(client.store, NAMES[0])  # type: ignore[attr-defined]
    curve = compared["curves"][0]
    steps = dict(zip(curve["radii"], curve["shares"], strict=True))  # the last of equal radii
    assert len(steps) > 3
    for radius, share in steps.items():
        beyond = certified_accuracy(results, (radius + 1e-5,))[0]
        assert share == pytest.approx(beyond)


def test_images_and_their_details(client: TestClient) -> None:
    page = client.get(f"/v1/runs/{NAMES[0]}/images", params={"offset": 2, "limit": 3}).json()
    assert page["total"] == 8
    assert [image["index"] for image in page["images"]] == [2, 3, 4]
    details = client.get(f"/v1/runs/{NAMES[0]}/images/2").json()
    assert len(details["pictures"]["noisy"]) == len(details["pictures"]["denoised"]) == 3
    assert sum(details["certificate"]["estimation"]["counts"].values()) == details["counted"]
    assert client.get(f"/v1/runs/{NAMES[0]}/images/999").status_code == 422
    assert client.get(f"/v1/runs/{NAMES[0]}").json()["settings"]["sigma"] == 0.5


def test_downloads(client: TestClient) -> None:
    tsv = client.get(f"/v1/runs/{NAMES[0]}/export").text.splitlines()
    assert tsv[0].split("\t") == ["idx", "label", "predict", "radius", "correct", "time"]
    assert len(tsv) == 9
    parquet = client.get(f"/v1/runs/{NAMES[0]}/export", params={"format": "parquet"})
    pyarrow = pytest.importorskip("pyarrow.parquet")
    assert pyarrow.read_table(io.BytesIO(parquet.content)).num_rows == 8
    report = client.get("/v1/report", params={"run": NAMES})
    assert report.headers["content-disposition"] == 'attachment; filename="report.html"'
    assert "--accent" in report.text
    assert client.get(f"/v1/runs/{NAMES[0]}/export?format=exe").status_code == 422


@pytest.mark.parametrize(
    "path", ["/v1/runs/nope", "/v1/comparison?run=nope", "/v1/runs/nope/export"]
)
def test_unknown_runs_are_404_and_name_no_path(client: TestClient, path: str) -> None:
    reply = client.get(path)
    assert reply.status_code == 404
    assert "sqlite" not in reply.text
