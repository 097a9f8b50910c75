"""Certify images: the command ``certify``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from denoised_smoothing.certificates.parameters import Noise
from denoised_smoothing.cli.cluster_options import ClusterOptions, RayCommand
from denoised_smoothing.cli.grouped import command
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import (
    FAILED,
    Alpha,
    AsJson,
    Data,
    Limit,
    Seed,
    StoreUrl,
    Stride,
    command_line,
    in_data,
    in_output,
    parse_radii,
)
from denoised_smoothing.cli.output import (
    err,
    fail,
    interrupted,
    note,
    print_results,
    print_spending,
    run_bar,
)
from denoised_smoothing.cli.plan_options import PlanOptions
from denoised_smoothing.cli.remote_options import StoredRemoteOptions, report_missing_answers
from denoised_smoothing.errors import BudgetReachedError, ImageError, SettingError

if TYPE_CHECKING:
    from denoised_smoothing.smoothing.classifier import SmoothedClassifier

UNPROVEN = (
    "with --noise float the certificates are not proven, because the proof does not cover noise "
    "that is added in floating point. Remove --noise to use grid, which is proven."
)


@command(cls=RayCommand)
def certify(
    context: typer.Context,
    data: Data,
    model: ModelOptions,
    plan: PlanOptions,
    remote: StoredRemoteOptions,
    cluster: ClusterOptions,
    alpha: Alpha = 0.001,
    limit: Limit = None,
    stride: Stride = 1,
    shard: Annotated[
        str | None,
        in_data(
            "Certify one part of these images, such as 3/16. Join the parts with 'merge'.",
            metavar="NUMBER/OF",
        ),
    ] = None,
    seed: Seed = None,
    store: StoreUrl = "runs.sqlite",
    run: Annotated[
        str | None, in_output("Name of the run.", metavar="NAME", show_default="from the settings")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Certify images and store the counts. Resumes an interrupted run.

    Example: denoised-smoothing certify digits --classifier digits --sigma 0.5

    Prints certified accuracy at several radii; for one image, its certificate.
    """
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.remote.log import StoreLog
    from denoised_smoothing.reporting import load_results
    from denoised_smoothing.runs.run import CertificationRun
    from denoised_smoothing.runs.shards import Shard
    from denoised_smoothing.store import Store

    radii = parse_radii(plan.radii)
    smoothed = model.load(context, cluster.build())
    classifier, denoiser = model.specs(smoothed)
    paid = remote.apply(smoothed.classifier, classifier)
    if remote.offline and run is None:
        raise SettingError("--offline needs the run whose answers it uses. Add --run NAME.")
    request = CertificationRun(
        smoothed,
        load_dataset(data),
        plan.build(paid=paid is not None),
        alpha,
        classifier,
        denoiser,
        name=None if remote.offline else run,
        answers_of=run if remote.offline else None,
        seed=seed,
        resolution=model.resolution,
        limit=limit,
        stride=stride,
        shard=None if shard is None else Shard.parse(shard),
        more=plan.more,
        calibration=model.calibration_data(),
        command=command_line(),
    )
    with err.status("preparing") as status:
        request.prepare(lambda text: status.update(escape(text)))
    for text in (
        *request.notes,
        price_note(smoothed),
        UNPROVEN if smoothed.noise is Noise.FLOAT else None,
    ):
        if text:
            note(text)
    with Store(store) as opened:
        if paid is not None and (estimate := request.estimate(opened)):
            remote.confirm(estimate, paid, classifier)
        try:
            with run_bar() as show:
                name = request.execute(opened, show).name
        except KeyboardInterrupt:
            interrupted("" if run else f" --run {shlex.quote(request.run_name)}")
        except ImageError as error:  # of an image in the middle
            fail(error, FAILED)
        except BudgetReachedError as error:
            so_far = load_results(opened, request.run_name, so_far=True)
            if so_far.images:
                print_results([so_far], radii, store, as_json=as_json)
            fail(error, FAILED)
        results = load_results(opened, name, so_far=remote.offline)
        if remote.offline and results.unfinished:
            report_missing_answers(results, run)
        print_results([results], radii, store, as_json=as_json)
        if paid is not None:
            print_spending(StoreLog(opened, name).spending())


def price_note(smoothed: SmoothedClassifier) -> str | None:
    """Return the passes that a noisy copy takes, where the denoiser needs several."""
    passes = getattr(smoothed.denoiser, "model_calls", 1)
    samples = getattr(smoothed.denoiser, "samples", 1)
    if passes == 1:
        return None
    more = f" and {samples} of the classifier" if samples > 1 else ""
    return f"each noisy copy takes {passes} passes of the denoising model{more}"
