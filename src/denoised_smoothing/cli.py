"""The command line: parse, call one function, print."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from denoised_smoothing.certificates.certificate import FixedBudget
from denoised_smoothing.errors import (
    DenoisedSmoothingError,
    ImageError,
    InputError,
    MissingExtraError,
    RunMismatchError,
    RunNotFoundError,
    SchemaTooNewError,
    SettingError,
    TrainingInterruptedError,
    WeightsError,
)
from denoised_smoothing.reporting.export import Format
from denoised_smoothing.terminal import (
    err,
    out,
    plain_rows,
    print_card,
    print_json,
    print_results,
    print_rows,
    print_written,
    run_bar,
)
from denoised_smoothing.training.config import Objective, Target, TrainingConfig

if TYPE_CHECKING:
    from torch import nn

    from denoised_smoothing.smoothing import SmoothedClassifier

REFUSED, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes: bad input, nothing was done; failed on the way, what was done is kept; Ctrl-C."""


class Kind(StrEnum):
    """What can be listed."""

    CLASSIFIERS = "classifiers"
    DENOISERS = "denoisers"
    DATASETS = "datasets"
    RUNS = "runs"


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Certified robustness for image classifiers that already exist. Exit codes: 0 done, "
    "1 failed on the way (what was done is kept), 2 refused before any work, 130 interrupted.",
)

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="digits, cifar10[:train|test], folder:PATH, parquet:FILE, or an image file.",
    ),
]
ClassifierSpec = Annotated[
    str,
    typer.Option(
        "--classifier",
        metavar="SPEC",
        help="torchvision:NAME, cifar-resnet56:FILE, python:MODULE:FACTORY, or a bundled name.",
    ),
]
DenoiserSpec = Annotated[
    str,
    typer.Option(
        "--denoiser",
        metavar="SPEC",
        help="unet:FILE, dncnn:FILE, dncnn-wide:FILE, memnet:FILE, python:MODULE:FACTORY, "
        "a bundled name, or none.",
    ),
]
Sigma = Annotated[
    float, typer.Option(help="Standard deviation of the noise on pixel values in [0, 1].")
]
Alpha = Annotated[float, typer.Option(help="Probability that an answer is wrong, in (0, 1).")]
Seed = Annotated[
    int | None, typer.Option(help="Seed of the noise.", show_default="fresh entropy, recorded")
]
Resolution = Annotated[
    int | None,
    typer.Option(
        help="Side in pixels to which images are brought before the noise.",
        show_default="the classifier's own",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:0.")]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="The most noisy copies on their way at once; results do not depend on it.",
        show_default="chosen for the image size",
    ),
]
StoreUrl = Annotated[
    str, typer.Option("--store", metavar="URL", help="SQLite file, or a URL of SQLAlchemy.")
]
Radii = Annotated[
    str | None,
    typer.Option(
        help="Radii of the table, such as 0.25,0.5,1.0.", show_default="what is reachable"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the report and the store.")] = Path(
        "demo"
    ),
    images: Annotated[int, typer.Option(help="How many test images to certify.")] = 200,
    as_json: AsJson = False,
) -> None:
    """The whole story on handwritten digits: certify three ways, print a table, write a report."""
    from denoised_smoothing.experiments import RADII, run_demo
    from denoised_smoothing.reporting import best_over_sigma, comparison, to_rich

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


@app.command()
def predict(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="An 8-bit PNG, JPEG, BMP or WebP file.")
    ],
    classifier: ClassifierSpec,
    sigma: Sigma,
    denoiser: DenoiserSpec = "none",
    n: Annotated[int, typer.Option(help="Noisy copies.")] = 1_000,
    alpha: Alpha = 0.001,
    resolution: Resolution = None,
    seed: Seed = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """The smoothed classifier's label of one image, without a radius."""
    from denoised_smoothing.images import load_image, resize, to_grid

    smoothed = _smoothed(classifier, denoiser, sigma, device)
    pixels = load_image(image)
    own = getattr(smoothed.classifier, "resolution", None)
    side = own if resolution is None else resolution
    answer = smoothed.predict(
        to_grid(pixels if side is None else resize(pixels, side)), n=n, alpha=alpha, seed=seed
    )
    names = getattr(smoothed.classifier, "label_names", None)
    name = names[answer.label] if names and answer.label is not None else None
    if as_json:
        print_json({**answer.to_dict(), "label_name": name})
    else:
        out.print(f"{answer}" if name is None else f"{name}: {answer}", markup=False)


@app.command()
def certify(
    data: Data,
    classifier: ClassifierSpec,
    sigma: Sigma,
    denoiser: DenoiserSpec = "none",
    n0: Annotated[int, typer.Option(help="Noisy copies that choose the candidate class.")] = 100,
    n: Annotated[int, typer.Option(help="Noisy copies that bound its probability.")] = 10_000,
    alpha: Alpha = 0.001,
    radii: Radii = None,
    resolution: Resolution = None,
    limit: Annotated[
        int | None, typer.Option(help="At most so many images.", show_default="all")
    ] = None,
    stride: Annotated[int, typer.Option(help="Every so many-th image.")] = 1,
    seed: Seed = None,
    store: StoreUrl = "runs.sqlite",
    run: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the run.", show_default="from the settings"),
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    as_json: AsJson = False,
) -> None:
    """Certify images; a run that exists goes on where it stopped."""
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.reporting import load_results
    from denoised_smoothing.runs import CertificationRun
    from denoised_smoothing.store import Store

    wanted = _radii(radii)
    request = CertificationRun(
        _smoothed(classifier, denoiser, sigma, device, batch_size),
        load_dataset(data),
        FixedBudget(n0, n),
        alpha,
        classifier,
        denoiser,
        name=run,
        seed=seed,
        resolution=resolution,
        limit=limit,
        stride=stride,
        command=_command(),
    )
    if request.label_note:
        err.print(f"note: {request.label_note}", markup=False)
    with Store(store) as opened:
        try:
            with run_bar() as show:
                name = request.execute(opened, show).name
        except KeyboardInterrupt:
            again = _command() if run else f"{_command()} --run {shlex.quote(request.run_name)}"
            err.print("interrupted; everything counted is kept. To go on:", markup=False)
            err.print(again, markup=False, soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None
        except ImageError as error:  # of an image in the middle
            _fail(error, FAILED)
        print_results([load_results(opened, name)], wanted, store, as_json=as_json)


@app.command()
def train(
    data: Data,
    output: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    sigma: Sigma,
    objective: Annotated[
        Objective, typer.Option(help="hybrid is mse first, then stability.")
    ] = Objective.MSE,
    architecture: Annotated[str, typer.Option(help="unet, dncnn, dncnn-wide or memnet.")] = "unet",
    option: Annotated[
        list[str], typer.Option(metavar="NAME=NUMBER", help="Of the architecture: width=32.")
    ] = [],  # noqa: B006
    classifier: Annotated[
        list[str],
        typer.Option(metavar="SPEC", help="To train stability on; repeat for several surrogates."),
    ] = [],  # noqa: B006
    judge: Annotated[
        list[str], typer.Option(metavar="SPEC", help="To measure accuracy with in validation.")
    ] = [],  # noqa: B006
    start: Annotated[Path | None, typer.Option(help="Weights to start from.")] = None,
    validation: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="To validate on.", show_default="the training images"),
    ] = None,
    validation_limit: Annotated[int, typer.Option(help="Images for validation.")] = 500,
    sigma_max: Annotated[
        float | None, typer.Option(help="Draw sigma from --sigma to this, for each image.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = TrainingConfig.steps,
    mse_steps: Annotated[
        int | None, typer.Option(help="Of hybrid: the first steps, by mse.", show_default="half")
    ] = None,
    target: Annotated[
        Target, typer.Option(help="Stability: the clean image's label, or its probabilities.")
    ] = Target.SOFT,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = TrainingConfig.batch_size,
    learning_rate: Annotated[
        float, typer.Option(help="The peak, after a warm-up and before a cosine decay.")
    ] = TrainingConfig.learning_rate,
    epoch_steps: Annotated[
        int, typer.Option(help="Steps between validations and checkpoints.")
    ] = TrainingConfig.epoch_steps,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation and noise.")] = 0,
    resolution: Annotated[int | None, typer.Option(help="Resize images to this side.")] = None,
    crop: Annotated[int | None, typer.Option(help="Side of random crops.")] = None,
    pad: Annotated[int, typer.Option(help="Black border that shifts images.")] = 0,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images.")] = True,
    workers: Annotated[int, typer.Option(help="Processes that decode images.")] = 0,
    accelerator: Annotated[str, typer.Option(help="Lightning's flag.")] = "auto",
    devices: Annotated[str, typer.Option(help="Lightning's flag.")] = "auto",
    strategy: Annotated[str, typer.Option(help="Lightning's flag.")] = "auto",
    precision: Annotated[str, typer.Option(help="Lightning's flag: bf16-mixed.")] = "32-true",
    as_json: AsJson = False,
) -> None:
    """Train a denoiser; the same command goes on from its last checkpoint."""
    _require_lightning()
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.training.data import Preparation
    from denoised_smoothing.training.fit import TrainingJob, train_denoiser

    config = TrainingConfig(
        objective=objective,
        sigma=sigma,
        sigma_max=sigma_max,
        steps=steps,
        mse_steps=mse_steps,
        target=target,
        batch_size=batch_size,
        learning_rate=learning_rate,
        epoch_steps=epoch_steps,
        seed=seed,
    )
    dataset = load_dataset(data)
    surrogates = {spec: _network(spec) for spec in classifier}
    job = TrainingJob(
        config=config,
        architecture=architecture,
        dataset=dataset,
        preparation=Preparation(dataset[0].image.shape[0], resolution, crop, pad, flip),
        output=output,
        validation=None if validation is None else load_dataset(validation),
        validation_limit=validation_limit,
        surrogates=list(surrogates.values()),
        judges={Path(s).stem: m for s, m in (surrogates | {s: _network(s) for s in judge}).items()},
        start=start,
        architecture_options=_options(option),
        command=_command(),
        workers=workers,
        trainer_flags={
            "accelerator": accelerator,
            "devices": devices,
            "strategy": strategy,
            "precision": precision,
            "enable_progress_bar": err.is_terminal,
        },
    )
    _show_card(train_denoiser(job), as_json)


@app.command()
def train_classifier(
    data: Data,
    output: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    depth: Annotated[int, typer.Option(help="Layers of the CIFAR ResNet: 6n + 2.")] = 20,
    validation: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="To validate on.", show_default="the training images"),
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = TrainingConfig.steps,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = TrainingConfig.batch_size,
    learning_rate: Annotated[
        float, typer.Option(help="The peak, after a warm-up and before a cosine decay.")
    ] = TrainingConfig.learning_rate,
    epoch_steps: Annotated[
        int, typer.Option(help="Steps between validations and checkpoints.")
    ] = TrainingConfig.epoch_steps,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    pad: Annotated[int, typer.Option(help="Black border that shifts images.")] = 4,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images.")] = True,
    as_json: AsJson = False,
) -> None:
    """Train a CIFAR ResNet on clean images, for those who have no classifier yet."""
    _require_lightning()
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.training.classifier import ClassifierJob, train_resnet
    from denoised_smoothing.training.data import Preparation

    dataset = load_dataset(data)
    job = ClassifierJob(
        config=TrainingConfig(
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            epoch_steps=epoch_steps,
            seed=seed,
        ),
        depth=depth,
        dataset=dataset,
        preparation=Preparation(dataset[0].image.shape[0], pad=pad, flip=flip),
        output=output,
        validation=None if validation is None else load_dataset(validation),
        command=_command(),
        trainer_flags={"enable_progress_bar": err.is_terminal},
    )
    _show_card(train_resnet(job), as_json)


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Names of runs.")],
    output: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    radii: Radii = None,
    store: StoreUrl = "runs.sqlite",
    as_json: AsJson = False,
) -> None:
    """One self-contained HTML file: curves, table and example images of several runs."""
    from denoised_smoothing.reporting import write_report
    from denoised_smoothing.store import Store

    with Store(store, read_only=True) as opened:
        write_report(opened, runs, output, radii=_radii(radii))
    print_written(output, as_json=as_json)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.")],
    output: Annotated[Path, typer.Option(help="The file to write.")],
    format: Annotated[
        Format, typer.Option(help="tsv has the columns of Cohen et al. 2019.")
    ] = Format.TSV,
    store: StoreUrl = "runs.sqlite",
    as_json: AsJson = False,
) -> None:
    """One row an image, radii rounded down."""
    from denoised_smoothing.reporting import export as write_export
    from denoised_smoothing.reporting import load_results
    from denoised_smoothing.store import Store

    with Store(store, read_only=True) as opened:
        write_export(load_results(opened, run), format, output)
    print_written(output, as_json=as_json)


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="What to list.")],
    store: StoreUrl = "runs.sqlite",
    as_json: AsJson = False,
) -> None:
    """What there is: bundled and nameable classifiers, denoisers and data sets, stored runs."""
    if kind is Kind.RUNS:
        print_rows(_list_runs(store), as_json=as_json)
        return
    from denoised_smoothing import catalogue

    listers = {
        Kind.CLASSIFIERS: catalogue.list_classifiers,
        Kind.DENOISERS: catalogue.list_denoisers,
        Kind.DATASETS: catalogue.list_datasets,
    }
    print_rows(listers[kind](), as_json=as_json)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors of this package are printed as one message, without a trace."""
    try:
        app(args=arguments, prog_name="denoised-smoothing")
    except DenoisedSmoothingError as error:
        refused = (
            InputError,
            MissingExtraError,
            RunMismatchError,
            RunNotFoundError,
            SchemaTooNewError,
            WeightsError,
        )
        if isinstance(error, TrainingInterruptedError):
            _fail(error, INTERRUPTED)
        _fail(error, REFUSED if isinstance(error, refused) else FAILED)


def _fail(error: Exception, code: int) -> NoReturn:
    err.print(f"error: {error}", markup=False, soft_wrap=True)
    sys.exit(code)


def _smoothed(
    classifier: str, denoiser: str, sigma: float, device: str, batch_size: int | None = None
) -> SmoothedClassifier:
    from denoised_smoothing.catalogue import load_classifier, load_denoiser
    from denoised_smoothing.smoothing import SmoothedClassifier

    return SmoothedClassifier(
        load_classifier(classifier),
        sigma,
        load_denoiser(denoiser),
        device=device,
        batch_size=batch_size,
    )


def _network(spec: str) -> nn.Module:
    """A classifier that gradients can pass through."""
    from torch import nn

    from denoised_smoothing.catalogue import load_classifier

    classifier = load_classifier(spec)
    if not isinstance(classifier, nn.Module):
        raise SettingError(f"{spec!r} is no torch module, so nothing can be trained through it")
    return classifier


def _require_lightning() -> None:
    for package in ("lightning", "tensorboard"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train", "training")


def _options(pairs: Sequence[str]) -> dict[str, int]:
    """``["width=32"]`` to ``{"width": 32}``."""
    options = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not (name and value.isdigit()):
            raise SettingError(f"--option takes NAME=NUMBER, such as width=32, got {pair!r}")
        options[name] = int(value)
    return options


def _radii(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        radii = tuple(float(part) for part in text.split(","))
    except ValueError:
        radii = (-1.0,)
    if not all(radius >= 0 for radius in radii):
        raise SettingError(f"--radii takes lengths such as 0.25,0.5,1.0, got {text!r}")
    return radii


def _command() -> str:
    return shlex.join(["denoised-smoothing", *sys.argv[1:]])


def _show_card(path: Path, as_json: bool) -> None:
    from denoised_smoothing.weights import load_weights

    if os.environ.get("LOCAL_RANK", "0") != "0":  # on several devices, one of them tells
        return
    print_card(path, load_weights(path)[1], as_json=as_json)


def _list_runs(store: str) -> list[dict[str, Any]]:
    from denoised_smoothing.store import Store

    with Store(store, read_only=True) as opened:
        return [
            {
                "run": run.name,
                "data": run.settings["data"],
                "sigma": run.settings["sigma"],
                "finished": sum(image.finished for image in opened.images(run.name)),
                "created": run.created.isoformat(timespec="seconds"),
            }
            for run in opened.runs()
        ]
