"""The denoiser of each row of a table: the one that ships, one that is there, or trained now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.certificates.plans.anytime import RADII
from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.errors import SettingError
from denoised_smoothing.training.config import Objective, Target, TrainingConfig

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Recipe:
    """How the denoiser of one row comes about.

    Args:
        method: the row's name in tables.
        name: of the denoiser, as a file and among those that ship.
        config: of its training, or None for no denoiser.
        start: name of the recipe whose result it begins with. Where that needs a surrogate and
            none is given, it begins with the one that ships.
        through: which network stability trains through, ``classifier`` or ``surrogate``.
        crop: side of random crops, or None for whole images.
        pad: black border that shifts images.
        mean: names of the recipes over whose denoisers, and over mirror images, the classifier's
            answers are averaged, in place of a training.
    """

    method: str
    name: str
    config: TrainingConfig | None = None
    start: str | None = None
    through: str | None = None
    crop: int | None = None
    pad: int = 0
    mean: tuple[str, ...] = ()

    @property
    def networks(self) -> set[str]:
        """What must be there to train it through."""
        own = set() if self.through is None else {self.through}
        return own.union(*(RECIPES[name].networks for name in self.mean))


_DESIGN: dict[str, Any] = {"inner": 5, "levels": 16}
"""Of the UNet of every row; a smaller start is enlarged."""
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
"""The rows for CIFAR-10; the names are those of the denoisers that ship, which were made nearly so:
in two parts each, and fine-tuned from first parts. Their cards have the exact commands."""
IMAGENET_RECIPES = (
    Recipe("no denoiser", "none"),
    Recipe(
        "black box (mse)",
        "photo",
        TrainingConfig(sigma=0.05, sigma_max=0.6, steps=8000, learning_rate=1e-3),
        start="cifar10",
        crop=64,
    ),
)
"""The rows for each ImageNet classifier, whatever the classifier."""
RECIPES = {recipe.name: recipe for recipe in (*CIFAR10_RECIPES, *IMAGENET_RECIPES)}
"""All of them by name."""


@dataclass(frozen=True)
class Networks:
    """What denoisers are trained through, and on which images.

    Args:
        classifier: the one that is certified.
        surrogate: a stand-in that a black box may train through, or None.
        training: images, or None where nothing shall be trained.
        validation: images for validation, or None for the training images.
        folder: where trained denoisers are kept.
        share: of a recipe's steps that are done.
        command: what was typed, for the cards.
        flags: arguments of ``lightning.Trainer``.
    """

    classifier: nn.Module | None = None
    surrogate: nn.Module | None = None
    training: ImageDataset | None = None
    validation: ImageDataset | None = None
    folder: Path = Path()
    share: float = 1.0
    command: str = ""
    flags: dict[str, Any] = field(default_factory=dict)

    def through(self, recipe: Recipe) -> list[nn.Module]:
        """The networks that a recipe's stability trains through."""
        if recipe.through is None:
            return []
        network = self.classifier if recipe.through == "classifier" else self.surrogate
        assert network is not None, recipe
        return [network]


def denoiser_spec(recipe: Recipe, networks: Networks) -> str:
    """The spec of a row's denoiser, which is trained now if there is none.

    One that ships is taken if it was trained through these very networks (or through none);
    otherwise one that was trained into ``networks.folder`` before; otherwise it is trained there,
    from where an interrupted training stopped.

    Raises:
        SettingError: it would have to be trained and there are no images or networks for that.
        TrainingError: the training failed, or was interrupted (``TrainingInterruptedError``).
    """
    for role in recipe.networks:
        if getattr(networks, role) is None:
            raise SettingError(
                f"the row {recipe.method!r} trains through a {role}, and none that gradients can "
                "pass through was given; name one, or leave the row out"
            )
    if recipe.mean:
        specs = [denoiser_spec(RECIPES[name], networks) for name in recipe.mean]
        return f"mean:{'+'.join(specs)}?mirror=yes"
    if recipe.config is None:
        return "none"
    through = networks.through(recipe)
    if _ships(recipe.name, through):
        return recipe.name
    path = networks.folder / f"{recipe.name}.safetensors"
    if not path.exists():
        _train(recipe, networks, path)
    return f"unet:{path}"


def _ships(name: str, through: Sequence[nn.Module]) -> bool:
    from denoised_smoothing.models.shipped import load_shipped_denoiser, shipped_denoisers
    from denoised_smoothing.models.weights import weights_digest

    if name not in shipped_denoisers():
        return False
    card = load_shipped_denoiser(name).card
    trained_through = json.loads(card.get("surrogates", "[]"))
    return bool(trained_through == [weights_digest(network) for network in through])


def _train(recipe: Recipe, networks: Networks, path: Path) -> None:
    from denoised_smoothing.training.data import Preparation
    from denoised_smoothing.training.fit import TrainingJob, train_denoiser

    if networks.training is None:
        raise SettingError(
            f"the denoiser {recipe.name!r} of the row {recipe.method!r} does not ship for this "
            "classifier; name training images with --train-data, or leave the row out"
        )
    assert recipe.config is not None
    start = None if recipe.start is None else _file(_start(RECIPES[recipe.start], networks))
    first = networks.training[0].image
    steps = max(1, round(recipe.config.steps * networks.share))
    train_denoiser(
        TrainingJob(
            config=replace(
                recipe.config, steps=steps, epoch_steps=min(recipe.config.epoch_steps, steps)
            ),
            architecture="unet",
            architecture_options=_DESIGN,
            dataset=networks.training,
            preparation=Preparation(first.shape[0], crop=recipe.crop, pad=recipe.pad),
            output=path,
            validation=networks.validation,
            surrogates=networks.through(recipe),
            start=start,
            command=networks.command,
            trainer_flags=networks.flags,
        )
    )


def _start(recipe: Recipe, networks: Networks) -> str:
    if recipe.through == "surrogate" and networks.surrogate is None:
        return recipe.name
    return denoiser_spec(recipe, networks)


def _file(spec: str) -> Path:
    from denoised_smoothing.models.shipped import shipped_denoisers

    bundled = shipped_denoisers()
    return bundled[spec] if spec in bundled else Path(spec.partition(":")[2])


class ScaleName(StrEnum):
    """How much an experiment spends."""

    QUICK = "quick"
    """An hour or two; a small cap on copies can only lower the numbers, as little training does."""
    FULL = "full"
    """The scale of the paper."""


@dataclass(frozen=True)
class Scale:
    """What an experiment spends.

    Args:
        images: at most so many.
        max_n: cap on the copies of an image.
        training: share of a recipe's steps, where a denoiser must be trained.
    """

    images: int
    max_n: int
    training: float

    @property
    def plan(self) -> Anytime:
        """The sampling plan, which asks about the radii of the paper's tables."""
        return Anytime(RADII, max_n=self.max_n)


SCALES = {
    ScaleName.QUICK: Scale(images=200, max_n=1_000, training=0.02),
    ScaleName.FULL: Scale(images=500, max_n=10_000, training=1.0),
}
