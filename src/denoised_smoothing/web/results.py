"""Stored runs as plain values for JSON; the numbers are those of :mod:`.reporting`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from denoised_smoothing.certificates.radii import round_down
from denoised_smoothing.errors import SettingError
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
from denoised_smoothing.store import Store, StoredRun
from denoised_smoothing.web.story import name_of, votes


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
