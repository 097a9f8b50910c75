"""Small real trainings on the digits, from the first step to the file."""

from __future__ import annotations

import csv
import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.errors import (
    ImageError,
    SettingError,
    TrainingError,
    TrainingInterruptedError,
    WeightsError,
)
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.cifar_resnet import CifarResNet
from denoised_smoothing.models.denoisers.files import load_denoiser_file
from denoised_smoothing.models.denoisers.trained_range import trained_range
from denoised_smoothing.training.config import Objective, TrainingConfig
from denoised_smoothing.training.data import Preparation
from denoised_smoothing.training.fit import TrainingJob, train_denoiser

pytest.importorskip("sklearn")

SIGMA = 0.5
EPOCH = 10  # steps, of 16 images
CONFIG = TrainingConfig(sigma=SIGMA, steps=45, batch_size=16, learning_rate=1e-2, epoch_steps=EPOCH)
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over several threads may differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def digits_job(folder: Path, **changes: Any) -> TrainingJob:
    job = TrainingJob(
        config=CONFIG,
        architecture="unet",
        architecture_options={"width": 8, "outer": 1, "inner": 1},
        dataset=load_dataset("digits:train"),
        preparation=Preparation(1, flip=False, pad=1, crop=8),
        output=folder / "denoiser.safetensors",
        validation=load_dataset("digits:test"),
        validation_limit=100,
        command="denoised-smoothing train digits:train",
        trainer_flags=QUIET,
    )
    return replace(job, **changes)


def after(images: int, job: TrainingJob, what: Callable[[np.ndarray], np.ndarray]) -> TrainingJob:
    """The job, in which ``what`` happens to every image after ``images``."""
    whole, read = job.dataset.read, [0]

    def counting(index: int) -> np.ndarray:
        read[0] += 1
        return whole(index) if read[0] <= images else what(whole(index))

    return replace(job, dataset=replace(job.dataset, read=counting))


def interrupt(image: np.ndarray) -> np.ndarray:
    raise KeyboardInterrupt


def weights(path: Path) -> dict[str, Tensor]:
    return load_denoiser_file(path).state_dict()


def assert_same(first: Path, second: Path) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def classifier(seed: int = 0) -> ImageClassifier:
    torch.manual_seed(seed)
    return ImageClassifier(CifarResNet(8, channels=1), (0.5,), (0.5,))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    job = digits_job(tmp_path_factory.mktemp("finished"), judges={"resnet8": classifier()})
    assert train_denoiser(job) == job.output
    return job


@pytest.fixture
def unwritten(finished: TrainingJob, tmp_path: Path) -> TrainingJob:
    """The finished training as if it had been killed before it wrote its file."""
    job = replace(finished, output=tmp_path / finished.output.name)
    shutil.copytree(finished.folder, job.folder)
    return job


def test_the_error_falls(finished: TrainingJob) -> None:
    with (finished.folder / "log" / "metrics.csv").open() as file:
        measured = [row["validation_mse"] for row in csv.DictReader(file)]
    errors = [float(error) for error in measured if error]
    quality = json.loads(load_denoiser_file(finished.output).card["quality"])
    assert len(errors) == 5
    assert quality["validation_mse"] == pytest.approx(errors[-1], abs=1e-6)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.25 * SIGMA**2


def test_the_card_is_complete(finished: TrainingJob) -> None:
    card = load_denoiser_file(finished.output, "unet").card
    assert card.keys() == {
        *("architecture", "config", "image_channels", "sigma_min", "sigma_max", "objective"),
        *(
            "data",
            "data_fingerprint",
            "start",
            "command",
            "seed",
            "settings",
            "quality",
            "surrogates",
            "history",
        ),
        *("validation", "seconds", "versions"),
    }
    assert card["architecture"] == "unet"
    assert (card["sigma_min"], card["sigma_max"]) == ("0.5", "0.5")
    assert trained_range(load_denoiser_file(finished.output)) == (0.5, 0.5)
    assert (card["objective"], card["seed"], card["image_channels"]) == ("mse", "0", "1")
    assert (card["data"], card["data_fingerprint"]) == (
        "digits:train",
        finished.dataset.fingerprint,
    )
    assert card["command"] == "denoised-smoothing train digits:train"
    assert card["validation"] == "first 100 images of digits:test, centre crops of 8 pixels"
    assert json.loads(card["settings"]) == CONFIG.to_dict()
    assert json.loads(card["versions"])["torch"] == torch.__version__
    assert int(card["seconds"]) >= 0


def test_quality_is_that_of_the_weights_in_the_file(finished: TrainingJob) -> None:
    """Measured here with other noise on the same images, so to within some percent."""
    denoiser = load_denoiser_file(finished.output)
    quality = json.loads(denoiser.card["quality"])
    assert finished.validation is not None
    clean = torch.stack([torch.from_numpy(finished.validation[i].image) for i in range(100)])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        error = (denoiser(clean + SIGMA * noise, SIGMA) - clean).square().mean()
    assert quality["validation_mse"] == pytest.approx(float(error), rel=0.1)
    assert quality["validation_psnr"] == pytest.approx(
        -10 * np.log10(quality["validation_mse"]), abs=1e-3
    )
    assert 0 <= quality["accuracy_resnet8"] <= 1


def test_nothing_but_its_own_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = replace(CONFIG, steps=1)
    train_denoiser(digits_job(tmp_path, config=config))
    assert capfd.readouterr() == ("", "")


def test_interrupted_and_resumed_is_as_in_one_go(finished: TrainingJob, tmp_path: Path) -> None:
    job = digits_job(tmp_path)
    with pytest.raises(TrainingError, match=r"at step 25 of 45\. Repeat the command"):
        train_denoiser(after(25 * 16, job, interrupt))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not job.output.exists()
    train_denoiser(job)
    assert_same(job.output, finished.output)
    assert load_denoiser_file(job.output).card["seconds"].endswith("since it was resumed")


SHORT = replace(CONFIG, steps=4, epoch_steps=2)


def test_interrupted_in_the_last_validation_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = digits_job(tmp_path, config=SHORT)

    def stop(*arguments: object, **named: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(1)  # as Lightning does

    with monkeypatch.context() as patch:
        patch.setattr(lightning.Trainer, "validate", stop)
        said = r"at step 4 of 4\. Repeat the command to resume from the last checkpoint"
        with pytest.raises(TrainingInterruptedError, match=said):
            train_denoiser(job)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert train_denoiser(job).exists()


def test_a_full_disk_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = digits_job(tmp_path, config=SHORT)
    save, saved = lightning.Trainer.save_checkpoint, iter(range(9))

    def full(*arguments: Any, **named: Any) -> None:
        if next(saved) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments, **named)

    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", full)
    said = r"at step 4 of 4 \(.*No space left on device\)\. .*last checkpoint, which is kept"
    with pytest.raises(TrainingError, match=said):
        train_denoiser(job)
    assert train_denoiser(job).exists()


def test_damaged_settings_are_refused(tmp_path: Path) -> None:
    job = digits_job(tmp_path)
    job.folder.mkdir()
    (job.folder / "last.ckpt").touch()
    (job.folder / "settings.json").write_text('{"sigma": 0')
    with pytest.raises(TrainingError, match=r"cannot be read .* Delete .* to start again"):
        train_denoiser(job)


def test_killed_and_resumed_is_as_in_one_go(finished: TrainingJob, tmp_path: Path) -> None:
    script = f"""
        import importlib.util, os, signal, torch
        from pathlib import Path
        torch.set_num_threads(1)
        spec = importlib.util.spec_from_file_location("test_fit", {__file__!r})
        test_fit = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(test_fit)
        job = test_fit.digits_job(Path({str(tmp_path)!r}))
        kill = lambda image: os.kill(os.getpid(), signal.SIGKILL)
        test_fit.train_denoiser(test_fit.after(25 * 16, job, kill))
    """
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    job = digits_job(tmp_path)
    assert (job.folder / "last.ckpt").exists()
    train_denoiser(job)
    assert_same(job.output, finished.output)


def test_killed_before_it_wrote_its_file(finished: TrainingJob, unwritten: TrainingJob) -> None:
    """Also, a training whose folder was moved resumes."""
    train_denoiser(unwritten)
    assert_same(unwritten.output, finished.output)
    cards = [load_denoiser_file(job.output).card for job in (finished, unwritten)]
    assert cards[0]["quality"] == cards[1]["quality"]
    assert {path.name for path in unwritten.folder.iterdir()} == {
        "last.ckpt",
        "log",
        "settings.json",
    }


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        (
            {"config": replace(CONFIG, learning_rate=0.02, seed=7)},
            r"learning_rate: 0\.01 there, 0\.02 requested; seed: 0 there, 7 requested\). Choose",
        ),
        (
            {"architecture": "dncnn", "architecture_options": {"width": 9}},
            r"architecture: 'unet' there, 'dncnn' requested; .*architecture\.width: 8 there, 9 req",
        ),
        ({"dataset": load_dataset("digits:test")}, r"data: 'digits:train \w+' there, 'digits:test"),
        ({"preparation": Preparation(1, crop=8, pad=2)}, r"preparation\.pad: 1 there, 2 requested"),
        ({"surrogates": (nn.Flatten(),)}, r"surrogates: \[\] there, \['\w+'\] requested\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_going_on_with_other_settings_is_refused(
    unwritten: TrainingJob, changes: dict[str, Any], differs: str
) -> None:
    before = (unwritten.folder / "settings.json").read_text()
    with pytest.raises(TrainingError, match=differs):
        train_denoiser(replace(unwritten, **changes))
    assert (unwritten.folder / "settings.json").read_text() == before


def test_a_checkpoint_of_a_removed_objective_is_refused(unwritten: TrainingJob) -> None:
    path = unwritten.folder / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "adversary": 0.25}))
    message = r"other settings \(adversary: 0\.25 there, None requested\)\. Choose another output"
    with pytest.raises(TrainingError, match=message):
        train_denoiser(unwritten)


def test_a_checkpoint_with_code_is_not_opened(unwritten: TrainingJob, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (mark,)

    torch.save({"state_dict": Trap()}, unwritten.folder / "last.ckpt")
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights.only"):
        train_denoiser(unwritten)
    assert not mark.exists()


def test_an_existing_output_is_not_overwritten(finished: TrainingJob) -> None:
    with pytest.raises(
        SettingError, match=r"denoiser\.safetensors exists already\. Choose another"
    ):
        train_denoiser(finished)


@pytest.mark.parametrize("objective", [Objective.STABILITY, Objective.HYBRID])
def test_stability_needs_a_classifier(objective: Objective, tmp_path: Path) -> None:
    job = digits_job(tmp_path, config=replace(CONFIG, objective=objective))
    with pytest.raises(SettingError, match=f"objective {objective} needs at least one classifier"):
        train_denoiser(job)
    assert not job.folder.exists()


def test_a_loss_of_nan_keeps_the_checkpoint(finished: TrainingJob, tmp_path: Path) -> None:
    job = digits_job(tmp_path)
    with pytest.raises(
        TrainingError, match=r"loss became nan at step 13\. .* The last checkpoint is"
    ):
        train_denoiser(after(13 * 16, job, lambda image: image * np.float32("nan")))
    assert not job.output.exists()
    train_denoiser(job)
    assert_same(job.output, finished.output)


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    job = digits_job(tmp_path, preparation=Preparation(1))
    job = after(20, job, lambda image: image[:, :, 1:])
    with pytest.raises(ImageError, match=r"must have equal sizes.*\(1, 8, 7\).* Set a resolution"):
        train_denoiser(job)


@pytest.mark.parametrize("steps", [1, 45])
def test_an_absurd_learning_rate_ends_without_a_file(tmp_path: Path, steps: int) -> None:
    job = digits_job(tmp_path, config=replace(CONFIG, learning_rate=1e30, steps=steps))
    with pytest.raises(TrainingError, match=r"became (nan|inf) at step 1\. Lower the learning"):
        train_denoiser(job)
    assert not job.output.exists()
    assert not (job.folder / "last.ckpt").exists()


def test_stability_leaves_the_classifier_alone(tmp_path: Path) -> None:
    surrogate = classifier()
    before = {name: tensor.clone() for name, tensor in surrogate.state_dict().items()}
    config = replace(CONFIG, objective=Objective.STABILITY, steps=4, epoch_steps=2)
    job = digits_job(tmp_path, config=config, surrogates=[surrogate], judges={"same": surrogate})
    start = after(3 * 16, job, interrupt)
    with pytest.raises(TrainingInterruptedError, match="interrupted"):
        train_denoiser(start)
    checkpoint = torch.load(job.folder / "last.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"denoiser", "averaged"}
    train_denoiser(job)
    for name, tensor in surrogate.state_dict().items():
        assert torch.equal(tensor, before[name])
    card = load_denoiser_file(job.output).card
    assert card["objective"] == "stability"
    assert json.loads(card["quality"]).keys() == {
        "validation_mse",
        "validation_psnr",
        "accuracy_same",
    }


class Sized(nn.Module):
    """A classifier of any size, or of 16x16 pixels, that notes the sizes it got."""

    def __init__(self, side: int | None) -> None:
        super().__init__()
        self.side, self.seen = side, set[int]()
        self.weight = nn.Parameter(torch.ones(10))

    def __deepcopy__(self, memo: object) -> Sized:
        return self  # so that its notes are found

    def forward(self, images: Tensor) -> Tensor:
        if self.side not in (None, images.shape[-1]):
            raise ValueError("another size")
        self.seen.add(images.shape[-1])
        return images.mean(dim=(1, 2, 3))[:, None] * self.weight


@pytest.mark.parametrize(
    ("side", "crop", "seen", "noted"),
    [(None, 6, {6}, False), (16, 6, {16}, True), (None, 8, {16}, False)],
)
def test_crops_are_not_enlarged_for_a_classifier(
    side: int | None, crop: int, seen: set[int], noted: bool, tmp_path: Path, caplog: Any
) -> None:
    network = Sized(side)
    surrogate = ImageClassifier(network, (0.5,), (0.5,), input_size=16)
    job = digits_job(
        tmp_path,
        config=replace(CONFIG, objective=Objective.STABILITY, steps=2),
        preparation=Preparation(1, crop=crop),
        surrogates=[surrogate],
    )
    train_denoiser(job)
    assert network.seen == seen
    assert ("takes images of one size only" in caplog.text) is noted


def test_starts_from_a_file(finished: TrainingJob, unwritten: TrainingJob, tmp_path: Path) -> None:
    config = replace(CONFIG, learning_rate=1e-9, steps=1)
    job = digits_job(tmp_path / "new", config=config, start=finished.output)
    train_denoiser(job)
    for name, tensor in weights(finished.output).items():
        torch.testing.assert_close(weights(job.output)[name], tensor, rtol=0, atol=1e-6)
    assert load_denoiser_file(job.output).card["start"] == "denoiser.safetensors"
    with pytest.raises(
        TrainingError, match=r"start: 'None' there, .*denoiser\.safetensors' requested\)"
    ):
        train_denoiser(replace(unwritten, start=finished.output))
    other = digits_job(tmp_path / "other", start=finished.output, architecture="dncnn")
    with pytest.raises(WeightsError, match="holds unet, not dncnn"):
        train_denoiser(other)


def test_precision_and_workers_are_those_asked_for(tmp_path: Path) -> None:
    """In a process of its own: it forks, and what other tests have loaded may not stand that."""
    output = tmp_path / "denoiser.safetensors"
    command = (
        sys.executable, "-m", "denoised_smoothing", "train", "digits:train", "--sigma", str(SIGMA),
        "--option", "width=8", "--option", "outer=1", "--option", "inner=1", "--batch-size", "16",
        "--steps", "2", "--epoch-steps", "2", "--validation-limit", "100", "--accelerator", "cpu",
        "--precision", "bf16-mixed", "--workers", "1", "--output", str(output),
    )  # fmt: skip
    subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    card = load_denoiser_file(output).card
    assert card["validation"] == "first 100 images of digits:train"
    assert json.loads(card["quality"])["validation_mse"] < SIGMA**2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"validation_limit": 0}, "validation_limit must be at least 1 and finite, got 0"),
        ({"workers": -1}, "workers must be at least 0 and finite, got -1"),
        ({"trainer_flags": {"precision": "foo"}}, "Lightning refuses .*'precision': 'foo'"),
        ({"judges": {"rgb": ImageClassifier(nn.Flatten())}}, "for images of 1 channels, .* got 3"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingError, match=said):
        train_denoiser(digits_job(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "value"), [("width", 16), ("inner", 0)])
def test_a_start_decides_the_options_of_the_architecture(
    finished: TrainingJob, tmp_path: Path, name: str, value: int
) -> None:
    job = digits_job(tmp_path, start=finished.output, architecture_options={name: value})
    with pytest.raises(
        SettingError, match=rf"must not change .*'width': 8.* got .*'{name}': {value}"
    ):
        train_denoiser(job)


def test_a_start_is_enlarged_without_changing_what_it_computes(
    finished: TrainingJob, tmp_path: Path
) -> None:
    job = digits_job(
        tmp_path, start=finished.output, architecture_options={"inner": 2, "levels": 4}
    )
    job = replace(job, config=replace(job.config, steps=1, learning_rate=1e-12))
    larger = load_denoiser_file(train_denoiser(job))
    start = load_denoiser_file(finished.output)
    assert larger.config == {**start.config, "inner": 2, "levels": 4}
    assert json.loads(larger.card["history"])[-1] == start.card["command"]
    noisy = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(larger(noisy, 0.3), start(noisy, 0.3), rtol=0, atol=1e-4)


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match="cannot write checkpoints to"):
        train_denoiser(digits_job(tmp_path, output=tmp_path / "file" / "unet.safetensors"))


@pytest.mark.parametrize(("name", "value"), [("crop", 0), ("pad", -1), ("resolution", 1)])
def test_sizes_that_make_no_sense_are_refused(name: str, value: int) -> None:
    with pytest.raises(SettingError, match=f"{name} must be at least . and finite, got {value}"):
        Preparation(1, **{name: value})


def test_two_processes_train_one_denoiser(tmp_path: Path) -> None:
    """Lightning's DDP over gloo, started by the command itself."""
    command = [
        *(sys.executable, "-m", "denoised_smoothing", "train", "digits:train"),
        *("--output", "two.safetensors", "--architecture", "dncnn", "--sigma", "0.5"),
        *("--option", "depth=3", "--option", "width=4", "--steps", "2", "--batch-size", "8"),
        *("--accelerator", "cpu", "--devices", "2", "--json"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "GLOBAL_RANK: 0, MEMBER: 1/2" in done.stderr
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in done.stderr
    assert json.loads(done.stdout)["output"] == "two.safetensors", "one of them tells"
    assert load_denoiser_file(tmp_path / "two.safetensors").config["width"] == 4
