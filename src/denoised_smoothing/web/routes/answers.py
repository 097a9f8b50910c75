"""Predictions, certificates and attacks; the requests that were taken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse

from denoised_smoothing.web.job_store import JobRecord
from denoised_smoothing.web.jobs import Job as Taken
from denoised_smoothing.web.request_body import body_of, read_request
from denoised_smoothing.web.schemas import (
    AttackAnswer,
    AttackRequest,
    CertificateAnswer,
    CertificateRequest,
    ImageRequest,
    Job,
    PredictionAnswer,
    PredictionRequest,
    Problem,
)
from denoised_smoothing.web.security import client_of, problem
from denoised_smoothing.web.service import Service

REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body cannot be read."},
    401: {"model": Problem, "description": "An API key is needed."},
    403: {"model": Problem, "description": "Another host name, or a page of another site."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {"model": Problem, "description": "Something asked for is out of range; says what."},
    429: {
        "model": Problem,
        "description": "Too many requests; Retry-After says when to come back.",
        "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}},
    },
    500: {"model": Problem, "description": "The classifier failed, or the service."},
    503: {"model": Problem, "description": "The service is being stopped, or its store fails."},
}
ANSWERING = {
    **REFUSALS,
    202: {"model": Job, "description": "Taken (with Prefer: respond-async)."},
    415: {"model": Problem, "description": "Neither JSON nor a form."},
}
EVENTS = {
    "text/event-stream": {
        "schema": {"type": "string"},
        "example": 'event: progress\ndata: {"n": 400, "radius": 0.31}\n\n',
    }
}
_Id = Annotated[str, Path(max_length=64, description="The name of the request.")]

router = APIRouter(prefix="/v1", tags=["answers"])


def service_of(request: Request) -> Service:
    """The service of the application."""
    service: Service = request.app.state.service
    return service


@router.post(
    "/predictions",
    openapi_extra=body_of(PredictionRequest),
    responses={200: {"model": PredictionAnswer, "content": EVENTS}, **ANSWERING},
)
async def predict(request: Request) -> Response:
    """The smoothed classifier's label of an image, without a radius.

    With ``Accept: text/event-stream`` its progress as events (progress, result or error), with
    ``Prefer: respond-async`` only the name under which it is found later. Otherwise the answer;
    a client that goes away before it frees the work.
    """
    return await _answer(request, "prediction", PredictionRequest)


@router.post(
    "/certificates",
    openapi_extra=body_of(CertificateRequest),
    responses={200: {"model": CertificateAnswer, "content": EVENTS}, **ANSWERING},
)
async def certify(request: Request) -> Response:
    """The label of an image, and the radius within which it provably does not change.

    Headers as for predictions; with ``pictures`` there are also events ``copies``.
    """
    return await _answer(request, "certificate", CertificateRequest)


@router.post(
    "/attacks",
    openapi_extra=body_of(AttackRequest),
    responses={200: {"model": AttackAnswer, "content": EVENTS}, **ANSWERING},
)
async def break_it(request: Request) -> Response:
    """Look for a change of at most a length that leads to another label (PGD); judge it anew."""
    return await _answer(request, "attack", AttackRequest)


@router.get("/jobs", responses={200: {"model": list[Job]}, **REFUSALS})
def jobs(request: Request, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> JSONResponse:
    """The newest requests that were taken."""
    return JSONResponse([_told(record) for record in service_of(request).journal.newest(limit)])


@router.get("/jobs/{job}", responses={200: {"model": Job}, 404: {"model": Problem}, **REFUSALS})
def job(request: Request, job: _Id) -> JSONResponse:
    """What became of a request."""
    return JSONResponse(_told(_found(request, job)))


@router.get(
    "/jobs/{job}/events",
    responses={200: {"content": EVENTS}, 404: {"model": Problem}, **REFUSALS},
)
async def watch(request: Request, job: _Id) -> Response:
    """The events of a request that is on its way; leaving does not end it."""
    running = service_of(request).job(job)
    if running is None:
        raise HTTPException(404, "no such request is on its way")
    return StreamingResponse(_events(running), media_type="text/event-stream")


@router.post(
    "/jobs/{job}/resume",
    responses={200: {"model": CertificateAnswer}, 404: {"model": Problem}, **ANSWERING},
)
async def resume(request: Request, job: _Id) -> Response:
    """Go on with a request that was interrupted: same noise, no copy twice."""
    record = await run_in_threadpool(_found, request, job)
    service = service_of(request)
    taken = await run_in_threadpool(service.resume, record, client_of(request.scope))
    return await _respond(request, taken)


@router.delete("/jobs/{job}", status_code=204, responses={404: {"model": Problem}, **REFUSALS})
def cancel(request: Request, job: _Id) -> Response:
    """Let go of a request that is on its way."""
    running = service_of(request).job(job)
    if running is None:
        raise HTTPException(404, "no such request is on its way")
    service_of(request).cancel(running)
    return Response(status_code=204)


async def _answer(request: Request, kind: str, form: type[ImageRequest]) -> Response:
    ask, content = await read_request(request, form)
    client, service = client_of(request.scope), service_of(request)
    taken = await run_in_threadpool(service.submit, kind, ask, content, client)
    return await _respond(request, taken)


async def _respond(request: Request, taken: Taken) -> Response:
    service = service_of(request)
    if "text/event-stream" in request.headers.get("accept", ""):
        return StreamingResponse(_owned(service, taken), media_type="text/event-stream")
    if "respond-async" in request.headers.get("prefer", ""):
        await run_in_threadpool(service.journal.flush)
        record = await run_in_threadpool(service.journal.get, taken.id)
        return JSONResponse(None if record is None else _told(record), 202)
    end = asyncio.create_task(taken.feed.ended())
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((end, gone), return_when=asyncio.FIRST_COMPLETED)
        if not end.done():
            return Response(status_code=499)  # nobody reads it
        event, values = end.result()
    finally:
        for task in (end, gone):
            task.cancel()
        service.cancel(taken)  # unless it is at its end, nobody waits for it any more
    if event == "result":
        return JSONResponse(values)
    return problem(503 if service.closing else 500, values["detail"])


async def _gone(request: Request) -> None:
    """Wait until the client goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _owned(service: Service, taken: Taken) -> AsyncIterator[str]:
    """The events of a request that is for this client alone."""
    try:
        async for text in _events(taken):
            yield text
    finally:
        if not service.closing:
            service.cancel(taken)


async def _events(taken: Taken) -> AsyncIterator[str]:
    yield _event("accepted", {"job": taken.id, "kind": taken.kind})
    async for event, values in taken.feed.follow():
        yield _event(event, values) if values is not None else ": still here\n\n"


def _event(event: str, values: dict[str, Any]) -> str:
    return f"event: {event}\ndata: {json.dumps(values)}\n\n"


def _found(request: Request, id: str) -> JobRecord:
    record = service_of(request).journal.get(id)
    if record is None:
        raise HTTPException(404, "no such request is kept")
    return record


def _told(record: JobRecord) -> dict[str, Any]:
    return {
        "job": record.id,
        "kind": record.kind,
        "state": record.state.value,
        "created": record.created,
        "answer": record.answer,
    }
