"""Predictions, certificates and attacks, and the list of accepted requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse

from denoised_smoothing.web import schemas
from denoised_smoothing.web.job_store import JobRecord
from denoised_smoothing.web.jobs import AttackJob, CertificateJob, Job, PredictionJob
from denoised_smoothing.web.request_body import body_of, read_body
from denoised_smoothing.web.schemas import Problem
from denoised_smoothing.web.security import client_of, problem
from denoised_smoothing.web.service import Service

Responses = dict[int | str, dict[str, Any]]
REFUSALS: Responses = {
    400: {"model": Problem, "description": "The body cannot be read."},
    401: {"model": Problem, "description": "An API key is needed."},
    403: {"model": Problem, "description": "Unexpected host name, or a page of another site."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {"model": Problem, "description": "A parameter is out of range; the detail names it."},
    429: {
        "model": Problem,
        "description": "Too many requests; Retry-After says when to retry.",
        "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}},
    },
    500: {"model": Problem, "description": "The classifier or the service failed."},
    503: {"model": Problem, "description": "The service is being stopped, or its store fails."},
}
NOT_FOUND: Responses = {404: {"model": Problem}, **REFUSALS}
EVENTS = {
    "text/event-stream": {
        "schema": {"type": "string"},
        "example": 'event: progress\ndata: {"n": 400, "radius": 0.31}\n\n',
    }
}
_Id = Annotated[str, Path(max_length=64, description="The name of the request.")]

router = APIRouter(prefix="/v1", tags=["answers"])


def service_of(request: Request) -> Service:
    """Return the service of the application."""
    service: Service = request.app.state.service
    return service


def _described(kind: type[Job], answer: type[schemas.Answer]) -> dict[str, Any]:
    """Describe a path for OpenAPI."""
    return {"openapi_extra": body_of(kind.schema), "responses": _responses(answer)}


def _responses(answer: type[schemas.Answer]) -> Responses:
    return {
        200: {"model": answer, "content": EVENTS},
        202: {"model": schemas.Job, "description": "Accepted (with Prefer: respond-async)."},
        415: {"model": Problem, "description": "The body is neither JSON nor a form."},
        **REFUSALS,
    }


@router.post("/predictions", **_described(PredictionJob, schemas.PredictionAnswer))
async def predict(request: Request) -> Response:
    """Predict the label of an image, without a radius.

    With ``Accept: text/event-stream`` the response is a stream of events: progress, then result or
    error. With ``Prefer: respond-async`` it is the name of the request, whose answer
    ``GET /v1/jobs/{job}`` returns later. Otherwise it is the answer; if the client disconnects
    before, the request is cancelled.
    """
    return await _answer(request, PredictionJob)


@router.post("/certificates", **_described(CertificateJob, schemas.CertificateAnswer))
async def certify(request: Request) -> Response:
    """Return the label of an image, and the radius within which it provably does not change.

    Headers as for predictions; with ``pictures`` there are also events ``copies``.
    """
    return await _answer(request, CertificateJob)


@router.post("/attacks", **_described(AttackJob, schemas.AttackAnswer))
async def break_it(request: Request) -> Response:
    """Attack an image (PGD) with a change of limited length, and predict its label again."""
    return await _answer(request, AttackJob)


@router.get("/jobs", responses={200: {"model": list[schemas.Job]}, **REFUSALS})
def jobs(request: Request, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> JSONResponse:
    """List the newest accepted requests."""
    return JSONResponse([_view(job) for job in service_of(request).job_store.newest(limit)])


@router.get("/jobs/{job}", responses={200: {"model": schemas.Job}, **NOT_FOUND})
def job(request: Request, job: _Id) -> JSONResponse:
    """Return the state of a request, and its answer if it is done."""
    return JSONResponse(_view(_stored(request, job)))


@router.get("/jobs/{job}/events", responses={200: {"content": EVENTS}, **NOT_FOUND})
async def watch(request: Request, job: _Id) -> Response:
    """Stream the events of a pending request. Disconnecting does not cancel it."""
    return _stream(_events(_pending(request, job)))


@router.post("/jobs/{job}/resume", responses={**_responses(schemas.CertificateAnswer), **NOT_FOUND})
async def resume(request: Request, job: _Id) -> Response:
    """Resume a request that was interrupted, with the same noise and the counts so far."""
    record = await run_in_threadpool(_stored, request, job)
    client = client_of(request.scope)
    return await _respond(
        request, await run_in_threadpool(service_of(request).resume, record, client)
    )


@router.delete("/jobs/{job}", status_code=204, responses=NOT_FOUND)
def cancel(request: Request, job: _Id) -> Response:
    """Cancel a pending request."""
    service_of(request).cancel(_pending(request, job))
    return Response(status_code=204)


async def _answer(request: Request, kind: type[Job]) -> Response:
    body, content = await read_body(request, kind.schema)
    service, client = service_of(request), client_of(request.scope)
    job = await run_in_threadpool(service.submit, kind, body, content, client)
    return await _respond(request, job)


async def _respond(request: Request, job: Job) -> Response:
    service = service_of(request)
    if "text/event-stream" in request.headers.get("accept", ""):
        return _stream(_events(job, service))
    if "respond-async" in request.headers.get("prefer", ""):
        await run_in_threadpool(service.job_store.flush)
        return JSONResponse(_view(await run_in_threadpool(_stored, request, job.id)), 202)
    end = asyncio.create_task(_last_event(job))
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((end, gone), return_when=asyncio.FIRST_COMPLETED)
        if not end.done():
            return Response(status_code=499)  # the client disconnected
        event, values = end.result()
    finally:
        for task in (end, gone):
            task.cancel()
        service.cancel(job)  # without effect on one that ended
    if event == "result":
        return JSONResponse(values)
    return problem(503 if service.closing else 500, values["detail"])


async def _last_event(job: Job) -> tuple[str, Any]:
    async for event in job.events.follow(progress=False):
        last = event
    return last


async def _gone(request: Request) -> None:
    """Wait until the client disconnects."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _stream(events: AsyncIterator[str]) -> Response:
    return StreamingResponse(events, media_type="text/event-stream")


async def _events(job: Job, owner: Service | None = None) -> AsyncIterator[str]:
    """Yield the events of a request; if the client owns it and disconnects, cancel it."""
    try:
        yield _event("accepted", {"job": job.id, "kind": job.kind})
        async for event, values in job.events.follow():
            yield _event(event, values) if values is not None else ": still here\n\n"
    finally:
        if owner is not None and not owner.closing:
            owner.cancel(job)


def _event(event: str, values: dict[str, Any]) -> str:
    return f"event: {event}\ndata: {json.dumps(values)}\n\n"


def _pending(request: Request, id: str) -> Job:
    job = service_of(request).job(id)
    if job is None:
        raise HTTPException(404, "No request of that name is pending. GET /v1/jobs lists all.")
    return job


def _stored(request: Request, id: str) -> JobRecord:
    record = service_of(request).job_store.get(id)
    if record is None:
        raise HTTPException(404, "No request of that name is stored. GET /v1/jobs lists all.")
    return record


def _view(record: JobRecord) -> dict[str, Any]:
    return {
        "job": record.id,
        "kind": record.kind,
        "state": record.state.value,
        "created": record.created,
        "answer": record.answer,
    }
