"""Small real trainings of a CIFAR ResNet on the digits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.errors import DatasetError, SettingError, TrainingError
from denoised_smoothing.models.catalogue import load_classifier
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.cifar_resnet import load_cifar_resnet
from denoised_smoothing.models.weights import load_weights
from denoised_smoothing.training.classifier import ClassifierTrainingJob, train_resnet
from denoised_smoothing.training.config import TrainingConfig
from denoised_smoothing.training.data import Preparation

pytest.importorskip("sklearn")

CONFIG = TrainingConfig(steps=45, batch_size=32, learning_rate=1e-2, epoch_steps=10)
VALIDATED = 200


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over several threads may differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def digits_job(folder: Path, **changes: Any) -> ClassifierTrainingJob:
    job = ClassifierTrainingJob(
        config=CONFIG,
        depth=8,
        dataset=load_dataset("digits:train"),
        preparation=Preparation(1, flip=False),
        output=folder / "resnet8.safetensors",
        validation=load_dataset("digits:test"),
        validation_limit=VALIDATED,
        command="denoised-smoothing train-classifier digits:train",
        trainer_flags={"accelerator": "cpu", "enable_progress_bar": False},
    )
    return replace(job, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ClassifierTrainingJob:
    job = digits_job(tmp_path_factory.mktemp("finished"))
    assert train_resnet(job) == job.output
    return job


def clean_accuracy(classifier: ImageClassifier) -> float:
    data = load_dataset("digits:test")
    images = torch.stack([torch.from_numpy(data[index].image) for index in range(VALIDATED)])
    with torch.no_grad():
        answers = classifier(images).argmax(dim=1)
    return float((answers == torch.tensor(data.labels[:VALIDATED])).float().mean())


def test_it_learns_and_measures_what_is_in_the_file(finished: ClassifierTrainingJob) -> None:
    classifier = load_classifier(f"cifar-resnet8:{finished.output}")
    assert isinstance(classifier, ImageClassifier)
    accuracy = clean_accuracy(classifier)
    assert accuracy > 0.5  # 0.1 by chance
    card = json.loads(weights_card(finished.output)["quality"])
    assert card == {"accuracy_clean": pytest.approx(accuracy, abs=1e-5)}


def weights_card(path: Path) -> dict[str, str]:
    return load_weights(path)[1]


def test_the_file_carries_all_that_the_classifier_needs(finished: ClassifierTrainingJob) -> None:
    classifier = load_cifar_resnet(finished.output)
    assert (classifier.channels, classifier.resolution) == (1, 8)
    assert classifier.label_names == tuple("0123456789")
    assert (classifier.mean.item(), classifier.std.item()) == (0.5, 0.25)


def test_the_card(finished: ClassifierTrainingJob) -> None:
    card = weights_card(finished.output)
    assert card["architecture"] == "cifar-resnet8"
    assert card["command"] == "denoised-smoothing train-classifier digits:train"
    assert (card["data"], card["data_fingerprint"]) == (
        "digits:train",
        finished.dataset.fingerprint,
    )
    assert (card["seed"], card["validation"]) == ("0", f"first {VALIDATED} images of digits:test")
    assert json.loads(card["settings"]) == CONFIG.to_dict()


def test_interrupted_and_resumed_is_as_in_one_go(
    finished: ClassifierTrainingJob, tmp_path: Path
) -> None:
    whole, read = load_dataset("digits:train"), 0

    def reading(index: int) -> np.ndarray:
        nonlocal read
        read += 1
        if read > 1 + 25 * CONFIG.batch_size:  # one for the size of the images
            raise KeyboardInterrupt
        return whole.read(index)

    job = digits_job(tmp_path)
    with pytest.raises(TrainingError, match=r"at step 25 of 45\. Repeat the command"):
        train_resnet(replace(job, dataset=replace(whole, read=reading)))
    assert not job.output.exists()
    with pytest.raises(TrainingError, match=r"settings \(depth: 8 there, 14 requested\). Choose"):
        train_resnet(replace(job, depth=14))
    train_resnet(job)
    one, other = (load_cifar_resnet(path).state_dict() for path in (finished.output, job.output))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("role", "data", "said"),
    [
        ("dataset", "digits:train", "loss became nan at step 0"),
        # Losses are not looked at in every step on an accelerator.
        ("validation", "digits:test", r"sum of logits became nan at step \d+"),
    ],
)
def test_nan_ends_it(tmp_path: Path, role: str, data: str, said: str) -> None:
    whole = load_dataset(data)
    dark = replace(whole, read=lambda index: whole.read(index) * np.float32("nan"))
    job = digits_job(tmp_path, **{role: dark})
    with pytest.raises(TrainingError, match=rf"{said}\. Lower .* last checkpoint is stored"):
        train_resnet(job)
    assert not job.output.exists()


def test_size_and_classes_are_those_of_the_samples(tmp_path: Path) -> None:
    """Crops of 6 pixels of images that are resized to 7; without names, classes up to the last."""
    data = load_dataset("digits:train")
    unnamed = replace(data, labels=[label % 3 for label in data.labels], label_names=None)
    job = digits_job(
        tmp_path,
        config=replace(CONFIG, steps=1),
        dataset=unnamed,
        validation=None,
        preparation=Preparation(1, resolution=7, crop=6),
    )
    classifier = load_cifar_resnet(train_resnet(job))
    assert (classifier.resolution, classifier.label_names) == (6, None)
    assert classifier(torch.zeros(1, 1, 6, 6)).shape == (1, 3)


def test_the_random_numbers_of_the_caller_are_left_alone(tmp_path: Path) -> None:
    job = digits_job(tmp_path, depth=57)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with pytest.raises(SettingError, match=r"must be 6n \+ 2, got 57"):
        train_resnet(job)
    assert torch.equal(torch.rand(1), expected)
    assert not job.folder.exists()


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    data = load_dataset("digits:train")
    job = digits_job(tmp_path, dataset=replace(data, labels=[None, *data.labels[1:]]))
    with pytest.raises(
        DatasetError, match=r"every image needs a label, got \d+ without in 'digits:train'"
    ):
        train_resnet(job)
    assert not job.folder.exists()


def test_an_existing_output_is_not_overwritten(finished: ClassifierTrainingJob) -> None:
    before = finished.output.read_bytes()
    with pytest.raises(SettingError, match=r"resnet8\.safetensors exists already\. Choose another"):
        train_resnet(finished)
    assert finished.output.read_bytes() == before


def test_one_that_is_trained_on_noise_stands_it_better(
    finished: ClassifierTrainingJob, tmp_path: Path
) -> None:
    hardened = train_resnet(digits_job(tmp_path, noise=0.5))
    card = json.loads(weights_card(hardened)["quality"])
    assert card.keys() == {"accuracy_clean", "accuracy_noisy"}
    data = load_dataset("digits:test")
    images = torch.stack([torch.from_numpy(data[index].image) for index in range(VALIDATED)])
    noisy = images + 0.5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    accuracies = []
    for path in (finished.output, hardened):
        with torch.no_grad():
            answers = load_cifar_resnet(path)(noisy).argmax(dim=1)
        right = answers == torch.tensor(data.labels[:VALIDATED])
        accuracies.append(float(right.float().mean()))
    assert accuracies[1] > accuracies[0] + 0.05
    assert accuracies[1] == pytest.approx(card["accuracy_noisy"], abs=0.1)


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_senseless_noise_is_refused(tmp_path: Path, noise: float) -> None:
    with pytest.raises(SettingError, match="noise must be at least 0 and finite, got"):
        digits_job(tmp_path, noise=noise)
