"""The command ``certify``."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Annotated

import typer
from rich.markup import escape

from denoised_smoothing.cli.claim_options import ClaimOptions
from denoised_smoothing.cli.cluster_options import ClusterOptions, RayCommand
from denoised_smoothing.cli.grouped import command
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import (
    Alpha,
    AsJson,
    Data,
    Labels,
    Limit,
    Seed,
    StoreUrl,
    Stride,
    command_line,
    option,
    parse_radii,
    read_labels,
)
from denoised_smoothing.cli.output import (
    err,
    fail,
    note,
    print_results,
    print_spending,
    run_bar,
)
from denoised_smoothing.cli.plan_options import PlanOptions
from denoised_smoothing.cli.remote_options import RemoteOptions, report_missing_answers
from denoised_smoothing.errors import BudgetReachedError, RefusedImagesError, SettingError


@command(cls=RayCommand)
def certify(
    context: typer.Context,
    data: Data,
    model: ModelOptions,
    plan: PlanOptions,
    remote: RemoteOptions,
    cluster: ClusterOptions,
    claims: ClaimOptions,
    alpha: Alpha = 0.001,
    limit: Limit = None,
    stride: Stride = 1,
    shard: Annotated[
        str | None, option("Data and model", "Certify one shard: 3/16.", metavar="NUMBER/OF")
    ] = None,
    labels: Labels = None,
    seed: Seed = None,
    store: StoreUrl = "runs.sqlite",
    run: Annotated[
        str | None, option("Output", "Name of the run.", show_default="from the settings")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Certify images and store the counts. Resumes an interrupted run.

    Example: denoised-smoothing certify digits --classifier digits --sigma 0.5

    Prints certified accuracy at several radii; for one image, its certificate. 'merge' joins the
    parts of --shard.
    """
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.remote.log import StoreLog
    from denoised_smoothing.reporting.results import load_results
    from denoised_smoothing.runs.run import CertificationRun
    from denoised_smoothing.runs.shards import Shard
    from denoised_smoothing.store import Store

    radii = None if plan.radii is None else parse_radii(plan.radii)
    workers = None if cluster == ClusterOptions() else cluster.build()
    smoothed = model.build(context, workers)
    spec = model.classifier or str(model.bundle)
    typed = smoothed.is_remote or remote != RemoteOptions()
    paid = remote.apply(smoothed.classifier, spec) if typed else None
    if remote.offline and run is None:
        raise SettingError("--offline needs the name of a stored run, got none. Add --run NAME.")
    request = CertificationRun(
        smoothed,
        load_dataset(data),
        plan.build(paid=paid is not None),
        alpha,
        name=None if remote.offline else run,
        answers_of=run if remote.offline else None,
        seed=seed,
        resolution=model.resolution,
        limit=limit,
        stride=stride,
        shard=None if shard is None else Shard.parse(shard),
        more=plan.more,
        calibration=None if model.calibration is None else load_dataset(model.calibration),
        labels=read_labels(labels),
        command=command_line(),
    )
    if claims.typed:
        request.plan.check_selects()
    questions = claims.build(request.label_match.names)
    request = replace(request, plan=claims.deciding(request.plan, questions))
    with err.status("preparing") as status:
        request.prepare(lambda text: status.update(escape(text)))
    for text in request.notes:
        note(text)
    refused: RefusedImagesError | None = None
    with Store(store) as opened:
        if paid is not None and (estimate := request.estimate(opened)):
            remote.confirm(estimate, paid, spec)
        try:
            with run_bar(lambda: "" if run else f" --run {shlex.quote(request.run_name)}") as show:
                request.execute(opened, show)
        except RefusedImagesError as error:  # all other images have results
            refused = error
        except BudgetReachedError as error:
            so_far = load_results(opened, request.run_name, so_far=True, indices=request.indices)
            if so_far.images:
                print_results(so_far, radii, store, questions, as_json=as_json)
            fail(error)
        name = request.run_name
        results = load_results(opened, name, so_far=remote.offline, indices=request.indices)
        if remote.offline and results.unfinished:
            report_missing_answers(results, run)
        if results.images or refused is None:
            print_results(results, radii, store, questions, as_json=as_json)
        if paid is not None:
            print_spending(StoreLog(opened, name).spending())
    if refused is not None:
        fail(refused)
