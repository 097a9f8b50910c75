"""The rules by which a stored run resumes, or is extended by more copies of each image."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.errors import RunMismatchError, SettingError
from denoised_smoothing.runs.identity import renamed_weights
from denoised_smoothing.store import Store, StoredImage, StoredRun


def is_complete(image: StoredImage, plan: SamplingPlan, parameters: SmoothingParameters) -> bool:
    """Return whether an image has all copies of the plan, also after the run was extended."""
    return image.finished and all(
        (image.counts[stage].n if stage in image.counts else 0) >= n
        for stage, n in plan.targets(image.counts, parameters).items()
    )


def note_planned(store: Store, run: StoredRun, images: int) -> None:
    """Record the number of images to certify, before any of them is.

    ``planned`` in the info of the run has one number, and one more for each later command with
    more images.
    """
    planned = run.info.get("planned", [])
    if images > max(planned, default=0):
        store.note(run.name, planned=[*planned, images])


def check_extendable(name: str, more: int | None) -> None:
    """Refuse to extend a run that does not exist."""
    if more is not None:
        raise SettingError(
            f"There is no run {name!r} to extend by {more} copies. Name one with --run, or omit "
            "--more to start one."
        )


def resumed_plan(
    store: Store,
    run: StoredRun,
    plan: SamplingPlan,
    *,
    more: int | None,
    command: str,
    parameters: SmoothingParameters,
    image_ids: Sequence[str],
) -> SamplingPlan | None:
    """Return the plan with which the stored run resumes, or None if the plans do not fit.

    The arguments and errors are those of :func:`resume`.
    """
    held = SamplingPlan.from_dict(run.settings["plan"])
    if more is None:
        return held.joined(plan)
    wanted = held if plan == FixedBudget() else held.joined(plan)
    _check_one_cap(run.name, held, plan, more)
    if wanted is None:
        return None
    images = store.stream_images(run.name)
    done = {image.image_id for image in images if is_complete(image, held, parameters)}
    done.update(image.image_id for image in run.refused)
    interrupted = _was_extended_by(run, command) and not done.issuperset(image_ids)
    return held if interrupted else held.extended(more)


def resume(
    store: Store,
    run: StoredRun,
    settings: Mapping[str, Any],
    plan: SamplingPlan,
    *,
    seed: int | None,
    more: int | None,
    command: str,
    parameters: SmoothingParameters,
    image_ids: Sequence[str],
) -> StoredRun:
    """Return the stored run, extended if the request needs more copies than its plan allows.

    Args:
        settings, seed: those of the request, to compare.
        plan: of the request. With ``more``, the default plan stands for that of the run.
        more: copies of each image to add, or None.
        command: recorded if the run is extended. A repeated command adds its copies once.
        parameters: of the run's certificates.
        image_ids: of the images in the request.

    Raises:
        RunMismatchError: the request has other settings than the run.
        SettingError: the plan of the run cannot be extended by ``more``, or both set a cap.
    """
    held = SamplingPlan.from_dict(run.settings["plan"])
    wanted = resumed_plan(
        store, run, plan, more=more, command=command, parameters=parameters, image_ids=image_ids
    )
    compared = plan if wanted is None else held  # of another kind: the store names the difference
    try:
        store.begin(run.name, {**settings, "plan": compared.to_dict()}, seed=seed, info={})
    except RunMismatchError as error:
        raise RunMismatchError(f"{error}{renamed_weights(run.settings, settings)}") from None
    if wanted is None or wanted == held:
        return run
    return store.extend(run.name, wanted.to_dict(), command=command)


def _check_one_cap(name: str, held: SamplingPlan, plan: SamplingPlan, more: int) -> None:
    """Refuse a different cap together with ``more``: the total would be ambiguous."""
    if isinstance(held, Anytime) and isinstance(plan, Anytime) and plan.max_n != held.max_n:
        cap = f"{held.max_n:,}" + (f" and {held.more:,} more" if held.more else "")
        raise SettingError(
            f"Got both --max-n {plan.max_n} and --more {more}, but the run {name!r} has a cap of "
            f"{cap} copies. Omit --plan and --max-n to add copies, or omit --more to set a "
            "larger cap."
        )


def _was_extended_by(run: StoredRun, command: str) -> bool:
    """Return whether the run was last extended by this command, with the run's name or without."""
    named = f" --run {shlex.quote(run.name)}"
    begun = [text.removesuffix(named) for text in run.info.get("continued", [])]
    return begun[-1:] == [command.removesuffix(named)]
