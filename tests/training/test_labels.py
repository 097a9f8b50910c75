"""Labels of the data are matched with those of each classifier by name, as in ``certify``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.errors import DatasetError, TrainingError
from denoised_smoothing.models.denoisers.files import load_card
from denoised_smoothing.models.weights import load_weights
from denoised_smoothing.training.classifier import ClassifierTrainingJob, train_resnet
from denoised_smoothing.training.config import Objective, Target, TrainingConfig
from denoised_smoothing.training.data import Preparation
from denoised_smoothing.training.fit import TrainingJob, train_denoiser
from denoised_smoothing.training.lightning import DenoiserTraining

from ..samples.toy import Primary, Unnamed

COLOURS = ("red", "green", "blue")
FOLDERS = ("blue", "green", "red")
STABILITY = TrainingConfig(
    objective=Objective.STABILITY, target=Target.TRUTH, sigma=0.05, steps=6, batch_size=8,
    epoch_steps=6, learning_rate=1e-4, copies=2,
)  # fmt: skip
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def colours(names: tuple[str, ...] | None = FOLDERS, name: str = "colours") -> ImageDataset:
    """Twelve images of 8x8 pixels, labelled in the order of folders: blue, green, red."""

    def read(index: int) -> np.ndarray:
        image = np.full((3, 8, 8), 51 * (index // 3) / np.float32(255), np.float32)
        image[2 - index % 3] = 1
        return image

    ids = [str(index) for index in range(12)]
    return ImageDataset(name, "f", ids, read, [index % 3 for index in range(12)], names)


class Swapped(Primary):
    """A perfect classifier whose labels have another order."""

    label_names = ("green", "blue", "red")

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, [1, 2, 0]]


class Recorded(DenoiserTraining):
    """Notes what stability aims at, and what the surrogate says to the clean images."""

    seen: list[tuple[list[int], list[int]]]

    def stability_of_copies(
        self,
        surrogate: Callable[[Tensor], Tensor],
        clean: Tensor,
        noisy: Tensor,
        sigmas: Tensor,
        answers: Tensor,
    ) -> Tensor:
        said = surrogate(clean).argmax(dim=1).repeat(len(noisy) // len(clean))
        self.seen.append((answers.tolist(), said.tolist()))
        return super().stability_of_copies(surrogate, clean, noisy, sigmas, answers)


@pytest.fixture
def recorded() -> type[Recorded]:
    return type("Recorded", (Recorded,), {"seen": []})


def job(folder: Path, **changes: Any) -> TrainingJob:
    whole = TrainingJob(
        config=STABILITY,
        architecture="unet",
        architecture_options={"width": 8, "outer": 1, "inner": 1},
        dataset=colours(),
        preparation=Preparation(3),
        output=folder / "denoiser.safetensors",
        surrogates=[Primary()],
        trainer_flags=QUIET,
    )
    return replace(whole, **changes)


def test_truth_is_the_label_of_each_surrogate(
    recorded: type[Recorded], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_denoiser(job(tmp_path, surrogates=[Primary(), Swapped()]), recorded)
    assert len(recorded.seen) == STABILITY.steps
    for aims, said in recorded.seen:
        assert aims == said
        assert set(aims) == {0, 1, 2}
    assert not caplog.messages


@pytest.mark.parametrize(
    ("classes", "surrogate"), [(FOLDERS, Unnamed), (None, Primary), (("0", "1", "2"), Primary)]
)
def test_numbers_are_compared_where_names_are_missing(
    recorded: type[Recorded],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    classes: tuple[str, ...] | None,
    surrogate: type[Primary],
) -> None:
    """Which is noted once; class 0 is blue, label 0 is red."""
    chosen = surrogate()
    data = colours(classes)
    train_denoiser(job(tmp_path, dataset=data, surrogates=[chosen], judges={"j": chosen}), recorded)
    for aims, said in recorded.seen:
        assert aims == [2 - label for label in said]
    [note] = caplog.messages
    first = "blue" if classes == FOLDERS else "red"
    assert f"labels are compared by number, in the order of the names (0 = {first}, " in note
    assert "use --labels FILE" in note


def test_given_labels_decide(
    recorded: type[Recorded], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"blue": 2, "red": 0, "green": 1}
    train_denoiser(job(tmp_path, surrogates=[Unnamed()], labels=given), recorded)
    for aims, said in recorded.seen:
        assert aims == said
    assert not caplog.messages


def test_names_that_fit_no_label_are_refused(tmp_path: Path) -> None:
    """Before anything is written."""
    cats = colours(("blue", "cat", "red"), "cats")
    for wrong in (
        job(tmp_path, dataset=cats),
        job(tmp_path, surrogates=[], config=TrainingConfig(steps=1), dataset=cats,
            judges={"judge": Primary()}),
        job(tmp_path, validation=cats, judges={"judge": Primary()}),
    ):  # fmt: skip
        with pytest.raises(DatasetError, match=r"'cats': 1 of 3 classes .* no label .*'cat'"):
            train_denoiser(wrong)
    assert not list(tmp_path.iterdir())


def test_judges_compare_by_name(tmp_path: Path) -> None:
    """Also with validation images whose classes have another order than the training images."""
    other = replace(colours(COLOURS), labels=[2 - index % 3 for index in range(12)])
    for number, validation in enumerate((None, other)):
        judges = {"primary": Primary(), "swapped": Swapped()}
        folder = tmp_path / str(number)
        made = train_denoiser(job(folder, validation=validation, judges=judges))
        quality = json.loads(load_card(made)["quality"])
        assert (quality["accuracy_primary"], quality["accuracy_swapped"]) == (1.0, 1.0)


@pytest.mark.parametrize("labels", [None, {"cat": "green"}])
def test_stability_needs_no_labels_that_the_surrogate_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, labels: dict[str, str] | None
) -> None:
    """Its accuracy, which the command measures of every surrogate, is not measured then."""
    surrogate = Primary()
    cats = colours(("blue", "cat", "red"), "cats")
    config = replace(STABILITY, target=Target.SOFT, steps=1, epoch_steps=1)
    made = train_denoiser(
        job(tmp_path, dataset=cats, config=config, surrogates=[surrogate],
            judges={"primary": surrogate}, labels=labels)
    )  # fmt: skip
    quality = json.loads(load_card(made)["quality"])
    if labels is None:
        assert "accuracy_primary" not in quality
        [note] = caplog.messages
        assert "The accuracy of primary is not measured. 'cats': 1 of 3 classes" in note
    else:
        assert quality["accuracy_primary"] == 1.0
        assert not caplog.messages


def test_another_mapping_is_another_training(tmp_path: Path) -> None:
    """Also one without a mapping, as of a version that compared numbers."""
    plain = job(tmp_path, config=replace(STABILITY, steps=2, epoch_steps=1))
    train_denoiser(plain).unlink()
    message = r"labels: \[\{'0': 2, '2': 0\}\] there, \[\{'0': 1, '1': 2, '2': 0\}\] requested"
    with pytest.raises(TrainingError, match=message):
        train_denoiser(replace(plain, labels={0: 1, 1: 2}))
    assert "labels" not in job(tmp_path, surrogates=[Unnamed()]).identity()


def test_a_classifier_is_validated_by_name(tmp_path: Path) -> None:
    """Its labels are those of the training images; the validation images have another order."""
    other = replace(colours(COLOURS, "other"), labels=[2 - index % 3 for index in range(12)])
    fit = ClassifierTrainingJob(
        config=TrainingConfig(steps=40, batch_size=12, learning_rate=1e-2, epoch_steps=20),
        depth=8,
        dataset=colours(),
        validation=other,
        preparation=Preparation(3, flip=False),
        output=tmp_path / "resnet8.safetensors",
        trainer_flags=QUIET,
    )
    card = load_weights(train_resnet(fit))[1]
    assert json.loads(card["quality"]) == {"accuracy_clean": 1.0}
    assert json.loads(card["label_names"]) == list(FOLDERS)
    wrong = replace(fit, output=tmp_path / "new", validation=colours(("a", "blue", "red"), "new"))
    with pytest.raises(DatasetError, match=r"'new': 1 of 3 classes .* no label .*'a'"):
        train_resnet(wrong)


def test_numbers_of_validation_images_without_names_are_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit = ClassifierTrainingJob(
        config=TrainingConfig(steps=1, batch_size=2, epoch_steps=1),
        depth=8,
        dataset=colours(),
        validation=colours(None),
        preparation=Preparation(3),
        output=tmp_path / "resnet8.safetensors",
        trainer_flags=QUIET,
    )
    train_resnet(fit)
    [note] = caplog.messages
    assert "compared by number, in the order of the names (0 = blue, 1 = green, 2 = red)" in note
