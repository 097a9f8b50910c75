"""The served models, and the health and metrics of the service."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import JSONResponse, Response

from denoised_smoothing.errors import SettingError
from denoised_smoothing.images import to_png
from denoised_smoothing.reporting.results import label_name
from denoised_smoothing.text import shown_values
from denoised_smoothing.web.routes.answers import NOT_FOUND, REFUSALS, service_of
from denoised_smoothing.web.schemas import Problem
from denoised_smoothing.web.security import problem

router = APIRouter()


@router.get("/v1/models", tags=["models"], responses=REFUSALS)
def models(request: Request) -> dict[str, Any]:
    """List the names of classifiers, denoisers, noise levels and examples, and the limits."""
    service = service_of(request)
    return {
        "ready": service.ready.is_set(),
        "limits": {
            "copies": service.limits.copies,
            "bytes": service.limits.body,
            "pixels": service.limits.pixels,
        },
        "models": [
            {
                "classifier": model.name,
                "denoisers": list(model.denoisers),
                "sigmas": list(model.sigmas),
                "shape": list(model.shape),
                "label_names": shown_values(model.label_names),
                "examples": [
                    {
                        "name": str(example.index),
                        "label": label_name(example.label, model.label_names),
                    }
                    for example in model.examples
                ],
            }
            for model in service.served.models.values()
        ],
    }


@router.get(
    "/v1/models/{classifier}/examples/{example}",
    tags=["models"],
    responses={200: {"content": {"image/png": {}}}, **NOT_FOUND},
)
def example(
    request: Request,
    classifier: Annotated[str, Path(max_length=200)],
    example: Annotated[str, Path(max_length=200)],
) -> Response:
    """Return the picture of an example."""
    try:
        image = service_of(request).served.model(classifier).example(example).image
    except SettingError as error:
        return problem(404, str(error))
    return Response(to_png(image), media_type="image/png")


@router.get("/healthz", tags=["operation"], responses={403: {"model": Problem}})
def healthz() -> dict[str, str]:
    """Return whether the process answers."""
    return {"status": "ok"}


@router.get(
    "/readyz", tags=["operation"], responses={403: {"model": Problem}, 503: {"model": Problem}}
)
def readyz(request: Request) -> JSONResponse:
    """Return whether the models are prepared and the service is not being stopped."""
    service = service_of(request)
    if service.closing:
        return problem(503, "The service is being stopped. Retry when it is back.")
    if not service.ready.is_set():
        return problem(503, "The service is still preparing its models. Retry later.")
    return JSONResponse({"status": "ready"})


@router.get(
    "/metrics", tags=["operation"], responses={200: {"content": {"text/plain": {}}}, **REFUSALS}
)
def metrics(request: Request) -> Response:
    """Return counters in the text format of Prometheus."""
    text = service_of(request).metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
