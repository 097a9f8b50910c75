"""plugins.py: specs taken apart, and sources that other packages bring."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from denoised_smoothing import load_classifier
from denoised_smoothing.errors import DenoisedSmoothingError, MissingExtraError, SpecError
from denoised_smoothing.models import specs as plugins
from denoised_smoothing.models.specs import Role, Source, Spec, list_sources, open_spec, resolve

PLUGIN = Path(__file__).parents[1] / "plugin"


class TestSpec:
    def test_taken_apart(self) -> None:
        _, spec = resolve(Role.CLASSIFIER, "onnx:a:b.onnx?mean=0.5&labels=cat,dog")
        assert spec == Spec(
            "onnx:a:b.onnx?mean=0.5&labels=cat,dog",
            "onnx",
            "a:b.onnx",
            {"mean": "0.5", "labels": "cat,dog"},
        )

    def test_without_options_a_question_mark_is_part_of_the_name(self) -> None:
        _, spec = resolve(Role.DENOISER, "unet:what?.safetensors")
        assert (spec.rest, spec.options) == ("what?.safetensors", {})

    @pytest.mark.parametrize("tail", ["mena=1", "mean", "mean=", "mean=1&&std=1", ""])
    def test_an_unknown_option_is_refused_with_the_known_ones(self, tail: str) -> None:
        said = r"option '.*' is not known; write NAME=VALUE, joined by &, with the names mean, std"
        with pytest.raises(SpecError, match=said):
            resolve(Role.CLASSIFIER, f"onnx:a.onnx?{tail}")

    def test_numbers(self) -> None:
        spec = Spec("s", "s", "r", {"mean": "0.5,1", "n": "3", "bad": "0.5,x", "zero": "0"})
        assert spec.numbers("mean") == (0.5, 1.0)
        assert spec.numbers("absent") is None
        assert (spec.number("n", 1), spec.number("absent", 7)) == (3, 7)
        with pytest.raises(SpecError, match=r"bad takes numbers such as .*, got '0\.5,x'"):
            spec.numbers("bad")
        for name in ("zero", "bad"):
            with pytest.raises(SpecError, match=f"{name} must be a whole number above 0, got"):
                spec.number(name, 1)

    def test_names(self, tmp_path: Path) -> None:
        path = tmp_path / "labels.txt"
        path.write_text("big cat\ndog\n\n")
        spec = Spec("s", "s", "r", {"a": "cat, dog", "b": str(path), "c": "cat", "d": "cat,"})
        assert spec.names("a") == ("cat", "dog")
        assert spec.names("b") == ("big cat", "dog")
        assert spec.names("absent") is None
        with pytest.raises(SpecError, match="a file with one a line, and there is no file 'cat'"):
            spec.names("c")
        with pytest.raises(SpecError, match=r"needs at least two names, got \('cat',\)"):
            spec.names("d")


class TestMissing:
    SOURCE = Source(lambda spec: spec, "x:Y", "x", package="no_such_package", extra="xyz")

    def test_a_source_knows_what_it_lacks(self) -> None:
        assert Source(lambda spec: spec, "x:Y", "x").missing is None
        assert Source(lambda spec: spec, "x:Y", "x", package="torch").missing is None
        assert "'denoised-smoothing[xyz]'" in str(self.SOURCE.missing)

    @pytest.mark.parametrize(
        ("role", "spec", "package", "extra"),
        [
            (Role.CLASSIFIER, "timm:resnet18", "timm", "timm"),
            (Role.CLASSIFIER, "hf:x", "transformers", "hf"),
            (Role.CLASSIFIER, "zero-shot:x?labels=a,b", "transformers", "hf"),
            (Role.CLASSIFIER, "onnx:x.onnx", "onnxruntime", "onnxruntime"),
            (Role.CLASSIFIER, "torchvision:resnet18", "torchvision", "torchvision"),
        ],
    )
    def test_an_extra_is_named_when_its_package_is_missing(
        self, monkeypatch: pytest.MonkeyPatch, role: Role, spec: str, package: str, extra: str
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=rf"'{package}'.*'denoised-smoothing\[{extra}"):
            open_spec(role, spec)
        row = next(r for r in list_sources(role) if r["spec"].startswith(spec.split(":")[0] + ":"))
        assert row["missing"] == f"pip install 'denoised-smoothing[{extra}]'"

    def test_another_import_error_is_not_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(spec: Spec) -> None:
            raise ImportError("a library of the system is missing")

        broken = Source(fail, "x:Y", "x", package="torch")
        monkeypatch.setattr(plugins, "resolve", lambda role, text: (broken, Spec(text, "x", "y")))
        with pytest.raises(ImportError, match="a library of the system"):
            open_spec(Role.CLASSIFIER, "x:y")


def test_every_source_is_registered_with_a_form_and_a_line() -> None:
    for role in Role:
        for entry in metadata.entry_points(group=role.group):
            source = entry.load()
            assert isinstance(source, Source)
            assert source.form.startswith(entry.name)
            assert source.what
            assert len(source.what) < 60


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the plug-in was installed, as pip does, from a copy of its sources."""
    folder = tmp_path_factory.mktemp("installed")
    sources = shutil.copytree(PLUGIN, tmp_path_factory.mktemp("sources") / "plugin")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--target", str(folder)]
    subprocess.run([*command, str(sources)], check=True, capture_output=True)
    return folder


def command(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "denoised_smoothing", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )


class TestInstalledPlugin:
    def test_is_listed_and_says_what_it_lacks(self, installed: Path, tmp_path: Path) -> None:
        done = command(installed, tmp_path, "list", "--json")
        assert done.returncode == 0, done.stderr
        rows = {(row["kind"], row["spec"]): row for row in json.loads(done.stdout)}
        assert rows["classifiers", "brightness:THRESHOLD"]["what"] == "dark or bright"
        assert rows["classifiers", "lacking:X"]["missing"] == "pip install no_such_package"
        assert "cannot be loaded (AttributeError" in rows["classifiers", "broken:"]["missing"]
        assert ("denoisers", "dimmer:SHARE") in rows
        assert ("datasets", "greys:COUNT") in rows
        assert rows["classifiers", "python:MODULE:FACTORY"]["what"] == "what FACTORY() returns"

    def test_certifies(self, installed: Path, tmp_path: Path) -> None:
        arguments = ["--classifier", "brightness:0.4?steepness=3", "--denoiser", "dimmer:0.1"]
        limits = ["--sigma", "0.1", "--n0", "10", "--n", "100", "--json"]
        done = command(installed, tmp_path, "certify", "greys:4", *arguments, *limits)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["runs"]

    @pytest.mark.parametrize(
        ("spec", "said"),
        [
            ("broken:x", r"plug-in 'broken' \(brightness_plugin:no_such_name\) cannot be loaded"),
            ("lacking:x", "lacking:X needs .* Install it with: pip install no_such_package"),
            ("brightnes:x", r"did you mean brightness:THRESHOLD\?"),
            ("brightness:", "is not complete; write brightness:THRESHOLD"),
            ("brightness:0.4?steep=3", "'steep=3' is not known; .* the names steepness"),
        ],
    )
    def test_errors(
        self, installed: Path, monkeypatch: pytest.MonkeyPatch, spec: str, said: str
    ) -> None:
        monkeypatch.syspath_prepend(installed)
        plugins._entries.cache_clear()
        try:
            with pytest.raises(DenoisedSmoothingError, match=said):
                load_classifier(spec)
        finally:
            plugins._entries.cache_clear()
