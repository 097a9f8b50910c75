"""What is offered, and whether the service is well."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import JSONResponse, Response

from denoised_smoothing.images import to_png
from denoised_smoothing.web.routes.answers import REFUSALS, service_of
from denoised_smoothing.web.schemas import Problem
from denoised_smoothing.web.security import problem
from denoised_smoothing.web.views import name_of

router = APIRouter()
_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}, **REFUSALS}


@router.get("/v1/models", tags=["what is offered"], responses=REFUSALS)
def models(request: Request) -> dict[str, Any]:
    """Classifiers, denoisers, noise levels and examples by name, and the limits of requests."""
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
                "label_names": model.label_names,
                "examples": [
                    {"name": example.name, "label": name_of(example.label, model.label_names)}
                    for example in model.examples
                ],
            }
            for model in service.offer.models.values()
        ],
    }


@router.get(
    "/v1/models/{classifier}/examples/{example}",
    tags=["what is offered"],
    responses={**_PNG, 404: {"model": Problem}},
)
def example(
    request: Request,
    classifier: Annotated[str, Path(max_length=200)],
    example: Annotated[str, Path(max_length=200)],
) -> Response:
    """The picture of an example."""
    model = service_of(request).offer.models.get(classifier)
    found = {} if model is None else {e.name: e for e in model.examples}
    if example not in found:
        return problem(404, "there is no such example")
    return Response(to_png(found[example].image), media_type="image/png")


@router.get("/healthz", tags=["operation"], responses={403: {"model": Problem}})
def healthz() -> dict[str, str]:
    """Whether the process answers at all."""
    return {"status": "ok"}


@router.get(
    "/readyz", tags=["operation"], responses={403: {"model": Problem}, 503: {"model": Problem}}
)
def readyz(request: Request) -> JSONResponse:
    """Whether requests are answered without delay: models are loaded, and it is not stopped."""
    service = service_of(request)
    if service.closing:
        return problem(503, "the service is being stopped")
    if not service.ready.is_set():
        return problem(503, "models are still being prepared")
    return JSONResponse({"status": "ready"})


@router.get(
    "/metrics", tags=["operation"], responses={200: {"content": {"text/plain": {}}}, **REFUSALS}
)
def metrics(request: Request) -> Response:
    """Counters in the text format of Prometheus."""
    text = service_of(request).metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
