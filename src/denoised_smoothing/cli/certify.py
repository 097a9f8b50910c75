"""demo, predict, certify."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from denoised_smoothing.certificates.parameters import EngineName, Noise, Precision
from denoised_smoothing.cli.cluster_options import (
    Passes,
    Ray,
    WorkerCpus,
    WorkerGpus,
    WorkerResources,
    Workers,
    cluster,
)
from denoised_smoothing.cli.options import (
    FAILED,
    INTERRUPTED,
    Alpha,
    AsJson,
    BatchSize,
    BundleFolder,
    CalibrationData,
    Data,
    DenoiserSpec,
    Device,
    Devices,
    Engine,
    NoiseName,
    OptionalClassifier,
    OptionalSigma,
    PrecisionName,
    Radii,
    Resolution,
    Seed,
    StoreUrl,
    command_line,
    fail,
    given_by_hand,
    parse_radii,
)
from denoised_smoothing.cli.output import (
    err,
    out,
    plain_rows,
    print_json,
    print_results,
    print_spending,
    run_bar,
)
from denoised_smoothing.cli.plan_options import (
    BOUGHT_EVERY,
    N0,
    MaxN,
    More,
    N,
    OfN,
    Plan,
    PlanOptions,
    Share,
    TwoSided,
    default_kind,
)
from denoised_smoothing.cli.remote_options import (
    BuyingOptions,
    InFlight,
    MaxCost,
    MaxQueries,
    Offline,
    Price,
    Rate,
    Timeout,
    Yes,
    refuse_paid,
    report_missing_answers,
)
from denoised_smoothing.errors import BudgetReachedError, ImageError, SettingError

if TYPE_CHECKING:
    from denoised_smoothing.smoothing.classifier import SmoothedClassifier

IN_A_BUNDLE = (
    "classifier", "denoiser", "sigma", "noise", "engine", "precision", "calibration",
)  # fmt: skip
"""Options that a bundle stands for."""
UNPROVEN = (
    "with float noise the certificates are unproven: the proof does not hold for noise that is "
    "added in floating point; leave --noise out for the grid, where it does"
)


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the report and the store.")] = Path(
        "demo"
    ),
    images: Annotated[int, typer.Option(help="How many test images to certify.")] = 200,
    as_json: AsJson = False,
) -> None:
    """The whole story on handwritten digits: certify three ways, print a table, write a report."""
    from denoised_smoothing.reporting import best_over_sigma, comparison, to_rich
    from denoised_smoothing.runs.demo import RADII, run_demo

    with run_bar() as show:
        story = run_demo(output, images=images, progress=show)
    rows = comparison(story.results, RADII)
    if as_json:
        print_json(
            {"report": str(story.report), "store": str(story.store), "rows": plain_rows(rows)}
        )
        return
    out.print(to_rich(best_over_sigma(rows)))
    out.print(to_rich(rows))
    out.print(f"Report: {story.report.resolve().as_uri()}", soft_wrap=True)
    out.print(f"{story.seconds:.0f} seconds; every number was computed in this run.")


def predict(
    context: typer.Context,
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="An 8-bit PNG, JPEG, BMP or WebP file.")
    ],
    classifier: OptionalClassifier = None,
    sigma: OptionalSigma = None,
    denoiser: DenoiserSpec = "none",
    bundle: BundleFolder = None,
    n: Annotated[int, typer.Option(help="Noisy copies.")] = 1_000,
    alpha: Alpha = 0.001,
    resolution: Resolution = None,
    seed: Seed = None,
    noise: NoiseName = Noise.GRID,
    device: Device = "auto",
    engine: Engine = EngineName.AUTO,
    precision: PrecisionName = Precision.FLOAT32,
    calibration: CalibrationData = None,
    max_queries: MaxQueries = None,
    max_cost: MaxCost = None,
    price: Price = None,
    rate: Rate = None,
    in_flight: InFlight = None,
    timeout: Timeout = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """The smoothed classifier's label of one image, without a radius."""
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.images import load_image
    from denoised_smoothing.remote.records import Spending
    from denoised_smoothing.runs.paid import QueryEstimate
    from denoised_smoothing.runs.run import calibrate

    choice = smoothed_from_options(
        context, bundle, classifier, denoiser, sigma, device=device,
        noise=noise, engine=engine, precision=precision,
    )  # fmt: skip
    smoothed = choice.smoothed
    buying = BuyingOptions(max_queries, max_cost, price, rate, in_flight, timeout, yes=yes)
    remote = buying.apply(smoothed.classifier, choice.classifier)
    if remote is not None:
        buying.confirm(
            QueryEstimate(n, Spending(), remote.price), remote, choice.classifier, kept=False
        )
    if calibration is not None:
        calibrate(smoothed, load_dataset(calibration), resolution)
    pixels = smoothed.prepare(load_image(image), resolution)
    answer = smoothed.predict(pixels, n=n, alpha=alpha, seed=seed)
    names = getattr(smoothed.classifier, "label_names", None)
    name = names[answer.label] if names and answer.label is not None else None
    if as_json:
        print_json({**answer.to_dict(), "label_name": name})
    else:
        out.print(f"{answer}" if name is None else f"{name}: {answer}", markup=False)


def certify(
    context: typer.Context,
    data: Data,
    classifier: OptionalClassifier = None,
    sigma: OptionalSigma = None,
    denoiser: DenoiserSpec = "none",
    bundle: BundleFolder = None,
    plan: Plan = None,
    n0: N0 = None,
    n: N = None,
    max_n: MaxN = None,
    more: More = None,
    of_n: OfN = None,
    share: Share = None,
    two_sided: TwoSided = False,
    alpha: Alpha = 0.001,
    radii: Radii = None,
    noise: NoiseName = Noise.GRID,
    resolution: Resolution = None,
    limit: Annotated[
        int | None, typer.Option(help="At most so many images.", show_default="all")
    ] = None,
    stride: Annotated[int, typer.Option(help="Every so many-th image.")] = 1,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER/OF",
            help="One part of those images, such as 3/16; join them with merge.",
        ),
    ] = None,
    seed: Seed = None,
    store: StoreUrl = "runs.sqlite",
    run: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the run.", show_default="from the settings"),
    ] = None,
    device: Device = "auto",
    devices: Devices = None,
    engine: Engine = EngineName.AUTO,
    precision: PrecisionName = Precision.FLOAT32,
    calibration: CalibrationData = None,
    batch_size: BatchSize = None,
    max_queries: MaxQueries = None,
    max_cost: MaxCost = None,
    price: Price = None,
    rate: Rate = None,
    in_flight: InFlight = None,
    timeout: Timeout = None,
    yes: Yes = False,
    offline: Offline = False,
    ray: Ray = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = 1,
    worker_gpus: WorkerGpus = 0,
    worker_resources: WorkerResources = None,
    passes: Passes = 1,
    as_json: AsJson = False,
) -> None:
    """Certify images; a run that exists goes on where it stopped."""
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.remote.log import StoreLog
    from denoised_smoothing.reporting import load_results
    from denoised_smoothing.runs.run import CertificationRun
    from denoised_smoothing.runs.shards import Shard
    from denoised_smoothing.store import Store

    wanted = parse_radii(radii)
    if devices is not None and given_by_hand(context, "device"):
        raise SettingError(f"--device {device} beside --devices {devices}; leave one of them out")
    choice = smoothed_from_options(
        context, bundle, classifier, denoiser, sigma,
        device=devices or device, batch_size=batch_size,
        noise=noise, engine=engine, precision=precision,
        cluster=cluster(ray, workers, worker_cpus, worker_gpus, worker_resources, passes),
    )  # fmt: skip
    buying = BuyingOptions(
        max_queries, max_cost, price, rate, in_flight, timeout, yes=yes, offline=offline
    )
    remote = buying.apply(choice.smoothed.classifier, choice.classifier)
    if offline and run is None:
        raise SettingError("--offline takes the stored answers of a run; name it with --run NAME")
    options = PlanOptions(n0, n, max_n, wanted, of_n, share, two_sided)
    request = CertificationRun(
        choice.smoothed,
        load_dataset(data),
        options.plan(
            plan or default_kind(bought=remote is not None, more=more, n=n),
            every=None if remote is None else BOUGHT_EVERY,
        ),
        alpha,
        choice.classifier,
        choice.denoiser,
        name=None if offline else run,
        answers_of=run if offline else None,
        seed=seed,
        resolution=resolution,
        limit=limit,
        stride=stride,
        shard=None if shard is None else Shard.parse(shard),
        more=more,
        calibration=None if calibration is None else load_dataset(calibration),
        command=command_line(),
    )
    with err.status("preparing") as status:
        request.prepare(lambda text: status.update(escape(text)))
    for note in (
        *request.notes,
        price_note(request.smoothed),
        UNPROVEN if choice.smoothed.noise is Noise.FLOAT else None,
    ):
        if note:
            err.print(f"note: {note}", markup=False)
    with Store(store) as opened:
        if remote is not None and (estimate := request.estimate(opened)):
            buying.confirm(estimate, remote, choice.classifier)
        try:
            with run_bar() as show:
                name = request.execute(opened, show).name
        except KeyboardInterrupt:
            named = "" if run else f" --run {shlex.quote(request.run_name)}"
            err.print("interrupted; everything counted is kept. To go on:", markup=False)
            err.print(f"{command_line()}{named}", markup=False, soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None
        except ImageError as error:  # of an image in the middle
            fail(error, FAILED)
        except BudgetReachedError as error:
            so_far = load_results(opened, request.run_name, so_far=True)
            if so_far.images:
                print_results([so_far], wanted, store, as_json=as_json)
            fail(error, FAILED)
        results = load_results(opened, name, so_far=offline)
        if offline and results.unfinished:
            report_missing_answers(results, run)
        print_results([results], wanted, store, as_json=as_json)
        if remote is not None:
            print_spending(StoreLog(opened, name).spending())


@dataclass(frozen=True)
class Chosen:
    """A smoothed classifier, and the specs that name its classifier and denoiser."""

    smoothed: SmoothedClassifier
    classifier: str
    denoiser: str


def smoothed_from_options(
    context: typer.Context,
    bundle: Path | None,
    classifier: str | None,
    denoiser: str,
    sigma: float | None,
    *,
    device: str,
    batch_size: int | None = None,
    **options: Any,
) -> Chosen:
    """The smoothed classifier of a bundle, or that the options name.

    Raises:
        SettingError: neither is named, or both are.
    """
    if bundle is None:
        if classifier is None or sigma is None:
            missing = "--classifier" if classifier is None else "--sigma"
            raise SettingError(
                f"missing option {missing}: name a classifier (--classifier SPEC and --sigma), or "
                "a bundle that holds all of it (--bundle FOLDER)"
            )
        smoothed = load_smoothed(
            classifier,
            denoiser,
            sigma,
            bought=True,
            device=device,
            batch_size=batch_size,
            **options,
        )
        return Chosen(smoothed, classifier, denoiser)
    if options.get("cluster") is not None:
        raise SettingError(
            f"--bundle {bundle} with --ray: a bundle is a folder on this machine; name what is in "
            "it by --classifier and --denoiser"
        )
    given = [f"--{name}" for name in IN_A_BUNDLE if given_by_hand(context, name)]
    if given:
        raise SettingError(
            f"--bundle {bundle} with {', '.join(given)}: a bundle says all of this itself; leave "
            "one of them out"
        )
    from denoised_smoothing.smoothing.classifier import SmoothedClassifier

    smoothed = SmoothedClassifier.load(bundle, device=device, batch_size=batch_size)
    if smoothed.bundle is None:
        raise SettingError(f"{bundle} is no bundle")
    return Chosen(smoothed, smoothed.bundle.classifier, smoothed.bundle.denoiser)


def load_smoothed(
    classifier: str, denoiser: str, sigma: float, *, bought: bool = False, **options: Any
) -> SmoothedClassifier:
    """The smoothed classifier that the options name; ``bought`` where its answers may be.

    Raises:
        SettingError: they may not, and it is a remote one.
    """
    from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
    from denoised_smoothing.smoothing.classifier import SmoothedClassifier

    smoothed = SmoothedClassifier(
        load_classifier(classifier), sigma, load_denoiser(denoiser), **options
    )
    if not bought:
        refuse_paid(smoothed, classifier)
    return smoothed


def price_note(smoothed: SmoothedClassifier) -> str | None:
    """What a noisy copy costs, where the denoiser takes several passes of a model."""
    passes = getattr(smoothed.denoiser, "model_calls", 1)
    samples = getattr(smoothed.denoiser, "samples", 1)
    if passes == 1:
        return None
    more = f" and {samples} of the classifier" if samples > 1 else ""
    return f"each noisy copy costs {passes} passes of the denoising model{more}"
