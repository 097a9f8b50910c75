"""The contract of a base classifier: the answer to a noisy copy depends on that copy alone.

The theorem is about a function of the copy. Code can break that without an error: by statistics
of the batch, by randomness, or by a value that one call keeps and another one reads. Here the
pipeline that is executed answers the same few copies in several ways, and the answers are
compared. A pipeline that recognises these calls and hides from them is not found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from denoised_smoothing.certificates.parameters import Precision
from denoised_smoothing.engines.converted import ConvertedEngine
from denoised_smoothing.engines.engine import Engine
from denoised_smoothing.engines.interleaving import attributes, differing_module, interleaved
from denoised_smoothing.engines.pipeline import Pipeline
from denoised_smoothing.engines.torch_engine import TorchEngine
from denoised_smoothing.errors import ContractError

PROBED = 16
"""Copies of a probing pass where an engine takes batches of any size."""
ROUNDING = {
    Precision.FLOAT32: 1e-3,
    Precision.FLOAT16: 1e-2,
    Precision.BFLOAT16: 5e-2,
    Precision.INT8: 5e-2,
}
"""Largest difference of two answers to one copy that counts as rounding. Logits are compared less
their maximum over the classes, and the share is of the logit itself or of the largest gap between
the two largest logits of a copy."""
CHANGED_LABELS = 1e-3
"""Share of labels that rounding may change, where a pipeline gives labels and no logits."""
FALSE_ALARM = 1e-6
"""Probability that a comparison refuses a pipeline with that share."""
STOCHASTIC_FALSE_ALARM = 1e-4
"""Probability that a stochastic classifier is refused whose answers are independent."""


@dataclass
class Comparison:
    """The comparison of two answers to the same copies.

    Args:
        precision: of the engine, for the rounding that is tolerated.
    """

    precision: Precision

    def differing(self, answer: Tensor, expected: Tensor) -> Tensor:
        """Return whether each row differs by more than rounding: bool [B]."""
        if answer.shape != expected.shape:
            return expected.new_ones(len(expected), dtype=torch.bool)
        if expected.ndim == 1:
            return answer != expected
        first, second = (_centred(logits) for logits in (answer, expected))
        # Between the two largest logits: a class that is never chosen may have any other.
        gaps = -second.topk(min(2, second.shape[1]), dim=1).values[:, -1]
        scale = float(gaps[gaps.isfinite()].max()) if gaps.isfinite().any() else 0.0
        near = (first - second).abs() <= ROUNDING[self.precision] * second.abs().clamp_min(scale)
        same = near | (first == second) | (first.isnan() & second.isnan())
        return ~same.all(dim=1)

    @staticmethod
    def allowed(answer: Tensor, compared: int) -> int:
        """Return how many of ``compared`` rows may differ: none for logits."""
        if answer.ndim != 1:
            return 0
        from scipy import special

        numbers = range(compared + 1)
        return next(k for k in numbers if special.bdtrc(k, compared, CHANGED_LABELS) <= FALSE_ALARM)


def _centred(logits: Tensor) -> Tensor:
    """Return logits less their maximum over the classes, which changes no label."""
    logits = logits.double()
    most = logits.amax(dim=1, keepdim=True)
    return logits - torch.where(most.isfinite(), most, 0)


_TWICE = "classified again"
_ORDER = "classified in another order"
_MATES = "classified together with copies of other images"
_ALONE = "classified with zeros in place of other copies"
_ADVICE = {
    _TWICE: "Switch off what is random in evaluation mode, such as dropout, or allow it with "
    "stochastic=True (--stochastic).",
    _ORDER: "Compute nothing across the batch axis, and keep nothing from one call to the next.",
    _MATES: "Normalise by running statistics or within an image, and compute nothing across the "
    "batch axis.",
    _ALONE: "Compute nothing across the batch axis.",
}


class ContractCheck:
    """Compares the answers of an engine to the same copies, in at most 8 forward passes.

    Args:
        engine: as it is to count.
        pipeline: what it executes, to find the module where a difference begins.
        noisy: returns N noisy copies [N, C, H, W].
        forward: copies of a forward pass of the engine.
    """

    def __init__(
        self,
        engine: Engine,
        pipeline: Pipeline,
        noisy: Callable[[int], Float[Tensor, "b c h w"]],
        forward: int,
    ) -> None:
        self.engine, self.pipeline = engine, pipeline
        self.compare = Comparison(engine.precision)
        # Compiled for one shape, here or by the user.
        fixed = isinstance(engine, ConvertedEngine) or getattr(engine, "compiled", False)
        fixed |= any(hasattr(module, "_orig_mod") for module in pipeline.modules())
        self.copies = noisy(forward)[: forward if fixed else min(forward, PROBED)]
        self.passes = 0

    @cached_property
    def mixed(self) -> Float[Tensor, "b c h w"]:
        """The first half of the copies, and copies of other images."""
        half = -(-len(self.copies) // 2)
        return torch.cat([self.copies[:half], (1 - self.copies[half:]).flip(0)])

    def run(self, *, stochastic: bool = False) -> tuple[str, ...]:
        """Check everything; return notes for the user.

        An engine whose pipeline keeps state is called by one thread from then on.

        Raises:
            ContractError: the answer to a copy depends on more than the copy.
        """
        self._refuse_batch_statistics()
        if stochastic:
            return self._check_independence()
        first = self._answer(self.copies)
        if not _is_usable(first, len(self.copies)):
            return ()  # refused by the count, with a message about its format
        before = self._attributes()
        half, whole = -(-len(self.copies) // 2), slice(None)
        padded = torch.cat([self.copies[:half], torch.zeros_like(self.copies[half:])])
        self._expect(first, self._answer(self.copies), _TWICE, whole, self.copies)
        mixed = self._answer(self.mixed)
        self._expect(first, mixed, _MATES, slice(half), self.mixed)
        turned = self._answer(self.copies.flip(0)).flip(0)
        self._expect(first, turned, _ORDER, whole, self.copies.flip(0))
        self._expect(first, self._answer(padded), _ALONE, slice(half), padded)
        return self._check_threads(first, mixed, before)

    def _answer(self, copies: Float[Tensor, "b c h w"]) -> Tensor:
        self.passes += 1
        return self.engine.answer(copies.clone())  # which a classifier may overwrite

    def _attributes(self) -> dict[str, object]:
        engine = self.engine
        return attributes(engine.pipeline) if isinstance(engine, TorchEngine) else {}

    def _refuse_batch_statistics(self) -> None:
        for path, module in self.pipeline.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
                module.running_mean is None or module.training
            ):
                why = "is in training mode" if module.training else "has no running statistics"
                raise ContractError(
                    f"{_named(path, module)} {why} and normalises by the statistics of the batch, "
                    "so the answer to a noisy copy depends on the others, and certificates would "
                    "be false. Use its running statistics (track_running_stats=True, eval()), or a "
                    "normalisation within an image."
                )

    def _expect(self, first: Tensor, answer: Tensor, how: str, rows: slice, batch: Tensor) -> None:
        """Refuse an answer that differs from the first one in some of these rows."""
        formats = [tuple(tensor.shape) for tensor in (first, answer)]
        if formats[0] != formats[1]:
            raise ContractError(
                f"The classifier answered {len(first)} copies with a tensor of shape "
                f"{list(formats[1])}, and before with {list(formats[0])}. Return the same format "
                "for every batch."
            )
        first, answer = first[rows], answer[rows]
        wrong = int(self.compare.differing(answer, first).sum())
        if wrong <= self.compare.allowed(first, len(first)):
            return
        found = None if how == _ORDER else self._module(batch, len(first))
        where = f" It begins in {_named(*found)}." if found else ""
        raise ContractError(
            f"The answer to a noisy copy is not a function of that copy: {wrong} of {len(first)} "
            f"copies got other answers when they were {how}.{where} Certificates would be false. "
            f"{_ADVICE[how]}"
        )

    def _module(self, batch: Tensor, rows: int) -> tuple[str, nn.Module] | None:
        """Return the module where the answers to two batches begin to differ, if it is found."""
        if not self.pipeline.is_module:
            return None

        def differs(a: Tensor, b: Tensor) -> bool:
            if a.shape != b.shape or not len(a):
                return a.shape != b.shape
            flat = [part.reshape(len(part), -1) for part in (a, b)]
            return bool(self.compare.differing(*flat).any())

        with torch.inference_mode():
            return differing_module(
                self.pipeline, lambda: self.pipeline(self.copies.clone()),
                lambda: self.pipeline(batch.clone()),
                rows, differs,
            )  # fmt: skip

    def _check_threads(
        self, first: Tensor, mixed: Tensor, before: dict[str, object]
    ) -> tuple[str, ...]:
        """Call the pipeline by one thread from now on if two calls at once disturb each other."""
        engine = self.engine
        if not isinstance(engine, TorchEngine):
            return ()
        after = self._attributes()
        changed = [name for name in after if after[name] != before.get(name, after)]
        disturbed = False
        if not (engine.is_alone or engine.compiled or changed):
            try:
                answers = interleaved(
                    [lambda: self._answer(self.copies), lambda: self._answer(self.mixed)]
                )
            except Exception:  # such as no memory for two calls, or a stack that is empty
                disturbed = True
            else:
                pairs = zip(answers, (first, mixed), strict=True)
                disturbed = any(
                    int(self.compare.differing(a, b).sum()) > self.compare.allowed(b, len(b))
                    for a, b in pairs
                )
        if not changed and not disturbed:
            return ()
        many = engine.workers > 1
        engine.use_alone()
        kept = f"changes {changed[0]!r} in each call" if changed else "shares values between calls"
        text = f"The pipeline {kept}, so one thread calls it. Keep values in local variables to "
        return (f"{text}use several threads.",) if many else ()

    def _check_independence(self) -> tuple[str, ...]:
        """Refuse randomness that several copies share; call the pipeline by one thread.

        Each batch holds some copies twice, and others that change from batch to batch. Two answers
        to one copy must differ within a batch as they do between batches: randomness of a whole
        batch and other copies differ only between them, and a generator that is seeded again in
        each call only within them.
        """
        torch.seed()  # by default every process draws the same numbers
        third = len(self.copies) // 3
        if isinstance(self.engine, TorchEngine):
            self.engine.use_alone()
        if third == 0:
            return ()
        twins, others = self.copies[:third].repeat(2, 1, 1, 1), 1 - self.copies[2 * third :]
        batches = [torch.cat([twins, rest]) for rest in (others, torch.zeros_like(others))]
        answers = [self._answer(batches[number % 2]) for number in range(8)]
        self._refuse_batch_statistics()  # a module may change its mode in a call
        if not _is_usable(answers[0], len(self.copies)):
            return ()
        first = [answer[:third] for answer in answers]
        second = [answer[third : 2 * third] for answer in answers]
        within = self._distance(torch.cat(first), torch.cat(second))
        between = self._distance(torch.cat(first), torch.cat([*first[1:], first[0]]))
        if _are_alike(within, between):
            return ()
        shared = within.mean() < between.mean()
        what = (
            "depends on other copies of the batch, or draws randomness that they share"
            if shared
            else "draws randomness that repeats in every batch"
        )
        raise ContractError(
            f"This stochastic classifier {what}, so votes depend on each other and certificates "
            "would be false. Compute and draw for each image of a batch by itself, from a "
            "generator that is not seeded in forward."
        )

    def _distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distance of the answers in each row: 0 where only rounding differs."""
        differs = self.compare.differing(first, second).double()
        if first.ndim == 1:
            return differs
        apart = (_centred(first) - _centred(second)).abs().nan_to_num(0, 0, 0).amax(dim=1)
        return differs * apart


def _are_alike(within: Tensor, between: Tensor) -> bool:
    """Return whether two samples of distances, of equal size, can have one law."""
    from scipy import special

    few, many = sorted(int((sample > 0).sum()) for sample in (within, between))
    if 2 * special.bdtr(few, few + many, 0.5) <= STOCHASTIC_FALSE_ALARM:
        return False  # one moves more often
    small, large = sorted(float(sample.mean()) for sample in (within, between))
    return few < len(within) // 2 or large <= 3 * small


def _is_usable(answer: Tensor, count: int) -> bool:
    """Return whether an answer has the format of logits or labels of ``count`` copies."""
    real = not answer.is_complex() and answer.dtype is not torch.bool
    return real and answer.ndim in (1, 2) and len(answer) == count and answer.numel() > 0


def _named(path: str, module: nn.Module) -> str:
    """Return a module's name for a reader: the part, its path in it, and its type."""
    role, _, inner = path.partition(".")
    kind = type(module).__name__
    return f"the module {inner!r} ({kind}) of the {role}" if inner else f"the {role} ({kind})"
