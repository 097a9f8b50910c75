"""The web page: static files of the package, read once; no other file can be requested."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
router = APIRouter(include_in_schema=False)


@router.get("/")
def index(request: Request) -> Response:
    """Return the page."""
    return _file(request, "index.html")


@router.get("/static/{name}")
def static(request: Request, name: str) -> Response:
    """Return a file of the page."""
    return _file(request, name)


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    """Return content and tag of each file by its name; the theme is that of the report."""
    found = [*(resources.files("denoised_smoothing.web") / "static").iterdir()]
    found.append(resources.files("denoised_smoothing.reporting") / "theme.css")
    contents = {
        file.name: file.read_bytes() for file in found if file.name.rpartition(".")[2] in _TYPES
    }
    return {
        name: (content, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
        for name, content in contents.items()
    }


def _file(request: Request, name: str) -> Response:
    if name not in _files():
        raise HTTPException(404, "The page has no file of that name.")
    content, tag = _files()[name]
    headers = {"etag": tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=_TYPES[name.rpartition(".")[2]])
