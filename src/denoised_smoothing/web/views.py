"""JSON views of the progress and the result of a request, and of stored runs.

Radii are rounded down; the numbers of runs are those of :mod:`~denoised_smoothing.reporting`.
"""

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
from denoised_smoothing.reporting.html import differing_settings, unproven_runs
from denoised_smoothing.reporting.proven import condition_rows, plain_proof
from denoised_smoothing.reporting.results import (
    ImageResult,
    LabelNames,
    RunResults,
    label_name,
    load_results,
    top_votes,
)
from denoised_smoothing.reporting.tables import (
    accuracy_steps,
    comparison,
    default_radii,
    measure,
    method_names,
    plain_tables,
)
from denoised_smoothing.store import Store, StoredRun

SHOWN_VOTES = 5
"""Number of labels shown, those with the most votes."""


def picture(image: Float[np.ndarray, "c h w"]) -> str:
    """Return the image as a data URI; values beyond [0, 1] are clipped."""
    return _data_uri(to_png(image))


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def certificate_progress(
    plan: SamplingPlan,
    parameters: SmoothingParameters,
    counts: Mapping[Stage, LabelCounts],
    names: LabelNames,
) -> dict[str, Any]:
    """View votes, and the lower bound and radius of the copies so far.

    ``proven`` is true for an anytime plan, whose bound holds at any time. For other plans it is
    false: bound and radius would hold if the number of copies had been fixed in advance.
    """
    selection, estimation = counts.get(Stage.SELECTION), counts.get(Stage.ESTIMATION)
    n, lower, radius, proven = 0, 0.0, 0.0, False
    if estimation is not None and estimation.n:
        n, proven = estimation.n, isinstance(plan, Anytime)
        candidate = None if selection is None else selection.top()
        if proven:
            so_far = plan.certificate(counts, parameters)
            lower, radius = so_far.lower_bound, so_far.radius
        elif candidate is not None:
            failure = clopper_pearson_upper(n - estimation.of(candidate), n, parameters.alpha)
            lower = 1.0 - failure
            radius = gaussian_radius(parameters.sigma, failure, parameters.error)
    shown = estimation if n else selection
    return {
        "calls": sum(stage.n for stage in counts.values()),
        "of": plan.most_calls(),
        "n": n,
        "stage": Stage.ESTIMATION.value if n else Stage.SELECTION.value,
        "votes": [] if shown is None else top_votes(shown, names, SHOWN_VOTES),
        "counted": 0 if shown is None else shown.n,
        "lower_bound": round_down(lower, 6),
        "radius": round_down(radius, 6),
        "proven": proven,
    }


def prediction_progress(n: int, counts: LabelCounts, names: LabelNames) -> dict[str, Any]:
    """View the votes so far of ``n`` copies."""
    shown = top_votes(counts, names, SHOWN_VOTES)
    return {"calls": counts.n, "of": n, "n": counts.n, "votes": shown, "counted": counts.n}


def result(found: Certificate | Prediction, names: LabelNames) -> dict[str, Any]:
    """View a certificate or a prediction, also as a sentence."""
    name, certified = label_name(found.label, names), isinstance(found, Certificate)
    confidence = f"confidence {100 * (1 - found.alpha):.10g} %"
    view: dict[str, Any] = {
        "label": found.label,
        "label_name": name,
        "votes": top_votes(found.counts, names, SHOWN_VOTES),
        "counted": found.counts.n,
        "certificate" if certified else "prediction": found.to_dict(),
    }
    within = ""
    if isinstance(found, Certificate):
        view["radius"] = round_down(found.radius, 6)
        within = f", and it cannot change within radius {format_down(found.radius)}"
    view["sentence"] = (
        f"The classifier abstains: too few noisy copies agree on one label ({confidence})."
        if name is None
        else f"The answer is “{name}”{within} ({confidence})."
    )
    return view


def random_change(
    image: Float[np.ndarray, "c h w"], radius: float, seed: int
) -> dict[str, Any] | None:
    """View a random change as long as the radius allows, and the image with it.

    Its direction is uniform over all directions; the pixels stay in [0, 1] and on the 8-bit grid.
    None if the radius is too small to change a pixel.
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


def without_pictures(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer as it is stored: without pictures that can be drawn again."""
    kept = {key: value for key, value in answer.items() if key != "perturbation"}
    image = {key: value for key, value in answer["image"].items() if key != "picture"}
    return {**kept, "image": image}


def failure(error: BaseException | None) -> str:
    """Return the message of an error of this package; other errors may name private paths."""
    known = isinstance(error, DenoisedSmoothingError)
    return str(error) if known else "The request failed. The log of the service names the reason."


def run_row(run: StoredRun, finished: int) -> dict[str, Any]:
    """View a run in the list."""
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


def run_details(store: Store, name: str) -> dict[str, Any]:
    """View a run with its settings."""
    run = load_results(store, name)
    return {
        **run_row(run.run, len(run.images)),
        "unfinished": run.missing,
        "method": run.method,
        "settings": {**run.run.settings, "seed": str(run.run.seed)},
        "info": {key: run.run.info.get(key) for key in ("versions", "engine", "notes")},
        "with_pictures": sorted({example.image_id for example in store.examples(name)}),
    }


def compared_runs(store: Store, names: Sequence[str]) -> dict[str, Any]:
    """View tables and curves of one or several runs.

    Raises:
        RunNotFoundError: there is no run of one of the names.
        SettingError: the runs cannot be compared, or have no finished image.
    """
    runs = [load_results(store, name) for name in names]
    rows = comparison(runs, default_radii(runs))
    return {
        "measure": measure(runs),
        "differing": differing_settings(runs),
        "unproven": unproven_runs(runs),
        "tables": plain_tables(rows),
        "proven": [plain_proof(row) for row in rows],
        "conditions": condition_rows(rows),
        "curves": [_curve(name, run) for name, run in zip(method_names(runs), runs, strict=True)],
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


def image_rows(run: RunResults) -> list[dict[str, Any]]:
    """View the images of a run, one row each."""
    names = run.run.label_names
    return [_image(image, names) for image in run.images]


def image_details(store: Store, name: str, index: int) -> dict[str, Any]:
    """View an image of a run: votes, certificate and stored pictures.

    Raises:
        RunNotFoundError: there is no run of that name.
        SettingError: it has no finished image of that index.
    """
    run = load_results(store, name)
    names = run.run.label_names
    image = next((image for image in run.images if image.index == index), None)
    if image is None:
        raise SettingError(f"The run has no finished image {index}. Choose one of its images.")
    pictures: dict[str, list[str]] = {}
    for example in store.examples(name):
        if example.image_id == image.image_id:
            pictures.setdefault(example.kind, []).append(_data_uri(example.png))
    return {
        **_image(image, names),
        "votes": top_votes(image.certificate.counts, names, SHOWN_VOTES),
        "counted": image.certificate.counts.n,
        "pictures": pictures,
        "certificate": image.certificate.to_dict(),
    }


def _image(image: ImageResult, names: LabelNames) -> dict[str, Any]:
    return {
        "index": image.index,
        "image_id": image.image_id,
        "true_label": label_name(image.true_label, names),
        "label": label_name(image.predicted, names),
        "radius": round_down(image.radius),
        "correct": image.correct if image.true_label is not None else None,
        "calls": image.certificate.calls,
        "seconds": round(image.seconds, 4),
    }
