"""Noisy copies of images to votes: drawn, answered by an engine and counted on its device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from denoised_smoothing.certificates.parameters import Noise
from denoised_smoothing.engines import Engine, EngineChoice
from denoised_smoothing.engines.locks import ReadersWriterLock
from denoised_smoothing.errors import ClassifierError
from denoised_smoothing.noise import chunk_size, noisy_copies
from denoised_smoothing.remote.protocol import CopySession
from denoised_smoothing.remote.records import CopyKey
from denoised_smoothing.smoothing.query_scheduler import schedule_queries
from denoised_smoothing.smoothing.scheduler import CopyRange, ImageTask, Targets, same_shape

Seed = int | Callable[[ImageTask], int]
"""Of the noise: one for all images, or that of each."""


class VoteCounter:
    """Draws copies and counts the labels that an engine gives them, in any number of threads.

    The form of the answers (labels, or logits of so many classes) is that of the first.
    """

    def __init__(self, sigma: float, noise: Noise, device: torch.device) -> None:
        self.sigma, self.noise, self.device = sigma, noise, device
        self._memory, self._crowded = ReadersWriterLock(), False
        self._form: str | None = None
        self._classes = 0

    def buy(
        self,
        first: ImageTask,
        rest: Iterable[ImageTask],
        targets: Targets,
        choice: EngineChoice,
        seed: int,
        session: CopySession,
        *,
        plain: bool,
        on_batch: Callable[[Sequence[ImageTask]], None] | None = None,
    ) -> Iterator[ImageTask]:
        """Count until each task has its targets, by a classifier whose answers are bought singly.

        Args:
            first, rest: images of one shape; taken when needed, yielded as they finish.
            targets: copies wanted in each stage, given the counts so far.
            choice: the engine for images of this shape, and the copies of a forward pass.
            seed: of the noise.
            on_batch: called after each batch with the tasks that it served.
            session: of the classifier, ready to answer.
            plain: whether it sees the noisy copies themselves, as there is no denoiser.
        """
        threads = torch.get_num_threads()
        if plain:  # adding noise is over sooner than threads of torch agree on their shares
            torch.set_num_threads(1)
        try:
            yield from schedule_queries(
                same_shape(first, rest),
                targets,
                partial(self._ask, session, None if plain else choice, seed),
                chunk=chunk_size(first.image.shape),
                forward=choice.forward,
                room=session.room,
                on_batch=on_batch,
            )
        finally:
            torch.set_num_threads(threads)

    def _ask(
        self,
        session: CopySession,
        choice: EngineChoice | None,
        seed: int,
        parts: Sequence[CopyRange],
    ) -> list[list[Future[int]]]:
        """Have the copies of each part classified one by one; known answers need no copy."""
        keys = [
            [CopyKey(part.task.image_id, part.stage, n) for n in range(part.start, part.stop)]
            for part in parts
        ]
        known = [[session.known(key) for key in of_part] for of_part in keys]
        open_ = [part for part, votes in zip(parts, known, strict=True) if None in votes]
        copies = iter(self.pixels(open_, choice, seed) if open_ else ())
        answers: list[list[Future[int]]] = []
        for of_part, votes in zip(keys, known, strict=True):
            missing = [i for i, vote in enumerate(votes) if vote is None]
            fresh: Iterator[Future[int]] = iter(())
            if missing:
                fresh = iter(session.ask([of_part[i] for i in missing], next(copies)[missing]))
            answers.append([vote or next(fresh) for vote in votes])
        return answers

    def votes(
        self, parts: Sequence[CopyRange], choice: EngineChoice, seed: Seed
    ) -> list[tuple[list[int], int]]:
        """The votes of each part; they leave the device once, as one small table.

        Raises:
            ClassifierError: an answer cannot be used, or memory does not hold a forward pass.
        """
        copies = torch.cat([self._noisy(part, seed) for part in parts])
        padding = copies.new_zeros(-len(copies) % choice.forward, *copies.shape[1:])
        pieces = torch.split(torch.cat([copies, padding]), choice.forward)
        labels = torch.cat([self._labels(self._answer(choice.engine, piece)) for piece in pieces])
        labels = labels[: len(copies)]
        columns = 2 + (self._classes or max(int(labels.max()) + 1, 1))
        sizes = torch.tensor([part.size for part in parts], device=labels.device)
        rows = torch.repeat_interleave(torch.arange(len(parts), device=labels.device), sizes)
        cells = rows * columns + labels + 2
        table = torch.bincount(cells, minlength=len(parts) * columns).reshape(-1, columns).tolist()
        for part, (invalid, *_) in zip(parts, table, strict=True):
            if invalid:
                raise ClassifierError(
                    f"the classifier gave NaN logits, or a label below -1, for {invalid} of "
                    f"{part.size} noisy copies of image {part.task.image_id}; find out why "
                    "before certifying (reduced precision, a division by zero?)"
                )
        return [(votes, failed) for _, failed, *votes in table]

    def pixels(
        self, parts: Sequence[CopyRange], choice: EngineChoice | None, seed: int
    ) -> list[Float[np.ndarray, "n c h w"]]:
        """What a classifier elsewhere sees of each part: answers of an engine, or plain copies."""
        copies = torch.cat([self._noisy(part, seed) for part in parts])
        if choice is not None:
            padding = copies.new_zeros(-len(copies) % choice.forward, *copies.shape[1:])
            pieces = torch.split(torch.cat([copies, padding]), choice.forward)
            pixels = torch.cat([self._answer(choice.engine, piece) for piece in pieces])
            copies = pixels[: len(copies)].reshape(copies.shape)
        ends = np.cumsum([part.size for part in parts])[:-1]
        return np.split(copies.float().cpu().numpy(), ends)

    def _answer(self, engine: Engine, copies: Float[Tensor, "n c h w"]) -> Num[Tensor, "n ..."]:
        """The engine's answer; once memory did not hold all threads' copies, one at a time."""
        if not self._crowded:
            try:
                with self._memory():
                    return engine.answer(copies)
            except torch.OutOfMemoryError:
                self._crowded = True
        with self._memory(alone=True):
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                return engine.answer(copies)
            except torch.OutOfMemoryError as error:
                raise ClassifierError(
                    f"the memory of {self.device} does not hold {len(copies)} images of shape "
                    f"{list(copies.shape[1:])} any more: {error}; what was counted is kept: free "
                    "memory, or take a device with more of it, and go on"
                ) from error

    def _noisy(self, part: CopyRange, seed: Seed) -> Float[Tensor, "n c h w"]:
        image = torch.tensor(part.task.image, device=self.device)  # may be a read-only array
        return noisy_copies(
            image, self.sigma, noise=self.noise,
            seed=seed if isinstance(seed, int) else seed(part.task), image_id=part.task.image_id,
            stage=part.stage, start=part.start, stop=part.stop,
        )  # fmt: skip

    def _labels(self, answer: Num[Tensor, "n ..."]) -> Int[Tensor, " n"]:
        """One label a copy: -1 for no class, -2 for an answer that is none."""
        labels = answer.ndim == 1
        if labels and answer.is_floating_point():
            raise ClassifierError(
                f"the classifier answered one {answer.dtype} an image; expected logits "
                "[B, K], or labels [B] of an integer type"
            )
        classes = 0 if labels else answer.shape[1]
        form = "labels" if labels else f"logits of {classes} classes"
        if form != (self._form or form) or not (labels or classes > 1):
            expected = f"{self._form}, as before" if self._form else "at least 2 classes"
            raise ClassifierError(f"the classifier answered with {form}; expected {expected}")
        self._form, self._classes = form, classes
        if labels:
            return answer.long().clamp_min(-2)
        return torch.where(answer.isnan().any(dim=1), -2, answer.argmax(dim=1))
