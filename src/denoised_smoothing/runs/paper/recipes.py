"""The denoiser of each row of a table: a shipped one, one trained before, or one trained now."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.certificates.plans.anytime import RADII
from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.errors import SettingError
from denoised_smoothing.training.config import Objective, Spacing, Target, TrainingConfig, Weighting

if TYPE_CHECKING:
    from torch import nn

    from denoised_smoothing.models.labels import GivenLabels


@dataclass(frozen=True)
class Recipe:
    """The denoiser of one row and its training.

    Args:
        method: the row's name in tables.
        name: of the denoiser's file, and of the shipped denoiser if there is one.
        config: of its training, or None for no denoiser.
        start: name of the recipe whose denoiser the training starts with. Where that needs a
            surrogate and none is given, the shipped denoiser is used.
        through: which network stability trains through, ``classifier`` or ``surrogate``.
        crop: side of random crops, or None for whole images.
        pad: black border that shifts images.
        photo: whether the network and its samples are those for photographs.
        mean: names of recipes, in place of a training: the classifier's logits are averaged over
            their denoisers and over mirror images.
    """

    method: str
    name: str
    config: TrainingConfig | None = None
    start: str | None = None
    through: str | None = None
    crop: int | None = None
    pad: int = 0
    photo: bool = False
    mean: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        """The network of its denoiser."""
        return "multiscale-unet" if self.photo else "unet"

    @property
    def networks(self) -> set[str]:
        """The networks without which it cannot be trained."""
        own = set() if self.through is None else {self.through}
        return own.union(*(RECIPES[name].networks for name in self.mean))


_DESIGN: dict[str, Any] = {"inner": 5, "levels": 16}
"""Options of the UNet of every row; a smaller start is enlarged."""
_FINE: dict[str, Any] = {"objective": Objective.STABILITY, "sigma": 0.1, "sigma_max": 1.0}
_BETTER: dict[str, Any] = {
    **_FINE,
    "target": Target.TRUTH,
    "temperature": 4.0,
    "copies": 2,
    "batch_size": 512,
    "learning_rate": 8e-4,
}
CIFAR10_RECIPES = (
    Recipe("no denoiser", "none"),
    Recipe(
        "black box (mse)",
        "cifar10",
        TrainingConfig(sigma=0.05, sigma_max=1.0, steps=3600, batch_size=512),
    ),
    Recipe(
        "black box (consistency on surrogate)",
        "cifar10-resnet20",
        TrainingConfig(**_BETTER, consistency=3.0, anchor=10.0, steps=5900),
        start="cifar10",
        through="surrogate",
        pad=4,
    ),
    Recipe("black box (ours)", "mean-black-box", mean=("cifar10-resnet20",)),
    Recipe(
        "white box (stability)",
        "cifar10-resnet56",
        TrainingConfig(
            **_FINE, target=Target.LABEL, steps=3300, batch_size=1024, learning_rate=3e-4
        ),
        start="cifar10",
        through="classifier",
        pad=4,
    ),
    Recipe(
        "white box (consistency)",
        "cifar10-resnet56-consistency",
        TrainingConfig(**_BETTER, consistency=6.0, anchor=1.0, steps=6100),
        start="cifar10-resnet20",
        through="classifier",
        pad=4,
    ),
    Recipe("white box (ours)", "mean-white-box", mean=("cifar10-resnet56-consistency",)),
)
"""The rows for CIFAR-10. Shipped denoisers of these names were trained in two parts each, and
fine-tuned from first parts; their cards have the exact commands."""
_PHOTO_MSE: dict[str, Any] = {
    "sigma": 0.05,
    "sigma_max": 1.0,
    "spacing": Spacing.LINEAR,
    "weighting": Weighting.VARIANCE,
    "batch_size": 16,
    "learning_rate": 1.5e-3,
    "steps": 20_000,
}
_PHOTO_BETTER: dict[str, Any] = {
    "objective": Objective.STABILITY,
    "target": Target.FEATURES,
    "sigma": 0.05,
    "sigma_max": 1.0,
    "spacing": Spacing.LINEAR,
    "anchor": 30.0,
    "batch_size": 8,
    "learning_rate": 5e-4,
    "ema": 0.98,
}
_BETTER_CROPS: dict[str, Any] = {"photo": True, "crop": 128}
_THROUGH: dict[str, Any] = {"photo": True, "crop": 224, "through": "classifier"}
IMAGENET_RECIPES = (
    Recipe("no denoiser", "none"),
    Recipe(
        "black box (mse, UNet)",
        "photo",
        TrainingConfig(sigma=0.05, sigma_max=0.6, steps=8000, learning_rate=1e-3),
        start="cifar10",
        crop=64,
    ),
    Recipe("black box (mse)", "photo-mse", TrainingConfig(**_PHOTO_MSE), photo=True, crop=96),
    Recipe(
        "black box (features of surrogate)",
        "photo-surrogate",
        TrainingConfig(**_PHOTO_BETTER, steps=3000),
        start="photo-mse",
        through="surrogate",
        **_BETTER_CROPS,
    ),
    Recipe(
        "white box (stability)",
        "photo-stability",
        TrainingConfig(
            **_FINE, target=Target.LABEL, steps=20_000, batch_size=16, learning_rate=3e-4
        ),
        **_THROUGH,
    ),
    Recipe(
        "white box (mse, then stability)",
        "photo-hybrid",
        TrainingConfig(
            **_FINE, target=Target.LABEL, steps=4_000, batch_size=16, learning_rate=3e-4
        ),
        start="photo-mse",
        **_THROUGH,
    ),
    Recipe(
        "white box (features)",
        "photo-efficientnet-lite0",
        TrainingConfig(**_PHOTO_BETTER, steps=700),
        start="photo-mse",
        through="classifier",
        **_BETTER_CROPS,
    ),
)
"""The rows for every ImageNet classifier; the last ones train through it."""
RECIPES = {recipe.name: recipe for recipe in (*CIFAR10_RECIPES, *IMAGENET_RECIPES)}
"""All recipes by name."""


@dataclass(frozen=True)
class Networks:
    """The networks and images that denoisers are trained with.

    Args:
        surrogate: a classifier that a black-box denoiser may be trained through, or None.
        training: images, or None to train nothing.
        labels: from classes of these images to labels of the networks, as of
            :class:`~denoised_smoothing.training.fit.TrainingJob`.
        folder: where trained denoisers are written.
        prefix: of the files of denoisers that are trained through the classifier.
        share: of a recipe's steps to do.
        command: the command line, for the cards.
        flags: arguments of ``lightning.Trainer``.
    """

    classifier: nn.Module | None = None
    surrogate: nn.Module | None = None
    training: ImageDataset | None = None
    labels: GivenLabels | None = None
    folder: Path = Path()
    prefix: str = ""
    share: float = 1.0
    command: str = ""
    flags: dict[str, Any] = field(default_factory=dict)

    def through(self, recipe: Recipe) -> list[Any]:
        """Return the networks that the recipe trains through; None for one that is not named."""
        return [] if recipe.through is None else [getattr(self, recipe.through)]


def is_at_hand(recipe: Recipe, networks: Networks) -> bool:
    """Return whether the denoiser of a row needs no training: trained, shipped, or none at all.

    Where no surrogate is named, the shipped black-box denoiser is taken, whatever its surrogate.

    Raises:
        SettingError: the folder has a denoiser that was trained through another network.
    """
    from denoised_smoothing.models.shipped import shipped_denoisers

    if recipe.mean or recipe.config is None:
        return all(is_at_hand(RECIPES[name], networks) for name in recipe.mean)
    path = trained_file(recipe, networks)
    if path.exists():
        if not _was_trained_through(recipe, networks, path):
            raise SettingError(
                f"{path} was trained through another network. Remove it, or name another folder."
            )
        return True
    shipped = shipped_denoisers()
    return recipe.name in shipped and _was_trained_through(recipe, networks, shipped[recipe.name])


def _was_trained_through(recipe: Recipe, networks: Networks, path: Path) -> bool:
    """Return whether a file was trained through the networks; any surrogate where none is named."""
    from denoised_smoothing.models.denoisers.files import load_card
    from denoised_smoothing.models.weights import weights_digest

    if recipe.through is None:
        return True
    through = json.loads(load_card(path).get("surrogates", "[]"))
    own = networks.through(recipe)
    if recipe.through == "surrogate" and own == [None]:
        return bool(through)
    return None not in own and through == [weights_digest(network) for network in own]


def lacking(recipe: Recipe, networks: Networks) -> str:
    """Return what is missing for the denoiser of a row, "" for nothing."""
    if is_at_hand(recipe, networks):
        return ""
    if None in networks.through(recipe):
        return f"a {recipe.through} that gradients can pass through"
    if networks.training is None and not recipe.mean:
        return "training images (--train-data)"
    needed = [*recipe.mean, *([] if recipe.start is None else [recipe.start])]
    return next(filter(None, (lacking(RECIPES[name], networks) for name in needed)), "")


def denoiser_spec(recipe: Recipe, networks: Networks) -> str:
    """Return the spec of a row's denoiser, and train it if there is none.

    One in ``networks.folder`` is used first, then the shipped one, if it was trained through these
    networks (or through none). Otherwise the denoiser is trained there; an interrupted training
    resumes.

    Raises:
        SettingError: images or networks for the training are missing; or as :func:`is_at_hand`.
        TrainingError: the training failed, or was interrupted (``TrainingInterruptedError``).
    """
    if lack := lacking(recipe, networks):
        raise SettingError(
            f"The denoiser of the row {recipe.method!r} must be trained and lacks {lack}. Name "
            "it, or omit the row."
        )
    if recipe.mean:
        specs = [denoiser_spec(RECIPES[name], networks) for name in recipe.mean]
        return f"mean:{'+'.join(specs)}?mirror=yes"
    if recipe.config is None:
        return recipe.name
    path = trained_file(recipe, networks)
    if not path.exists():
        if is_at_hand(recipe, networks):
            return recipe.name
        _train(recipe, recipe.config, networks, path)
    return f"{recipe.architecture}:{path}"


def trained_file(recipe: Recipe, networks: Networks) -> Path:
    """Return the file of a denoiser that was, or will be, trained for these networks."""
    prefix = networks.prefix if "classifier" in recipe.networks else ""
    return networks.folder / f"{prefix}{recipe.name}.safetensors"


def _train(recipe: Recipe, config: TrainingConfig, networks: Networks, path: Path) -> None:
    from denoised_smoothing.training.data import Preparation, channels_of
    from denoised_smoothing.training.fit import TrainingJob, train_denoiser

    assert networks.training is not None
    steps = max(1, round(config.steps * networks.share))
    train_denoiser(
        TrainingJob(
            config=replace(config, steps=steps, epoch_steps=min(config.epoch_steps, steps)),
            architecture=recipe.architecture,
            architecture_options={} if recipe.photo else _DESIGN,
            dataset=networks.training,
            labels=networks.labels if config.target is Target.TRUTH else None,
            preparation=Preparation(
                channels_of(networks.training),
                crop=recipe.crop,
                pad=recipe.pad,
                scale=0.5 if recipe.photo else 1.0,
            ),
            output=path,
            surrogates=networks.through(recipe),
            start=None if recipe.start is None else _file(RECIPES[recipe.start], networks),
            command=networks.command,
            trainer_flags=networks.flags,
        )
    )


def _file(recipe: Recipe, networks: Networks) -> Path:
    """Return the file of the denoiser that a training starts with."""
    from denoised_smoothing.models.shipped import shipped_denoisers

    spec = denoiser_spec(recipe, networks)
    return shipped_denoisers().get(spec) or Path(spec.partition(":")[2])


class ScaleName(StrEnum):
    """The amount of computation of an experiment, by name."""

    QUICK = "quick"
    """An hour or two; a smaller cap on copies and less training can only lower the numbers."""
    FULL = "full"
    """The scale of the paper."""


@dataclass(frozen=True)
class Scale:
    """The amount of computation of an experiment.

    Args:
        images: maximum number of images.
        max_n: cap on the copies of an image.
        training: share of a recipe's steps, where a denoiser must be trained.
    """

    images: int
    max_n: int
    training: float

    @property
    def plan(self) -> Anytime:
        """The sampling plan, for the radii of the paper's tables."""
        return Anytime(RADII, max_n=self.max_n)


SCALES = {
    ScaleName.QUICK: Scale(images=200, max_n=1_000, training=0.02),
    ScaleName.FULL: Scale(images=500, max_n=10_000, training=1.0),
}
