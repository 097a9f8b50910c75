"""The body of a request: JSON with the image in base64, or a form with the image as a file."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from denoised_smoothing.web.schemas import ImageRequest

_FIELDS = 20


async def read_body(
    request: Request, schema: type[ImageRequest]
) -> tuple[ImageRequest, bytes | None]:
    """Return the parameters of a request, and the bytes of its image if it has one.

    A thread parses them, so that other requests do not wait.

    Raises:
        HTTPException: 400, 415 or 422, with the reason.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        values, content = await run_in_threadpool(_json, await request.body()), None
    elif kind == "multipart/form-data":
        values, content = await _form(request)
    else:
        raise HTTPException(
            415,
            f"The content type is {kind[:100]!r}; expected application/json or "
            "multipart/form-data. Send the parameters in one of them.",
        )
    return await run_in_threadpool(_validate, schema, values, content)


def body_of(schema: type[ImageRequest]) -> dict[str, Any]:
    """Describe both content types of the body for OpenAPI."""
    described = schema.model_json_schema()
    examples = described.pop("examples", [])
    form = {**described, "properties": {**described["properties"]}}
    form["properties"]["image"] = {"type": "string", "format": "binary"}
    if "radii" in form["properties"]:
        form["properties"]["radii"] = {"type": "string", "description": "For example 0.25,0.5."}
    named = {f"example {i}": {"value": value} for i, value in enumerate(examples, 1)}
    content = {
        "application/json": {"schema": described, "examples": named},
        "multipart/form-data": {"schema": form},
    }
    return {"requestBody": {"required": True, "content": content}}


def faults(errors: Sequence[Any]) -> str:
    """Name field and fault of at most five errors of pydantic, without the values sent."""
    texts = (
        f"{'.'.join(str(part) for part in error['loc']) or 'body'}: {error['msg']}"[:200]
        for error in errors[:5]
    )
    return "; ".join(texts)


def _json(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "The body is not valid JSON. Send a JSON object.") from error
    if not isinstance(values, dict):
        raise HTTPException(422, "The body is not a JSON object. Send one.")
    return values


async def _form(request: Request) -> tuple[dict[str, Any], bytes | None]:
    values: dict[str, Any] = {}
    content = None
    async with request.form(max_files=1, max_fields=_FIELDS) as form:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                values[name] = value
            elif name == "image":
                content = await value.read()
            else:
                raise HTTPException(
                    422, "A file was sent in an unexpected field. Send it in the field image."
                )
    if "radii" in values:
        values["radii"] = values["radii"].split(",")
    if content is not None and "image" in values:
        raise HTTPException(422, "The field image was sent twice. Send one image.")
    return values, content


def _validate(
    schema: type[ImageRequest], values: dict[str, Any], content: bytes | None
) -> tuple[ImageRequest, bytes | None]:
    known = schema.model_fields
    if len(values) > len(known):  # before each unknown field becomes an error
        raise HTTPException(
            422, f"The body has {len(values)} fields; expected some of {', '.join(known)}."
        )
    try:
        body = schema.model_validate(values)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False, include_context=False)
        raise HTTPException(422, faults(errors)) from error
    if body.image is not None and content is None:
        try:
            content = base64.b64decode(body.image.rpartition(",")[2], validate=True)
        except (binascii.Error, ValueError) as error:
            raise HTTPException(422, "image: not valid base64. Encode the file.") from error
    return body.model_copy(update={"image": None}), content
