"""The commands ``experiment cifar10`` and ``experiment imagenet``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer.core import TyperGroup

from denoised_smoothing.certificates.parameters import Precision
from denoised_smoothing.cli import COMMANDS
from denoised_smoothing.cli.grouped import Take, command, option_group
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import (
    ALPHA,
    AsJson,
    Sigmas,
    Stride,
    command_line,
    option,
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

    from denoised_smoothing.runs.paper.recipes import Recipe
    from denoised_smoothing.runs.paper.tables import PublishedRow, TableResult
    from denoised_smoothing.runs.run import CertificationRun

SCALE = "of the scale"
TAKEN = ("device", "engine", "precision", "calibration")


_data, _copies, _training = map(option_group, ("Data and model", "Copies", "Training"))


@dataclass(frozen=True)
class ExperimentOptions:
    """The options that both experiments share."""

    scale: ScaleName = _copies(
        ScaleName.QUICK, "full: 500 images of up to 10,000 copies. quick: 200 images of 1,000."
    )
    row: list[str] = _data(
        [], "Row of the table, by its denoiser. Repeat for several.", metavar="NAME"
    )
    limit: int | None = _data(None, "Use at most N images.", show_default=SCALE)
    max_n: int | None = _copies(None, "Maximum number of copies per image.", show_default=SCALE)
    alpha: float = _copies(0.001, ALPHA)
    train_data: str | None = _training(
        None, "Images to train missing denoisers on.", metavar="DATA"
    )
    training_share: float | None = _training(
        None, "Share of the training steps to do.", show_default=SCALE
    )
    train_precision: str = _training("32-true", "Lightning's precision, such as bf16-mixed.")
    output: Path = option_group("Output")(
        Path("experiment"), "Folder for the table, figure, report, store and denoisers."
    )


@command()
def cifar10(
    model: Annotated[ModelOptions, Take(("classifier", *TAKEN), required=("classifier",))],
    options: ExperimentOptions,
    data: Annotated[str, option("Data and model", "Test images.", metavar="DATA")] = "cifar10:test",
    surrogate: Annotated[
        str | None,
        option("Training", "Classifier to train a black-box row through.", metavar="SPEC"),
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
    recipes = _chosen(CIFAR10_RECIPES, options.row, surrogate is not None)
    if any(recipe.mean for recipe in recipes) and {"+", "?"} & set(str(options.output)):
        raise SettingError(
            f"--output must not contain + or ?, got {str(options.output)!r}, because they separate "
            "the members of an ensemble. Choose another folder."
        )
    _Experiment(
        options, model, data, parse_numbers("--sigmas", sigmas), recipes, {classifier: ""},
        title=f"CIFAR-10, {Path(classifier).stem}", published=CIFAR10_PUBLISHED,
        classifier=classifier, surrogate=surrogate,
    ).execute(as_json=as_json)  # fmt: skip


@command()
def imagenet(
    model: Annotated[ModelOptions, Take(("resolution", *TAKEN))],
    options: ExperimentOptions,
    data: Annotated[
        str,
        option(
            "Data and model",
            "Validation images: folder:PATH, with one folder per class.",
            metavar="DATA",
        ),
    ],
    classifier: Annotated[
        list[str],
        option("Data and model", "Classifier to certify. Repeat for several.", metavar="SPEC"),
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

    recipes = _chosen(IMAGENET_RECIPES, options.row, True)
    networks = {network: f"{network.split(':')[1]}, " for network in classifier}
    _Experiment(
        options,
        model,
        data,
        parse_numbers("--sigmas", sigmas),
        recipes,
        networks,
        title="ImageNet",
        stride=stride,
    ).execute(as_json=as_json)


experiment = TyperGroup(
    name="experiment",
    commands=[cifar10, imagenet],
    no_args_is_help=True,
    help=COMMANDS["experiment"],
)


def _chosen(recipes: Sequence[Recipe], names: Sequence[str], surrogate: bool) -> list[Recipe]:
    known = [recipe.name for recipe in recipes]
    if unknown := [name for name in names if name not in known]:
        raise SettingError(f"Unknown --row {unknown[0]!r}. Use one of: {', '.join(known)}.")
    wanted = names or [r.name for r in recipes if surrogate or "surrogate" not in r.networks]
    return [recipe for recipe in recipes if recipe.name in wanted]


@dataclass(frozen=True)
class _Experiment:
    """All runs of a table.

    ``networks`` are the classifiers to certify, with the start of their names in the table.
    Missing denoisers are trained through ``classifier`` and ``surrogate``.
    """

    options: ExperimentOptions
    model: ModelOptions
    data: str
    sigmas: tuple[float, ...]
    recipes: Sequence[Recipe]
    networks: Mapping[str, str]
    title: str
    published: Sequence[PublishedRow] = ()
    classifier: str | None = None
    surrogate: str | None = None
    stride: int = 1

    def execute(self, *, as_json: bool) -> None:
        """Train missing denoisers, certify, and write and print the table."""
        from denoised_smoothing.runs.paper.tables import make_table
        from denoised_smoothing.store import Store

        folder = self.options.output
        try:
            specs = self._denoisers()
            folder.mkdir(parents=True, exist_ok=True)
            with Store(folder / "runs.sqlite") as store, run_bar() as show:
                made = make_table(
                    self._runs(specs), store, folder,
                    note=self._note, title=f"Certified accuracy: {self.title}",
                    published=self.published, progress=show,
                )  # fmt: skip
        except KeyboardInterrupt:
            interrupted()
        _show(made, as_json)
        if made.refused:
            fail(ImageError("; ".join(made.refused)))

    @cached_property
    def _scale(self) -> Scale:
        """The scale, with the numbers that were typed."""
        options = self.options
        typed = {
            "images": options.limit, "max_n": options.max_n, "training": options.training_share
        }  # fmt: skip
        changes: Any = {name: value for name, value in typed.items() if value is not None}
        return replace(SCALES[options.scale], **changes)

    def _runs(self, denoisers: Mapping[str, str]) -> Iterator[CertificationRun]:
        """Yield one run per classifier, row and sigma."""
        from denoised_smoothing.datasets import load_dataset
        from denoised_smoothing.runs.run import CertificationRun

        dataset, calibration = load_dataset(self.data), self.model.calibration
        images = None if calibration is None else load_dataset(calibration)
        precision = self.model.precision
        suffix = "" if precision == Precision.FLOAT32 else f"-{precision}"
        for (network, start), recipe, sigma in product(
            self.networks.items(), self.recipes, self.sigmas
        ):
            short = Path(network.split(":")[1] if ":" in network else network).stem
            model = replace(
                self.model, classifier=network, denoiser=denoisers[recipe.name], sigma=sigma
            )
            yield CertificationRun(
                model.build(),
                dataset,
                self._scale.plan,
                self.options.alpha,
                name=f"{self.options.scale}-{short}-{recipe.name}-{sigma:g}{suffix}",
                resolution=self.model.resolution,
                limit=self._scale.images,
                stride=self.stride,
                method=f"{start}{recipe.method}",
                calibration=images,
                command=command_line(),
            )

    def _note(self, run: CertificationRun) -> str:
        """Return the caption of the table: the images, the plan and the engine."""
        every = "" if self.stride == 1 else f", one of every {self.stride}"
        return (
            f"Scale {self.options.scale}: {len(run.indices)} images of `{run.dataset.name}`{every},"
            f" anytime plan of up to {self._scale.max_n:,} copies per image, alpha = "
            f"{run.alpha:g}; computed with {run.settings['engine']} in {run.settings['precision']}."
        )

    def _denoisers(self) -> dict[str, str]:
        """Return the spec of the denoiser of each row; train missing ones."""
        from denoised_smoothing.datasets import load_dataset
        from denoised_smoothing.runs.paper.recipes import Networks, denoiser_spec

        options = self.options
        networks = Networks(
            classifier=_network(self.classifier),
            surrogate=_network(self.surrogate),
            training=None if options.train_data is None else load_dataset(options.train_data),
            folder=options.output / f"denoisers-{options.scale}",
            share=self._scale.training,
            command=command_line(),
            flags={"precision": options.train_precision, "enable_progress_bar": err.is_terminal},
        )
        return {recipe.name: denoiser_spec(recipe, networks) for recipe in self.recipes}


def _network(spec: str | None) -> nn.Module | None:
    from torch import nn

    from denoised_smoothing.models.catalogue import load_classifier

    loaded = None if spec is None else load_classifier(spec)
    return loaded if isinstance(loaded, nn.Module) else None


def _show(made: TableResult, as_json: bool) -> None:
    from denoised_smoothing.reporting import to_rich

    files = {"table": made.table, "figure": made.figure, "report": made.report}
    if as_json:
        print_json(
            {
                "note": made.note,
                **{name: str(path) for name, path in files.items()},
                "runs": [result.run.name for result in made.results],
                "best": plain_rows(made.best),
                "rows": plain_rows(made.each),
            }
        )
        return
    out.print(to_rich(made.best))
    out.print(to_rich(made.each))
    say(made.note)
    for path in files.values():
        say(f"wrote {path}")
