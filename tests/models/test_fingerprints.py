"""fingerprints.py: what they see, and what makes no difference to them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing.models.classifiers.base import ImageClassifier, check_channels
from denoised_smoothing.models.classifiers.cifar_resnet import CifarResNet
from denoised_smoothing.models.denoisers.unet import UNet
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.models.weights import fill, load_weights, save_weights


def network(seed: int = 0, width: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width))


class Wrap:
    """A callable that is no module and holds one."""

    def __init__(self, network: object, bias: float = 0.0) -> None:
        self.network, self.bias = network, bias

    def classify(self, images: Tensor) -> Tensor:
        return self.network(images) + self.bias

    __call__ = classify


def biased(network: object, bias: float, images: Tensor) -> Tensor:
    return network(images) + bias


def partial_of(network: object, bias: float = 0.0) -> object:
    return partial(biased, network, bias)


def method_of(network: object, bias: float = 0.0) -> object:
    return Wrap(network, bias).classify


class TestFingerprint:
    def test_is_the_same_after_a_reload_and_in_another_layout(self, tmp_path: Path) -> None:
        original, other = network(), network(seed=1)
        before = fingerprint(original)
        save_weights(tmp_path / "net", original, {})
        fill(other, load_weights(tmp_path / "net")[0], "net")
        assert fingerprint(other) == before
        assert fingerprint(original.to(memory_format=torch.channels_last).eval()) == before

    @pytest.mark.parametrize("name", list(network().state_dict()))
    def test_differs_when_one_weight_does(self, name: str) -> None:
        changed = network()
        tensor = changed.state_dict()[name]
        tensor.view(-1)[-1] += 1
        assert fingerprint(changed) != fingerprint(network())

    def test_differs_by_precision_type_and_name_of_weights(self) -> None:
        class Other(nn.Sequential):
            pass

        modules = [
            network(),
            network().half(),
            Other(*network()),
            nn.Sequential(nn.Identity(), *network()),
            nn.Identity(),
        ]
        assert len({fingerprint(module) for module in modules}) == len(modules)

    def test_of_functions_is_that_of_names_code_and_what_they_hold(self) -> None:
        def scaled(factor: float) -> Callable[[Tensor], Tensor]:
            return lambda images: images * factor

        assert fingerprint(network) == fingerprint(network) != fingerprint(made)
        assert fingerprint(scaled(2.0)) == fingerprint(scaled(2.0)) != fingerprint(scaled(3.0))

    @pytest.mark.parametrize(
        "wrap", [Wrap, partial_of, method_of], ids=["object", "partial", "bound"]
    )
    def test_follows_what_wraps_a_network(self, wrap: Callable[..., object]) -> None:
        same = fingerprint(wrap(network()))
        assert fingerprint(wrap(network())) == same
        assert fingerprint(wrap(network(seed=1))) != same
        assert fingerprint(wrap(network(), bias=2.0)) != same

    def test_of_a_module_counts_its_plain_settings(self) -> None:
        def enlarging(size: int) -> ImageClassifier:
            return ImageClassifier(nn.Identity(), input_size=size)

        assert fingerprint(enlarging(8)) == fingerprint(enlarging(8)) != fingerprint(enlarging(9))
        assert fingerprint(nn.LeakyReLU(0.1)) != fingerprint(nn.LeakyReLU(0.2))

    def test_of_things_that_hold_each_other_ends(self) -> None:
        one, other = Wrap(network()), Wrap(network())
        one.network, other.network = other, one
        assert fingerprint(one)


def test_a_fingerprint_sees_numbers_and_methods_in_the_code() -> None:
    """An edited preprocessing must not pass for the classifier that was certified."""

    def twice(images: torch.Tensor) -> torch.Tensor:
        return images * 2.5

    first = twice

    def twice(images: torch.Tensor) -> torch.Tensor:  # type: ignore[no-redef]
        return images * 3.5

    assert fingerprint(first) != fingerprint(twice)


def made(module: str) -> nn.Module:
    """What a user's module called ``mine`` makes."""
    names = {"Module": nn.Module, "__name__": "mine"}
    exec(compile(module, "mine.py", "exec"), names)
    return names["Mine"]()


MINE = """
from functools import cached_property, lru_cache, partial
from torch.nn import Linear

SCALE, SIGNS, TABLE = 2, [1.0], {"gain": 1}

@lru_cache
def gain():
    return 10

halved = partial(pow, 0.5)

def shifted(images):
    return images + 1

class Mine(Module):
    'What it is.'
    sizes, taps = (1, 2), [7, 8]

    @cached_property
    def offset(self):
        return 20

    def forward(self, images):
        images = images * SIGNS[0] + TABLE["gain"] * gain() + halved()
        return [shifted(part) * SCALE for part in images if part.ndim in {3, 4}]
"""


@pytest.mark.parametrize(
    ("written", "edited"),
    [
        ("= 2, [", "= 3, ["),
        ("[1.0]", "[-1.0]"),
        ('"gain": 1', '"gain": 2'),
        ("return 10", "return 11"),
        ("pow, 0.5", "pow, 0.25"),
        ("return 20", "return 21"),
        ("[7, 8]", "[7, 9]"),
        ("images + 1", "images + 2"),
        ("(1, 2)", "(1, 3)"),
        ("{3, 4}", "{3, 5}"),
    ],
)
def test_a_fingerprint_sees_what_a_method_uses(written: str, edited: str) -> None:
    assert fingerprint(made(MINE)) == fingerprint(made(MINE))
    assert written in MINE
    assert fingerprint(made(MINE)) != fingerprint(made(MINE.replace(written, edited)))
    assert fingerprint(made(MINE)) == fingerprint(made(MINE.replace("What it is", "And how")))


def test_a_fingerprint_does_not_depend_on_where_the_source_was_compiled(tmp_path: Path) -> None:
    """Read from a cache of compiled code, equal constants are other objects."""
    (tmp_path / "mine.py").write_text("from torch.nn import Module\n" + MINE)
    code = (
        "import mine; from denoised_smoothing.models.fingerprints import fingerprint; "
        "print(fingerprint((mine.Mine(), mine.shifted)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "random", "PYTHONDONTWRITEBYTECODE": ""}
    printed = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment,
            capture_output=True, text=True, check=True,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert list((tmp_path / "__pycache__").iterdir())
    assert printed[0] == printed[1]


def test_a_fingerprint_sees_the_network_that_a_function_finds_in_its_module() -> None:
    scope = {"__name__": "mine", "net": network()}
    exec("def classify(images): return net(images)", scope)
    before = fingerprint(scope["classify"])
    scope["net"] = network(seed=1)
    assert fingerprint(scope["classify"]) != before


@dataclass(frozen=True, slots=True)
class Slotted:
    gain: float


def scripted(gain: float) -> torch.jit.ScriptModule:
    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(gain))

        def forward(self, images: Tensor) -> Tensor:
            return images * self.gain

    return torch.jit.trace(Gain().eval(), torch.ones(1))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(
    "make",
    [
        Slotted,
        np.float32,
        lambda value: slice(value),
        lambda value: deque([value]),
        scripted,
        lambda value: torch.jit.freeze(scripted(value)),
        lambda value: torch.tensor([0.0, value]).to_sparse(),
    ],
)
def test_a_fingerprint_sees_what_is_not_in_a_dictionary(make: Callable[[float], object]) -> None:
    assert fingerprint(make(2.0)) == fingerprint(make(2.0)) != fingerprint(make(3.0))


@pytest.mark.parametrize("kind", [CifarResNet, ImageClassifier, UNet])
def test_own_code_counts_by_name_without_its_module(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moving a file of the package must not change the fingerprint of a stored run."""
    before = fingerprint(kind)
    monkeypatch.setattr(kind, "__module__", "denoised_smoothing.another.place")
    assert fingerprint(kind) == before
    monkeypatch.setattr(kind, "__module__", "timm.models")
    assert fingerprint(kind) != before


def test_own_functions_count_by_name_without_their_module(monkeypatch: pytest.MonkeyPatch) -> None:
    held = partial(check_channels, 3)
    before = fingerprint(held)
    monkeypatch.setattr(check_channels, "__module__", "denoised_smoothing.another.place")
    assert fingerprint(held) == before != fingerprint(partial(fill, 3))


def test_which_module_is_used_twice_makes_a_difference() -> None:
    first, second = network(), network(seed=1)
    assert fingerprint(nn.Sequential(first, second, first)) != fingerprint(
        nn.Sequential(first, second, second)
    )


def test_hooks_are_their_functions_and_not_their_numbers() -> None:
    def hooked() -> nn.Module:
        module = nn.utils.parametrizations.weight_norm(network()[0])
        module.register_forward_hook(made)
        return module

    assert fingerprint(hooked()) == fingerprint(hooked())


def test_a_set_of_functions_is_the_same_in_any_order() -> None:
    assert fingerprint({made, network}) == fingerprint({network, made})


def test_of_a_compiled_module_the_module_counts() -> None:
    first, second, other = (torch.compile(network(seed)) for seed in (0, 0, 1))
    assert fingerprint(first) == fingerprint(second) != fingerprint(other)


def test_what_has_no_module_or_no_numbers_yet_has_a_fingerprint() -> None:
    assert fingerprint(torch.Tensor.relu)
    assert fingerprint(nn.LazyLinear(3))


def test_modules_that_know_each_other_come_to_an_end() -> None:
    first, second = ModuleType("mine.first"), ModuleType("mine.second")
    first.second, second.first, second.gain = second, first, 2  # type: ignore[attr-defined]
    scope = {"__name__": "mine", "first": first, "second": second}
    exec("def classify(images): return first.second.gain * second.first.gain", scope)
    before = fingerprint(scope["classify"])
    second.gain = 3  # type: ignore[attr-defined]
    assert fingerprint(scope["classify"]) != before
