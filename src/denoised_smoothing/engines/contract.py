"""The contract of a base classifier: the answer to a noisy copy depends on that copy alone.

The theorem is about a function of the copy. Code can break that without an error: by statistics
of the batch, by randomness, or by a value that one call keeps and another one reads. Here the
pipeline that is executed answers the same few copies in several ways, and the answers are
compared. A pipeline that recognises these calls and hides from them is not found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from denoised_smoothing.engines.comparison import (
    Comparison,
    KnownAnswers,
    among_others,
    centred,
    in_first_order,
)
from denoised_smoothing.engines.converted import ConvertedEngine
from denoised_smoothing.engines.engine import Engine
from denoised_smoothing.engines.interleaving import (
    attributes,
    containers,
    differing_module,
    interleaved,
)
from denoised_smoothing.engines.pipeline import PassThrough, Pipeline
from denoised_smoothing.engines.torch_engine import TorchEngine
from denoised_smoothing.errors import ContractError

PROBED = 16
"""Copies of a probing pass where an engine takes batches of any size."""
INDEPENDENT = 64
"""The same for a stochastic classifier: more, as a share of the pairs shows the dependence."""
STOCHASTIC_FALSE_ALARM = 1e-4
"""Probability that a stochastic classifier is refused whose answers are independent."""


_TWICE = "classified again"
_ORDER = "classified in another order"
_OTHERS = "classified together with copies of other images"
_PADDED = "classified with zeros in place of other copies"
_LATER = "classified later, among other copies"
_ADVICE = {
    _TWICE: "Switch off what is random in evaluation mode, such as dropout, or allow it with "
    "stochastic=True (--stochastic).",
    _ORDER: "Compute nothing across the batch axis, and keep nothing from one call to the next.",
    _OTHERS: "Normalise by running statistics or within an image, and compute nothing across the "
    "batch axis.",
    _PADDED: "Compute nothing across the batch axis.",
    _LATER: "Keep nothing from one call to the next.",
}


class ContractCheck:
    """Compares the answers of an engine to the same copies, in at most 8 forward passes.

    Args:
        engine: as it is to count.
        pipeline: what it executes, to find the module where a difference begins.
        noisy: returns N noisy copies [N, C, H, W].
        forward: copies of a forward pass of the engine.
        stochastic: the answers are random by intention.
    """

    def __init__(
        self,
        engine: Engine,
        pipeline: Pipeline,
        noisy: Callable[[int], Float[Tensor, "b c h w"]],
        forward: int,
        *,
        stochastic: bool = False,
    ) -> None:
        self.stochastic = stochastic
        self.engine, self.pipeline = engine, pipeline
        pixels = isinstance(pipeline.classifier, PassThrough)
        self.compare = Comparison(engine.precision, pixels)
        # Compiled for one shape, here or by the user.
        fixed = isinstance(engine, ConvertedEngine) or getattr(engine, "compiled", False)
        fixed |= any(hasattr(module, "_orig_mod") for module in pipeline.modules())
        count = forward if fixed else min(forward, INDEPENDENT if stochastic else PROBED)
        self.copies = _varied(noisy(count)[:count])
        self.half = -(-len(self.copies) // 2)
        self.others = 1 - self.copies
        self.known: KnownAnswers | None = None
        """Copies of other images with their answers, to be answered again during the count."""

    def run(self) -> tuple[str, ...]:
        """Check everything; return notes for the user.

        An engine whose pipeline keeps state is called by one thread from then on.

        Raises:
            ContractError: the answer to a copy depends on more than the copy.
        """
        self._refuse_batch_statistics()
        if self.stochastic:
            return self._check_independence()
        first = self._answer(self.copies)
        if not _is_usable(first, len(self.copies)):
            return ()  # refused by the count, with a message about its format
        before = self._attributes()
        # All ways to differ in two passes; which one it is, is asked where they do.
        padded, mixed = self.copies.clone(), among_others(self.copies, self.others[1::2])
        padded[::2] = 0
        alone, among = self._answers([padded, mixed])
        again = in_first_order(among)
        in_padding = self._differing(first, alone, slice(1, None, 2))
        wrong = in_padding + self._differing(first, again, slice(0, None, 2))
        if wrong > self.compare.allowed(first, len(first)):
            self._explain(first)
            if 2 * in_padding >= wrong:
                self._refuse(_PADDED, in_padding, len(first[1::2]), padded)
            self._refuse(_LATER, wrong, len(first))
        self.known = KnownAnswers(self.others[1::2], again[1::2], self.compare)
        return self._check_threads([(self.copies, first), (mixed, among)], before)

    def _answer(self, copies: Float[Tensor, "b c h w"]) -> Tensor:
        return self.engine.answer(copies.clone())  # which a classifier may overwrite

    def _answers(self, batches: Sequence[Float[Tensor, "b c h w"]]) -> list[Tensor]:
        """Answer several batches, in several threads where a converted engine holds a graph."""
        if not isinstance(self.engine, ConvertedEngine):
            return [self._answer(batch) for batch in batches]
        with ThreadPoolExecutor(self.engine.workers) as pool:
            return list(pool.map(self._answer, batches))

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

    def _explain(self, first: Tensor) -> None:
        """Find out in three passes how answers differ from the first ones, and refuse it."""
        half, whole, copies = slice(self.half), slice(None), self.copies
        mixed = torch.cat([copies[half], self.others[self.half :]])
        self._expect(first, self._answer(copies), _TWICE, whole, copies)
        self._expect(first, self._answer(mixed), _OTHERS, half, mixed)
        self._expect(first, self._answer(copies.flip(0)).flip(0), _ORDER, whole)

    def _differing(self, first: Tensor, answer: Tensor, rows: slice) -> int:
        """Return how many answers differ by more than rounding in these rows."""
        if first.shape != answer.shape:
            raise ContractError(
                f"The classifier answered {len(first)} copies with a tensor of shape "
                f"{list(answer.shape)}, and before with {list(first.shape)}. Return the same "
                "format for every batch."
            )
        return int(self.compare.differing(answer[rows], first[rows]).sum())

    def _expect(
        self, first: Tensor, answer: Tensor, how: str, rows: slice, batch: Tensor | None = None
    ) -> None:
        """Refuse an answer that differs from the first one in some of these rows."""
        wrong, compared = self._differing(first, answer, rows), len(first[rows])
        if wrong > self.compare.allowed(first, compared):
            self._refuse(how, wrong, compared, batch)

    def _refuse(self, how: str, wrong: int, compared: int, batch: Tensor | None = None) -> NoReturn:
        """Raise the error; name the module where the answers to ``batch`` begin to differ."""
        found = None if batch is None else self._module(batch)
        where = f" It begins in {_named(*found)}." if found else ""
        raise ContractError(
            f"The answer to a noisy copy is not a function of that copy: {wrong} of {compared} "
            f"copies got other answers when they were {how}.{where} Certificates would be false. "
            f"{_ADVICE[how]}"
        )

    def _module(self, batch: Tensor) -> tuple[str, nn.Module] | None:
        """Return the module where answers to the copies begin to differ from those in a batch."""
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
                (batch == self.copies).flatten(1).all(1), differs,
            )  # fmt: skip

    def _check_threads(
        self, answered: Sequence[tuple[Tensor, Tensor]], before: dict[str, object]
    ) -> tuple[str, ...]:
        """Call the pipeline by one thread from now on if two calls at once disturb each other.

        Args:
            answered: two batches and their answers.
            before: the attributes of the modules before some calls.
        """
        engine = self.engine
        if not isinstance(engine, TorchEngine):
            return ()
        after = self._attributes()
        changed = [name for name in after if after[name] != before.get(name, after)]
        labels = [label for _, answer in answered for label in answer.tolist()]
        one_label = answered[0][1].ndim == 1 and len(set(labels)) == 1
        if not (changed or one_label) and (engine.is_alone or not self._disturbs(engine, answered)):
            return ()
        many = engine.workers > 1
        engine.use_alone()
        kept = "shares values between calls"
        if changed:
            kept = f"changes {changed[0]!r} in each call"
        elif one_label:
            kept = "gave one label to all copies of the check, so that nothing could be compared"
        text = f"The pipeline {kept}, so one thread calls it. Keep values in local variables to "
        return (f"{text}use several threads.",) if many else ()

    def _disturbs(self, engine: TorchEngine, answered: Sequence[tuple[Tensor, Tensor]]) -> bool:
        """Return whether two calls that take turns get other answers than one by one."""
        # Compiled code cannot take turns. It computes what the same modules do without it.
        self.engine = engine.uncompiled()
        calls = [partial(self._answer, batch) for batch, _ in answered]
        try:
            answers, resized = interleaved(calls, containers(self.pipeline))
        except Exception:  # such as no memory for two calls, or a stack that is empty
            return True
        finally:
            self.engine = engine
        return resized or any(
            int(self.compare.differing(answer, alone).sum())
            > self.compare.allowed(alone, len(alone))
            for answer, (_, alone) in zip(answers, answered, strict=True)
        )

    def _check_independence(self) -> tuple[str, ...]:
        """Refuse randomness that several copies share; call the pipeline by one thread.

        Each batch holds some copies twice, and others that change from batch to batch. Two answers
        to one copy must differ within a batch as they do between batches: randomness of a whole
        batch and other copies differ only between them, and a generator that is seeded again in
        each call only within them. In half of the batches the two are neighbours, as in a group
        that shares its randomness, and in the other half far from each other.
        """
        torch.seed()  # by default every process draws the same numbers
        third = len(self.copies) // 3
        if isinstance(self.engine, TorchEngine):
            self.engine.use_alone()
        if third == 0:
            raise ContractError(
                "Whether the copies of a batch share their randomness can be checked in forward "
                f"passes of at least 3 copies, got {len(self.copies)}. Use larger ones."
            )
        places = torch.arange(2 * third)
        what = self._shared(places.reshape(2, third)) or self._shared(places.reshape(third, 2).T)
        self._refuse_batch_statistics()  # a module may change its mode in a call
        if not what:
            return ()
        raise ContractError(
            f"This stochastic classifier {what}, so votes depend on each other and certificates "
            "would be false. Compute and draw for each image of a batch by itself, from a "
            "generator that is not seeded in forward."
        )

    def _shared(self, places: Tensor) -> str:
        """Return what votes share in four batches, "" where they are independent.

        Args:
            places: the rows of a batch that hold each copy and its twin: [2, N].
        """
        count = places.shape[1]
        batches = [self.others.clone(), torch.zeros_like(self.others)]
        for batch in batches:
            batch[places] = self.copies[:count]
        answers = [self._answer(batches[number % 2]) for number in range(4)]
        if not _is_usable(answers[0], len(self.copies)):
            return ""  # refused by the count, with a message about its format
        first = [answer[places[0]] for answer in answers]
        second = [answer[places[1]] for answer in answers]
        within = self._distance(torch.cat(first), torch.cat(second))
        between = self._distance(torch.cat(first), torch.cat([*first[1:], first[0]]))
        if _are_alike(within, between):
            return ""
        if within.mean() < between.mean():
            return "depends on other copies of the batch, or draws randomness that they share"
        return "draws randomness that repeats in every batch"

    def _distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distance of the answers in each row: 0 where only rounding differs."""
        differs = self.compare.differing(first, second).double()
        if first.ndim == 1:
            return differs
        apart = (centred(first) - centred(second)).abs().nan_to_num(0, 0, 0).amax(dim=1)
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


def _varied(copies: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return the copies with every third one darker or lighter, and every third one noise alone.

    Copies of one image may all have one label, which would show nothing.
    """
    varied = copies.clone()
    draw = torch.Generator().manual_seed(0)
    levels = torch.rand(len(copies), 1, 1, 1, generator=draw).to(copies)
    varied[1::3] = (copies + levels)[1::3] / 2
    varied[2::3] = torch.rand(copies.shape, generator=draw).to(copies)[2::3]
    return varied
