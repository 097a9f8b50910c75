"""The published tables on stand-ins: what ships, what is trained, what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from denoised_smoothing.cli import main
from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.errors import SettingError
from denoised_smoothing.models import shipped
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.cifar_resnet import CifarResNet, save_cifar_resnet
from denoised_smoothing.models.denoisers.files import load_denoiser_file, save_denoiser
from denoised_smoothing.models.denoisers.unet import UNet
from denoised_smoothing.models.shipped import load_shipped_denoiser
from denoised_smoothing.models.weights import weights_digest
from denoised_smoothing.runs.paper import recipes as recipes_module
from denoised_smoothing.runs.paper.recipes import (
    CIFAR10_RECIPES,
    IMAGENET_RECIPES,
    RECIPES,
    Networks,
    denoiser_spec,
)
from denoised_smoothing.runs.paper.tables import CIFAR10_PUBLISHED, IMAGENET_PUBLISHED, make_table

from ..samples.painted import paint

for package in ("jinja2", "matplotlib", "lightning"):
    pytest.importorskip(package)

SETTINGS = (
    "--limit",
    "2",
    "--max-n",
    "100",
    "--sigmas",
    "0.25",
    "--training-share",
    "0.0003",
    "--engine",
    "torch",
)
SAMPLES = Path(__file__).parents[1] / "samples"
WHITE, SURROGATE = RECIPES["cifar10-resnet56"], RECIPES["cifar10-resnet20"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two classes of 32x32 images."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(3):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes are for an accelerator."""
    for name, recipe in RECIPES.items():
        if recipe.config is not None:
            config = replace(recipe.config, batch_size=8)
            monkeypatch.setitem(RECIPES, name, replace(recipe, config=config))
    small = tuple(RECIPES[recipe.name] for recipe in CIFAR10_RECIPES)
    monkeypatch.setattr(recipes_module, "CIFAR10_RECIPES", small)


def resnet(seed: int) -> ImageClassifier:
    torch.manual_seed(seed)
    return ImageClassifier(CifarResNet(8, classes=2), [0.5] * 3, [0.25] * 3, resolution=32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Specs of a classifier and its surrogate."""
    folder = tmp_path_factory.mktemp("classifiers")
    specs = {}
    for seed, role in enumerate(("classifier", "surrogate")):
        save_cifar_resnet(folder / f"{role}.safetensors", resnet(seed), {})
        specs[role] = f"cifar-resnet8:{folder / role}.safetensors"
    return specs


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """An experiment, from its arguments to its JSON."""

    def run(*arguments: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as end:
            main(["experiment", *arguments, "--device", "cpu", "--json"])
        assert not end.value.code, capsys.readouterr().err
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return run


def cifar10(images: Path, files: dict[str, str], output: Path) -> list[str]:
    return [
        *("cifar10", "--data", f"folder:{images}", "--train-data", f"folder:{images}"),
        *("--classifier", files["classifier"], "--surrogate", files["surrogate"]),
        *("--output", str(output), *SETTINGS),
    ]


def test_cifar10_trains_what_is_missing_and_resumes(
    call: Callable[..., dict[str, Any]], images: Path, files: dict[str, str], tmp_path: Path
) -> None:
    arguments = cifar10(images, files, tmp_path)
    first = call(*arguments, "--row", "none", "--row", "cifar10-resnet56")
    assert [row["method"] for row in first["best"]] == ["no denoiser", "white box (stability)"]
    trained = tmp_path / "denoisers-quick" / "cifar10-resnet56.safetensors"
    card = load_denoiser_file(trained).card
    assert json.loads(card["surrogates"]) == [weights_digest(resnet(0))]
    assert card["start"] == "cifar10.safetensors"
    assert json.loads(card["history"])[-1] == load_shipped_denoiser("cifar10").card["command"]
    before = trained.stat().st_mtime_ns

    whole = call(*arguments)
    assert [row["method"] for row in whole["best"]] == [r.method for r in CIFAR10_RECIPES]
    assert len(whole["rows"]) == len(CIFAR10_RECIPES)
    assert trained.stat().st_mtime_ns == before
    kept = [row for row in whole["rows"] if row["method"] == "no denoiser"]
    assert kept == [row for row in first["rows"] if row["method"] == "no denoiser"]

    text = Path(whole["table"]).read_text("utf-8")
    assert "Scale quick: 2 images" in text
    assert "in float32" in text
    for recipe in CIFAR10_RECIPES:
        assert text.count(f"| {recipe.method} |") == 6  # certified, and proven in two rows each
    for row in CIFAR10_PUBLISHED:
        assert row.method in text
    assert Path(whole["figure"]).read_bytes().startswith(b"\x89PNG")
    assert "Certified accuracy: CIFAR-10" in Path(whole["report"]).read_text("utf-8")


def test_imagenet_uses_all_of_a_small_data_set_and_says_which_rows_are_missing(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("torchvision")
    recipes = [recipe for recipe in IMAGENET_RECIPES if recipe.name != "photo-mse"]
    monkeypatch.setattr(recipes_module, "IMAGENET_RECIPES", tuple(recipes))
    with pytest.raises(SystemExit) as end:
        main([
            "experiment", "imagenet", "--data", f"folder:{images}", "--sigmas", "0.25", "--json",
            "--classifier", "torchvision:shufflenet_v2_x0_5:none", "--resolution", "32",
            "--max-n", "50", "--engine", "torch", "--output", str(tmp_path),
        ])  # fmt: skip
    said = capsys.readouterr()
    assert not end.value.code, said.err
    assert "left out for torchvision:shufflenet_v2_x0_5:none: photo" in said.err
    answer = json.loads(said.out)
    assert answer["best"][0]["images"] == 6
    text = Path(answer["table"]).read_text("utf-8")
    for row in IMAGENET_PUBLISHED:
        assert row.method in text
    assert "validation set; other photographs may be easier" in text


def test_rows_for_photographs_train_their_network_for_each_classifier(
    images: Path, files: dict[str, str], tmp_path: Path
) -> None:
    """The black box once, the white box of each classifier apart."""
    recipe = RECIPES["photo-stability"]
    assert recipe.networks == {"classifier"}
    networks = Networks(
        classifier=resnet(0),
        training=load_dataset(f"folder:{images}"),
        folder=tmp_path,
        prefix="one-",
        share=1e-4,
        flags={"accelerator": "cpu", "enable_progress_bar": False},
    )
    small = replace(recipe, crop=16, start="photo-mse")
    with pytest.MonkeyPatch.context() as patch:
        mse = RECIPES["photo-mse"]
        assert mse.config is not None
        patch.setitem(RECIPES, "photo-mse", replace(mse, name="other", crop=16))
        patch.setitem(RECIPES, "other", replace(mse, name="other", crop=16))
        assert denoiser_spec(small, networks) == (
            f"multiscale-unet:{tmp_path / 'one-photo-stability.safetensors'}"
        )
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "one-photo-stability.safetensors", "other.safetensors",
    ]  # fmt: skip
    assert load_denoiser_file(tmp_path / "other.safetensors").config["widths"] == [24, 64, 128]


def test_imagenet_takes_every_nth_image(
    call: Callable[..., dict[str, Any]], images: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torchvision")
    answer = call(
        *("imagenet", "--data", f"folder:{images}", "--classifier", "torchvision:resnet18:none"),
        *("--stride", "2", "--resolution", "64", "--output", str(tmp_path)),
        *("--limit", "2", "--max-n", "50", "--sigmas", "0.25", "--row", "none"),
    )
    assert answer["best"][0]["method"] == "no denoiser"
    assert answer["best"][0]["images"] == 2
    assert ", one of every 2, " in answer["note"]


@pytest.fixture
def painted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders blue, green and red of such images, and ``toy.py`` to import."""
    monkeypatch.syspath_prepend(SAMPLES)
    return paint(tmp_path / "painted")


COLOURED = ("--sigmas", "0.25", "--row", "none", "--max-n", "200", "--engine", "torch")


def test_labels_are_matched_by_name(
    call: Callable[..., dict[str, Any]], painted: Path, tmp_path: Path
) -> None:
    """The classifier's are red, green and blue; with given names, red and blue are swapped."""
    pytest.importorskip("torchvision")
    swap = tmp_path / "swap.txt"
    swap.write_text("red = blue\nblue = 0\n")
    for kind, classifier, more, certified in (
        ("imagenet", "Primary", (), 3),
        ("cifar10", "Primary", (), 3),
        ("imagenet", "Primary", ("--labels", str(swap)), 1),
        ("imagenet", "Unnamed", (), 1),
    ):
        arguments = [
            kind, "--data", f"folder:{painted}", "--classifier", f"python:toy:{classifier}",
            "--output", str(tmp_path / f"{kind}{classifier}{len(more)}"), *COLOURED, *more,
        ]  # fmt: skip
        arguments += ["--stride", "1"] if kind == "imagenet" else []
        [row] = call(*arguments)["rows"]
        assert row["images"] == 3
        assert row["certified"]["0.25"] == certified


def test_a_comparison_by_number_is_said(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([
            "experiment", "imagenet", "--data", f"folder:{painted}", "--stride", "1",
            "--classifier", "python:toy:Unnamed", "--output", str(tmp_path / "out"), *COLOURED,
        ])  # fmt: skip
    assert "note: The classifier has no label names, so labels" in capsys.readouterr().err


def test_labels_that_do_not_fit_are_refused_before_training(
    images: Path, painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the test images, and those of the training images with the label of the data.

    The first row trains without the label of the data.
    """
    for data, train in ((images, painted), (painted, images)):
        with pytest.raises(SystemExit) as end:
            main([
                "experiment", "cifar10", "--data", f"folder:{data}", "--train-data",
                f"folder:{train}", "--classifier", "python:toy:Primary", "--sigmas", "0.25",
                "--row", "cifar10-resnet56", "--row", "cifar10-resnet56-consistency",
                "--output", str(tmp_path / "out"),
            ])  # fmt: skip
        assert end.value.code == 2
        assert "2 of 2 classes of the data match no label" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_row_that_is_not_known_is_refused(
    images: Path, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["experiment", *cifar10(images, files, tmp_path), "--row", "grey"])
    assert end.value.code == 2
    assert "Unknown --row 'grey'. Use one of: none, cifar10," in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_ships_is_taken_for_its_own_networks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shipped.safetensors"
    card = {"surrogates": json.dumps([weights_digest(resnet(0))])}
    save_denoiser(path, UNet(width=8, outer=1, inner=1), "unet", card)
    monkeypatch.setattr(shipped, "shipped_denoisers", lambda: {WHITE.name: path})
    ours = Networks(classifier=resnet(0), folder=tmp_path)
    assert denoiser_spec(WHITE, ours) == WHITE.name
    with pytest.raises(SettingError, match=r"'white box \(stability\)' .* lacks training images"):
        denoiser_spec(WHITE, replace(ours, classifier=resnet(1)))


def test_what_was_trained_through_another_network_is_not_taken_for_its_own(tmp_path: Path) -> None:
    card = {"surrogates": json.dumps([weights_digest(resnet(0))])}
    path = tmp_path / f"{WHITE.name}.safetensors"
    save_denoiser(path, UNet(width=8, outer=1, inner=1), "unet", card)
    ours = Networks(classifier=resnet(0), folder=tmp_path)
    assert denoiser_spec(WHITE, ours) == f"unet:{path}"
    with pytest.raises(SettingError, match=r"was trained through another network\. Remove it"):
        denoiser_spec(WHITE, replace(ours, classifier=resnet(1)))


def test_without_a_surrogate_the_denoiser_of_ours_is_the_start(
    images: Path, tmp_path: Path
) -> None:
    networks = Networks(
        classifier=resnet(0),
        training=load_dataset(f"folder:{images}"),
        folder=tmp_path,
        share=1e-5,
        flags={"accelerator": "cpu", "enable_progress_bar": False},
    )
    spec = denoiser_spec(RECIPES["cifar10-resnet56-consistency"], networks)
    card = load_denoiser_file(spec.partition(":")[2]).card
    assert card["start"] == "cifar10-resnet20.safetensors"


def test_a_surrogate_is_asked_for() -> None:
    """But not where a black box ships."""
    assert denoiser_spec(SURROGATE, Networks(classifier=resnet(0))) == "cifar10-resnet20"
    with pytest.raises(SettingError, match="lacks a surrogate that gradients can pass through"):
        denoiser_spec(
            replace(RECIPES["photo-surrogate"], name="new"), Networks(classifier=resnet(0))
        )


def test_what_was_trained_into_the_folder_is_used_before_the_shipped_one(tmp_path: Path) -> None:
    networks, black_box = Networks(folder=tmp_path), RECIPES["photo-mse"]
    assert denoiser_spec(black_box, networks) == "photo-mse"
    (tmp_path / "photo-mse.safetensors").touch()
    expected = f"multiscale-unet:{tmp_path / 'photo-mse.safetensors'}"
    assert denoiser_spec(black_box, networks) == expected


def test_a_row_says_what_it_lacks_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"'white box \(ours\)' .* lacks a classifier"):
        denoiser_spec(RECIPES["mean-white-box"], Networks(surrogate=resnet(0), folder=tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_a_mean_cannot_name_is_refused(
    images: Path, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["experiment", *cifar10(images, files, tmp_path / "a+b")])
    assert end.value.code == 2
    assert "--output must not contain + or ?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_table_needs_rows(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="at least one row and one sigma, got none"):
        make_table([], None, tmp_path, note=str, title="")  # type: ignore[arg-type]


def test_recipes_build_on_each_other() -> None:
    names = list(RECIPES)
    for recipe in RECIPES.values():
        before = names[: names.index(recipe.name)]
        assert recipe.start is None or recipe.start in before
        assert set(recipe.mean) <= set(before)
    assert RECIPES["mean-white-box"].networks == {"classifier"}
