"""Every vendor, set up for the fake server as its users would set it up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from fake import KEY

from denoised_smoothing.remote.vendors.aws import Rekognition
from denoised_smoothing.remote.vendors.azure import ImageAnalysis
from denoised_smoothing.remote.vendors.base import Vendor
from denoised_smoothing.remote.vendors.clarifai import Clarifai
from denoised_smoothing.remote.vendors.google import CloudVision
from denoised_smoothing.remote.vendors.http import HttpEndpoint
from denoised_smoothing.remote.vendors.kserve import KServe
from denoised_smoothing.remote.vendors.openai import OpenAI


@dataclass(frozen=True)
class Case:
    """How a vendor is made for an address, and the variables that hold its secrets."""

    name: str
    make: Callable[[str], Vendor]
    environment: Callable[[str], dict[str, str]]
    secret: str
    versioned: bool = True


CASES = [
    Case(
        "aws",
        lambda url: Rekognition(),
        lambda url: {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": "very-secret-0123456789",
            "AWS_DEFAULT_REGION": "eu-west-1",
        },
        "AWS_ACCESS_KEY_ID",
    ),
    Case(
        "google",
        lambda url: CloudVision(endpoint=url),
        lambda url: {"GOOGLE_API_KEY": KEY},
        "GOOGLE_API_KEY",
        versioned=False,
    ),
    Case(
        "azure",
        lambda url: ImageAnalysis(),
        lambda url: {"VISION_ENDPOINT": url, "VISION_KEY": KEY},
        "VISION_KEY",
    ),
    Case(
        "clarifai",
        lambda url: Clarifai("general-image-recognition"),
        lambda url: {"CLARIFAI_API_BASE": url, "CLARIFAI_PAT": KEY},
        "CLARIFAI_PAT",
    ),
    Case(
        "openai",
        lambda url: OpenAI("vision", labels=("cat", "dog")),
        lambda url: {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": KEY},
        "OPENAI_API_KEY",
    ),
    Case(
        "http",
        lambda url: HttpEndpoint(f"{url}/classify", "predictions", token_env="SERVER_TOKEN"),
        lambda url: {"SERVER_TOKEN": KEY},
        "SERVER_TOKEN",
        versioned=False,
    ),
    Case(
        "kserve",
        lambda url: KServe(f"{url}/v2/models/resnet", token_env="SERVER_TOKEN"),
        lambda url: {"SERVER_TOKEN": KEY},
        "SERVER_TOKEN",
    ),
]
BY_NAME = {case.name: case for case in CASES}


def prepare(monkeypatch: pytest.MonkeyPatch, case: Case, url: str) -> Vendor:
    """The vendor, with nothing in the environment but what its case says."""
    for name in (
        "AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS",
        "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY",
        "https_proxy", "ALL_PROXY", "all_proxy",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent/config")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    for name, value in case.environment(url).items():
        monkeypatch.setenv(name, value)
    return case.make(url)
