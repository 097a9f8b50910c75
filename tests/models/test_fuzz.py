"""Damaged and odd lists of labels: they are read, or an error of ours says why not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from denoised_smoothing.cli.options import read_labels
from denoised_smoothing.errors import SettingError, SpecError, WeightsError
from denoised_smoothing.models.catalogue import load_classifier
from denoised_smoothing.models.labels import match_labels
from denoised_smoothing.models.specs import Spec

from ..fuzz import damaged, survives, with_odd_value

NAMES = ["cat", "dog", "fox", "owl"]
NUMBERED = {str(number): name for number, name in enumerate(NAMES)}
TEXTS = (
    "", "#", "cat", "cat,dog,fox,owl", "~nobody-of-that-name/x", "\0", "x" * 5000, "[", "{}", "[[",
    "0 a\n0 b", "0 a\n1 b", "1" * 5000 + " a\n1 b", "[1,2]", "[" * 100_000, '{"a": 1.5}',
    '{"a": null}', '{"x": "y"}', '["a", ["b", null]]', '{"a": 0, "b": 0}', "\ufeffcat\ndog",
)  # fmt: skip


def file_of_names(dice: random.Random, number: int) -> bytes:
    held = (NAMES, NUMBERED, {name: n for n, name in enumerate(NAMES)}, [[n, n] for n in NAMES])
    lines = ["\n".join(NAMES), "\n".join(f"{n}: {name}" for n, name in NUMBERED.items())]
    if number % 3 == 0:
        return json.dumps(with_odd_value(dice.choice(held), dice)).encode()
    if number % 3 == 1:
        return dice.choice(TEXTS).encode(errors="replace")
    return damaged(dice.choice((*lines, ",".join(NAMES))).encode(), dice)


def test_labels_of_a_spec(tmp_path: Path) -> None:
    path = tmp_path / "names"

    def make(dice: random.Random, number: int) -> None:
        path.write_bytes(file_of_names(dice, number))
        text = dice.choice(TEXTS) if number % 5 == 0 else str(path)
        names = Spec("x", "x", "x", {"labels": text}).names("labels")
        assert names is not None
        assert len(names) > 1
        assert all(isinstance(name, str) and name for name in names)

    survives(make, 400)


def test_labels_of_a_run(tmp_path: Path) -> None:
    path, text = tmp_path / "pairs", "cat = 1\ndog = owl\n# comment\nfox = 3"
    sides = (
        "cat",
        "dog",
        "1",
        "owl",
        "",
        "9" * 30,
        "-1",
        "1.5",
        "n02504458",
        "CAT",
        "\0",
        "=",
        "x" * 999,
    )

    def make(dice: random.Random, number: int) -> None:
        lines = [f"{dice.choice(sides)} = {dice.choice(sides)}" for _ in range(dice.randrange(4))]
        content = "\n".join(lines).encode() if number % 2 else damaged(text.encode(), dice)
        path.write_bytes(content)
        file = Path(dice.choice(TEXTS)) if number % 10 == 0 else path
        given = read_labels(file)
        classes, labels = dice.choice((NAMES[:3], None)), dice.choice((NAMES, None))
        match = match_labels(classes, [0, 1, 2, None], labels, given)
        assert all(type(label) is int and label >= 0 for label in match.numbers.values())

    survives(make, 400)


def test_the_home_of_nobody() -> None:
    with pytest.raises(SettingError, match=r"--labels must be .*No such file or directory"):
        read_labels(Path("~nobody-of-that-name/x"))
    with pytest.raises(SpecError, match=r"labels must be .*No such file or directory"):
        Spec("x", "x", "x", {"labels": "~nobody-of-that-name/x"}).names("labels")
    for spec in ("hf:{}", "checkpoint:{}?arch=resnet18", "torchvision:resnet18:{}.pth", "onnx:{}"):
        with pytest.raises(WeightsError, match=r"no (folder|weights file|ONNX file) ~nobody-of"):
            load_classifier(spec.format("~nobody-of-that-name/x"))
