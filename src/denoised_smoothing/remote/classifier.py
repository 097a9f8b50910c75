"""A classifier behind a wire, as the smoothed classifier uses it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, tensor

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.errors import AnswerMissingError
from denoised_smoothing.remote.client import QueryClient
from denoised_smoothing.remote.encoding import Encoding, to_levels
from denoised_smoothing.remote.labels import AnswerRule
from denoised_smoothing.remote.limits import ClientSettings
from denoised_smoothing.remote.log import MemoryLog, QueryLog
from denoised_smoothing.remote.records import CopyKey, Spending, spending_of
from denoised_smoothing.remote.vendors.base import Price, Vendor


class RemoteClassifier:
    """Sends images to a vendor: images [B, C, H, W] around [0, 1] to labels [B].

    Labels are numbered as they first appear, after those that are known in advance; -1 is a
    vote for no class. Everything from the encoding on is the base classifier.

    Args:
        vendor: encodes requests and decodes answers.
        rule: from an answer to one label.
        encoding: from an image to the bytes that are sent.
        conduct: how the vendor is treated: rate, retries, budget.
    """

    def __init__(
        self,
        vendor: Vendor,
        rule: AnswerRule | None = None,
        encoding: Encoding | None = None,
        conduct: ClientSettings | None = None,
    ) -> None:
        self.vendor, self.rule = vendor, rule or AnswerRule()
        self.encoding, self.conduct = (
            encoding or Encoding(),
            conduct or ClientSettings(rate=vendor.rate),
        )
        self.offline = False
        self._log: QueryLog | None = None
        self._unlogged = Spending()
        self._numbers: dict[str, int] = {}
        self._client: QueryClient | None = None
        self.learn(self.rule.allowed or ())

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The labels by their numbers, as far as they are known; None without any."""
        return tuple(self._numbers) or None

    @property
    def price(self) -> Price | None:
        """Of one query: the one that was given, or the list price; None if not known."""
        if self.conduct.price is not None:
            return Price(self.conduct.price, "as given")
        return self.vendor.price

    @property
    def spent(self) -> Spending:
        """What the log holds, or all sessions without one came to; with what is going on."""
        if self._client is not None:
            return self._client.spent
        return self._unlogged if self._log is None else spending_of(self._log.history())

    def learn(self, names: Iterable[str]) -> None:
        """Number further labels as they are, in this order; known ones keep their numbers."""
        for name in names:
            self.number(name)

    def number(self, name: str) -> int:
        """The number of a label, a new one for a label never seen."""
        return self._numbers.setdefault(name, len(self._numbers))

    def forget(self) -> None:
        """Number labels anew."""
        self._numbers = {}

    def named_after(self, names: Iterable[str]) -> tuple[str, ...]:
        """Number the labels of a data set first, in its order, so that numbers can be compared.

        A name that occurs twice keeps its first number; the second is put down with the number.
        """
        for number, name in enumerate(names):
            plain = self.rule.name(name)
            self.number(plain if plain not in self._numbers else f"{plain} [{number}]")
        self.learn(self.rule.allowed or ())
        return tuple(self._numbers)

    @contextmanager
    def logging_to(self, log: QueryLog, *, offline: bool = False) -> Iterator[None]:
        """Attempts go to this log, and answers in it are not bought again.

        Args:
            log: of a run.
            offline: send nothing; copies without an answer in the log have none.
        """
        before = self._log, self.offline
        self._log, self.offline = log, offline
        try:
            yield
        finally:
            self._log, self.offline = before

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Connected and ready; leaving it waits for answers on their way.

        Without a log, answers are good until it is left and no longer: what names a copy in it
        does not say of which seed and sigma it is. The budget holds for all such sessions together.

        Raises:
            MissingExtraError, SettingError: before anything is sent.
        """
        if not self.offline:
            self.vendor.connect(timeout=self.conduct.timeout, in_flight=self.conduct.in_flight)
        log = MemoryLog() if self._log is None else self._log
        before = self._unlogged if self._log is None else Spending()
        number = _Numbering(self)
        self._client = client = QueryClient(
            self.vendor, self.rule, log, self.conduct, before, number
        )
        try:
            yield Session(self, client, number)
        finally:
            client.close()
            self._client = None
            self.vendor.close()
            if self._log is None:
                self._unlogged = client.spent

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Int[Tensor, " b"]:
        """Labels of images, each asked for once; equal images share an answer."""
        arrays = images.detach().cpu().numpy()
        keys = [
            CopyKey(hashlib.sha256(array.tobytes()).hexdigest(), Stage.PREDICTION, 0)
            for array in arrays
        ]
        with self.session() as session:
            votes: dict[CopyKey, Future[int]] = {}
            for key, image in zip(keys, arrays, strict=True):
                if key not in votes:
                    (votes[key],) = session.ask([key], image[None])
            return tensor([votes[key].result() for key in keys])

    def with_settings(self, **changes: object) -> RemoteClassifier:
        """The same classifier, treated otherwise."""
        self.conduct = replace(self.conduct, **changes)  # type: ignore[arg-type]
        return self

    def fingerprint_parts(self) -> Mapping[str, object]:
        """What determines the answers: no secrets, and nothing about conduct."""
        return {
            **self.vendor.fingerprint_parts(),
            "synonyms": dict(self.rule.synonyms),
            "allowed": self.rule.allowed,
            "size": self.encoding.size,
            "format": self.encoding.format.value,
            "quality": self.encoding.quality,
        }


class Session:
    """A :class:`~denoised_smoothing.remote.protocol.CopySession` of a remote classifier."""

    def __init__(
        self, classifier: RemoteClassifier, client: QueryClient, number: _Numbering
    ) -> None:
        self._classifier, self._client, self._number = classifier, client, number
        # Twice what flies, so that copies are made while others are on the wire.
        self.room = 2 * classifier.conduct.in_flight

    def known(self, key: CopyKey) -> Future[int] | None:
        settled = self._client.settled(key)
        if settled is None:
            return None
        future: Future[int] = Future()
        future.set_result(self._number(settled[0]))
        return future

    def ask(
        self, keys: Sequence[CopyKey], images: Float[np.ndarray, "n c h w"]
    ) -> list[Future[int]]:
        if self._classifier.offline:
            return [_missing(key) for key in keys]
        encode, limits = self._classifier.encoding.encode, self._classifier.vendor.limits
        encoders = [partial(encode, levels, limits) for levels in to_levels(images)]
        return self._client.submit(keys, encoders)


class _Numbering:
    """The number of a label, in any thread; -1 for no class."""

    def __init__(self, classifier: RemoteClassifier) -> None:
        self._classifier, self._lock = classifier, threading.Lock()

    def __call__(self, name: str | None) -> int:
        with self._lock:
            return -1 if name is None else self._classifier.number(name)


def _missing(key: CopyKey) -> Future[int]:
    """The future of an answer that would have to be bought."""
    answer: Future[int] = Future()
    answer.set_exception(
        AnswerMissingError(
            f"copy {key.copy} of image {key.image_id!r} ({key.stage}) has no answer in the log, "
            "and no query may be sent; leave --offline out to buy it"
        )
    )
    return answer
