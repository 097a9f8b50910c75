"""Stored runs: list, tables and curves, images, downloads, report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path as File
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from denoised_smoothing.reporting.export import ExportFormat
from denoised_smoothing.reporting.export import export as write_export
from denoised_smoothing.reporting.html import write_report
from denoised_smoothing.reporting.results import load_results
from denoised_smoothing.text import shown_values
from denoised_smoothing.web import views
from denoised_smoothing.web.routes.answers import NOT_FOUND, service_of

_TYPES = {
    ExportFormat.TSV: "text/tab-separated-values",
    ExportFormat.CSV: "text/csv",
    ExportFormat.PARQUET: "application/vnd.apache.parquet",
}
_T = TypeVar("_T")
_Run = Annotated[str, Path(max_length=300, description="The name of a run.")]
_Runs = Annotated[list[str], Query(alias="run", max_length=20, description="Names of runs.")]

router = APIRouter(prefix="/v1", tags=["runs"], responses=NOT_FOUND)


@router.get("/runs")
def runs(request: Request) -> list[dict[str, Any]]:
    """List all runs, the newest first."""
    store = service_of(request).store
    finished = store.finished()
    rows = [views.run_row(run, finished.get(run.name, 0)) for run in reversed(store.runs())]
    return _shown(rows)


@router.get("/comparison")
def comparison(request: Request, run: _Runs) -> dict[str, Any]:
    """Compare one or several runs: tables and curves of certified accuracy."""
    return _shown(views.compared_runs(service_of(request).store, run))


@router.get("/report", responses={200: {"content": {"text/html": {}}}})
def report(request: Request, run: _Runs) -> Response:
    """Return an HTML report of one or several runs, in one file."""
    store = service_of(request).store
    return _download(
        lambda path: write_report(store, run, path), "report.html", "text/html; charset=utf-8"
    )


@router.get("/runs/{name:path}/images/{index}")
def image(request: Request, name: _Run, index: Annotated[int, Path(ge=0, le=2**31)]) -> Any:
    """Return an image of a run: votes, certificate and stored pictures."""
    return _shown(views.image_details(service_of(request).store, name, index))


@router.get("/runs/{name:path}/images")
def images(
    request: Request,
    name: _Run,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> dict[str, Any]:
    """List the images of a run, by index."""
    rows = views.image_rows(load_results(service_of(request).store, name))
    return _shown({"total": len(rows), "images": rows[offset : offset + limit]})


@router.get(
    "/runs/{name:path}/export",
    responses={200: {"content": {kind: {} for kind in _TYPES.values()}}},
)
def export(request: Request, name: _Run, format: ExportFormat = ExportFormat.TSV) -> Response:
    """Export a run: tsv with the columns of Cohen et al. 2019, csv or parquet with all."""
    run = load_results(service_of(request).store, name)
    return _download(
        lambda path: write_export(run, format, path), f"run.{format.value}", _TYPES[format]
    )


@router.get("/runs/{name:path}")
def run(request: Request, name: _Run) -> dict[str, Any]:
    """Return a run with its settings."""
    return _shown(views.run_details(service_of(request).store, name))


def _shown(values: _T) -> _T:
    """Return plain values for JSON; a path in a command or setting need not be UTF-8."""
    shown: _T = shown_values(values)
    return shown


def _download(write: Callable[[File], object], name: str, kind: str) -> Response:
    """Return the file that a function writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = File(folder) / name
        write(path)
        content = path.read_bytes()
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=kind, headers=headers)
