"""From the spec of a remote classifier to the classifier: ``scheme[:rest][#option=value]...``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from denoised_smoothing.errors import SpecError
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.encoding import Encoding, Format
from denoised_smoothing.remote.labels import AnswerRule
from denoised_smoothing.remote.vendors.base import Vendor

REMOTE_FORMS = (
    "aws",
    "google",
    "azure",
    "clarifai:MODEL",
    "openai:MODEL#labels=FILE",
    "http:URL#label=JMESPATH",
    "http:URL#protocol=kserve",
    "simulated",
)
COMMON = ("size", "format", "quality", "labels", "synonyms")
"""Options of every remote classifier; ``labels`` are the only ones that count."""


@dataclass
class _Spec:
    """A spec taken apart; options are taken out one by one."""

    text: str
    scheme: str
    rest: str
    options: dict[str, str]
    known: list[str] = field(default_factory=lambda: list(COMMON))

    def take(self, name: str, convert: Callable[[str], Any] = str) -> dict[str, Any]:
        """``{name: value}`` if the option is given."""
        self.known.append(name)
        if name not in self.options:
            return {}
        text = self.options.pop(name)
        try:
            return {name: convert(text)}
        except ValueError as error:
            raise SpecError(
                f"{self.text!r}: {name}={text!r} is not understood ({error}); expected "
                f"{_EXPECTED.get(convert, 'another value')}"
            ) from error

    def finish(self) -> None:
        """Refuse what nobody took."""
        for name in self.options:
            near = difflib.get_close_matches(name, self.known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise SpecError(
                f"{self.text!r}: there is no option {name!r}; {hint}"
                f"Known: {', '.join(sorted(set(self.known)))}"
            )


def is_remote(spec: str) -> bool:
    """Whether a spec names a remote classifier."""
    return spec.partition("#")[0].partition(":")[0] in _SCHEMES


def load_remote(spec: str) -> RemoteClassifier:
    """The remote classifier that a spec names. Nothing is sent, no SDK is imported yet.

    Args:
        spec: one of :data:`REMOTE_FORMS`, with options after ``#`` signs. For all: ``size``
            (pixels to which the shorter side is enlarged), ``format`` (png, jpeg), ``quality``
            of a JPEG, ``labels`` (a file with one label a line, or names with commas between:
            the only ones that count), ``synonyms`` (a file with lines ``name = other name``).

    Raises:
        SpecError: an unknown scheme or option, or a file that cannot be read.
        SettingError: a value out of its range.
    """
    parsed = _parsed(spec)
    encoding = Encoding(
        **parsed.take("size", int), **parsed.take("format", Format), **parsed.take("quality", int)
    )
    labels = parsed.take("labels", _lines).get("labels")
    synonyms = parsed.take("synonyms", _pairs).get("synonyms", {})
    vendor = _SCHEMES[parsed.scheme](parsed, labels)
    parsed.finish()
    return RemoteClassifier(vendor, AnswerRule(synonyms, labels), encoding)


def _parsed(spec: str) -> _Spec:
    head, *pieces = spec.split("#")
    scheme, _, rest = head.partition(":")
    if rest.startswith("//"):  # the address itself is the spec
        rest = head
    options = {}
    for piece in pieces:
        name, equals, value = piece.partition("=")
        if not equals or not name:
            raise SpecError(f"{spec!r}: {piece!r} is no option; write #name=value after the name")
        options[name.replace("-", "_")] = value
    return _Spec(spec, scheme, rest, options)


def _aws(spec: _Spec, labels: tuple[str, ...] | None) -> Vendor:
    from denoised_smoothing.remote.vendors.aws import Rekognition

    return Rekognition(**spec.take("max_labels", int), **spec.take("min_confidence", float))


def _google(spec: _Spec, labels: tuple[str, ...] | None) -> Vendor:
    from denoised_smoothing.remote.vendors.google import CloudVision

    return CloudVision(**spec.take("max_labels", int), **spec.take("endpoint"))


def _azure(spec: _Spec, labels: tuple[str, ...] | None) -> Vendor:
    from denoised_smoothing.remote.vendors.azure import ImageAnalysis

    return ImageAnalysis()


def _clarifai(spec: _Spec, labels: tuple[str, ...] | None) -> Vendor:
    from denoised_smoothing.remote.vendors.clarifai import Clarifai

    return Clarifai(_needed(spec, "clarifai:MODEL"))


def _openai(spec: _Spec, labels: tuple[str, ...] | None) -> Vendor:
    from denoised_smoothing.remote.vendors.openai import OpenAI

    model = _needed(spec, "openai:MODEL#labels=FILE")
    return OpenAI(model, labels or (), **spec.take("prompt"), **spec.take("detail"))


def _http(spec: _Spec, labels: tuple[str, ...] | None) -> Vendor:
    url = _needed(spec, "http:URL#label=JMESPATH")
    protocol = spec.take("protocol").get("protocol", "json")
    token = spec.take("token_env")
    if protocol == "kserve":
        from denoised_smoothing.remote.vendors.kserve import KServe

        return KServe(url, labels=labels or (), **spec.take("output"), **token)
    if protocol != "json":
        raise SpecError(f"{spec.text!r}: protocol is json or kserve, got {protocol!r}")
    from denoised_smoothing.remote.vendors.http import HttpEndpoint

    return HttpEndpoint(
        url, **spec.take("label"), **spec.take("body"), **spec.take("field"), **token
    )


def _simulated(spec: _Spec, labels: tuple[str, ...] | None) -> Vendor:
    from denoised_smoothing.remote.vendors.simulated import Simulated

    weights = spec.take("weights", _weights).get("weights")
    return Simulated(
        weights,
        **spec.take("latency", float),
        **spec.take("errors", float),
        **spec.take("price", float),
    )


def _needed(spec: _Spec, form: str) -> str:
    if not spec.rest:
        raise SpecError(f"{spec.text!r} is not complete; write {form}")
    return spec.rest


def _lines(text: str) -> tuple[str, ...]:
    """Names with commas between, or the lines of a file."""
    path = Path(text).expanduser()
    if "," in text and not path.is_file():
        return tuple(name.strip() for name in text.split(",") if name.strip())
    return tuple(_read(path))


def _pairs(text: str) -> Mapping[str, str]:
    pairs = {}
    for line in _read(Path(text).expanduser()):
        name, equals, other = line.partition("=")
        if not equals:
            raise ValueError(f"the line {line!r} has no '='")
        pairs[name.strip()] = other.strip()
    return pairs


def _weights(text: str) -> Mapping[str, float]:
    pairs = [part.partition("=") for part in text.split(",")]
    return {name.strip(): float(weight) for name, _, weight in pairs}


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{error.strerror}: {str(path)!r}") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


_EXPECTED: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    Format: "png or jpeg",
    _lines: "names with commas between, or a file with one a line",
    _pairs: "a file with lines 'name = other name'",
    _weights: "labels and weights, such as cat=0.9,dog=0.1",
}
_SCHEMES: dict[str, Callable[[_Spec, tuple[str, ...] | None], Vendor]] = {
    "aws": _aws,
    "google": _google,
    "azure": _azure,
    "clarifai": _clarifai,
    "openai": _openai,
    "http": _http,
    "https": _http,
    "simulated": _simulated,
}
