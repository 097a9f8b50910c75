"""Every field of a record with odd values: refused by a message, or read as it is."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from denoised_smoothing.errors import DenoisedSmoothingError, SettingError, WeightsError
from denoised_smoothing.smoothing.bundle_file import LARGEST_RECORD, read_bundle
from denoised_smoothing.smoothing.bundle_record import _FIELDS, _OPTIONAL
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

from ..engines.samples import residual, smoothed, unet
from .bundles import change, record_of, write


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "bundle"
    smoothed(residual(), unet()).save(folder)
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


ODD: list[Any] = [
    None, True, False, 0, -1, 3, 1.5, -0.5, 10**12, 10**400, 1e308, "", "x", "2", "torch", "auto",
    "a\ud800b", "\x1b[31m", "\x00", "é", "x" * 2_000_000, "0" * 64, [], [None], ["x"], [1, 2, 3],
    [1, 10**9, 10**9], [3, 16], [3, 16, True], [3, -16, -16], [2, 16, 16], [3, "16", 16],
    ["\ud800"], [[]], nested(50), {}, {"a": 1}, {"a": "b"}, {"calibration": "b"},
    {"../a": "0" * 64}, {"": {}}, {"classifier.safetensors": 1}, {"own.py": "0" * 64},
]  # fmt: skip
FITTING: dict[str, list[Any]] = {
    "sigma": [3, 1.5],
    "resolution": [],
    "forward": [3],
    "label_names": [None, [], ["x"]],
    "engine": ["torch"],
    "engine_version": ["x", "2", "torch", "auto", "é", "0" * 64],
    "classifier": ["x", "2", "torch", "auto", "é", "0" * 64],
    "denoiser": ["x", "2", "torch", "auto", "é", "0" * 64],
    "classifier_fingerprint": ["0" * 64],
    "denoiser_fingerprint": ["0" * 64],
    "calibration": [{}],
    "model_digest": [None],
    "stochastic": [True, False],
    "notes": [[], ["x"]],
}
"""The odd values that a field may have; none for those that are not listed."""


def is_one_of(value: Any, values: list[Any]) -> bool:
    return any(type(value) is type(other) and value == other for other in values)


@pytest.mark.parametrize("field", [*_FIELDS, "format", "files"])
def test_odd_values_are_refused_by_their_name(bundle: Path, field: str) -> None:
    for value in ODD:
        change(bundle, **{field: value})
        if is_one_of(value, FITTING.get(field, [])):
            assert read_bundle(bundle).to_dict()[field] == value
            with contextlib.suppress(DenoisedSmoothingError):  # of another model or version
                SmoothedClassifier.load(bundle, device="cpu")
            continue
        with pytest.raises(WeightsError) as refused:
            read_bundle(bundle)
        message = str(refused.value)
        assert field in message
        assert message.isprintable()
        assert len(message) < 1500
        assert "again" in message or "Update" in message
        with pytest.raises(WeightsError):
            SmoothedClassifier.load(bundle)


@pytest.mark.parametrize("field", [*_FIELDS, "format", "files", "sha256"])
def test_missing_fields(bundle: Path, field: str) -> None:
    record = record_of(bundle)
    del record[field]
    if field in _OPTIONAL:
        assert read_bundle(write(bundle, record)).sigma == 0.5
        return
    if field == "sha256":
        (bundle / "bundle.json").write_text(json.dumps(record))
    else:
        write(bundle, record)
    with pytest.raises(WeightsError, match=rf"KeyError: '{field}'|{field} is missing"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unknown": 1}, "the field 'unknown' is not known"),
        ({"\ud800": 1}, r"the field '\\ud800' is not known"),
        ({"resolution": 32}, r"resolution must be 16 for images of shape \[3, 16, 16\], got 32"),
        (
            {"shape": [3, 16, 8]},
            r"resolution must be None for images of shape \[3, 16, 8\], got 16",
        ),
        ({"forward": 65536, "shape": [3, 1024, 1024], "resolution": 1024}, "must be at most 682"),
        ({"engine": "onnxruntime"}, "model_digest must be 64 hexadecimal digits"),
        ({"model_digest": "0" * 64}, "model_digest must be null for the engine torch"),
        ({"engine": "openvino", "model_digest": "0" * 64}, r"files .* openvino must be the files"),
        ({"calibration": {"calibration": "x"}}, "calibration must be empty for .* float32"),
        (
            {"engine": "openvino", "model_digest": "0" * 64, "files": {}},
            "files must list model/model.xml",
        ),
        ({"format": 2}, "has format 2; .* Update the package"),
        ({"format": -5}, "has format -5; .* Copy the bundle again"),
        ({"format": 1.0}, "has format 1.0"),
    ],
)
def test_values_that_do_not_fit_each_other(
    bundle: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        read_bundle(change(bundle, **changes))


TEXTS: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "number": b"1",
    "text": b'"format"',
    "list": b"[]",
    "unfinished": b'{"format": 1',
    "two": b"{}{}",
    "twice": b'{"format": 1, "format": 1, "sha256": "x"}',
    "twice inside": b'{"format": 1, "sha256": "x", "files": {"a": 1, "a": 2}}',
    "NaN": b'{"format": 1, "sha256": "x", "sigma": NaN}',
    "infinity": b'{"format": 1, "sha256": "x", "sigma": -Infinity}',
    "digits": b'{"format": 1, "sha256": "x", "sigma": ' + b"9" * 5000 + b"}",
    "nested": b'{"format": 1, "sha256": "x", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "BOM": b'\xef\xbb\xbf{"format": 1, "sha256": "x"}',
    "UTF-16": '{"format": 1, "sha256": "x"}'.encode("utf-16"),
    "Latin-1": '{"format": 1, "sha256": "é"}'.encode("latin-1"),
    "zeros": bytes(1000),
    "large": b'{"format": 1, "sha256": "' + b"x" * LARGEST_RECORD + b'"}',
}


@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS)
def test_records_that_are_no_object_of_json(bundle: Path, content: bytes) -> None:
    (bundle / "bundle.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"is not a complete bundle: .* Name a folder") as error:
        read_bundle(bundle)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1500


def test_a_record_of_a_gigabyte_is_not_read(bundle: Path) -> None:
    with (bundle / "bundle.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(WeightsError, match="must be at most 8388608 bytes"):
        read_bundle(bundle)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(
    max_examples=300, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(changes=st.dictionaries(st.sampled_from([*_FIELDS, "format", "files", "x"]), JSON))
def test_any_value_in_any_field(bundle: Path, made: Path, changes: dict[str, Any]) -> None:
    write(bundle, record_of(made) | changes)
    with contextlib.suppress(WeightsError):
        found = read_bundle(bundle).to_dict()
        assert {name: found[name] for name in changes if name in found} == {
            name: value for name, value in changes.items() if name in found
        }


@pytest.mark.parametrize("name", ["a\ud800b", "\x1b[2J", "x" * 20_000], ids=range(3))
def test_a_bundle_that_would_be_refused_is_not_written(tmp_path: Path, name: str) -> None:
    classifier = residual()
    classifier.label_names = (name, "b", "c", "d", "e")
    with pytest.raises(
        SettingError, match=r"Cannot write .* label_names must be a list .* Correct"
    ):
        smoothed(classifier).save(tmp_path / "one")
    assert list(tmp_path.iterdir()) == []
