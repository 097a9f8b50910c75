"""The application: routes, errors without traces, the guard in front."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from denoised_smoothing.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    BusyError,
    ClosingError,
    DenoisedSmoothingError,
    InputError,
    MissingExtraError,
    RunNotFoundError,
    StoreError,
)
from denoised_smoothing.web.routes import answers, operations, pages, runs
from denoised_smoothing.web.security import Access, Guard, problem
from denoised_smoothing.web.service import Service

DESCRIPTION = """Certified predictions for image classifiers that already exist: a label, and the
L2 radius within which no change of the image changes it. Radii are in pixel values in [0, 1] of the
image as it is answered, rounded down. Classifiers, denoisers and noise levels are named as in
`GET /v1/models`; what else a request may ask for is limited by the operator."""
_log = logging.getLogger(__name__)


def create_app(service: Service, access: Access | None = None) -> ASGIApp:
    """The application of a service, which it starts and closes."""
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
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    for routes in (answers, runs, operations, pages):
        app.include_router(routes.router)
    app.add_exception_handler(Exception, _unexpected)
    app.add_exception_handler(DenoisedSmoothingError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(BodyTooLargeError, _cut)
    app.add_exception_handler(BodyTooSlowError, _cut)
    # Now: routes are completed when they are first asked for, which is not safe beside threads.
    described = app.openapi()
    if access.key is not None:
        scheme = {"type": "http", "scheme": "bearer"}
        described.setdefault("components", {})["securitySchemes"] = {"key": scheme}
        described["security"] = [{"key": []}]
    return Guard(app, access, service.limits, service.metrics)


def _refused(_: Request, error: Exception) -> Response:
    """The message of an error that a client can do something about; no path of this machine."""
    match error:
        case BusyError():
            return problem(429, str(error), **{"retry-after": str(error.retry_after)})
        case ClosingError():
            return problem(503, str(error), **{"retry-after": "10"})
        case HTTPException():
            return problem(error.status_code, str(error.detail), **dict(error.headers or {}))
        case RequestValidationError():
            faults = "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()
            )
            return problem(422, faults[:500])
        case RunNotFoundError():
            return problem(404, "there is no run of that name")
        case InputError():
            return problem(422, str(error))
        case MissingExtraError():
            return problem(501, str(error))
        case StoreError():
            _log.error("the store failed", exc_info=error)
            return problem(503, "the store cannot be read now")
    return _unexpected(_, error)


def _cut(_: Request, error: Exception) -> Response:
    large = isinstance(error, BodyTooLargeError)
    return problem(413, "the body is too large") if large else problem(408, "the body is too slow")


def _unexpected(_: Request, error: Exception) -> JSONResponse:
    _log.error("a request failed", exc_info=error)
    return problem(500, "something went wrong here; the log of the service says what")
