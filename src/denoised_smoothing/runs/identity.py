"""The identity of a run: what its settings must have in common to resume it, and its name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from denoised_smoothing.certificates.parameters import Contract, EngineName, Precision
from denoised_smoothing.models.shipped import shipped_denoiser_of, shipped_denoisers
from denoised_smoothing.runs.shards import OF_SHARDS
from denoised_smoothing.store import StoredRun

_OF_MACHINE = ("engine_version", "forward_shape", "model_digest", "processor")
"""Run settings that the machine decides."""
_OF_ENGINE = (
    *("engine", "precision", "calibration", "calibration_data", "calibration_fingerprint"),
    *_OF_MACHINE,
)
"""Run settings about the engine, on which nothing depends where none is used."""
_ADDED = ("contract", "data_labels", "image_shape")
"""Run settings that earlier versions did not record."""


def as_compared(settings: Mapping[str, Any], run: StoredRun) -> dict[str, Any]:
    """Return requested settings for the comparison with those of a stored run.

    Settings on which no result depends, or that the version of the run did not record, become
    those of the run, so that its counts and paid answers can be used.
    """
    taken = [key for key in _ADDED if key not in run.settings]
    if settings["contract"] == Contract.STOCHASTIC:  # no run without a contract was
        taken = [key for key in taken if key != "contract"]
    if settings["engine"] is None:
        taken += _OF_ENGINE
    same = settings["denoiser_fingerprint"] == run.settings["denoiser_fingerprint"]
    if same and settings["denoiser"] in shipped_denoisers():
        taken.append("denoiser")  # it may have had another name then
    return {**settings, **{key: run.settings.get(key) for key in taken}}


def renamed_weights(held: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return a sentence on the denoiser of a stored run, if it ships under another name now.

    Args:
        held: settings of the stored run.
        now: those of the request, with another denoiser.
    """
    wanted = str(held.get("denoiser_fingerprint"))
    if wanted == now.get("denoiser_fingerprint"):
        return ""
    name = shipped_denoiser_of(wanted)
    if name is None or name == now.get("denoiser"):
        return ""
    return f" The denoiser of the run is now called {name}: use --denoiser {name} to resume it."


def derived_name(
    settings: Mapping[str, Any], seed: int | None, engine: EngineName, answers_of: str | None
) -> str:
    """Return the name of a run that the user did not name, with a hash of its settings.

    The hash holds the requested engine, not the one found here: another machine resumes the same
    run. It does not hold the cap of the plan, so that a larger one finds the run that it extends.
    All shards of a run have its name.
    """
    without = (*_OF_MACHINE, *OF_SHARDS, *_ADDED)
    asked = {key: value for key, value in settings.items() if key not in without}
    asked["plan"] = {k: v for k, v in settings["plan"].items() if k not in ("max_n", "more")}
    asked["engine"] = engine
    if settings["contract"] == Contract.STOCHASTIC:
        asked["contract"] = Contract.STOCHASTIC
    if settings["engine"] is None:  # the command's defaults, as earlier versions recorded
        asked |= {"engine": EngineName.AUTO, "precision": Precision.FLOAT32}
    identity = json.dumps([asked, seed], sort_keys=True)
    code = hashlib.sha256(identity.encode()).hexdigest()[:6]
    if answers_of is not None:
        return f"{answers_of}-offline-{code}"
    parts = [str(settings[key]) for key in ("data", "classifier", "denoiser")]
    words = [re.sub(r"\.\w+$", "", part.rstrip("/").rpartition("/")[2]) for part in parts]
    short = re.sub(r"[^\w.]+", "-", "-".join(words))
    return f"{short}-{settings['sigma']:g}-{code}"
