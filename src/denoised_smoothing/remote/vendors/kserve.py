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
from denoised_smoothing.remote.vendors.rest import RestVendor

MOST_LABELS = 100_000
"""Values of an output that are read at most."""


class KServe(RestVendor):
    """A model of a server with the v2 protocol, over REST.

    The model's metadata, read at the first query, says what the input is: ``BYTES`` gets the file,
    ``UINT8`` the pixels, ``FP32`` the pixels divided by 255, with channels first or last by the
    shape. The output is the label itself (``BYTES``), its number (``INT``), or a score per class.

    Args:
        url: of the model, ``http://HOST/v2/models/NAME[/versions/V]``.
        labels: the names of the classes by number; without them, the numbers are the names.
        output: the name of the output; the first one by default.
        token_env: name of an environment variable whose value is sent as a bearer token.
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
        self.model = url.rstrip("/").removesuffix("/infer")
        super().__init__(f"{self.model}/infer", token_env)
        self._labels, self._output = tuple(labels), output
        self.options = {"labels": self._labels, "output": output}
        self._input: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def request(self, image: bytes) -> Mapping[str, Any]:
        tensor = self._metadata()
        if tensor["datatype"] == "BYTES":
            shape: list[int] = [1, 1][: len(tensor["shape"])]
            data: list[Any] = [base64.b64encode(image).decode()]
        else:
            pixels = np.asarray(PIL.Image.open(io.BytesIO(image)))
            if list(tensor["shape"][-3:-2]) == [3] or len(tensor["shape"]) < 3:
                pixels = pixels.transpose(2, 0, 1)
            shape = [1, *pixels.shape]
            if tensor["datatype"] != "UINT8":
                pixels = (pixels / np.float32(255)).astype(np.float32)
            data = pixels.ravel().tolist()
        return {"json": {"inputs": [{**tensor, "shape": shape, "data": data}]}}

    def reply(self, answer: Any) -> Reply:
        outputs = {output["name"]: output for output in answer["outputs"]}
        output = outputs[self._output] if self._output else next(iter(outputs.values()))
        data = np.ravel(np.array(output["data"], dtype=object)).tolist()  # as they were sent
        if len(data) > MOST_LABELS:
            raise ValueError(f"{len(data):,} values, and at most {MOST_LABELS:,} are read")
        if output["datatype"].startswith("FP"):
            scored = [Scored(self._name(number), score) for number, score in enumerate(data)]
        else:
            is_name = output["datatype"] == "BYTES"
            scored = [Scored(each if is_name else self._name(each), 1.0) for each in data[:1]]
        version = answer.get("model_version")
        return Reply(scored, None if version is None else str(version))

    def _name(self, number: object) -> str | None:
        """Return the name of a class, or its number if no labels are given; None without any."""
        if type(number) is not int or number < 0:
            return None
        if not self._labels:
            return str(number)
        return self._labels[number] if number < len(self._labels) else None

    def _metadata(self) -> dict[str, Any]:
        """Return name, type and shape of the model's input; requested once, and never paid."""
        with self._lock:
            if self._input is None:
                answer = self.call(lambda client: client.get(self.model))
                try:
                    self._input = {k: answer["inputs"][0][k] for k in ("name", "datatype", "shape")}
                except (LookupError, TypeError) as error:
                    raise VendorError(
                        Outcome.REFUSED,
                        f"{self.model} has no metadata of the v2 protocol: {answer}",
                        FaultSource.SETUP,
                    ) from error
            return self._input
