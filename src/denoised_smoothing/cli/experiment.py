"""The commands ``experiment cifar10`` and ``experiment imagenet``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer.core import TyperGroup

from denoised_smoothing.certificates.parameters import Precision
from denoised_smoothing.cli import COMMANDS
from denoised_smoothing.cli.grouped import Take, command
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import (
    FAILED,
    Alpha,
    AsJson,
    Sigmas,
    Stride,
    command_line,
    in_copies,
    in_data,
    in_output,
    in_training,
    parse_numbers,
)
from denoised_smoothing.cli.output import (
    err,
    fail,
    interrupted,
    out,
    plain_rows,
    print_json,
    run_bar,
    say,
)
from denoised_smoothing.errors import ImageError, SettingError
from denoised_smoothing.runs.paper.recipes import SCALES, Scale, ScaleName

if TYPE_CHECKING:
    from torch import nn

    from denoised_smoothing.datasets import ImageDataset
    from denoised_smoothing.runs.paper.recipes import Recipe
    from denoised_smoothing.runs.paper.tables import TableResult
    from denoised_smoothing.runs.run import CertificationRun

TAKEN = ("device", "engine", "precision", "calibration")


@dataclass(frozen=True)
class ExperimentOptions:
    """The options that both experiments share."""

    scale: Annotated[
        ScaleName,
        in_copies("full: 500 images, up to 10,000 copies per image. quick: 200 and 1,000."),
    ] = ScaleName.QUICK
    row: Annotated[
        list[str], in_data("Row of the table, by its denoiser. Repeat for several.", metavar="NAME")
    ] = field(default_factory=list)
    limit: Annotated[int | None, in_data("Use at most N images.", show_default="of the scale")] = (
        None
    )
    max_n: Annotated[
        int | None, in_copies("Maximum number of copies per image.", show_default="of the scale")
    ] = None
    alpha: Alpha = 0.001
    train_data: Annotated[
        str | None, in_training("Images to train missing denoisers on.", metavar="DATA")
    ] = None
    training_share: Annotated[
        float | None, in_training("Share of the training steps to do.", show_default="of the scale")
    ] = None
    train_precision: Annotated[str, in_training("Lightning's precision, such as bf16-mixed.")] = (
        "32-true"
    )
    output: Annotated[
        Path, in_output("Folder for the table, figure, report, store and denoisers.")
    ] = Path("experiment")


@command()
def cifar10(
    model: Annotated[ModelOptions, Take(("classifier", *TAKEN), required=("classifier",))],
    options: ExperimentOptions,
    data: Annotated[str, in_data("Test images.", metavar="DATA")] = "cifar10:test",
    surrogate: Annotated[
        str | None, in_training("Classifier to train a black-box row through.", metavar="SPEC")
    ] = None,
    sigmas: Sigmas = "0.12,0.25,0.5,1.0",
    as_json: AsJson = False,
) -> None:
    """Certify CIFAR-10 without, with black-box and with white-box denoisers.

    Example: denoised-smoothing experiment cifar10 --classifier cifar-resnet110:FILE

    Uses the shipped denoiser of a row, or trains one. Repeat the command to resume.
    """
    from denoised_smoothing.runs.paper.recipes import CIFAR10_RECIPES
    from denoised_smoothing.runs.paper.tables import CIFAR10_PUBLISHED

    classifier = model.classifier or ""
    title = f"CIFAR-10, {Path(classifier).stem}"
    shared = _Experiment(options, model, data, parse_numbers("--sigmas", sigmas), title)
    recipes = _chosen(CIFAR10_RECIPES, options.row, surrogate is not None)
    if any(recipe.mean for recipe in recipes) and {"+", "?"} & set(str(options.output)):
        raise SettingError(
            f"--output must not contain + or ?, got {str(options.output)!r}, because they separate "
            "the members of an ensemble. Choose another folder."
        )
    shared.execute(recipes, {classifier: ""}, CIFAR10_PUBLISHED, classifier, surrogate, as_json)


@command()
def imagenet(
    model: Annotated[ModelOptions, Take(("resolution", *TAKEN))],
    options: ExperimentOptions,
    data: Annotated[
        str, in_data("Validation images: folder:PATH, with one folder per class.", metavar="DATA")
    ],
    classifier: Annotated[
        list[str], in_data("Classifier to certify. Repeat for several.", metavar="SPEC")
    ] = ["torchvision:resnet18", "torchvision:resnet34", "torchvision:resnet50"],  # noqa: B006
    sigmas: Sigmas = "0.12,0.25,0.5",
    stride: Stride = 100,
    as_json: AsJson = False,
) -> None:
    """Certify ImageNet classifiers of torchvision without and with a denoiser.

    Example: denoised-smoothing experiment imagenet --data folder:imagenet/val

    Uses the shipped denoiser for photographs, which was trained for sigma up to 0.6.
    """
    from denoised_smoothing.runs.paper.recipes import IMAGENET_RECIPES

    shared = _Experiment(
        options, model, data, parse_numbers("--sigmas", sigmas), "ImageNet", stride
    )
    recipes = _chosen(IMAGENET_RECIPES, options.row, True)
    networks = {network: f"{network.split(':')[1]}, " for network in classifier}
    shared.execute(recipes, networks, (), None, None, as_json)


experiment = TyperGroup(
    name="experiment",
    commands=[cifar10, imagenet],
    no_args_is_help=True,
    help=COMMANDS["experiment"],
)


@dataclass(frozen=True)
class _Experiment:
    """All runs of an experiment."""

    options: ExperimentOptions
    model: ModelOptions
    data: str
    sigmas: tuple[float, ...]
    title: str
    stride: int = 1

    def execute(
        self,
        recipes: Sequence[Recipe],
        networks: Mapping[str, str],
        published: Sequence[Any],
        classifier: str | None,
        surrogate: str | None,
        as_json: bool,
    ) -> None:
        """Train missing denoisers, certify, and write and print the table.

        Args:
            recipes: the rows of the table.
            networks: the classifiers to certify, and the start of their names in the table.
            published: rows to compare with.
            classifier, surrogate: specs of networks to train missing denoisers through.
            as_json: print JSON.
        """
        from denoised_smoothing.runs.paper.tables import make_table
        from denoised_smoothing.store import Store

        try:
            specs = self._denoisers(recipes, classifier, surrogate)
            self.options.output.mkdir(parents=True, exist_ok=True)
            requests = (
                request
                for network, name in networks.items()
                for recipe in recipes
                for request in self._runs(recipe, network, specs[recipe.name], name)
            )
            with Store(self.options.output / "runs.sqlite") as store, run_bar() as show:
                made = make_table(
                    requests,
                    store,
                    self.options.output,
                    note=self._note,
                    title=f"Certified accuracy: {self.title}",
                    published=published,
                    progress=show,
                )
        except KeyboardInterrupt:
            interrupted()
        _show(made, as_json)
        if made.refused:
            fail(ImageError("; ".join(made.refused)), FAILED)

    @cached_property
    def _scale(self) -> Scale:
        """The scale, with the numbers that were typed."""
        typed = {
            "images": self.options.limit,
            "max_n": self.options.max_n,
            "training": self.options.training_share,
        }
        changes: Any = {name: value for name, value in typed.items() if value is not None}
        return replace(SCALES[self.options.scale], **changes)

    @cached_property
    def _dataset(self) -> ImageDataset:
        from denoised_smoothing.datasets import load_dataset

        return load_dataset(self.data)

    def _runs(
        self, recipe: Recipe, classifier: str, denoiser: str, name: str
    ) -> Iterator[CertificationRun]:
        """Yield one run per sigma."""
        from denoised_smoothing.runs.run import CertificationRun

        calibration, precision = self.model.calibration_data(), self.model.precision
        short = Path(classifier.split(":")[1] if ":" in classifier else classifier).stem
        suffix = "" if precision == Precision.FLOAT32 else f"-{precision}"
        for sigma in self.sigmas:
            model = replace(self.model, classifier=classifier, denoiser=denoiser, sigma=sigma)
            yield CertificationRun(
                model.build(),
                self._dataset,
                self._scale.plan,
                self.options.alpha,
                classifier,
                denoiser,
                name=f"{self.options.scale}-{short}-{recipe.name}-{sigma:g}{suffix}",
                resolution=self.model.resolution,
                limit=self._scale.images,
                stride=self.stride,
                method=f"{name}{recipe.method}",
                calibration=calibration,
                command=command_line(),
            )

    def _note(self, request: CertificationRun) -> str:
        """Return the caption of the table: the images, the plan and the engine."""
        settings = request.settings
        every = "" if self.stride == 1 else f", one of every {self.stride}"
        return (
            f"Scale {self.options.scale}: {len(request.indices)} images of "
            f"`{self._dataset.name}`{every}, anytime plan of up to {self._scale.max_n:,} copies "
            f"per image, alpha = {self.options.alpha:g}; computed with {settings['engine']} in "
            f"{settings['precision']}."
        )

    def _denoisers(
        self, recipes: Sequence[Recipe], classifier: str | None, surrogate: str | None
    ) -> dict[str, str]:
        """Return the spec of the denoiser of each row; train missing ones."""
        from denoised_smoothing.datasets import load_dataset
        from denoised_smoothing.runs.paper.recipes import Networks, denoiser_spec

        options = self.options
        networks = Networks(
            classifier=_network(classifier),
            surrogate=_network(surrogate),
            training=None if options.train_data is None else load_dataset(options.train_data),
            folder=options.output / f"denoisers-{options.scale}",
            share=self._scale.training,
            command=command_line(),
            flags={"precision": options.train_precision, "enable_progress_bar": err.is_terminal},
        )
        return {recipe.name: denoiser_spec(recipe, networks) for recipe in recipes}


def _network(spec: str | None) -> nn.Module | None:
    from torch import nn

    from denoised_smoothing.models.catalogue import load_classifier

    loaded = None if spec is None else load_classifier(spec)
    return loaded if isinstance(loaded, nn.Module) else None


def _chosen(recipes: Sequence[Recipe], names: Sequence[str], surrogate: bool) -> list[Recipe]:
    known = [recipe.name for recipe in recipes]
    if unknown := [name for name in names if name not in known]:
        raise SettingError(f"Unknown --row {unknown[0]!r}. Use one of: {', '.join(known)}.")
    wanted = names or [r.name for r in recipes if surrogate or "surrogate" not in r.networks]
    return [recipe for recipe in recipes if recipe.name in wanted]


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
    say(made.note)
    for path in (made.table, made.figure, made.report):
        say(f"wrote {path}")
