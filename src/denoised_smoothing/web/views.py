"""Stored runs as plain values for JSON; the numbers are those of :mod:`.reporting`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from denoised_smoothing.attacks.pgd import distance, to_grid_within
from denoised_smoothing.certificates.bounds import clopper_pearson_upper
from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.certificates.prediction import Prediction
from denoised_smoothing.certificates.radii import format_down, gaussian_radius, round_down
from denoised_smoothing.errors import DenoisedSmoothingError, SettingError
from denoised_smoothing.images import to_png
from denoised_smoothing.reporting import (
    ImageResult,
    RunResults,
    accuracy_steps,
    best_over_sigma,
    comparison,
    default_radii,
    load_results,
)
from denoised_smoothing.reporting.html import differing_settings, unproven_runs
from denoised_smoothing.reporting.tables import caption, headings, measure, method_names
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store, StoredRun


def listed(run: StoredRun, finished: int) -> dict[str, Any]:
    """A run in the list."""
    settings = run.settings
    return {
        "run": run.name,
        "data": settings["data"],
        "classifier": settings["classifier"],
        "denoiser": settings["denoiser"],
        "sigma": settings["sigma"],
        "plan": settings["plan"]["kind"],
        "finished": finished,
        "created": run.created.isoformat(timespec="seconds"),
    }


def compared(store: Store, names: Sequence[str]) -> dict[str, Any]:
    """Table and curves of one or several runs.

    Raises:
        RunNotFoundError: there is no run of one of the names.
        SettingError: they cannot be compared, or have no finished image.
    """
    if not names or len(names) > 20:
        raise SettingError(f"name 1 to 20 runs to compare, got {len(names)}")
    runs = [load_results(store, name) for name in names]
    rows = comparison(runs, default_radii(runs))
    tables = [rows]
    best = best_over_sigma(rows)
    if len(best) < len(rows):
        tables.append(best)
    return {
        "caption": caption(rows),
        "measure": measure(runs),
        "differing": differing_settings(runs),
        "unproven": unproven_runs(runs),
        "tables": [
            {"headings": headings(table), "rows": [row.texts() for row in table]}
            for table in tables
        ],
        "curves": [_curve(name, run) for name, run in zip(method_names(runs), runs, strict=True)],
    }


def described(store: Store, name: str) -> dict[str, Any]:
    """A run with its settings."""
    run = load_results(store, name)
    return {
        **listed(run.run, len(run.images)),
        "unfinished": run.unfinished,
        "method": run.method,
        "settings": {**run.run.settings, "seed": str(run.run.seed)},
        "info": {key: run.run.info.get(key) for key in ("versions", "engine")},
        "with_pictures": sorted({example.image_id for example in store.examples(name)}),
    }


def image_rows(run: RunResults) -> list[dict[str, Any]]:
    """One row an image."""
    names = run.run.info.get("label_names")
    return [_image(image, names) for image in run.images]


def image_details(store: Store, name: str, index: int) -> dict[str, Any]:
    """An image of a run: votes, certificate and, where they were kept, pictures.

    Raises:
        RunNotFoundError: there is no run of that name.
        SettingError: it has no finished image of that index.
    """
    run = load_results(store, name)
    names = run.run.info.get("label_names")
    image = next((image for image in run.images if image.index == index), None)
    if image is None:
        raise SettingError(f"the run has no finished image {index}")
    pictures: dict[str, list[str]] = {}
    for example in store.examples(name):
        if example.image_id == image.image_id:
            uri = "data:image/png;base64," + base64.b64encode(example.png).decode()
            pictures.setdefault(example.kind, []).append(uri)
    return {
        **_image(image, names),
        "votes": votes(image.certificate.counts, names),
        "counted": image.certificate.counts.n,
        "pictures": pictures,
        "certificate": image.certificate.to_dict(),
    }


def _image(image: ImageResult, names: Sequence[str] | None) -> dict[str, Any]:
    return {
        "index": image.index,
        "image_id": image.image_id,
        "true_label": name_of(image.true_label, names),
        "label": name_of(image.predicted, names),
        "radius": round_down(image.radius),
        "correct": image.correct if image.true_label is not None else None,
        "calls": image.certificate.calls,
        "seconds": round(image.seconds, 4),
    }


def _curve(name: str, run: RunResults) -> dict[str, Any]:
    radii, shares = accuracy_steps(run)
    return {
        "run": run.run.name,
        "method": name,
        "sigma": run.sigma,
        "radii": [round_down(float(radius), 6) for radius in radii],
        "shares": [round(float(share), 4) for share in shares],
    }


Counts = Mapping[Stage, LabelCounts]
ServedNames = Sequence[str] | None
SHOWN_VOTES = 5
"""Labels with the most votes that are shown."""
AT_ONCE = 4
"""Copies that are sent together."""


def name_of(label: int | None, names: ServedNames) -> str | None:
    """The name of a label: its number where it has none."""
    if label is None:
        return None
    return str(names[label]) if names and 0 <= label < len(names) else str(label)


def picture(image: Float[np.ndarray, "c h w"]) -> str:
    """The image as a data URI; values beyond [0, 1] are clipped."""
    return "data:image/png;base64," + base64.b64encode(to_png(image)).decode()


def votes(counts: LabelCounts, names: ServedNames) -> list[dict[str, Any]]:
    """The labels with the most votes, the first ones."""
    top = sorted(range(len(counts.votes)), key=lambda label: (-counts.of(label), label))
    return [
        {"label": label, "name": name_of(label, names), "count": counts.of(label)}
        for label in top[:SHOWN_VOTES]
        if counts.of(label)
    ]


def certifying(
    plan: SamplingPlan, parameters: SmoothingParameters, counts: Counts, names: ServedNames
) -> dict[str, Any]:
    """How far a certificate is: votes, and the bound and the radius from the copies so far.

    Of an anytime plan they are proven at any moment. Of others ``proven`` is false: they are what
    so many copies prove if their number was fixed before, and only the last are.
    """
    selection = counts.get(Stage.SELECTION)
    estimation = counts.get(Stage.ESTIMATION)
    shown = estimation if estimation is not None and estimation.n else selection
    if isinstance(plan, Anytime) and estimation is not None and estimation.n:
        so_far = plan.certificate(counts, parameters)
        lower, radius, proven = so_far.lower_bound, so_far.radius, True
    else:
        lower, radius, proven = *_as_if_fixed(parameters, selection, estimation), False
    return {
        "calls": sum(votes.n for votes in counts.values()),
        "of": plan.most_calls(),
        "n": 0 if estimation is None else estimation.n,
        "stage": Stage.SELECTION.value if shown is selection else Stage.ESTIMATION.value,
        "votes": [] if shown is None else votes(shown, names),
        "counted": 0 if shown is None else shown.n,
        "lower_bound": round_down(lower, 6),
        "radius": round_down(radius, 6),
        "proven": proven,
    }


def _as_if_fixed(
    parameters: SmoothingParameters, selection: LabelCounts | None, estimation: LabelCounts | None
) -> tuple[float, float]:
    candidate = None if selection is None else selection.top()
    if candidate is None or estimation is None or not estimation.n:
        return 0.0, 0.0
    others = estimation.n - estimation.of(candidate)
    failure = clopper_pearson_upper(others, estimation.n, parameters.alpha)
    return 1.0 - failure, gaussian_radius(parameters.sigma, failure, parameters.error)


def predicting(n: int, counts: Counts, names: ServedNames) -> dict[str, Any]:
    """How far a prediction is."""
    shown = counts[Stage.PREDICTION]
    return {"calls": shown.n, "of": n, "n": shown.n, "votes": votes(shown, names),
            "counted": shown.n}  # fmt: skip


def certified(certificate: Certificate, names: ServedNames) -> dict[str, Any]:
    """The answer with its radius, in plain words too."""
    return {
        "label": certificate.label,
        "label_name": name_of(certificate.label, names),
        "radius": round_down(certificate.radius, 6),
        "sentence": sentence(certificate, names),
        "votes": votes(certificate.counts, names),
        "counted": certificate.counts.n,
        "certificate": certificate.to_dict(),
    }


def sentence(certificate: Certificate, names: ServedNames) -> str:
    """What the certificate says, for readers who never heard of one."""
    confidence = f"confidence {_percent(certificate.alpha)} %"
    name = name_of(certificate.label, names)
    if name is None:
        return (
            "No answer can be guaranteed: the noisy copies do not agree enough on one label to "
            f"prove anything ({confidence})."
        )
    return (
        f"The answer is “{name}”, and it cannot change within radius "
        f"{format_down(certificate.radius)} ({confidence})."
    )


def predicted(prediction: Prediction, names: ServedNames) -> dict[str, Any]:
    """The answer without a radius."""
    name = name_of(prediction.label, names)
    confidence = f"confidence {_percent(prediction.alpha)} %"
    return {
        "label": prediction.label,
        "label_name": name,
        "sentence": f"The answer is “{name}” ({confidence})."
        if name is not None
        else f"The copies do not agree enough to say which label wins ({confidence}).",
        "votes": votes(prediction.counts, names),
        "counted": prediction.counts.n,
        "prediction": prediction.to_dict(),
    }


def _percent(alpha: float) -> str:
    return f"{100 * (1 - alpha):.10g}"


def shown_copies(
    smoothed: SmoothedClassifier,
    image: Float[np.ndarray, "c h w"],
    image_id: str,
    seed: int,
    names: ServedNames,
) -> list[dict[str, Any]]:
    """Pictures of the first copies that a certificate counts, each with the classifier's answer."""
    count = 24 if max(image.shape[1:]) <= 64 else 8
    noisy, denoised = smoothed.copies(image, image_id, seed, count)
    labels = smoothed.labels(image, image_id, seed, count)
    copies = [
        {
            "noisy": picture(noisy[i]),
            "denoised": None if smoothed.denoiser is None else picture(denoised[i]),
            "label": labels[i],
            "name": name_of(labels[i], names),
        }
        for i in range(count)
    ]
    return [
        {"first": start, "of": count, "copies": copies[start : start + AT_ONCE]}
        for start in range(0, count, AT_ONCE)
    ]


def perturbed(image: Float[np.ndarray, "c h w"], radius: float, seed: int) -> dict[str, Any] | None:
    """A random change as long as the radius allows, and the image with it, on the 8-bit grid.

    Its direction is uniform over all directions; the pixels stay in [0, 1]. None where the radius
    is too small to change a pixel.
    """
    random = np.random.default_rng(seed)
    moved = image + random.standard_normal(image.shape).astype(np.float32) * radius
    other = to_grid_within(image, moved, radius)
    norm = distance(image, other)
    if not norm:
        return None
    return {
        "image": picture(other),
        "change": picture(0.5 + (other - image) / 2),
        "norm": round(norm, 6),
        "largest": round(float(np.abs(other - image).max()), 4),
    }


def failure(error: Exception) -> str:
    """What a client is told went wrong: messages of this package, and no others."""
    return str(error) if isinstance(error, DenoisedSmoothingError) else "something went wrong here"
