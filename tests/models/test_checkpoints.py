"""checkpoints.py and fine_tuned.py: files of training scripts, with other classes and channels."""

from __future__ import annotations

import argparse
import datetime
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from denoised_smoothing import load_classifier
from denoised_smoothing.errors import MissingExtraError, SettingError, SpecError, WeightsError
from denoised_smoothing.models.checkpoints import by_own_names, open_checkpoint
from denoised_smoothing.models.classifiers.base import ImageClassifier

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")
NAME = "shufflenet_v2_x0_5"


def network(classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(NAME, weights=None, num_classes=classes)
    return model.eval()


def behind(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def loaded(spec: str) -> ImageClassifier:
    classifier = load_classifier(spec)
    assert isinstance(classifier, ImageClassifier)
    return classifier


def check(spec: str, model: nn.Module, channels: int = 3) -> ImageClassifier:
    """Compare the logits of a spec with those of the model that was saved."""
    classifier = loaded(spec)
    side = classifier.resolution
    assert side is not None
    images = torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    expected = model((images - classifier.mean) / classifier.std)
    torch.testing.assert_close(classifier(images), expected)
    return classifier


NEXT = {
    "epoch": 3,
    "best_acc1": torch.tensor(0.5),
    "metric": np.float64(0.5),
    "history": np.arange(3),
    "args": argparse.Namespace(lr=0.1, output=Path("runs"), inner=argparse.Namespace(x=1)),
    "when": datetime.datetime(2024, 1, 1),
    "optimizer": torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1).state_dict(),
}
WEIGHTS = network().state_dict()
LAYOUTS: dict[str, Any] = {
    "plain": WEIGHTS,
    "DataParallel": behind("module.", WEIGHTS),
    "torch.compile": {"model": behind("_orig_mod.", WEIGHTS), **NEXT},
    "example of PyTorch": {"arch": NAME, "state_dict": behind("module.", WEIGHTS), **NEXT},
    "references of torchvision": {"model": WEIGHTS, "args": argparse.Namespace(model=NAME)},
    "averaged": {
        "model": {name: torch.zeros_like(t) for name, t in WEIGHTS.items()},
        "model_ema": {"n_averaged": torch.tensor(7), **behind("module.", WEIGHTS)},
    },
    "Lightning": {
        "state_dict": {**behind("model.", WEIGHTS), "loss.weight": torch.ones(5)},
        "hyper_parameters": {"lr": 0.1},
        "pytorch-lightning_version": "2.0.0",
    },
    "Lightning, another name": {"state_dict": behind("net.", WEIGHTS), "callbacks": {}},
    "numbers next to weights": {**WEIGHTS, "epoch": 3},
    "another key": {"weights_of_the_best_epoch": WEIGHTS, "epoch": 3},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_training_scripts(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(LAYOUTS[layout], path)
    check(f"checkpoint:{path}?arch={NAME}", network())


def test_the_hyperparameters_of_lightning(tmp_path: Path) -> None:
    parsing = pytest.importorskip("lightning.pytorch.utilities.parsing")
    path = tmp_path / "model.ckpt"
    held = {"state_dict": behind("model.", WEIGHTS), "hparams": parsing.AttributeDict(lr=0.1)}
    torch.save(held, path)
    check(f"checkpoint:{path}?arch={NAME}", network())


@pytest.mark.parametrize("layout", ["example of PyTorch", "references of torchvision"])
def test_the_architecture_is_that_of_the_file(layout: str, tmp_path: Path) -> None:
    torch.save(LAYOUTS[layout], tmp_path / "model.pth")
    check(f"checkpoint:{tmp_path}/model.pth", network())


def test_a_file_of_torchvision_has_the_classes_of_its_weights(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    assert check(f"torchvision:{NAME}:{tmp_path}/a.safetensors", network()).label_names is None
    torch.save(LAYOUTS["DataParallel"], tmp_path / "a.pth")
    check(f"torchvision:{NAME}:{tmp_path}/a.pth", network())


def test_a_file_of_timm_has_classes_and_channels_of_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=7, in_chans=1).eval()
    held = {"epoch": 1, "arch": "test_resnet", "state_dict": model.state_dict(), "version": 2}
    torch.save({**held, "args": argparse.Namespace(lr=1)}, tmp_path / "model_best.pth.tar")
    for spec in ("timm:test_resnet:", "checkpoint:"):
        classifier = check(f"{spec}{tmp_path}/model_best.pth.tar", model, channels=1)
        assert classifier.channels == 1
        assert len(classifier.mean.flatten()) == 1


def test_grey_and_four_channels_of_torchvision(tmp_path: Path) -> None:
    for channels in (1, 4):
        model: Any = network()
        out = model.conv1[0].out_channels
        model.conv1[0] = nn.Conv2d(channels, out, 3, 2, 1, bias=False)
        torch.save(model.state_dict(), tmp_path / f"{channels}.pth")
        if channels == 1:
            classifier = check(f"torchvision:{NAME}:{tmp_path}/1.pth", model, channels=1)
            assert classifier.mean.item() == pytest.approx(0.449)
    with pytest.raises(SettingError, match=r"1 channel \(grey\) or 3 \(RGB\), got 4"):
        load_classifier(f"torchvision:{NAME}:{tmp_path}/4.pth")


def test_one_logit_answers_as_two_classes(tmp_path: Path) -> None:
    model = network(1)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    classifier = loaded(f"torchvision:{NAME}:{tmp_path}/a.pth?labels=no,yes")
    images = torch.rand(3, 3, 224, 224)
    logit = model((images - classifier.mean) / classifier.std)
    torch.testing.assert_close(classifier(images), torch.cat([0 * logit, logit], 1))
    assert classifier.label_names == ("no", "yes")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_file_without_classifiers_for_training(name: str, tmp_path: Path) -> None:
    options = {"num_classes": 3, "aux_logits": False, "init_weights": False}
    model = torchvision.models.get_model(name, **options)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    assert loaded(f"torchvision:{name}:{tmp_path}/a.pth").network.fc.out_features == 3  # type: ignore[union-attr]


class TestLabels:
    @pytest.mark.parametrize(
        ("content", "names"),
        [
            ("ant\nbee, wild\ncat\ndog\nelk\n", ("ant", "bee, wild", "cat", "dog", "elk")),
            ("\ufeffant, bee, cat, dog, elk", ("ant", "bee", "cat", "dog", "elk")),
            ("1 bee\n0 ant\n2 cat\n3 dog\n4 elk", ("ant", "bee", "cat", "dog", "elk")),
            ("# of insects\nant\n\nbee\ncat\ndog\nelk", ("ant", "bee", "cat", "dog", "elk")),
            ("7 up\n8 ball\n1\n2\n3", ("7 up", "8 ball", "1", "2", "3")),
            ('["ant", "bee", "cat", "dog", "elk"]', ("ant", "bee", "cat", "dog", "elk")),
            ('{"b": 1, "a": 0, "c": 2, "d": 3, "e": 4}', ("a", "b", "c", "d", "e")),
            ('{"0": ["n01", "a"], "1": "b", "2": "c", "3": "d", "4": "e"}',
             ("n01 a", "b", "c", "d", "e")),
        ],
    )  # fmt: skip
    def test_of_a_file(self, content: str, names: tuple[str, ...], tmp_path: Path) -> None:
        (tmp_path / "labels").write_text(content, encoding="utf-8")
        torch.save(WEIGHTS, tmp_path / "a.pth")
        for spec in (
            f"torchvision:{NAME}:{tmp_path}/a.pth?",
            f"checkpoint:{tmp_path}/a.pth?arch={NAME}&",
        ):
            assert loaded(f"{spec}labels={tmp_path}/labels").label_names == names

    @pytest.mark.parametrize(
        "content", ["ant", "", '{"a": 1, "b": 2}', '{"a": "x"}', "[1, 2]", "[", '"a"', "\x00\n"]
    )
    def test_that_are_none_are_refused(self, content: str, tmp_path: Path) -> None:
        (tmp_path / "labels").write_text(content, encoding="utf-8")
        with pytest.raises(SpecError, match="labels must be at least two names between commas"):
            load_classifier(f"torchvision:{NAME}:none?labels={tmp_path}/labels")

    def test_of_another_number_are_refused(self, tmp_path: Path) -> None:
        torch.save(WEIGHTS, tmp_path / "a.pth")
        with pytest.raises(SpecError, match=r"each of the 5 classes of .*, got 2 \(a, b, \.\.\.\)"):
            load_classifier(f"torchvision:{NAME}:{tmp_path}/a.pth?labels=a,b")
        with pytest.raises(SpecError, match="No such file"):
            load_classifier(f"torchvision:{NAME}:{tmp_path}/a.pth?labels=away.txt")

    @pytest.mark.parametrize(
        "held",
        [
            {"class_to_idx": {"b": 1, "a": 0, "c": 2, "d": 3, "e": 4}},
            {"classes": ["a", "b", "c", "d", "e"]},
        ],
    )
    def test_in_the_checkpoint(self, held: dict[str, Any], tmp_path: Path) -> None:
        torch.save({"state_dict": WEIGHTS, **held}, tmp_path / "a.pth")
        assert loaded(f"torchvision:{NAME}:{tmp_path}/a.pth").label_names == tuple("abcde")


class TestMissingLibraries:
    @pytest.mark.parametrize("arch", ["vit_tiny_patch16_224", "resnet1888"])
    def test_the_one_that_may_know_the_architecture_is_named(
        self, arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.save(WEIGHTS, tmp_path / "a.pth")
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(MissingExtraError) as caught:
            load_classifier(f"checkpoint:{tmp_path}/a.pth?arch={arch}")
        assert f"{arch!r}" in str(caught.value)
        assert "known: cifar_resnet20, " in str(caught.value)
        assert "pip install 'denoised-smoothing[timm]'" in str(caught.value)

    def test_the_other_one_is_enough(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.save(WEIGHTS, tmp_path / "a.pth")
        model = timm.create_model("test_resnet", num_classes=5).eval()
        torch.save(model.state_dict(), tmp_path / "b.pth")
        with monkeypatch.context() as without:
            without.setitem(sys.modules, "timm", None)
            check(f"checkpoint:{tmp_path}/a.pth?arch={NAME}", network())
        monkeypatch.setitem(sys.modules, "torchvision", None)
        check(f"checkpoint:{tmp_path}/b.pth?arch=test_resnet", model)


class Trap:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


def test_losses_measures_and_counters_are_left_out_with_a_note(
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = nn.Linear(2, 2).state_dict()
    others = {
        "criterion.weight": torch.ones(2, 2),
        "val_acc.total": torch.tensor(0.5),
        "n_averaged": torch.tensor(7),
    }
    assert by_own_names(own, {**behind("a.", own), **others}, "file").keys() == own.keys()
    assert "file also holds criterion.weight, val_acc.total, n_averaged." in caplog.text


class TestRefused:
    def test_code_is_not_run(self, tmp_path: Path) -> None:
        mark, path = tmp_path / "ran", tmp_path / "a.pth"
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            torch.save({"state_dict": WEIGHTS, "x": Trap(mark)}, path, pickle_protocol=protocol)
            with pytest.raises(WeightsError):
                open_checkpoint(path)
        assert not mark.exists()

    def test_a_whole_model_with_the_lines_that_convert_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for held in (network(), {"state_dict": WEIGHTS, "extra": nn.Linear(2, 2)}):
            torch.save(held, "a.pth")
            with pytest.raises(WeightsError, match=r"an object of type torch\S+\. ") as refused:
                open_checkpoint("a.pth")
            _, *lines = str(refused.value).splitlines()
            assert len(lines) == 2
            exec("\n".join(map(str.strip, lines)), {"torch": torch})
            check(f"torchvision:{NAME}:a-weights.pth", network())

    def test_a_torchscript_archive_with_the_lines_that_convert_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # deprecated, and still common
            trace: Any = torch.jit.trace
            trace(network(), torch.rand(1, 3, 64, 64)).save("a.pt")
        with pytest.raises(WeightsError, match="is a TorchScript archive") as refused:
            open_checkpoint("a.pt")
        _, *lines = str(refused.value).splitlines()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            exec("\n".join(map(str.strip, lines)), {"torch": torch})
        check(f"torchvision:{NAME}:a-weights.pth", network())

    def test_two_networks_and_other_layers(self, tmp_path: Path) -> None:
        own = nn.Linear(2, 2).state_dict()
        with pytest.raises(WeightsError, match=r"2 networks .* 'a\.' and 'b\.'\. Save"):
            by_own_names(own, {**behind("a.", own), **behind("b.", own)}, "file")
        for name, tensor in {
            "head.weight": torch.ones(2, 2),
            "norm.bias": torch.ones(2),
            "mean": torch.full((3, 1, 1), 0.5),
            "std": torch.tensor(0.5),
        }.items():
            with pytest.raises(WeightsError, match=rf"behind 'a\.' and other .*: {name}\. Save"):
                by_own_names(own, {**behind("a.", own), name: tensor}, "file")

    def test_a_module_that_normalises_by_itself(self, tmp_path: Path) -> None:
        half = torch.full((1, 3, 1, 1), 0.5)
        torch.save({**behind("model.", WEIGHTS), "mean": half, "std": half}, tmp_path / "a.pth")
        with pytest.raises(WeightsError, match=r"answers: mean, std\. Save .* python:MODULE"):
            load_classifier(f"torchvision:{NAME}:{tmp_path}/a.pth")

    @pytest.mark.parametrize("held", [[torch.ones(2)], {}, {"epoch": 3}, 7, {"state_dict": [1]}])
    def test_no_weights(self, held: object, tmp_path: Path) -> None:
        torch.save(held, tmp_path / "a.pth")
        with pytest.raises(
            WeightsError, match="must be a dictionary of weights, or have one under"
        ):
            open_checkpoint(tmp_path / "a.pth")

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
    def test_a_truncated_file(self, share: float, tmp_path: Path) -> None:
        path = tmp_path / "a.pth"
        torch.save(WEIGHTS, path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(WeightsError, match="damaged or incomplete"):
            open_checkpoint(path)
