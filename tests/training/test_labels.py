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
from denoised_smoothing.errors import DatasetError, SettingError, TrainingError
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


class Pets(Primary):
    """The same with a cat for green."""

    label_names = ("red", "kitty", "blue")


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
    assert len(recorded.seen) == STABILITY.steps
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
    assert len(recorded.seen) == STABILITY.steps
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


def test_a_surrogate_without_a_given_label_is_no_judge(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The given labels may be those of another judge."""
    surrogate, cats = Primary(), colours(("blue", "cat", "red"), "cats")
    config = replace(STABILITY, target=Target.SOFT, steps=1, epoch_steps=1)
    judges = {"primary": surrogate, "other": Pets()}
    given = {"cat": "kitty"}
    made = train_denoiser(
        job(tmp_path, dataset=cats, config=config, surrogates=[surrogate], judges=judges,
            labels=given)
    )  # fmt: skip
    assert json.loads(load_card(made)["quality"])["accuracy_other"] == 1.0
    [note] = caplog.messages
    assert "The accuracy of primary is not measured. 'cats': --labels names the label" in note
    with pytest.raises(SettingError, match="'cats': --labels names the label 'kitty', which is no"):
        train_denoiser(job(tmp_path / "new", dataset=cats, labels=given))


@pytest.mark.parametrize("given", [{"cat": "green"}, {1: "green"}])
def test_given_labels_are_of_all_images(tmp_path: Path, given: dict[str | int, str]) -> None:
    """Either data set may lack a class of the other."""
    cats = colours(("blue", "cat", "red"), "cats")
    for number, (data, validation) in enumerate(((cats, colours()), (colours(), cats))):
        config = replace(STABILITY, steps=1, epoch_steps=1)
        made = train_denoiser(
            job(tmp_path / str(number), config=config, dataset=data, validation=validation,
                judges={"primary": Primary()}, labels=given)
        )  # fmt: skip
        assert json.loads(load_card(made)["quality"])["accuracy_primary"] == 1.0
    with pytest.raises(SettingError, match="'cats' and 'colours': --labels names the class 'dog'"):
        job(tmp_path, dataset=cats, validation=colours(), labels={"dog": "green"})


def test_given_labels_that_are_not_compared_are_refused(tmp_path: Path) -> None:
    for config in (TrainingConfig(steps=1), replace(STABILITY, target=Target.SOFT)):
        with pytest.raises(SettingError, match=r"labels .* got 1 and none\. Use target truth"):
            train_denoiser(job(tmp_path, config=config, labels={"blue": 2}))
    assert not list(tmp_path.iterdir())


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


def test_given_labels_of_a_classifier_are_of_validation_images(tmp_path: Path) -> None:
    """They also decide where the names are equal, and are refused where there are no images."""
    fit = ClassifierTrainingJob(
        config=TrainingConfig(steps=40, batch_size=12, learning_rate=1e-2, epoch_steps=40),
        depth=8,
        dataset=colours(),
        validation=colours(),
        labels={"blue": "red", "red": "blue"},
        preparation=Preparation(3, flip=False),
        output=tmp_path / "resnet8.safetensors",
        trainer_flags=QUIET,
    )
    quality = json.loads(load_weights(train_resnet(fit))[1]["quality"])
    assert quality == {"accuracy_clean": pytest.approx(1 / 3, abs=1e-6)}
    with pytest.raises(SettingError, match=r"got 2 and no such images\. Name the images"):
        train_resnet(replace(fit, validation=None))
    cats = replace(fit, dataset=colours(("blue", "cat", "red")), labels={"cat": "cat"})
    with pytest.raises(SettingError, match=r"^'colours': --labels names the class 'cat', which"):
        train_resnet(cats)


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
