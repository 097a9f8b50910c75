"""specs.py: parsed specs, sources of other packages, and specs of loaded objects."""

from __future__ import annotations

import copy
import gc
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest
import torch

from denoised_smoothing import load_classifier, load_denoiser
from denoised_smoothing.errors import DenoisedSmoothingError, MissingExtraError, SpecError
from denoised_smoothing.models import specs
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.models.specs import (
    Role,
    Source,
    Spec,
    list_sources,
    open_spec,
    remember_spec,
    resolve,
    spec_of,
)

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

    @pytest.mark.parametrize(
        ("tail", "said"),
        [
            ("mena=1", "option 'mena' is not known. Did you mean mean. Known: mean, std"),
            ("mean=1&x=2", "option 'x' is not known. Known: mean, std"),
            ("mean", "option 'mean' is not complete. Write .*, with the names mean, std"),
            ("mean=", "option 'mean=' is not complete. Write .*, with the names mean, std"),
            ("mean=1&&std=1", "option 'mean=1&' is not complete. Write .* the names mean, std"),
            ("", "option '' is not complete. Write .*, with the names mean, std"),
        ],
    )
    def test_an_unknown_option_is_refused_with_the_known_ones(self, tail: str, said: str) -> None:
        with pytest.raises(SpecError, match=said):
            resolve(Role.CLASSIFIER, f"onnx:a.onnx?{tail}")

    @pytest.mark.parametrize(
        ("spec", "rest", "options"),
        [
            ("zero-shot:x?labels=R&D,black & white", "x", {"labels": "R&D,black & white"}),
            ("zero-shot:x?template=a {}?&labels=a,b", "x", {"template": "a {}?", "labels": "a,b"}),
            ("onnx:a#mean=1.onnx?std=1", "a#mean=1.onnx", {"std": "1"}),
            ("aws", "", {}),
            ("aws?size=96&min-confidence=10", "", {"size": "96", "min_confidence": "10"}),
            ("aws:?size=96", "", {"size": "96"}),
            ("openai:m?prompt=Item #1?&labels=a,b", "m", {"prompt": "Item #1?", "labels": "a,b"}),
            ("simulated?weights=a=0.9,b=0.1", "", {"weights": "a=0.9,b=0.1"}),
        ],
    )
    def test_values_keep_their_signs(self, spec: str, rest: str, options: dict[str, str]) -> None:
        _, parsed = resolve(Role.CLASSIFIER, spec)
        assert (parsed.rest, parsed.options) == (rest, options)

    @pytest.mark.parametrize(
        ("spec", "url", "options"),
        [
            ("http:http://h/x", "http://h/x", {}),
            ("http://h/x", "http://h/x", {}),
            ("https://h/x?a=1&b=2", "https://h/x?a=1&b=2", {}),
            ("http:http://h/x?label=p[0].name", "http://h/x", {"label": "p[0].name"}),
            ("https://h/x?a=1&b=2?size=9", "https://h/x?a=1&b=2", {"size": "9"}),
            ("http://h/x?a=1&size=2?size=9", "http://h/x?a=1&size=2", {"size": "9"}),
            ("http://h/x?&size=2?size=9", "http://h/x?&size=2", {"size": "9"}),
            ("http:http://h/x?a=?b?label=p", "http://h/x?a=?b", {"label": "p"}),
            ("http://h/x?label=p[?a=='b'].c", "http://h/x", {"label": "p[?a=='b'].c"}),
            ("http://h/x?label=a && b", "http://h/x", {"label": "a && b"}),
            (
                "http://h/x?key=1?label=max_by(p, &s).name&body=json",
                "http://h/x?key=1",
                {"label": "max_by(p, &s).name", "body": "json"},
            ),
            ("http://h/x?label=sort_by(p,&a=='b')", "http://h/x", {"label": "sort_by(p,&a=='b')"}),
        ],
    )
    def test_urls_keep_their_query(self, spec: str, url: str, options: dict[str, str]) -> None:
        _, parsed = resolve(Role.CLASSIFIER, spec)
        assert (parsed.rest, parsed.options) == (url, options)

    @pytest.mark.parametrize(
        ("spec", "new"),
        [
            ("aws#size=96#min-confidence=10", "aws?size=96&min-confidence=10"),
            ("simulated#weights=a=1,b=2#latency=0.1", "simulated?weights=a=1,b=2&latency=0.1"),
            ("openai:m#labels=a,b#prompt=What? A&B", "openai:m?labels=a,b&prompt=What? A&B"),
            ("http:http://h/x#label=max_by(p, &s).n", "http:http://h/x?label=max_by(p, &s).n"),
            ("http://h/x?a=1&b=2#size=9#body=json", "http://h/x?a=1&b=2?size=9&body=json"),
            ("http://h/x?size=2#size=9", "http://h/x?&size=2?size=9"),
        ],
    )
    def test_the_earlier_form_is_read_and_the_new_one_named(
        self, spec: str, new: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)  # also where a test before has disabled it
        _, old = resolve(Role.CLASSIFIER, spec)
        assert [record.getMessage() for record in caplog.records] == [
            f"note: #name=value in {spec!r} is an earlier form of options. Write {new!r}"
        ]
        caplog.clear()
        _, parsed = resolve(Role.CLASSIFIER, new)
        assert not caplog.records
        assert parsed.options == old.options
        assert parsed.rest.replace("?&", "?") == old.rest

    def test_nothing_is_expected_behind_a_scheme_without_a_rest(self) -> None:
        with pytest.raises(SpecError, match=r"'aws:x': 'x' is not expected. Write aws$"):
            resolve(Role.CLASSIFIER, "aws:x")

    def test_an_option_behind_those_of_a_url_is_no_query(self) -> None:
        said = r"'key' is not known. .* A query of the URL stands before the options: URL\?query\?N"
        with pytest.raises(SpecError, match=said):
            resolve(Role.CLASSIFIER, "http://h/x?label=p&key=1")

    def test_given(self) -> None:
        spec = Spec("s", "s", "r", {"n": "3", "x": "0.5", "bad": "y"})
        assert spec.given(n=int, x=float, absent=int) == {"n": 3, "x": 0.5}
        with pytest.raises(SpecError, match="'s': bad must be a whole number, got 'y'"):
            spec.given(bad=int)

    def test_numbers(self) -> None:
        spec = Spec("s", "s", "r", {"mean": "0.5,1", "n": "3", "bad": "0.5,x", "zero": "0"})
        assert spec.numbers("mean") == (0.5, 1.0)
        assert spec.numbers("absent") is None
        assert (spec.number("n", 1), spec.number("absent", 7)) == (3, 7)
        with pytest.raises(SpecError, match=r"bad must be numbers such as .*, got '0\.5,x'"):
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
        with pytest.raises(SpecError, match=r"or a file of UTF-8 with one a line .*, got 'cat'"):
            spec.names("c")
        with pytest.raises(
            SpecError, match=r"d must be at least two names between commas, .*, got 'cat,'"
        ):
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
        monkeypatch.setattr(specs, "resolve", lambda role, text: (broken, Spec(text, "x", "y")))
        with pytest.raises(SpecError, match="ImportError: a library of the system"):
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
        env={**os.environ, "PYTHONPATH": f"{installed}:{os.environ.get('PYTHONPATH', '')}"},
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
        assert (
            rows["classifiers", "python:MODULE:FACTORY"]["what"] == "the return value of FACTORY()"
        )

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
            ("brightnes:x", r"Did you mean brightness:THRESHOLD\?"),
            ("brightness:", "is not complete. Write brightness:THRESHOLD"),
            ("brightness:0.4?steep=3", "'steep' is not known. .*Known: steepness"),
        ],
    )
    def test_errors(
        self, installed: Path, monkeypatch: pytest.MonkeyPatch, spec: str, said: str
    ) -> None:
        monkeypatch.syspath_prepend(installed)
        specs._entries.cache_clear()
        try:
            with pytest.raises(DenoisedSmoothingError, match=said):
                load_classifier(spec)
        finally:
            specs._entries.cache_clear()


class Slotted:
    __slots__ = ()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def __eq__(self, other: object) -> bool:  # and so it has no hash
        return True


class TestSpecOf:
    @pytest.mark.parametrize(
        "thing",
        [
            pytest.param(torch.nn.Linear(1, 1), id="module"),
            pytest.param(lambda images: images, id="function"),
            pytest.param(partial(max, 0), id="partial"),
            pytest.param(Slotted(), id="slots without a hash"),
            pytest.param(Slotted().__call__, id="method"),
        ],
    )
    def test_is_kept_outside_of_the_object(self, thing: object) -> None:
        before = fingerprint(thing)
        assert spec_of(thing) is None
        assert remember_spec(thing, "a:b") is thing
        assert spec_of(thing) == "a:b"
        assert fingerprint(thing) == before
        remember_spec(thing, "a:c")
        assert spec_of(thing) == "a:c"

    def test_another_object_has_none(self) -> None:
        linear = remember_spec(torch.nn.Linear(1, 1), "a:b")
        assert spec_of(copy.deepcopy(linear)) is None
        assert spec_of(pickle.loads(pickle.dumps(linear))) is None
        assert spec_of(linear.to("cpu")) == "a:b"
        for _ in range(100):  # some get the id of one before
            assert spec_of(torch.nn.Linear(1, 1)) is None
            remember_spec(torch.nn.Linear(1, 1), "a:b")
        assert spec_of(None) is None

    def test_forgets_what_is_gone(self) -> None:
        gc.collect()
        before = len(specs._loaded_by)
        linear = remember_spec(torch.nn.Linear(1, 1), "a:b")
        assert len(specs._loaded_by) == before + 1
        del linear
        gc.collect()
        assert len(specs._loaded_by) == before

    @pytest.mark.parametrize("spec", ["digits", "simulated?price=1", "aws#size=96"])
    def test_classifiers_know_theirs(self, spec: str) -> None:
        assert spec_of(load_classifier(spec)) == spec

    def test_denoisers_know_theirs(self) -> None:
        for spec in ("digits-mse", "mean:digits-mse?mirror=yes"):
            assert spec_of(load_denoiser(spec)) == spec
        assert spec_of(load_denoiser("none")) is None
