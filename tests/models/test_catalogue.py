"""catalogue.py: every form of a spec, and the errors for others."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from denoised_smoothing.errors import SettingError, SpecError, WeightsError
from denoised_smoothing.models.catalogue import (
    list_classifiers,
    list_datasets,
    list_denoisers,
    load_classifier,
    load_denoiser,
    shipped_classifiers,
)
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.cifar_resnet import (
    CIFAR_RESNET,
    CifarResNet,
    save_cifar_resnet,
)
from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.denoisers.dncnn import DnCNN
from denoised_smoothing.models.denoisers.files import ARCHITECTURES, save_denoiser
from denoised_smoothing.models.denoisers.memnet import MemNet
from denoised_smoothing.models.denoisers.multiscale_unet import MultiscaleUNet
from denoised_smoothing.models.denoisers.unet import UNet
from denoised_smoothing.models.shipped import shipped_denoisers
from denoised_smoothing.models.specs import Role, forms, schemes

SAMPLES = Path(__file__).parents[1] / "samples"
SMALL = {
    "dncnn": DnCNN(1, width=4, depth=3),
    "dncnn-wide": DnCNN(1, width=5, depth=3),
    "memnet": MemNet(1, width=4, blocks=1, recursions=1),
    "multiscale-unet": MultiscaleUNet(1, widths=(4, 8), blocks=(1, 1), levels=2),
    "unet": UNet(1, width=4, outer=1, inner=1),
}


FILES = tuple(SMALL)
"""Architectures whose denoisers are single files."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, which holds ``toy.py``, ``toy_helper.py`` and ``broken.py``."""
    monkeypatch.chdir(shutil.copytree(SAMPLES, tmp_path / "work"))
    Path("toy_helper.py").write_text("import toy\nmake = toy.Toy\n")
    Path("broken.py").write_text("import no_such_package\n")
    yield Path.cwd()
    for name in ("toy", "toy_helper", "broken"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def resnet8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet8.safetensors"
    network = ImageClassifier(CifarResNet(8, 4, 1), (0.4,), (0.2,), "abcd", resolution=8)
    save_cifar_resnet(path, network, {})
    return path


class TestClassifiers:
    def test_cifar_resnet(self, resnet8: Path) -> None:
        classifier = load_classifier(f"cifar-resnet8:{resnet8}")
        assert isinstance(classifier, ImageClassifier)
        assert (classifier.channels, classifier.resolution) == (1, 8)
        assert classifier.label_names == ("a", "b", "c", "d")
        assert classifier(torch.zeros(2, 1, 8, 8)).shape == (2, 4)

    def test_shipped(self) -> None:
        assert "digits" in shipped_classifiers()
        classifier = load_classifier("digits")
        assert isinstance(classifier, ImageClassifier)
        assert (classifier.channels, classifier.resolution) == (1, 8)
        assert classifier.label_names == tuple("0123456789")

    def test_torchvision(self) -> None:
        pytest.importorskip("torchvision")
        classifier = load_classifier("torchvision:squeezenet1_1:none")
        assert isinstance(classifier, ImageClassifier)
        assert classifier.resolution == 224

    def test_python(self, folder: Path) -> None:
        assert type(load_classifier("python:toy:Toy")).__name__ == "Toy"
        assert load_classifier("python:toy:black_box").__name__ == "labels"  # type: ignore[attr-defined]

    def test_python_leaves_the_path_as_it_was(self, folder: Path) -> None:
        before = list(sys.path)
        load_classifier("python:toy:Toy")
        assert sys.path == before

    def test_a_factory_may_import_from_its_folder(self, folder: Path) -> None:
        assert type(load_classifier("python:toy:needs_an_import")).__name__ == "Toy"

    def test_a_factory_that_fails_is_named_with_its_error(self, folder: Path) -> None:
        (folder / "broken.py").write_text("def build():\n    return {}['weights']\n")
        said = "'python:broken:build': the factory failed with KeyError: 'weights'"
        with pytest.raises(SpecError, match=said) as caught:
            load_classifier("python:broken:build")
        assert isinstance(caught.value.__cause__, KeyError)

    @pytest.mark.parametrize(
        ("spec", "suggestion"),
        [
            ("torchvison:resnet50", r"torchvision:NAME\[:WEIGHTS\]\[\?labels=FILE\]"),
            ("tim:resnet18", r"timm:NAME-OR-FOLDER\[:WEIGHTS\]\[\?labels=FILE\]"),
            ("zeroshot:x", r"zero-shot:NAME-OR-FOLDER\?labels=CAT,DOG,\.\.\."),
            ("cifar-resnett56:x", "cifar-resnetDEPTH:FILE.safetensors"),
            ("digitz", "digits"),
            ("phyton:toy:Toy", "python:MODULE:FACTORY"),
            ("clarify:x", "clarifai:MODEL"),
        ],
    )
    def test_suggests_the_nearest(self, spec: str, suggestion: str) -> None:
        said = rf"Unknown classifier '{spec}'\. Did you mean {suggestion}\? Known: digits, "
        with pytest.raises(SpecError, match=said):
            load_classifier(spec)

    @pytest.mark.parametrize("spec", ["", "zzz", "resnet56.safetensors"])
    def test_says_what_is_known(self, spec: str) -> None:
        with pytest.raises(SpecError, match=rf"Unknown classifier '{spec}'\. .*Known: digits, "):
            load_classifier(spec)

    @pytest.mark.parametrize(
        ("spec", "form"),
        [
            ("torchvision", r"torchvision:NAME\[:WEIGHTS\]\[\?labels=FILE\]"),
            ("torchvision:", r"torchvision:NAME\[:WEIGHTS\]\[\?labels=FILE\]"),
            ("cifar-resnet", "cifar-resnetDEPTH:FILE.safetensors"),
            ("cifar-resnet56", "cifar-resnetDEPTH:FILE.safetensors"),
            ("onnx:", r"onnx:FILE\[\?mean=\.\.\.&std=\.\.\.&channels=bgr&labels=FILE\]"),
            ("python", "python:MODULE:FACTORY"),
            ("python:toy", "python:MODULE:FACTORY"),
            ("python:toy:", "python:MODULE:FACTORY"),
            ("python::Toy", "python:MODULE:FACTORY"),
        ],
    )
    def test_completes_the_form(self, spec: str, form: str) -> None:
        with pytest.raises(SpecError, match=rf"'{spec}' is not complete\. Write {form}$"):
            load_classifier(spec)

    def test_a_file_that_names_its_depth_needs_none_in_the_spec(self, resnet8: Path) -> None:
        assert load_classifier(f"cifar-resnet:{resnet8}").label_names == tuple("abcd")  # type: ignore[attr-defined]

    def test_weights_of_another_depth_are_refused(self, resnet8: Path) -> None:
        with pytest.raises(WeightsError, match=r"\(as cifar-resnet14\) holds weights of another"):
            load_classifier(f"cifar-resnet14:{resnet8}")

    @pytest.mark.parametrize("depth", [57, 2])
    def test_a_depth_that_does_not_exist_is_refused(self, resnet8: Path, depth: int) -> None:
        with pytest.raises(SettingError, match=rf"must be 6n \+ 2, got {depth}"):
            load_classifier(f"cifar-resnet{depth}:{resnet8}")

    def test_a_pickle_is_refused(self, tmp_path: Path) -> None:
        torch.save(CifarResNet(8).state_dict(), tmp_path / "resnet8.pt")
        with pytest.raises(WeightsError, match=r"resnet8\.pt is a pickle .* Convert the file"):
            load_classifier(f"cifar-resnet8:{tmp_path}/resnet8.pt")

    def test_a_missing_file_is_refused(self) -> None:
        with pytest.raises(WeightsError, match=r"no weights file missing\.safetensors\. Check"):
            load_classifier("cifar-resnet56:missing.safetensors")


class TestFactories:
    @pytest.mark.parametrize(
        ("rest", "said"),
        [
            ("no_such_module:make", r"module 'no_such_module' cannot be imported .*in the folder"),
            ("broken:make", r"module 'broken' cannot be imported \(No module named 'no_such_pack"),
            ("./toy:Toy", r"module './toy' cannot be imported"),
            ("toy:absent", r"module 'toy' has no function 'absent'. Name one without arguments"),
            ("toy:number", r"module 'toy' has no function 'number'. Name one without"),
            ("toy:nothing", r"factory must return a callable on images, got NoneType"),
        ],
    )
    @pytest.mark.parametrize("load", [load_classifier, load_denoiser])
    def test_errors(self, folder: Path, load: object, rest: str, said: str) -> None:
        with pytest.raises(SpecError, match=said):
            load(f"python:{rest}")  # type: ignore[operator]


class TestDenoisers:
    def test_none(self) -> None:
        assert load_denoiser("none") is None

    @pytest.mark.parametrize("architecture", FILES)
    def test_files(self, tmp_path: Path, architecture: str) -> None:
        path = tmp_path / "d.safetensors"
        save_denoiser(path, SMALL[architecture], architecture, {})
        loaded = load_denoiser(f"{architecture}:{path}")
        assert isinstance(loaded, DenoiserNetwork)
        assert loaded.config == SMALL[architecture].config
        other = next(name for name in FILES if name != architecture)
        with pytest.raises(
            WeightsError, match=rf"holds {architecture}, not {other}\. Write the spec"
        ):
            load_denoiser(f"{other}:{path}")

    def test_python(self, folder: Path) -> None:
        assert load_denoiser("python:toy:black_box").__name__ == "labels"  # type: ignore[union-attr]

    @pytest.mark.parametrize("name", ["digits-mse", "digits-stability"])
    def test_shipped(self, name: str) -> None:
        denoiser = load_denoiser(name)
        assert isinstance(denoiser, DenoiserNetwork)
        assert denoiser(torch.rand(2, 1, 8, 8), 0.5).shape == (2, 1, 8, 8)
        assert denoiser.card["command"].startswith("denoised-smoothing train digits:train ")

    @pytest.mark.parametrize(
        ("spec", "suggestion"),
        [
            ("unett:x", "unet:FILE.safetensors"),
            ("dncn", "dncnn:FILE.safetensors"),
            ("non", "none"),
            ("digits-msee", "digits-mse"),
        ],
    )
    def test_suggests_the_nearest(self, spec: str, suggestion: str) -> None:
        said = rf"Unknown denoiser '{spec}'\. Did you mean {suggestion}\? Known: none, "
        with pytest.raises(SpecError, match=said):
            load_denoiser(spec)

    @pytest.mark.parametrize("architecture", FILES)
    def test_completes_the_form(self, architecture: str) -> None:
        for spec in (architecture, f"{architecture}:"):
            said = f"'{spec}' is not complete. Write {architecture}:FILE.safetensors$"
            with pytest.raises(SpecError, match=said):
                load_denoiser(spec)

    def test_a_pickle_is_refused(self, tmp_path: Path) -> None:
        torch.save(SMALL["unet"].state_dict(), tmp_path / "unet.pth")
        with pytest.raises(WeightsError, match=r"unet\.pth is a pickle"):
            load_denoiser(f"unet:{tmp_path}/unet.pth")

    def test_weights_of_something_else_are_refused(self, tmp_path: Path) -> None:
        save_file({"conv1.weight": torch.zeros(2)}, tmp_path / "x.safetensors")
        with pytest.raises(WeightsError, match="holds weights of another architecture: head"):
            load_denoiser(f"unet:{tmp_path}/x.safetensors")


class TestLists:
    def test_classifiers(self) -> None:
        rows = list_classifiers()
        assert rows[0] == {"spec": "digits", "what": "shipped", "missing": ""}
        assert [row["spec"] for row in rows[1:]] == forms(Role.CLASSIFIER)

    def test_denoisers(self) -> None:
        rows = list_denoisers()
        specs = [row["spec"] for row in rows]
        assert specs == [*shipped_denoisers(), "none", *forms(Role.DENOISER)]
        for row in rows[: len(shipped_denoisers())]:
            assert re.match(r"shipped: (unet|multiscale-unet), ", row["what"])
            assert ", trained on " in row["what"]
        sigmas = {re.split(r"[:\[]", row["spec"])[0]: row["sigma"] for row in rows}
        assert sigmas["digits-mse"] == "0.1 to 0.6"
        assert sigmas["none"] == "any"
        assert (sigmas["unet"], sigmas["mean"]) == ("in the file", "common to all")
        assert (sigmas["checkpoint"], sigmas["python"]) == ("unknown", "unknown")

    def test_datasets(self) -> None:
        assert [row["spec"] for row in list_datasets()] == [*forms(Role.DATASET), "IMAGE"]

    def test_every_architecture_has_its_form(self) -> None:
        assert {*FILES, "diffusion"} == ARCHITECTURES.keys()
        for name in FILES:
            assert f"{name}:FILE.safetensors" in forms(Role.DENOISER)
        assert "diffusers:" in " ".join(forms(Role.DENOISER))
        assert CIFAR_RESNET.fullmatch("cifar-resnet56")

    @pytest.mark.parametrize("role", Role)
    def test_every_form_begins_with_its_scheme(self, role: Role) -> None:
        for form in forms(role):
            assert re.split(r"[:\[]|DEPTH", form)[0] in schemes(role)
