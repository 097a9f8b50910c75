"""The commands ``experiment cifar10`` and ``experiment imagenet``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    Labels,
    command_line,
    option,
    parse_numbers,
    read_labels,
)
from denoised_smoothing.cli.output import (
    err,
    fail,
    interrupted,
    note,
    plain_rows,
    print_json,
    print_table,
    run_bar,
    say,
)
from denoised_smoothing.errors import RefusedImagesError, SettingError
from denoised_smoothing.runs.paper.recipes import SCALES, Scale, ScaleName

if TYPE_CHECKING:
    from torch import nn

    from denoised_smoothing.datasets import ImageDataset
    from denoised_smoothing.models.labels import GivenLabels
    from denoised_smoothing.runs.paper.recipes import Networks, Recipe
    from denoised_smoothing.runs.paper.tables import PublishedRow, TableResult
    from denoised_smoothing.runs.run import CertificationRun

SCALE = "of the scale"
_IMAGES = 500
"""Of a larger data set as many are used, as in the paper: one of every 100 of ImageNet's 50,000."""
_CAVEAT = (
    " Published rows are of ImageNet's validation set; other photographs may be easier or harder, "
    "so compare with the row without denoiser."
)
TAKEN = ("device", "engine", "precision", "calibration")
_data, _copies, _training = map(option_group, ("Data and model", "Copies", "Training"))


@dataclass(frozen=True)
class ExperimentOptions:
    """The options of both experiments."""

    data: str = _data("Test images: cifar10:test, or folder:PATH.", default="", metavar="DATA")
    sigmas: str = _data("Values of sigma to compare.", default="")
    row: list[str] = _data(
        "Row of the table, by its denoiser. Repeat for several.", default=[], metavar="NAME"
    )
    limit: int | None = _data("Use at most N images.", show_default=SCALE)
    stride: int | None = _data("Use every N-th image.", show_default="500 images")
    scale: ScaleName = _copies(
        "full: 500 images of up to 10,000 copies. quick: 200 images of 1,000.",
        default=ScaleName.QUICK,
    )
    max_n: int | None = _copies("Maximum number of copies per image.", show_default=SCALE)
    alpha: float = _copies(ALPHA, default=0.001)
    surrogate: str | None = _training("Classifier to train black boxes through.", metavar="SPEC")
    train_data: str | None = _training("Images to train missing denoisers on.", metavar="DATA")
    training_share: float | None = _training("Share of the training steps.", show_default=SCALE)
    train_precision: str = _training("Lightning's precision: bf16-mixed.", default="32-true")
    output: Path = option_group("Output")(
        "Folder for the table, figure, report, store and denoisers.", default=Path("experiment")
    )

    def execute(
        self,
        model: ModelOptions,
        recipes: Sequence[Recipe],
        networks: Mapping[str, str],
        title: str,
        labels: Path | None,
        published: Sequence[PublishedRow] = (),
        caveat: str = "",
    ) -> TableResult:
        """Train missing denoisers, certify, and write the table.

        Labels are matched before anything is trained.

        Args:
            model: the engine.
            recipes: the rows of the table.
            networks: classifiers to certify, and the start of their names in the table.
            labels: the file of ``--labels``.
            published: rows to compare with.
            caveat: about the comparison with them, for the table.
        """
        from denoised_smoothing.datasets import load_dataset
        from denoised_smoothing.models.catalogue import load_classifier
        from denoised_smoothing.runs.labels import matched
        from denoised_smoothing.runs.paper.tables import make_table
        from denoised_smoothing.store import Store

        scale, sigmas = self._scale(), parse_numbers("--sigmas", self.sigmas)
        dataset, given = load_dataset(self.data), read_labels(labels)
        classifiers = {spec: load_classifier(spec) for spec in networks}
        matches = [matched(dataset, classifier, given) for classifier in classifiers.values()]
        for text in dict.fromkeys(match.note for match in matches if match.note):
            note(text)
        stride = max(1, len(dataset) // _IMAGES) if self.stride is None else self.stride
        every = "" if stride == 1 else f", one of every {stride}"

        def about(run: CertificationRun) -> str:
            trained = any(".safetensors" in denoiser for _, _, denoiser in rows)
            share = (
                f" Denoisers in {self.output} were trained for {scale.training:.0%} of the steps."
            )
            return (
                f"Scale {self.scale}: {len(run.indices)} images of `{run.dataset.name}`{every}, "
                f"anytime plan of up to {scale.max_n:,} copies per image, alpha = {self.alpha:g}; "
                f"computed with {run.settings['engine']} in {run.settings['precision']}."
                f"{share if trained and scale.training < 1 else ''}{caveat}"
            )

        try:
            rows = [
                (spec, recipe, denoiser)
                for spec in networks
                for recipe, denoiser in self._denoisers(
                    recipes, spec, classifiers[spec], given, shared=len(networks) > 1
                ).items()
            ]
            runs = self._runs(model, networks, rows, sigmas, dataset, stride, given)
            self.output.mkdir(parents=True, exist_ok=True)
            with Store(self.output / "runs.sqlite") as store, run_bar() as show:
                return make_table(
                    runs, store, self.output, note=about, title=f"Certified accuracy: {title}",
                    published=published, progress=show,
                )  # fmt: skip
        except KeyboardInterrupt:
            interrupted()

    def _scale(self) -> Scale:
        """Return the scale, with the numbers that were typed."""
        typed = {"images": self.limit, "max_n": self.max_n, "training": self.training_share}
        changes: Any = {name: value for name, value in typed.items() if value is not None}
        return replace(SCALES[self.scale], **changes)

    def _runs(
        self,
        model: ModelOptions,
        networks: Mapping[str, str],
        rows: Sequence[tuple[str, Recipe, str]],
        sigmas: Sequence[float],
        dataset: ImageDataset,
        stride: int,
        labels: GivenLabels | None,
    ) -> Iterator[CertificationRun]:
        """Yield one run for each classifier with its row and denoiser, and sigma."""
        from denoised_smoothing.datasets import load_dataset
        from denoised_smoothing.runs.run import CertificationRun

        scale = self._scale()
        images = None if model.calibration is None else load_dataset(model.calibration)
        suffix = "" if model.precision == Precision.FLOAT32 else f"-{model.precision}"
        for (network, recipe, denoiser), sigma in product(rows, sigmas):
            yield CertificationRun(
                replace(model, classifier=network, denoiser=denoiser, sigma=sigma).build(),
                dataset,
                scale.plan,
                self.alpha,
                name=f"{self.scale}-{_short(network)}-{recipe.name}-{sigma:g}{suffix}",
                resolution=model.resolution,
                limit=scale.images,
                stride=stride,
                method=f"{networks[network]}{recipe.method}",
                calibration=images,
                labels=labels,
                command=command_line(),
            )

    def _denoisers(
        self,
        recipes: Sequence[Recipe],
        spec: str,
        classifier: object,
        labels: GivenLabels | None,
        *,
        shared: bool,
    ) -> dict[Recipe, str]:
        """Return the spec of the denoiser of each row; train missing ones.

        Without names of rows, those whose training lacks something are left out. The folder is
        ``shared`` with other classifiers.

        Raises:
            SettingError: the training of a named row lacks something.
        """
        from denoised_smoothing.datasets import load_dataset
        from denoised_smoothing.models.catalogue import load_classifier
        from denoised_smoothing.runs.paper.recipes import Networks, denoiser_spec, lacking

        needed = set().union(*(recipe.networks for recipe in recipes))
        networks = Networks(
            classifier=_network(classifier),
            surrogate=_network(
                load_classifier(self.surrogate)
                if self.surrogate and "surrogate" in needed
                else None
            ),
            training=None if self.train_data is None else load_dataset(self.train_data),
            labels=labels,
            folder=self.output / f"denoisers-{self.scale}",
            prefix=f"{_short(spec)}-" if shared else "",
            share=self._scale().training,
            command=command_line(),
            flags={"precision": self.train_precision, "enable_progress_bar": err.is_terminal},
        )
        lacks = {recipe: lacking(recipe, networks) for recipe in recipes}
        missing = [f"{recipe.name} lacks {lack}" for recipe, lack in lacks.items() if lack]
        if missing and self.row:
            raise SettingError(
                f"Denoisers must be trained: {', '.join(missing)}. Name what is missing, or omit "
                "these rows."
            )
        if missing:
            note(f"left out for {spec}: {', '.join(missing)}")
            recipes = [recipe for recipe in recipes if not lacks[recipe]]
        _check_labels(recipes, networks)
        return {recipe: denoiser_spec(recipe, networks) for recipe in recipes}


@command()
def cifar10(
    model: Annotated[ModelOptions, Take(("classifier", *TAKEN), required=("classifier",))],
    options: Annotated[
        ExperimentOptions,
        Take(without=("stride",), defaults={"data": "cifar10:test", "sigmas": "0.12,0.25,0.5,1.0"}),
    ],
    labels: Labels = None,
    as_json: AsJson = False,
) -> None:
    """Certify CIFAR-10 without, with black-box and with white-box denoisers.

    Example: denoised-smoothing experiment cifar10 --classifier cifar-resnet110:FILE

    Uses the shipped denoiser of a row, or trains one. Repeat the command to resume.
    """
    from denoised_smoothing.runs.paper.recipes import CIFAR10_RECIPES
    from denoised_smoothing.runs.paper.tables import CIFAR10_PUBLISHED

    classifier, folder = model.classifier or "", str(options.output)
    options = replace(options, stride=1)
    recipes = _chosen(CIFAR10_RECIPES, options.row, options.surrogate is not None)
    if any(recipe.mean for recipe in recipes) and {"+", "?"} & set(folder):
        raise SettingError(
            f"--output must not contain + or ?, got {folder!r}, because they separate the members "
            "of an ensemble. Choose another folder."
        )
    title = f"CIFAR-10, {_short(classifier)}"
    made = options.execute(model, recipes, {classifier: ""}, title, labels, CIFAR10_PUBLISHED)
    _show(made, as_json)


@command()
def imagenet(
    model: Annotated[ModelOptions, Take(("resolution", *TAKEN))],
    options: Annotated[
        ExperimentOptions,
        Take(
            required=("data",),
            defaults={"sigmas": "0.25,0.5,1.0"},
        ),
    ],
    classifier: Annotated[
        list[str],
        option("Data and model", "Classifier to certify. Repeat for several.", metavar="SPEC"),
    ] = ["efficientnet-lite0"],  # noqa: B006
    labels: Labels = None,
    as_json: AsJson = False,
) -> None:
    """Certify ImageNet classifiers without, with black-box and with white-box denoisers.

    Example: denoised-smoothing experiment imagenet --data folder:imagenet/val

    Uses the shipped denoiser of a row, or trains one. Repeat the command to resume.
    """
    from denoised_smoothing.runs.paper.recipes import IMAGENET_RECIPES
    from denoised_smoothing.runs.paper.tables import IMAGENET_PUBLISHED

    recipes = _chosen(IMAGENET_RECIPES, options.row, True)
    networks = {spec: f"{_short(spec)}, " if len(classifier) > 1 else "" for spec in classifier}
    title = f"ImageNet, {', '.join(map(_short, classifier))}"
    made = options.execute(model, recipes, networks, title, labels, IMAGENET_PUBLISHED, _CAVEAT)
    _show(made, as_json)


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


def _short(classifier: str) -> str:
    """Return the name of a classifier in titles and runs."""
    return Path(classifier.split(":")[1] if ":" in classifier else classifier).stem


def _check_labels(recipes: Sequence[Recipe], networks: Networks) -> None:
    """Match the labels of the training images, for all recipes that aim at them."""
    from denoised_smoothing.runs.labels import matched
    from denoised_smoothing.runs.paper.recipes import RECIPES
    from denoised_smoothing.training.config import Target

    for recipe in recipes:
        names = [*recipe.mean, *([] if recipe.start is None else [recipe.start])]
        _check_labels([RECIPES[name] for name in names], networks)
        if networks.training and recipe.config and recipe.config.target is Target.TRUTH:
            for network in filter(None, networks.through(recipe)):
                matched(networks.training, network, networks.labels)


def _network(classifier: object) -> nn.Module | None:
    """Return a classifier that gradients can pass through; None of another."""
    from torch import nn

    return classifier if isinstance(classifier, nn.Module) else None


def _show(made: TableResult, as_json: bool) -> None:
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
    else:
        print_table(made.best)
        print_table(made.each)
        say(made.note)
        for path in files.values():
            say(f"wrote {path}")
    if made.refused:
        fail(RefusedImagesError("; ".join(made.refused)))
