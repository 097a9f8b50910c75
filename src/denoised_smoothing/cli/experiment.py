"""experiment cifar10, experiment imagenet: the published tables, rerun."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoised_smoothing.certificates.parameters import EngineName, Precision
from denoised_smoothing.cli.certify import load_smoothed
from denoised_smoothing.cli.options import (
    FAILED,
    INTERRUPTED,
    Alpha,
    AsJson,
    CalibrationData,
    Device,
    Engine,
    PrecisionName,
    Resolution,
    command_line,
    fail,
    parse_numbers,
)
from denoised_smoothing.cli.output import err, out, plain_rows, print_json, run_bar
from denoised_smoothing.errors import ImageError, SettingError
from denoised_smoothing.runs.paper.recipes import SCALES, Scale, ScaleName

if TYPE_CHECKING:
    from denoised_smoothing.datasets import ImageDataset
    from denoised_smoothing.runs.paper.recipes import Recipe
    from denoised_smoothing.runs.paper.tables import TableResult
    from denoised_smoothing.runs.run import CertificationRun

experiment = typer.Typer(no_args_is_help=True, help="The published tables, rerun on your machine.")

ScaleOption = Annotated[
    ScaleName,
    typer.Option(help="full: 500 images, up to 10,000 copies each; quick: 200 and 1,000."),
]
Output = Annotated[
    Path, typer.Option(help="Folder for the table, the figure, the store and what is trained.")
]
Rows = Annotated[
    list[str],
    typer.Option("--row", metavar="NAME", help="Rows to certify, by denoiser; repeat for several."),
]
Sigmas = Annotated[str, typer.Option(help="The noise levels; each cell is the best over them.")]
Images = Annotated[
    int | None, typer.Option(help="At most so many images.", show_default="of the scale")
]
MaxCopies = Annotated[
    int | None,
    typer.Option("--max-n", help="The cap on copies an image.", show_default="of the scale"),
]
TrainData = Annotated[
    str | None,
    typer.Option(metavar="DATA", help="Images to train what is missing on."),
]
TrainPrecision = Annotated[
    str, typer.Option(help="Of trainings; Lightning's flag precision: bf16-mixed.")
]
TrainingShare = Annotated[
    float | None,
    typer.Option(help="Share of a row's training steps to do.", show_default="of the scale"),
]


@experiment.command()
def cifar10(
    classifier: Annotated[
        str, typer.Option(metavar="SPEC", help="To certify, such as cifar-resnet110:FILE.")
    ],
    data: Annotated[str, typer.Option(metavar="DATA", help="Test images.")] = "cifar10:test",
    surrogate: Annotated[
        str | None, typer.Option(metavar="SPEC", help="To train a black-box row through.")
    ] = None,
    train_data: TrainData = None,
    training_share: TrainingShare = None,
    scale: ScaleOption = ScaleName.QUICK,
    sigmas: Sigmas = "0.12,0.25,0.5,1.0",
    row: Rows = [],  # noqa: B006
    limit: Images = None,
    max_n: MaxCopies = None,
    alpha: Alpha = 0.001,
    output: Output = Path("experiment"),
    train_precision: TrainPrecision = "32-true",
    device: Device = "auto",
    engine: Engine = EngineName.AUTO,
    precision: PrecisionName = Precision.FLOAT32,
    calibration: CalibrationData = None,
    as_json: AsJson = False,
) -> None:
    """Certified accuracy on CIFAR-10 without, with black-box and with white-box denoisers.

    A row's denoiser is the one that ships for these networks, or is trained into the output
    folder. The same command goes on where it stopped.
    """
    from denoised_smoothing.runs.paper.recipes import CIFAR10_RECIPES
    from denoised_smoothing.runs.paper.tables import CIFAR10_PUBLISHED

    plans = _Plan(
        scale=_scale(scale, limit, max_n, training_share),
        name=scale,
        sigmas=parse_numbers("--sigmas", sigmas),
        alpha=alpha,
        data=data,
        output=output,
        options={"device": device, "engine": engine, "precision": precision},
        calibration=calibration,
    )
    recipes = _chosen(CIFAR10_RECIPES, row, surrogate is not None)
    if any(recipe.mean for recipe in recipes) and {"+", "?"} & set(str(output)):
        raise SettingError(
            f"--output {output} holds a + or ?, which separate the parts of a mean; choose "
            "another folder"
        )
    with _interruptible():
        specs = _denoisers(recipes, classifier, surrogate, train_data, plans, train_precision)
        requests = (
            request
            for recipe in recipes
            for request in plans.requests(recipe, classifier, specs[recipe.name], recipe.method)
        )
        _finish(plans, requests, f"CIFAR-10, {Path(classifier).stem}", CIFAR10_PUBLISHED, as_json)


@experiment.command()
def imagenet(
    data: Annotated[
        str, typer.Option(metavar="DATA", help="Validation images: folder:PATH, one folder a class")
    ],
    classifier: Annotated[
        list[str], typer.Option(metavar="SPEC", help="To certify; repeat for several.")
    ] = ["torchvision:resnet18", "torchvision:resnet34", "torchvision:resnet50"],  # noqa: B006
    train_data: TrainData = None,
    training_share: TrainingShare = None,
    scale: ScaleOption = ScaleName.QUICK,
    sigmas: Sigmas = "0.12,0.25,0.5",
    row: Rows = [],  # noqa: B006
    stride: Annotated[int, typer.Option(help="Every so many-th image.")] = 100,
    limit: Images = None,
    max_n: MaxCopies = None,
    alpha: Alpha = 0.001,
    resolution: Resolution = None,
    output: Output = Path("experiment"),
    train_precision: TrainPrecision = "32-true",
    device: Device = "auto",
    engine: Engine = EngineName.AUTO,
    precision: PrecisionName = Precision.FLOAT32,
    calibration: CalibrationData = None,
    as_json: AsJson = False,
) -> None:
    """Certified accuracy on ImageNet of torchvision's classifiers, without and with a denoiser.

    The denoiser is the one that ships for photographs, trained for sigma up to 0.6.
    """
    from denoised_smoothing.runs.paper.recipes import IMAGENET_RECIPES

    plans = _Plan(
        scale=_scale(scale, limit, max_n, training_share),
        name=scale,
        sigmas=parse_numbers("--sigmas", sigmas),
        alpha=alpha,
        data=data,
        output=output,
        options={"device": device, "engine": engine, "precision": precision},
        calibration=calibration,
        resolution=resolution,
        stride=stride,
    )
    recipes = _chosen(IMAGENET_RECIPES, row, True)
    with _interruptible():
        specs = _denoisers(recipes, None, None, train_data, plans, train_precision)
        requests = (
            request
            for network in classifier
            for recipe in recipes
            for request in plans.requests(
                recipe, network, specs[recipe.name], f"{network.split(':')[1]}, {recipe.method}"
            )
        )
        _finish(plans, requests, "ImageNet", (), as_json)


def _scale(name: ScaleName, limit: int | None, max_n: int | None, training: float | None) -> Scale:
    """The scale of that name, with what was given by hand."""
    given = {"images": limit, "max_n": max_n, "training": training}
    return replace(SCALES[name], **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Plan:
    """What is the same for all runs of an experiment; ``options`` are of the classifier."""

    scale: Scale
    name: ScaleName
    sigmas: tuple[float, ...]
    alpha: float
    data: str
    output: Path
    options: Mapping[str, Any]
    calibration: str | None
    resolution: int | None = None
    stride: int = 1

    @cached_property
    def dataset(self) -> ImageDataset:
        """The test images."""
        from denoised_smoothing.datasets import load_dataset

        return load_dataset(self.data)

    def requests(
        self, recipe: Recipe, classifier: str, denoiser: str, method: str
    ) -> Iterator[CertificationRun]:
        """One run for each sigma."""
        from denoised_smoothing.datasets import load_dataset
        from denoised_smoothing.runs.run import CertificationRun

        calibration = None if self.calibration is None else load_dataset(self.calibration)
        short = Path(classifier.split(":")[1] if ":" in classifier else classifier).stem
        precision = self.options["precision"]
        suffix = "" if precision == Precision.FLOAT32 else f"-{precision}"
        for sigma in self.sigmas:
            yield CertificationRun(
                load_smoothed(classifier, denoiser, sigma, **self.options),
                self.dataset,
                self.scale.plan,
                self.alpha,
                classifier,
                denoiser,
                name=f"{self.name}-{short}-{recipe.name}-{sigma:g}{suffix}",
                resolution=self.resolution,
                limit=self.scale.images,
                stride=self.stride,
                method=method,
                calibration=calibration,
                command=command_line(),
            )

    def note(self, request: CertificationRun) -> str:
        """What the numbers rest on."""
        settings = request.settings
        count = len(request.indices)
        every = "" if self.stride == 1 else f", of every {self.stride} images one"
        return (
            f"Scale {self.name}: {count} images of `{self.dataset.name}`{every}, anytime plan of "
            f"up to {self.scale.max_n:,} copies an image, alpha = {self.alpha:g}; computed with "
            f"{settings['engine']} in {settings['precision']}."
        )


def _chosen(recipes: Sequence[Recipe], names: Sequence[str], surrogate: bool) -> list[Recipe]:
    known = [recipe.name for recipe in recipes]
    if unknown := [name for name in names if name not in known]:
        raise SettingError(f"there is no row {unknown[0]!r}; name one of {', '.join(known)}")
    wanted = names or [r.name for r in recipes if surrogate or "surrogate" not in r.networks]
    return [recipe for recipe in recipes if recipe.name in wanted]


def _denoisers(
    recipes: Sequence[Recipe],
    classifier: str | None,
    surrogate: str | None,
    train_data: str | None,
    plans: _Plan,
    precision: str,
) -> dict[str, str]:
    """The spec of the denoiser of each row, trained where it is missing."""
    from torch import nn

    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.models.catalogue import load_classifier
    from denoised_smoothing.runs.paper.recipes import Networks, denoiser_spec

    def network(spec: str | None) -> nn.Module | None:
        loaded = None if spec is None else load_classifier(spec)
        return loaded if isinstance(loaded, nn.Module) else None

    networks = Networks(
        classifier=network(classifier),
        surrogate=network(surrogate),
        training=None if train_data is None else load_dataset(train_data),
        folder=plans.output / f"denoisers-{plans.name}",
        share=plans.scale.training,
        command=command_line(),
        flags={"precision": precision, "enable_progress_bar": err.is_terminal},
    )
    return {recipe.name: denoiser_spec(recipe, networks) for recipe in recipes}


def _finish(
    plans: _Plan,
    requests: Iterator[CertificationRun],
    title: str,
    published: Sequence[Any],
    as_json: bool,
) -> None:
    """Certify, write, print."""
    from denoised_smoothing.runs.paper.tables import make_table
    from denoised_smoothing.store import Store

    plans.output.mkdir(parents=True, exist_ok=True)
    with Store(plans.output / "runs.sqlite") as store, run_bar() as show:
        made = make_table(
            requests,
            store,
            plans.output,
            note=plans.note,
            title=f"Certified accuracy: {title}",
            published=published,
            progress=show,
        )
    _show(made, as_json)
    if made.refused:
        fail(ImageError("; ".join(made.refused)), FAILED)


def _show(made: TableResult, as_json: bool) -> None:
    from denoised_smoothing.reporting import to_rich

    if as_json:
        print_json(
            {
                "note": made.note,
                "table": str(made.table),
                "figure": str(made.figure),
                "report": str(made.report),
                "runs": [result.run.name for result in made.results],
                "best": plain_rows(made.best),
                "rows": plain_rows(made.each),
            }
        )
        return
    out.print(to_rich(made.best))
    out.print(to_rich(made.each))
    out.print(made.note, markup=False, soft_wrap=True)
    for path in (made.table, made.figure, made.report):
        out.print(f"wrote {path}", markup=False, soft_wrap=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends with the command to type next."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("interrupted; everything counted is kept. To go on:", markup=False)
        err.print(command_line(), markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
