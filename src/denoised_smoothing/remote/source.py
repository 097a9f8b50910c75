"""Sources of remote classifiers: the options of a vendor, and those that all vendors share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from denoised_smoothing.files import expand_home, read_pairs
from denoised_smoothing.models.label_names import read_names
from denoised_smoothing.models.specs import Source, Spec
from denoised_smoothing.remote.encoding import Encoding, Format
from denoised_smoothing.remote.labels import AnswerRule
from denoised_smoothing.remote.vendors.base import Vendor

if TYPE_CHECKING:
    from denoised_smoothing.remote.classifier import RemoteClassifier

SHARED = ("size", "format", "quality", "labels", "synonyms")
"""Options of every remote classifier."""


def remote_source(
    vendor: type[Vendor], form: str, what: str, *, url: bool = False, **options: Callable[..., Any]
) -> Source:
    """Return the source of a vendor. Loading sends nothing and imports no SDK.

    The shared options are ``size`` (pixels to which the shorter side is enlarged), ``format``
    (png, jpeg), ``quality`` of a JPEG, ``labels`` (names between commas, or a file with one a
    line: the only ones that count) and ``synonyms`` (a file with lines ``name = other name``).

    Args:
        vendor: its class.
        form, what, url: as of :class:`~denoised_smoothing.models.specs.Source`.
        options: the vendor's own options by name, and their conversion from text.
    """

    def load(spec: Spec) -> RemoteClassifier:
        from denoised_smoothing.remote.classifier import RemoteClassifier

        encoding = Encoding(**spec.given(size=int, format=Format, quality=int))
        given = spec.given(labels=_labels, synonyms=_synonyms)
        rule = AnswerRule(given.get("synonyms", {}), given.get("labels"))
        made = vendor.from_spec(spec.rest, given.get("labels", ()), **spec.given(**options))
        return RemoteClassifier(made, rule, encoding)

    known = (*SHARED, *options)
    return Source(
        load, form, f"remote: {what}", known, vendor.package, vendor.extra, url=url, hashes=True
    )


def _labels(text: str) -> tuple[str, ...]:
    return read_names(text, least=1)


def _synonyms(text: str) -> Mapping[str, str]:
    return read_pairs(expand_home(text), "a file with lines 'name = other name'")
