"""The command ``verify``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoised_smoothing.certificates.parameters import Contract, EngineName, Precision
from denoised_smoothing.certificates.verdicts import Verdict
from denoised_smoothing.cli.grouped import Take, command, option_group
from denoised_smoothing.cli.model_options import IN_A_BUNDLE, ModelOptions
from denoised_smoothing.cli.options import (
    AsJson,
    Labels,
    Limit,
    Seed,
    is_typed,
    option,
    read_labels,
)
from denoised_smoothing.cli.output import note, print_json, progress_bar, say
from denoised_smoothing.errors import DenoisedSmoothingError, SettingError

if TYPE_CHECKING:
    from denoised_smoothing.certificates.certificate import Certificate
    from denoised_smoothing.certificates.parameters import SmoothingParameters
    from denoised_smoothing.reporting.evidence import Evidence, Outcome, Row
    from denoised_smoothing.runs.verify import CopyCheck
    from denoised_smoothing.smoothing.classifier import SmoothedClassifier

CODES = {
    Verdict.CONTRADICTED: 3,
    Verdict.MALFORMED: 4,
    Verdict.ALTERED: 5,
    Verdict.DIFFERENT: 6,
    Verdict.UNCHECKED: 7,
    Verdict.WEAKER: 8,
}
"""Exit codes of the verdicts with which a certificate does not hold, the worst first."""
_data, _copies = option_group("Data and model"), option_group("Copies")


@dataclass(frozen=True)
class VerifyOptions:
    """The options of this command alone."""

    run: str | None = _data("Name of the run, of a store.")
    data: str | None = _data("Images to find the certified ones in.", metavar="DATA")
    fresh: bool = _copies(
        "Audit: draw fresh copies with a new seed, instead of the recorded ones.",
        "--fresh",
        default=False,
    )
    n: int | None = _copies(
        "Fresh copies per certificate.", show_default="4 for each that it was certified by"
    )
    alpha: float = _copies(
        "Maximum probability that a correct file is contradicted, in (0, 1).", default=0.001
    )
    max_calls: int = _copies(
        "Maximum number of copies to draw. Certificates that need more stay unchecked.",
        default=10_000_000,
    )
    engine: EngineName | None = option_group("Speed")(
        "Engine that runs denoiser and classifier.", show_default="that of the certificate"
    )
    exact: bool = _copies(
        "The certificates were made on this kind of machine: any difference of counts contradicts.",
        "--exact",
        default=False,
    )


@command()
def verify(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Certificate, export (JSON lines, CSV, Parquet), or a store's file or URL.",
        ),
    ],
    options: VerifyOptions,
    model: Annotated[
        ModelOptions, Take(("classifier", "denoiser", "bundle", "calibration", "device"))
    ],
    context: typer.Context,
    labels: Labels = None,
    limit: Limit = None,
    seed: Seed = None,
    list_rows: Annotated[
        int, option("Output", "List at most N certificates that do not hold.", "--list", min=0)
    ] = 20,
    as_json: AsJson = False,
) -> None:
    """Check certificates: their arithmetic, and with the model their noisy copies.

    Example: denoised-smoothing verify certificate.json

    With --classifier and --data, the recorded seeds draw the copies again; with --fresh, copies of
    a new seed judge the radii. Exit codes: 0 all hold; else that of the worst verdict: 3
    contradicted, 4 malformed, 5 altered, 6 different, 7 unchecked, 8 weaker.
    """
    from denoised_smoothing.reporting.evidence import PROVES, Outcome, open_evidence

    depth = _depth(options, model, context)
    evidence, outcome = open_evidence(source, run=options.run, limit=limit), Outcome(list_rows)
    about: dict[str, Any] = {"source": source, "kind": evidence.kind.value, "depth": depth}
    check = None if depth == "arithmetic" else _check(options, model, seed, read_labels(labels))
    with progress_bar("certificates", "reading") as update:
        number = calls = 0
        for row in evidence.rows():
            if check is None:
                outcome.add(row)
            elif row.certificate is not None:
                number, calls = number + 1, calls + check.calls_of(row.certificate)
            update(advance=1)
        if check is not None:
            about |= {"alpha": options.alpha, "seed": str(check.seed) if options.fresh else None}
            about |= {"calls": calls, "max_calls": options.max_calls}
            note(f"the certificates need {calls:,} copies (--max-calls {options.max_calls:,})")
            update(description="drawing copies", completed=0, total=number)
            for held, finding in check.run(_keyed(evidence, outcome), number):
                outcome.add(held, finding)
                update(advance=1)
    if not outcome.verdicts:
        raise SettingError(f"{source!r} holds no certificates. Name a file that holds some.")
    if as_json:
        print_json({**about, **outcome.to_dict(), "proves": PROVES[depth]})
    else:
        _print(outcome, depth)
    if code := CODES.get(outcome.worst, 0):
        raise typer.Exit(code)


def _depth(options: VerifyOptions, model: ModelOptions, context: typer.Context) -> str:
    """Return the depth that the options ask for.

    Raises:
        SettingError: an option that it needs is missing, or one has no effect.
    """
    given = {"--classifier": model.classifier or model.bundle, "--data": options.data}
    draws = any(given.values()) or model.denoiser != "none"
    depth = "audit" if options.fresh else "redraw" if draws else "arithmetic"
    missing = [name for name, value in given.items() if value is None]
    if missing and depth != "arithmetic":
        raise SettingError(
            f"Copies cannot be drawn without {' and '.join(missing)}. Give --classifier (or "
            "--bundle), --data and any --denoiser, or none of them to check the arithmetic alone."
        )
    twice = [f"--{name}" for name in IN_A_BUNDLE if is_typed(context, name)]
    if model.bundle is not None and twice:
        raise SettingError(
            f"--bundle {model.bundle} already sets {', '.join(twice)}. Remove these options, or "
            "--bundle."
        )
    unused = [
        f"--{name.replace('_', '-')}"
        for name, depths in _DEPTHS.items()
        if depth not in depths and is_typed(context, name)
    ]
    if unused:
        raise SettingError(
            f"{', '.join(unused)} has no effect on this check (depth {depth}): --n and --seed are "
            "of --fresh, --exact is of a check with --classifier without it, and a check without "
            "--classifier draws no copies. Remove it."
        )
    return depth


_DRAWN = ("redraw", "audit")
_DEPTHS = {
    "n": ("audit",),
    "seed": ("audit",),
    "exact": ("redraw",),
    **dict.fromkeys(("alpha", "max_calls", "engine", "device", "calibration", "labels"), _DRAWN),
}
"""The depths on which an option has an effect."""


def _check(
    options: VerifyOptions, model: ModelOptions, seed: int | None, labels: dict[str, str] | None
) -> CopyCheck:
    """Return the check of certificates by copies, each by the model with its own parameters.

    Args:
        seed: of the fresh copies; None for fresh entropy.
        labels: from classes of the data to labels of the classifier.

    Raises:
        SettingError, SpecError: the models cannot be loaded, or verify nothing.
    """
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
    from denoised_smoothing.runs.certified_images import ImagesByPixels, Stated
    from denoised_smoothing.runs.verify import CopyCheck, check_model
    from denoised_smoothing.smoothing.classifier import SmoothedClassifier as Smoothed

    if model.bundle is not None:  # it sets all parameters
        loaded = Smoothed.load(model.bundle, device=model.device)
    else:  # with any sigma, to find mistakes in the options before the first certificate
        assert model.classifier is not None
        parts = load_classifier(model.classifier), load_denoiser(model.denoiser)
        with warnings.catch_warnings(action="ignore"):
            loaded = Smoothed(parts[0], 0.5, parts[1], device=model.device)
    check_model(loaded)

    @lru_cache(maxsize=4)
    def build(parameters: SmoothingParameters) -> SmoothedClassifier | DenoisedSmoothingError:
        if model.bundle is not None:
            return loaded
        try:
            smoothed = replace(
                model,
                sigma=parameters.sigma,
                noise=parameters.noise,
                precision=parameters.precision or Precision.FLOAT32,
                engine=options.engine or parameters.engine or EngineName.TORCH,
                stochastic=parameters.contract is Contract.STOCHASTIC,
            ).build()
            if smoothed.prepared.needs_calibration:
                replace(model, calibration=model.calibration or options.data).calibrate(smoothed)
        except DenoisedSmoothingError as error:
            return error
        return smoothed

    def smoothed_for(certificate: Certificate) -> SmoothedClassifier:
        held = certificate.parameters
        found = build(replace(held, alpha=0.5, seed=0, dimension=1, notes=()))
        if isinstance(found, DenoisedSmoothingError):
            raise found
        return found

    assert options.data is not None
    return CopyCheck(
        smoothed_for,
        ImagesByPixels(load_dataset(options.data), labels),
        lambda row: Stated(row.index, row.true_label),
        fresh=options.fresh,
        n=options.n,
        alpha=options.alpha,
        exact=options.exact,
        seed=seed,
        max_calls=options.max_calls,
    )


def _keyed(evidence: Evidence, outcome: Outcome) -> Iterator[tuple[Row, Certificate]]:
    """Yield the rows with a certificate; count the others."""
    for row in evidence.rows():
        if row.certificate is None:
            outcome.add(row)
        else:
            yield row, row.certificate


def _print(outcome: Outcome, depth: str) -> None:
    """Print the numbers of verdicts, those that do not hold, and what the depth proves."""
    from denoised_smoothing.reporting.evidence import PROVES

    for row, finding in outcome.failing:
        named = f"{row.place}, image {row.image_id!r}" if row.image_id else row.place
        say(f"{finding.verdict}: {named}: {finding.reason}")
    if outcome.not_listed:
        say(f"... and {outcome.not_listed:,} more that do not hold. --list N lists more.")
    say(outcome.described())
    say(PROVES[depth])
