"""Bundles: what was certified is what answers, and whatever was altered is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing.certificates.parameters import EngineName, Precision
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.errors import ImageError, SettingError, SpecError, WeightsError
from denoised_smoothing.images import digest
from denoised_smoothing.models import catalogue
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.cifar_resnet import ProjectedResNet
from denoised_smoothing.models.classifiers.preprocessing import Interpolation, Resize, Scaling
from denoised_smoothing.models.denoisers.dncnn import DnCNN
from denoised_smoothing.models.denoisers.ensemble import EnsembleClassifier
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.smoothing import bundle as bundles
from denoised_smoothing.smoothing import bundle_file as record
from denoised_smoothing.smoothing import bundle_parts as parts
from denoised_smoothing.smoothing.bundle_file import read_bundle
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

from ..engines.samples import (
    KINDS,
    SEED,
    Blind,
    convolutional,
    images,
    noisy,
    residual,
    smoothed,
    unet,
)

PLAN = FixedBudget(20, 50)


def counted(pipeline: SmoothedClassifier, limit: int | None = None) -> list[tuple[object, ...]]:
    certificates = pipeline.certify_batch(images()[:limit], plan=PLAN, seed=SEED)
    return [(c.selection.votes, c.counts.votes, c.parameters) for c in certificates]


@pytest.fixture
def torch_bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    smoothed(residual(), unet()).save(folder)
    return folder


@pytest.mark.parametrize(("engine", "precision"), KINDS)
def test_what_was_certified_is_what_answers(
    tmp_path: Path, engine: EngineName, precision: Precision
) -> None:
    original = smoothed(residual(denoiser=unet()), unet(), engine, precision)
    expected = counted(original)
    assert len([votes for votes in expected[0][1] if votes]) > 1  # type: ignore[attr-defined]
    original.save(tmp_path / "one", classifier="python:toy:Toy")
    loaded = SmoothedClassifier.load(tmp_path / "one", device="cpu")
    assert counted(loaded) == expected
    assert loaded.prepared.record(images()[0]) == original.prepared.record(images()[0])
    assert loaded.fingerprints() == original.fingerprints()
    assert loaded.channels == 3
    assert loaded.resolution == 16
    assert loaded.classifier.label_names == tuple("abcde")  # type: ignore[attr-defined]
    certificate = loaded.certify(images()[0], plan=PLAN, seed=SEED)
    assert certificate.to_dict()["engine"] == engine
    assert certificate.to_dict()["precision"] == precision
    assert not [path for path in tmp_path.iterdir() if path.name != "one"]
    shutil.rmtree(tmp_path / "one")  # what is loaded needs the folder no more, or the cache does
    assert loaded.predict(images()[0], n=20, seed=SEED)


def test_says_what_it_is(torch_bundle: Path) -> None:
    written = json.loads((torch_bundle / "bundle.json").read_text())
    assert written["format"] == record.FORMAT
    assert written["engine"] == "torch"
    assert written["engine_version"] == torch.__version__
    assert written["precision"] == "float32"
    assert written["noise"] == "grid"
    assert written["sigma"] == 0.5
    assert written["shape"] == [3, 16, 16]
    assert written["label_names"] == list("abcde")
    assert set(written["files"]) == {"classifier.safetensors", "denoiser.safetensors"}
    assert read_bundle(torch_bundle).to_dict().items() <= written.items()


def test_specs_by_which_parts_were_loaded_are_recorded(tmp_path: Path) -> None:
    denoiser = catalogue.load_denoiser("digits-mse")
    SmoothedClassifier(catalogue.load_classifier("digits"), 0.5, denoiser).save(tmp_path / "one")
    written = read_bundle(tmp_path / "one")
    assert (written.classifier, written.denoiser) == ("digits", "digits-mse")


@pytest.mark.parametrize("engine", [EngineName.TORCH, EngineName.ONNXRUNTIME])
def test_the_note_about_an_untrained_sigma_is_kept(tmp_path: Path, engine: EngineName) -> None:
    """Also in a converted model, which has no denoiser any more."""
    if engine is EngineName.ONNXRUNTIME:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    classifier = catalogue.load_classifier("digits")
    denoiser = catalogue.load_denoiser("digits-mse")
    with pytest.warns(UserWarning, match=r"sigma 3 is outside .* \(0.1 to 0.6\)"):
        original = SmoothedClassifier(classifier, 3.0, denoiser, engine=engine)
    original.save(tmp_path / "one")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = SmoothedClassifier.load(tmp_path / "one")
    image = torch.zeros(1, 8, 8)
    found = loaded.certify(image, n0=10, n=20, seed=1).notes
    assert found == original.certify(image, n0=10, n=20, seed=1).notes
    assert len(found) == 1


def test_a_bundle_of_an_earlier_version_has_no_notes(torch_bundle: Path) -> None:
    path = torch_bundle / "bundle.json"
    written = json.loads(path.read_text())
    del written["notes"]
    path.write_text(json.dumps({**written, "sha256": record._own_sha256(written)}))
    assert read_bundle(torch_bundle).notes == ()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: flip(f / "classifier.safetensors"), r"classifier.safetensors was altered in"),
        (lambda f: flip(f / "denoiser.safetensors"), r"expected SHA-256 \w{12}\.\.\., got \w{12}"),
        (lambda f: (f / "denoiser.safetensors").unlink(), "denoiser.safetensors is missing from"),
        (lambda f: (f / "bundle.json").unlink(), "is not a complete bundle: .*FileNotFoundError"),
        (
            lambda f: (f / "bundle.json").write_text("{"),
            "not a complete bundle: .*JSONDecodeError",
        ),
        (lambda f: (f / "bundle.json").write_text("[]"), "is not a complete bundle"),
        (lambda f: edit(f, sigma=0.25), "bundle.json was altered: its checksum"),
        (lambda f: edit(f, format=record.FORMAT + 1), "has format 2; this version reads 1"),
        (shutil.rmtree, "is not a complete bundle"),
    ],
)
def test_an_altered_bundle_is_refused(
    torch_bundle: Path, harm: Callable[[Path], Any], message: str
) -> None:
    harm(torch_bundle)
    with pytest.raises(WeightsError, match=message):
        SmoothedClassifier.load(torch_bundle)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_nothing_is_left_of_a_bundle_that_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(bundles, "save_parts", fail)
    with pytest.raises(SettingError, match=r"Cannot write .* \(no space left\)\. Name a folder"):
        smoothed(residual()).save(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, torch_bundle: Path) -> None:
    with pytest.raises(SettingError, match=r"exists already\. Name a new folder"):
        smoothed(residual()).save(torch_bundle)
    (tmp_path / "empty").mkdir()
    smoothed(residual()).save(tmp_path / "empty")
    assert read_bundle(tmp_path / "empty").denoiser == "none"


def test_another_version_of_the_engine_is_refused(
    torch_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.TorchEngine, "version", lambda: "99.0")
    with pytest.raises(SettingError, match=r"with torch .*, and 99.0 is installed.*pip install"):
        SmoothedClassifier.load(torch_bundle)


def test_images_of_another_shape_are_refused(torch_bundle: Path) -> None:
    loaded = SmoothedClassifier.load(torch_bundle)
    with pytest.raises(SettingError, match=r"shape \[3, 16, 16\], got \[3, 8, 8\]"):
        loaded.certify(images(side=8)[0], plan=PLAN)


def test_the_shape_must_be_known(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"channels are None .*Set shape=\(C, H, W\)"):
        smoothed(convolutional()).save(tmp_path / "bundle", classifier="python:m:f")


class Made(nn.Module):
    """A classifier of somebody's own; a factory makes it with other weights."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self.network = convolutional()
        generator = torch.Generator().manual_seed(seed)
        self.network[-1].bias = nn.Parameter(torch.randn(5, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


class Other(Made):
    pass


class TestSpecs:
    """Classifiers and denoisers of which no file says all that they are."""

    def test_are_made_by_their_specs_and_filled_with_the_weights(self, tmp_path: Path) -> None:
        original = smoothed(Made(seed=2), Blind())
        specs = {"classifier": "python:m:Made", "denoiser": "python:m:Blind"}
        original.save(tmp_path / "one", shape=(3, 16, 16), **specs)
        made = {"classifier": Made(), "denoiser": Blind()}
        made["denoiser"].share.data.fill_(0.1)  # type: ignore[union-attr, operator]
        loaded = SmoothedClassifier.load(tmp_path / "one", **made, device="cpu")  # type: ignore[arg-type]
        assert counted(loaded) == counted(original)
        for missing, spec in specs.items():
            rest = {role: part for role, part in made.items() if role != missing}
            with pytest.raises(SpecError, match=rf"'{spec}', which runs code"):
                SmoothedClassifier.load(tmp_path / "one", **rest)  # type: ignore[arg-type]

    def test_are_needed(self, tmp_path: Path) -> None:
        for pipeline, role in (
            (smoothed(Made()), "classifier"),
            (smoothed(residual(), Blind()), "denoiser"),
        ):
            with pytest.raises(SettingError, match=rf"weights of the {role}, \w+, .*python:MODULE"):
                pipeline.save(tmp_path / "one", shape=(3, 16, 16))

    def test_other_code_is_refused(self, tmp_path: Path) -> None:
        smoothed(Made()).save(tmp_path / "one", shape=(3, 16, 16), classifier="python:m:Made")
        with pytest.raises(WeightsError, match="differs from the one that was exported"):
            SmoothedClassifier.load(tmp_path / "one", classifier=Other())

    def test_are_made_without_being_given(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parts, "load_classifier", {"checkpoint:made": Made()}.get)
        original = smoothed(Made(seed=2))
        original.save(tmp_path / "one", shape=(3, 16, 16), classifier="checkpoint:made")
        assert counted(SmoothedClassifier.load(tmp_path / "one")) == counted(original)

    def test_torchvision_gets_weights_names_and_sizes_from_the_bundle(self, tmp_path: Path) -> None:
        models = pytest.importorskip("torchvision.models")
        network = models.get_model("squeezenet1_1", weights=None)
        resize = Resize((32, 32), 36, Scaling.SHORTER, Interpolation.BICUBIC)
        classifier = ImageClassifier(network, (0.5,) * 3, (0.25,) * 3, "ab", 32, resize).eval()
        original = smoothed(classifier)
        original.save(tmp_path / "one", classifier="torchvision:squeezenet1_1:DEFAULT")
        loaded = SmoothedClassifier.load(tmp_path / "one")
        assert loaded.fingerprints() == original.fingerprints()
        assert loaded.classifier.resize == resize  # type: ignore[attr-defined]
        with torch.inference_mode():
            for copies in (noisy(2, side=32), noisy(2, side=40)):
                assert torch.equal(loaded.classifier(copies), original.classifier(copies))

    @pytest.mark.parametrize("size", [None, 16, Resize((16, 12))])
    def test_sizes_are_those_of_the_bundle(self, tmp_path: Path, size: int | Resize | None) -> None:
        def made(input_size: int | Resize | None) -> ImageClassifier:
            return ImageClassifier(
                convolutional(), resolution=16, input_size=input_size, label_names="abcde"
            )

        original = smoothed(made(size))
        original.save(tmp_path / "one", classifier="python:m:made")
        loaded = SmoothedClassifier.load(tmp_path / "one", classifier=made(8), device="cpu")
        assert loaded.fingerprints() == original.fingerprints()
        assert counted(loaded) == counted(original)

    def test_are_needed_for_what_is_almost_one_of_ours(self, tmp_path: Path) -> None:
        published = ImageClassifier(ProjectedResNet(8, classes=5), resolution=16).eval()
        resized = residual()
        resized.resize = Resize((32, 32))
        for classifier in (published, resized):
            with pytest.raises(SettingError, match="weights of the classifier, ImageClassifier"):
                smoothed(classifier).save(tmp_path / "one")
        denoiser = DnCNN(depth=3, width=8).eval()
        smoothed(residual(), denoiser).save(tmp_path / "usual")
        assert SmoothedClassifier.load(tmp_path / "usual", device="cpu").denoiser is not denoiser
        denoiser.noise[2].eps = 1e-4  # as in published checkpoints
        with pytest.raises(SettingError, match="weights of the denoiser, DnCNN"):
            smoothed(residual(), denoiser).save(tmp_path / "one")
        original = smoothed(published, denoiser)
        specs = {"classifier": "checkpoint:c", "denoiser": "checkpoint:d"}
        original.save(tmp_path / "one", **specs)
        loaded = SmoothedClassifier.load(
            tmp_path / "one", classifier=published, denoiser=denoiser, device="cpu"
        )
        assert counted(loaded) == counted(original)

    def test_a_diffusion_model_votes_as_it_was_certified(self, tmp_path: Path) -> None:
        pytest.importorskip("diffusers")
        from denoised_smoothing.models.denoisers.diffusion import DiffusionUNet

        torch.manual_seed(0)
        denoiser = DiffusionUNet(size=16, width=8, depth=2).eval()
        denoiser.save(tmp_path / "model", {})
        spec = f"diffusers:{tmp_path / 'model'}?steps=2&samples=2"
        original = smoothed(residual(), catalogue.load_denoiser(spec))
        assert isinstance(original.prepared.pipeline.classifier, EnsembleClassifier)
        original.save(tmp_path / "one", denoiser=spec)
        loaded = SmoothedClassifier.load(tmp_path / "one", device="cpu")
        assert loaded.fingerprints() == original.fingerprints()
        assert counted(loaded, 1) == counted(original, 1)
        with pytest.raises(SettingError, match="weights of the denoiser, DiffusionUNet"):
            smoothed(residual(), denoiser).save(tmp_path / "two")
        with pytest.raises(ImageError, match=r"16x16 pixels, .* got 32x32"):
            original.save(tmp_path / "two", shape=(3, 32, 32), denoiser=spec)


@pytest.mark.parametrize(("engine", "precision"), KINDS)
def test_a_run_goes_on_from_the_bundle(
    tmp_path: Path, engine: EngineName, precision: Precision
) -> None:
    """The settings of the run are those that its specs gave."""
    from denoised_smoothing.datasets import ImageDataset
    from denoised_smoothing.store import Store

    pictures = images(3)
    data = ImageDataset(
        name="folder:made", fingerprint="f", image_ids=["a", "b", "c"], labels=[0, 1, 2],
        read=lambda index: pictures[index],
    )  # fmt: skip
    original = smoothed(residual(), unet(), engine, precision)
    original.save(tmp_path / "one", denoiser="unet")

    def request(pipeline: SmoothedClassifier, **options: Any) -> CertificationRun:
        return CertificationRun(pipeline, data, PLAN, 0.001, "c", "unet", name="run", **options)

    with Store(tmp_path / "runs.sqlite") as store:
        request(original, seed=SEED, limit=1).execute(store)
        request(SmoothedClassifier.load(tmp_path / "one")).execute(store)
        counted_once = {image.image_id: image.counts for image in store.images("run")}
        assert {image.digest for image in store.images("run")} == set(map(digest, pictures))
    with Store(tmp_path / "other.sqlite") as store:
        request(original, seed=SEED).execute(store)
        assert {image.image_id: image.counts for image in store.images("run")} == counted_once


@pytest.mark.parametrize(("engine", "precision"), KINDS[1:2])
def test_a_file_more_in_a_model_is_refused(
    tmp_path: Path, engine: EngineName, precision: Precision
) -> None:
    smoothed(residual(), unet(), engine, precision).save(tmp_path / "one")
    (tmp_path / "one" / "model" / "more").write_text("")
    with pytest.raises(WeightsError, match=r"'model/more', which its bundle\.json does not"):
        SmoothedClassifier.load(tmp_path / "one")


@pytest.mark.parametrize(("engine", "precision"), KINDS[1:2])
@pytest.mark.parametrize("harm", [lambda model: flip(model / "model.bin"), shutil.rmtree])
def test_a_model_that_left_the_cache_is_not_exported(
    tmp_path: Path, engine: EngineName, precision: Precision, harm: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("DENOISED_SMOOTHING_CACHE", str(tmp_path / "cache"))
    pipeline = smoothed(residual(), unet(), engine, precision)
    pipeline.predict(images()[0], n=20, seed=SEED)
    [model] = tmp_path.glob("cache/engines/*/")
    harm(model)
    with pytest.raises(WeightsError, match=r"was removed or altered after it was loaded\. Export"):
        pipeline.save(tmp_path / "one")
    assert not (tmp_path / "one").exists()


def test_records_are_plain_values(torch_bundle: Path) -> None:
    bundle = read_bundle(torch_bundle)
    assert json.loads(json.dumps(bundle.to_dict())) == bundle.to_dict()
    assert replace(bundle, sigma=0.25) != bundle
