"""The application: the routes, the responses to errors, and the guard in front of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from denoised_smoothing import errors
from denoised_smoothing.web.request_body import faults
from denoised_smoothing.web.routes import answers, operations, pages, runs, verifications
from denoised_smoothing.web.security import Access, Guard, problem
from denoised_smoothing.web.service import Service
from denoised_smoothing.web.views import failure

DESCRIPTION = """Certify image classifiers that already exist: the API returns a label, and the L2
radius within which no change of the image changes it. Radii are in pixel values in [0, 1] of the
converted image, rounded down. `GET /v1/models` lists the names of classifiers, denoisers and noise
levels. The operator limits the size of requests."""
_STATUSES = {
    errors.InputError: 422,
    errors.MissingExtraError: 501,
    errors.BodyTooLargeError: 413,
    errors.BodyTooSlowError: 408,
}
_log = logging.getLogger(__name__)


def create_app(service: Service, access: Access | None = None) -> ASGIApp:
    """Return the application, which starts and closes the service."""
    access = access or Access()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await run_in_threadpool(service.close)

    app = FastAPI(
        title="Denoised smoothing",
        version=metadata.version("denoised-smoothing"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # it and ReDoc load scripts from other sites
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    for routes in (answers, runs, verifications, operations, pages):
        app.include_router(routes.router)
    for kind in (Exception, errors.DenoisedSmoothingError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _refused)
    # Now: FastAPI completes the routes at the first request, which is not safe with threads.
    described = app.openapi()
    if access.key is not None:
        scheme = {"type": "http", "scheme": "bearer"}
        described.setdefault("components", {})["securitySchemes"] = {"key": scheme}
        described["security"] = [{"key": []}]
    return Guard(app, access, service.limits, service.metrics)


def _refused(_: Request, error: Exception) -> Response:
    """Turn an error into a response; unexpected messages, which may hold paths, are logged."""
    match error:
        case errors.BusyError():
            return problem(429, str(error), **{"retry-after": str(error.retry_after)})
        case errors.ClosingError():
            return problem(503, str(error), **{"retry-after": "10"})
        case HTTPException():
            return problem(error.status_code, str(error.detail), **dict(error.headers or {}))
        case RequestValidationError():
            return problem(422, faults(error.errors()))
        case errors.RunNotFoundError():
            return problem(404, "The store has no run of that name. GET /v1/runs lists all.")
    for kind, status in _STATUSES.items():
        if isinstance(error, kind):
            return problem(status, str(error))
    _log.error("a request failed", exc_info=error)
    if isinstance(error, errors.StoreError):
        return problem(503, "The store cannot be read. Retry later.")
    return problem(500, failure(None))
