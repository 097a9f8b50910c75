"""Requests to what they ask: JSON with the image in base64, or a form with the image as a file."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from denoised_smoothing.web.schemas import ImageRequest

_Ask = TypeVar("_Ask", bound=ImageRequest)
_FIELDS = 20


async def read_request(request: Request, kind: type[_Ask]) -> tuple[_Ask, bytes | None]:
    """What is asked, and the bytes of the image, if it is not named.

    Reading them may take a while, so it is done in a thread, beside other requests.

    Raises:
        HTTPException: 400, 415 or 422, saying what is wrong.
    """
    form = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if form == "application/json":
        values, content = await run_in_threadpool(_json, await request.body()), None
    elif form == "multipart/form-data":
        values, content = await _form(request)
    else:
        raise HTTPException(415, "send application/json, or multipart/form-data with the image")
    return await run_in_threadpool(_checked, kind, values, content)


def body_of(kind: type[ImageRequest]) -> dict[str, Any]:
    """The description of both forms of the body, for OpenAPI."""
    schema = kind.model_json_schema()
    examples = schema.pop("examples", [])
    form = {**schema, "properties": {**schema["properties"]}}
    form["properties"]["image"] = {"type": "string", "format": "binary"}
    if "radii" in form["properties"]:
        form["properties"]["radii"] = {"type": "string", "description": "such as 0.25,0.5"}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": schema,
                    "examples": {f"example {i}": {"value": e} for i, e in enumerate(examples, 1)},
                },
                "multipart/form-data": {"schema": form},
            },
        }
    }


def _json(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the body is no JSON") from error
    if not isinstance(values, dict):
        raise HTTPException(422, "the body is no JSON object")
    return values


async def _form(request: Request) -> tuple[dict[str, Any], bytes | None]:
    values: dict[str, Any] = {}
    content = None
    async with request.form(max_files=1, max_fields=_FIELDS) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "image":
                    raise HTTPException(422, "the only file is that of the field image")
                content = await value.read()
            else:
                values[name] = value
    if "radii" in values:
        values["radii"] = values["radii"].split(",")
    if content is not None and "image" in values:
        raise HTTPException(422, "the field image is there twice")
    return values, content


def _checked(
    kind: type[_Ask], values: dict[str, Any], content: bytes | None
) -> tuple[_Ask, bytes | None]:
    known = kind.model_fields
    if len(values) > len(known):  # before each unknown one becomes an error of its own
        raise HTTPException(
            422, f"the body has {len(values)} fields; expected some of {', '.join(known)}"
        )
    try:
        ask = kind.model_validate(values)
    except ValidationError as error:
        raise HTTPException(422, _told(error)) from error
    if ask.image is not None and content is None:
        try:
            content = base64.b64decode(ask.image.rpartition(",")[2], validate=True)
        except (binascii.Error, ValueError) as error:
            raise HTTPException(422, "image: not in base64") from error
    return ask.model_copy(update={"image": None}), content


def _told(error: ValidationError) -> str:
    """Field and fault of each error, without what was sent."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}"[:200]
        for fault in faults[:5]
    )
