"""Noisy copies of images to votes: drawn, answered by an engine and counted on its device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Num
from torch import Tensor

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.engines.choice import EngineChoice
from denoised_smoothing.engines.comparison import among_others
from denoised_smoothing.engines.engine import Engine
from denoised_smoothing.engines.locks import ReadersWriterLock
from denoised_smoothing.engines.prepared import PreparedPipeline
from denoised_smoothing.errors import ClassifierError, ContractError, SettingError
from denoised_smoothing.models.answers import NO_CLASS, UNUSABLE, labels_of
from denoised_smoothing.noise import noisy_copies
from denoised_smoothing.smoothing.scheduler import CopyRange, ImageTask

Seed = int | Callable[[ImageTask], int]
"""The seed of the noise: one for all images, or that of each."""


class VoteCounter:
    """Draws copies and counts the labels that an engine gives them, in any number of threads.

    The first answer decides the format of all: labels, or logits of K classes.

    Args:
        device: where copies are drawn and counted; None for that of the pipeline.
    """

    def __init__(self, prepared: PreparedPipeline, device: torch.device | None = None) -> None:
        self.sigma, self.noise = prepared.pipeline.sigma, prepared.noise
        self.device = device or prepared.device
        self._canaries = prepared.canaries
        self._memory, self._crowded = ReadersWriterLock(), False
        self._format: str | None = None

    def votes(
        self, ranges: Sequence[CopyRange], choice: EngineChoice, seed: Seed
    ) -> list[tuple[Counter[int], int]]:
        """Return the votes of each range; the labels leave the device once, in one transfer.

        Raises:
            ClassifierError: an answer cannot be used, or memory does not hold a forward pass.
        """
        answers = self._answers(ranges, choice, seed)
        labels = iter(torch.cat([self._labels(answer) for answer in answers]).tolist())
        votes = []
        for part in ranges:
            by_label = Counter(islice(labels, len(part.copies)))
            if invalid := by_label.pop(UNUSABLE, 0):
                raise ClassifierError(
                    f"The classifier gave NaN logits, or a label below -1, for {invalid} of "
                    f"{len(part.copies)} noisy copies of image {part.task.image_id}. Find the "
                    "cause before you certify, such as reduced precision or a division by zero."
                )
            failed = by_label.pop(NO_CLASS, 0)
            votes.append((by_label, failed))
        return votes

    def scores(
        self, ranges: Sequence[CopyRange], choice: EngineChoice, seed: Seed
    ) -> Float64[np.ndarray, "n k"]:
        """Return log-probabilities of each copy: the log-softmax of its logits.

        Raises:
            SettingError: the classifier answers with labels, which have no scores.
            ClassifierError: logits are NaN or infinite.
        """
        answers = torch.cat(list(self._answers(ranges, choice, seed)))
        if answers.ndim != 2:
            raise SettingError(
                "Scores need a classifier that answers with logits, and this one answers with "
                "labels. Use vote shares of a stored run (--calibration-run)."
            )
        logits = answers[: sum(len(part.copies) for part in ranges)].cpu().double()
        if not bool(logits.isfinite().all()):
            raise ClassifierError(
                "The classifier gave logits that are NaN or infinite. Find the cause before you "
                "use its scores, such as reduced precision or a division by zero."
            )
        scores: Float64[np.ndarray, "n k"] = torch.log_softmax(logits, dim=1).numpy()
        return scores

    def pixels(
        self, ranges: Sequence[CopyRange], choice: EngineChoice | None, seed: Seed
    ) -> list[Float[np.ndarray, "n c h w"]]:
        """Return what a remote classifier sees of each range: denoised by ``choice``, if any."""
        ends = np.cumsum([len(part.copies) for part in ranges])
        seen = torch.cat(list(self._answers(ranges, choice, seed)))[: ends[-1]]
        pixels = seen.reshape(-1, *ranges[0].task.image.shape).float().cpu().numpy()
        return np.split(pixels, ends[:-1])

    def _answers(
        self, ranges: Sequence[CopyRange], choice: EngineChoice | None, seed: Seed
    ) -> Iterator[Num[Tensor, "n ..."]]:
        """Yield the engine's answers to forward passes; zeros fill up the last pass.

        Without an engine, yield the copies. Once memory did not hold the copies of all threads,
        one thread computes at a time.
        """
        drawn = [  # from copies of the images, which may be read-only arrays
            noisy_copies(
                torch.tensor(part.task.image), self.sigma, noise=self.noise, device=self.device,
                seed=seed if isinstance(seed, int) else seed(part.task),
                image_id=part.task.image_id, stage=part.stage,
                start=part.copies.start, stop=part.copies.stop, levels=part.task.levels,
            )
            for part in ranges
        ]  # fmt: skip
        copies = torch.cat(drawn)
        if choice is None:
            yield copies
            return
        padding = copies.new_zeros(-len(copies) % choice.forward, *copies.shape[1:])
        pieces = torch.split(torch.cat([copies, padding]), choice.forward)
        for start, piece in zip(range(0, len(copies), choice.forward), pieces, strict=True):
            # Made first, as a classifier may overwrite its input.
            known = choice.known if self._canaries.is_due(choice.engine) else None
            other = None if known is None else among_others(piece, known.copies)
            answer = self._answer(choice.engine, piece)
            yield answer  # and its format is checked
            if known is not None and other is not None:
                again = self._answer(choice.engine, other)
                real = min(len(piece), len(copies) - start)
                rows = self._canaries.differing(choice.engine, answer, again, real, known)
                if rows:
                    raise _not_a_function(ranges, start, rows)

    def _answer(self, engine: Engine, copies: Float[Tensor, "n c h w"]) -> Num[Tensor, "n ..."]:
        try:
            with self._memory(alone=self._crowded):
                return engine.answer(copies)
        except torch.OutOfMemoryError:
            self._crowded = True
            return self._answer_alone(engine, copies)

    def _answer_alone(
        self, engine: Engine, copies: Float[Tensor, "n c h w"]
    ) -> Num[Tensor, "n ..."]:
        with self._memory(alone=True):
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                return engine.answer(copies)
            except torch.OutOfMemoryError as error:
                raise ClassifierError(
                    f"The memory of {self.device} does not hold {len(copies)} images of shape "
                    f"{list(copies.shape[1:])} any more: {error}. Free memory, or use a device "
                    "with more of it. Counts so far are kept."
                ) from error

    def _labels(self, answer: Num[Tensor, "n ..."]) -> Int[Tensor, " n"]:
        """Return one label per copy, as :func:`labels_of`."""
        format_ = "labels" if answer.ndim == 1 else f"logits of {answer.shape[1]} classes"
        if format_ != (self._format or format_):
            raise ClassifierError(
                f"The classifier answered with {format_}, expected {self._format}, as before. "
                "Return the same format for every batch."
            )
        self._format = format_
        return labels_of(answer)


def _not_a_function(ranges: Sequence[CopyRange], start: int, rows: Sequence[int]) -> ContractError:
    """Return the error for rows of the pass from ``start`` that got other answers.

    Odd rows held copies that were answered before the count.
    """
    copies = [(part, number) for part in ranges for number in part.copies]
    counted = [copies[start + row] for row in rows if row % 2 == 0]
    if counted:
        part, _ = counted[0]
        numbers = [number for other, number in counted if other is part]
        named = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
        what = (
            f"{len(counted)} copies got other answers among copies of other images, such as "
            f"copies {named} of the stage {part.stage.value} of image {part.task.image_id!r}"
        )
        advice = "Make the classifier compute each image by itself"
    else:
        what = f"{len(rows)} copies got other answers than before the count"
        advice = "Keep nothing from one call to the next"
    return ContractError(
        f"The answer to a noisy copy is not a function of that copy: {what}. Certificates would "
        f"be false. {advice}, and start a new run: counts so far are kept, but may be wrong."
    )


def shown_copies(
    prepared: PreparedPipeline,
    image: Float[np.ndarray, "c h w"],
    image_id: str,
    seed: int,
    count: int,
) -> tuple[Float[np.ndarray, "n c h w"], Float[np.ndarray, "n c h w"]]:
    """Return the first noisy copies of the estimation stage, and what the classifier sees."""
    noisy = noisy_copies(
        torch.tensor(image), prepared.pipeline.sigma, noise=prepared.noise, seed=seed,
        image_id=image_id, stage=Stage.ESTIMATION, start=0, stop=count, device=prepared.device,
    )  # fmt: skip
    return noisy.cpu().numpy(), prepared.denoise(noisy).cpu().numpy()


def shown_labels(
    prepared: PreparedPipeline,
    image: Float[np.ndarray, "c h w"],
    image_id: str,
    seed: int,
    count: int,
) -> list[int | None]:
    """Return the labels of the copies of :func:`shown_copies`, None for no label."""
    task = ImageTask("shown", image_id, image)
    ranges = [CopyRange(task, Stage.ESTIMATION, range(n, n + 1)) for n in range(count)]
    votes = VoteCounter(prepared).votes(ranges, prepared.engine_for(image), seed)
    return [None if failed else next(iter(by_label)) for by_label, failed in votes]
