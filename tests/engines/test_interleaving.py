"""Two calls in turn, attributes that change, and the module where outputs begin to differ."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing.engines import interleaving
from denoised_smoothing.engines.interleaving import (
    StuckError,
    attributes,
    differing_module,
    interleaved,
)


def test_calls_take_turns_at_every_operation() -> None:
    order: list[str] = []

    def call(name: str) -> Callable[[], Tensor]:
        def work() -> Tensor:
            value = torch.ones(2)
            for step in range(3):
                value = value + 1
                order.append(f"{name}{step}")
            return value

        return work

    (first, second), _ = interleaved([call("a"), call("b")])
    assert order[:3] == ["a0", "a1", "a2"], "one call by itself shows the order of its steps"
    assert order[3:] == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert first.tolist() == second.tolist() == [4, 4]


def test_a_stack_shared_by_two_calls_gives_each_the_value_of_the_other() -> None:
    stack: list[Tensor] = []

    def call(number: float) -> Tensor:
        stack.append(torch.full((1,), number))
        torch.zeros(1)
        return stack.pop(0) if number == 1 else stack.pop()

    own, resized = interleaved([partial(call, 1), partial(call, 2)], [stack])
    assert [float(t) for t in own] == [1, 2]
    assert resized
    others, resized = interleaved([partial(call, 2), partial(call, 3)])
    assert [float(t) for t in others] == [3, 2]
    assert not resized


@pytest.mark.parametrize("steps", [(0, 30), (30, 0), (7, 30)])
def test_values_meet_also_where_one_call_does_more_before(steps: tuple[int, int]) -> None:
    kept: list[Tensor] = []

    def call(number: int) -> Tensor:
        count = 0
        while count < steps[number]:
            count += 1
        kept[:] = [torch.full((1,), number)]
        torch.zeros(1)
        return kept[0]

    answers, _ = interleaved([lambda: call(0), lambda: call(1)])
    assert [int(answer) for answer in answers] != [0, 1]


def test_values_meet_also_where_garbage_is_collected_in_one_call() -> None:
    kept: list[Tensor] = []

    def collect(once: list[str]) -> None:
        if once:
            once.pop()
            once = [str(number) for number in range(3)]
            for text in once:
                text.upper()

    def call(number: int) -> Tensor:
        kept[:] = [torch.full((1,), number)]
        if threading.current_thread().name == "interleaved 0":
            collect(["once"])
        kept[0] = torch.full((1,), number)
        torch.zeros(1)
        return kept[0]

    answers, _ = interleaved([lambda: call(0), lambda: call(1)])
    assert [int(answer) for answer in answers] != [0, 1]


def test_a_call_that_waits_for_a_lock_of_the_other_ends_and_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interleaving, "PATIENCE", 0.05)
    lock = threading.Lock()

    def call(number: float) -> Tensor:
        with lock:
            return torch.full((1,), number) + 1

    with pytest.raises(StuckError):
        interleaved([lambda: call(1), lambda: call(2)])
    assert not lock.locked()


def test_the_error_of_a_call_is_raised_and_ends_both() -> None:
    def fails() -> Tensor:
        torch.zeros(1)
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError, match="no"):
        interleaved([fails, lambda: torch.zeros(1) + 1])
    assert not [thread for thread in threading.enumerate() if "interleaved" in thread.name]


class Held:
    """An object on a module."""

    def __init__(self) -> None:
        self.value = 0


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.number, self.items, self.table, self.held = 1, [1], {"a": 1}, Held()
        self.shape = (3, 4)
        self.register_buffer("buffer", torch.zeros(2))
        self.layer = nn.Linear(2, 2)
        self.layer.note = torch.zeros(1)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda m: setattr(m, "number", 2), "number"),
        (lambda m: m.items.append(2), "items"),
        (lambda m: m.items.__setitem__(0, 2), "items"),
        (lambda m: m.table.update(a=2), "table"),
        (lambda m: setattr(m.held, "value", 2), "held"),
        (lambda m: m.buffer.add_(1), "buffer"),
        (lambda m: setattr(m.layer, "note", torch.zeros(1)), "layer.note"),
        (lambda m: m.layer.note.add_(1), "layer.note"),
    ],
)
def test_an_attribute_that_changes_is_found(change: Callable[[Module], object], name: str) -> None:
    module = Module()
    before = attributes(module)
    change(module)
    after = attributes(module)
    assert [key for key in after if after[key] != before[key]] == [name]


def test_an_equal_value_is_no_change() -> None:
    module = Module()
    before = attributes(module)
    module.number, module.shape = 1, tuple([3, 4])  # noqa: C409, another tuple
    module.layer(torch.zeros(1, 2))
    assert attributes(module) == before


def test_the_innermost_module_that_differs_first_is_named() -> None:
    torch.manual_seed(0)
    pipeline = nn.Sequential(
        nn.Linear(4, 4),
        nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4, track_running_stats=False)),
        nn.Linear(4, 2),
    )
    copies = torch.randn(6, 4)
    other = torch.cat([copies[:3], copies[3:] + 5])

    def differs(a: Tensor, b: Tensor) -> bool:
        return not torch.allclose(a, b)

    rows = torch.arange(6) < 3
    found = differing_module(
        pipeline, lambda: pipeline(copies), lambda: pipeline(other), rows, differs
    )
    assert found is not None
    assert found[0] == "1.1"
    assert isinstance(found[1], nn.BatchNorm1d)
    assert not any(module._forward_hooks for module in pipeline.modules())
    same = differing_module(
        pipeline, lambda: pipeline(copies), lambda: pipeline(copies), rows, differs
    )
    assert same is None
