"""The Open Inference Protocol (KServe v2), which Triton, KServe and TorchServe speak."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import PIL.Image

from denoised_smoothing.remote.labels import Scored
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.remote.vendors.base import FaultSource, Reply, VendorError
from denoised_smoothing.remote.vendors.http import WireVendor, checked_url, token_of


class KServe(WireVendor):
    """A model of a server with the v2 protocol, over REST.

    What goes in is read from the model's metadata at the first query: ``BYTES`` gets the file,
    ``UINT8`` the pixels, ``FP32`` the pixels divided by 255, with channels first or last as the
    shape says. Out come the label itself (``BYTES``), its number (``INT``), or a score a class.

    Args:
        url: of the model, ``http://HOST/v2/models/NAME[/versions/V]``.
        labels: the names of the classes by number; numbers themselves without.
        output: the name of the output; the first one by default.
        token_env: name of an environment variable whose value is sent as a bearer token.

    Raises:
        SettingError: the address or the variable is none.
    """

    name: ClassVar[str] = "kserve"
    paid: ClassVar[bool] = False

    def __init__(
        self,
        url: str,
        labels: Sequence[str] = (),
        output: str | None = None,
        token_env: str | None = None,
    ) -> None:
        super().__init__()
        self.model = checked_url(url.rstrip("/").removesuffix("/infer"))
        self.url = f"{self.model}/infer"
        self._labels, self._output = tuple(labels), output
        self._token = token_of(token_env)
        self._input: dict[str, Any] | None = None
        self._asking = threading.Lock()

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def secrets(self) -> Sequence[str]:
        return (self._token,) if self._token else ()

    def request(self, image: bytes) -> Mapping[str, Any]:
        wanted = self._metadata()
        kind, shape = wanted["datatype"], wanted["shape"]
        if kind == "BYTES":
            data: list[Any] = [base64.b64encode(image).decode()]
            return {"json": {"inputs": [_tensor(wanted["name"], kind, [1, 1][: len(shape)], data)]}}
        pixels = np.asarray(PIL.Image.open(io.BytesIO(image)))
        if list(shape[-3:-2]) == [3] or (len(shape) < 3):
            pixels = pixels.transpose(2, 0, 1)
        values = pixels if kind == "UINT8" else (pixels / np.float32(255)).astype(np.float32)
        tensor = _tensor(wanted["name"], kind, [1, *pixels.shape], values.ravel().tolist())
        return {"json": {"inputs": [tensor]}}

    def reply(self, answer: Any) -> Reply:
        outputs = {output["name"]: output for output in answer["outputs"]}
        output = outputs[self._output] if self._output else next(iter(outputs.values()))
        data = np.ravel(output["data"])
        if output["datatype"].startswith("FP"):
            scored = [Scored(self._name(i), float(score)) for i, score in enumerate(data)]
        elif output["datatype"] == "BYTES":
            scored = [Scored(str(data[0]), 1.0)] if len(data) else []
        else:
            scored = [Scored(self._name(int(data[0])), 1.0)]
        version = answer.get("model_version")
        return Reply(scored, None if version is None else str(version))

    def fingerprint_parts(self) -> Mapping[str, object]:
        more = {"labels": self._labels, "output": self._output}
        return {**super().fingerprint_parts(), **more}

    def _name(self, number: int) -> str:
        return self._labels[number] if number < len(self._labels) else str(number)

    def _metadata(self) -> dict[str, Any]:
        """Name, type and shape of the model's input; asked for once, and never paid."""
        with self._asking:
            if self._input is None:
                answer = self._answer(lambda client: client.get(self.model))
                try:
                    self._input = {k: answer["inputs"][0][k] for k in ("name", "datatype", "shape")}
                except (LookupError, TypeError) as error:
                    raise VendorError(
                        Outcome.REFUSED,
                        f"{self.model} gives no metadata of the v2 protocol: {str(answer)[:200]}",
                        FaultSource.SETUP,
                    ) from error
            return self._input


def _tensor(name: str, kind: str, shape: Sequence[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": kind, "shape": list(shape), "data": data}
