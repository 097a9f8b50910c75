"""The table of changes: every field of a certificate and of an export row, and what finds a change.

A change is of one field, to another value of its type, of a certificate that was valid. Its depth
is the first that finds it:

- reading: the value is impossible, or does not fit the fields next to it.
- arithmetic: what the counts give is another value.
- redraw: the recorded noise is drawn again on this kind of machine, or there is nothing to draw
  copies of, or model and data at hand say something else.
- fingerprint: the checker's models have other fingerprints.
- signature: no check finds it; a signature of the file does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from denoised_smoothing.certificates.groups import Groups
from denoised_smoothing.certificates.reading import BELOW_A_LEVEL


class Depth(StrEnum):
    READING = "reading"
    ARITHMETIC = "arithmetic"
    REDRAW = "redraw"
    FINGERPRINT = "fingerprint"
    SIGNATURE = "signature only"


@dataclass(frozen=True)
class Change:
    """The field by its path, another value for it, and the depth that finds the change."""

    field: str
    value: Any
    depth: Depth


R, A, D, F, S = Depth
_OTHER = "f7" * 32
FIELDS = (
    Change("format", 3, R),
    Change("label", 2, A),
    Change("radius", 0.2, A),
    Change("radius_l1", 0.2, A),
    Change("radius_linf", 0.2, A),
    Change("lower_bound", 0.9999, A),
    Change("upper_bound", 0.01, A),
    Change("sigma", 0.3, A),
    Change("alpha", 0.01, A),
    Change("calls", 7, A),
    Change("noise", "grid", D),  # another sampler; its error is below the sixth decimal
    Change("engine", "openvino", D),
    Change("precision", "bfloat16", D),
    Change("contract", "checked", S),
    Change("notes", ["A note.", BELOW_A_LEVEL], S),
    Change("dimension", 12_288, R),  # the shape of the identity is another one
    Change("seed", "8", D),
    Change("run", "seed 8", S),  # the noise does not depend on it
    Change("image_id", "8", D),
    Change("identity", None, D),  # it cannot be compared then
    Change("identity.classifier", "cifar-resnet56:FILE", S),
    Change("identity.classifier_fingerprint", _OTHER, F),
    Change("identity.denoiser", "unet:FILE", S),
    Change("identity.denoiser_fingerprint", _OTHER, F),
    Change("identity.image_sha256", _OTHER, D),
    Change("identity.label_name", "dog", D),
    Change("identity.resolution", 64, R),
    Change("identity.image_shape", [3, 64, 16], R),
    Change("identity.version", "9.9", S),
    Change("identity.noise_stream", "cuda", D),
    Change("identity.machine", "another", S),
    Change("plan.kind", "radius", R),
    Change("selection.counts", {"0": 90, "1": 10}, D),  # the same candidate
    Change("selection.failed", 1, R),
    Change("estimation.counts", {"0": 275, "1": 275, "2": 450}, A),
    Change("estimation.failed", 1, R),
)
"""Of a certificate of a fixed budget with two-sided bounds, with label 0, 1,000 + 100 copies."""
FIXED = (
    Change("plan.n0", 99, R),
    Change("plan.n", 1001, R),  # an image that ended early can only abstain
    Change("plan.two_sided", False, R),
)
QUESTIONS: dict[str, Any] = {"sets": (2,), "groups": (Groups({"low": range(5)}),)}
"""Options with which an anytime plan has all its fields."""
ANYTIME = (
    Change("plan.radii", [0.1], S),  # the bound holds whatever made the sampling end
    Change("plan.max_n", 1001, R),
    Change("plan.n0", 49, R),
    Change("plan.every", 50, S),
    Change("plan.more", 199, R),
    Change("plan.sets", [3], S),
    Change("plan.groups", [{"level": "shapes", "members": {"round": "0, 6, 8-9"}}], S),
    Change("continuation.counts", {"0": 20, "1": 178}, A),
    Change("continuation.failed", 3, R),
)
RADIUS = (
    Change("plan.of_n", 1_000, R),  # it gives another n
    Change("plan.share", 0.5, R),
    Change("plan.n0", 99, R),
)
COLUMNS = (
    Change("idx", 1, D),
    Change("label", 1, A),  # the true one; "correct" then follows from it no more
    Change("predict", 2, A),
    Change("radius", 0.2, A),
    Change("correct", 0, A),
    Change("time", "0:00:07", S),
    Change("image_id", "8", D),
    Change("lower_bound", 0.9999, A),
    Change("sigma", 0.3, A),
    Change("alpha", 0.01, A),
    Change("n0", 99, A),
    Change("n", 1001, A),
    Change("calls", 7, A),
    Change("radius_l1", 0.2, A),
    Change("radius_linf", 0.2, A),
    Change("noise", "grid", D),
    Change("counts", '{"selection": {"0": 100}, "estimation": {"0": 400, "1": 600}}', A),
    Change("refused", "It is broken.", A),
    Change("upper_bound", 0.01, A),
    Change("plan", '{"kind": "fixed", "n0": 100, "n": 1000}', A),
    Change("dimension", 12_288, R),
    Change("engine", "openvino", D),
    Change("precision", "bfloat16", D),
    Change("contract", "checked", S),
    Change("notes", json.dumps(["A note.", BELOW_A_LEVEL]), S),
    Change("seed", "8", D),
    Change("run", "seed 8", S),
    Change("format", 3, R),
    Change("classifier", "cifar-resnet56:FILE", S),
    Change("classifier_fingerprint", _OTHER, F),
    Change("denoiser", "unet:FILE", S),
    Change("denoiser_fingerprint", _OTHER, F),
    Change("image_sha256", _OTHER, D),
    Change("label_name", "dog", D),
    Change("resolution", 64, R),
    Change("image_shape", "[3, 64, 16]", R),
    Change("version", "9.9", S),
    Change("noise_stream", "cuda", D),
    Change("machine", "another", S),
)
"""Of a row of CSV or Parquet with the certificate of :data:`FIELDS`, whose true label is 0."""
LINES = (
    Change("index", 1, D),
    Change("true_label", 1, D),
    Change("refused", "It is broken.", R),
    Change("seconds", 7.0, S),
)
"""Of an object of JSON lines, apart from its certificate."""
