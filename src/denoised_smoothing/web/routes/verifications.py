"""The check of certificates in an uploaded file, by their arithmetic."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.errors import SettingError
from denoised_smoothing.reporting.evidence import PROVES, Evidence, Outcome
from denoised_smoothing.reporting.export import ExportFormat
from denoised_smoothing.reporting.kinds import Kind, kind_of
from denoised_smoothing.web import schemas
from denoised_smoothing.web.routes.answers import REFUSALS
from denoised_smoothing.web.schemas import Problem

ROWS = 10_000
"""Maximum number of certificates of a file."""
SECONDS = 20.0
"""Maximum time to check a file: its numbers may be chosen so that they take long."""
_KINDS = (Kind.CERTIFICATE, ExportFormat.JSONL, ExportFormat.CSV)


def _example() -> dict[str, Any]:
    """Return a certificate for the description of the service."""
    counts = {
        Stage.SELECTION: LabelCounts("seed 7", "0", Stage.SELECTION, {3: 100}),
        Stage.ESTIMATION: LabelCounts("seed 7", "0", Stage.ESTIMATION, {3: 990, 8: 10}),
    }
    parameters = SmoothingParameters(sigma=0.25, alpha=0.001, dimension=64, seed=7)
    return FixedBudget(100, 1_000).certificate(counts, parameters).to_dict()


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "description": "A certificate."},
                "examples": {"example 1": {"value": _example()}},
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}

router = APIRouter(prefix="/v1", tags=["answers"])


@router.post(
    "/verifications",
    openapi_extra=_BODY,
    responses={
        200: {"model": schemas.Verification},
        415: {"model": Problem, "description": "The body is neither JSON nor a form."},
        **REFUSALS,
    },
)
async def verify(request: Request) -> dict[str, Any]:
    """Check the arithmetic of a certificate, or of an export in JSON lines or CSV.

    Counts, plan and alpha must give the radii. No copy is drawn: a consistent forgery passes.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        content = await request.body()
    elif kind == "multipart/form-data":
        content = await _file(request)
    else:
        raise HTTPException(
            415,
            f"The content type is {kind[:100]!r}; expected application/json or "
            "multipart/form-data. Send the file in one of them.",
        )
    return await run_in_threadpool(_check, content)


async def _file(request: Request) -> bytes:
    async with request.form(max_files=1, max_fields=1) as form:
        sent = form.get("file")
        if not isinstance(sent, UploadFile):
            raise HTTPException(422, "There is no file. Send it in the field file.")
        return await sent.read()


def _check(content: bytes) -> dict[str, Any]:
    """Return the verdicts on the certificates of a file.

    Raises:
        SettingError: it holds none that can be checked here.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "certificates"
        path.write_bytes(content)
        outcome, kind = Outcome(), kind_of(path, "The file")
        if kind not in _KINDS:
            raise SettingError(
                f"The file is of the kind {kind}, which is not checked here. Use the command "
                "denoised-smoothing verify."
            )
        end = time.monotonic() + SECONDS
        for row in Evidence(str(path), kind, limit=ROWS + 1).rows():
            outcome.add(row)
            if outcome.verdicts.total() > ROWS or time.monotonic() > end:
                raise SettingError(
                    f"The file holds more than {ROWS:,} certificates, or takes longer than "
                    f"{SECONDS:g} seconds. Use the command denoised-smoothing verify."
                )
    if not outcome.verdicts:
        raise SettingError("The file holds no certificates. Send one that holds some.")
    return {"kind": kind.value, "depth": "arithmetic", **outcome.to_dict()} | {
        "proves": PROVES["arithmetic"]
    }
