"""A remote classifier, as the smoothed classifier uses it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, tensor

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.errors import AnswerMissingError
from denoised_smoothing.models.labels import LabelIndex
from denoised_smoothing.remote.client import QueryClient
from denoised_smoothing.remote.encoding import Encoding, to_levels
from denoised_smoothing.remote.labels import AnswerRule, numbers_of
from denoised_smoothing.remote.limits import ClientSettings
from denoised_smoothing.remote.log import MemoryLog, QueryLog
from denoised_smoothing.remote.records import CopyKey, Spending, spending_of
from denoised_smoothing.remote.vendors.base import Price, Vendor


class RemoteClassifier:
    """Sends images to a vendor: images [B, C, H, W] around [0, 1] to labels [B].

    Labels that are known in advance are numbered from 0, all others by their text, as
    :func:`~denoised_smoothing.remote.labels.numbers_of` says; -1 is a vote for no class. Everything
    from the encoding on is the base classifier.

    Args:
        vendor: encodes requests and decodes answers.
        rule: from an answer to one label.
        encoding: from an image to the bytes that are sent.
        settings: rate, repetitions and budget; the vendor's usual rate by default.
    """

    def __init__(
        self,
        vendor: Vendor,
        rule: AnswerRule | None = None,
        encoding: Encoding | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        self.vendor, self.rule = vendor, rule or AnswerRule()
        self.encoding = encoding or Encoding()
        self.settings = settings or ClientSettings(rate=vendor.rate)
        self.offline = False
        self._log: QueryLog | None = None
        self._unlogged = Spending()
        self._names, self._numbers = dict[int, str](), dict[str, int]()
        self._expected = LabelIndex(())
        self._lock = threading.Lock()
        self._client: QueryClient | None = None
        self.learn(dict(enumerate(self.rule.allowed or ())))

    @property
    def label_names(self) -> dict[int, str] | None:
        """The labels by their numbers, as far as they are known; None without any."""
        with self._lock:
            return dict(sorted(self._names.items())) or None

    @property
    def price(self) -> Price | None:
        """The price of one query in the settings, or the list price; None if not known."""
        if self.settings.price is not None:
            return Price(self.settings.price, "as given")
        return self.vendor.price

    @property
    def spent(self) -> Spending:
        """The cost of the attempts in the log, or of all sessions without a log."""
        if self._client is not None:
            return self._client.spent
        return self._unlogged if self._log is None else spending_of(self._log.history())

    def learn(self, names: Mapping[int, str]) -> None:
        """Give further labels these numbers; known ones keep theirs."""
        with self._lock:
            for number, name in names.items():
                self._names.setdefault(number, name)
                self._numbers.setdefault(name, number)

    def expect(self, names: Sequence[str]) -> None:
        """Number these labels first; an answer that fits one of them, and no other, is that one.

        They stay the same for a run, so that the label of an answer depends on no other answer.
        """
        self.forget()
        self.learn(dict(enumerate(names)))
        self._expected = LabelIndex(names)

    def number(self, name: str | None) -> int:
        """Return the number of a label, a new one for a new label; -1 for no class."""
        if name is None:
            return -1
        with self._lock:
            if name in self._numbers:
                return self._numbers[name]
            if len(found := self._expected.find(name)) == 1:
                return found[0]
            number = next(free for free in numbers_of(name) if free not in self._names)
            self._names[number], self._numbers[name] = name, number
            return number

    def forget(self) -> None:
        """Forget the numbers of all labels."""
        self._names, self._numbers, self._expected = {}, {}, LabelIndex(())

    def named_after(self, names: Iterable[str]) -> tuple[str, ...]:
        """Number the labels of a data set first, in its order, so that numbers can be compared.

        A name that occurs twice keeps its first number; the second one is stored with its number.
        Answers that fit one of them are counted as it.
        """
        plain: dict[str, None] = {}
        for number, name in enumerate(map(self.rule.name, names)):
            plain[name if name not in plain else f"{name} [{number}]"] = None
        self.expect(tuple(plain))
        return tuple(plain)

    @contextmanager
    def logging_to(self, log: QueryLog, *, offline: bool = False) -> Iterator[None]:
        """Log attempts here, and pay for no answer that it holds.

        Args:
            offline: send nothing; copies without an answer in the log stay without.
        """
        before = self._log, self.offline
        self._log, self.offline = log, offline
        try:
            yield
        finally:
            self._log, self.offline = before

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a connection to the vendor. On exit, wait for pending queries.

        Without a log, answers are kept until the exit only: the key of a copy does not name its
        seed and sigma. The budget holds for all such sessions together.

        Raises:
            MissingExtraError, SettingError: before anything is sent.
        """
        if not self.offline:
            self.vendor.connect(
                timeout=self.settings.timeout,
                in_flight=self.settings.in_flight,
                largest_answer=self.settings.largest_answer,
            )
        log = MemoryLog(self._unlogged) if self._log is None else self._log
        self._client = client = QueryClient(self.vendor, self.rule, log, self.settings, self.number)
        try:
            yield Session(self, client)
        finally:
            client.close()
            self._client = None
            self.vendor.close()
            if self._log is None:
                self._unlogged = client.spent

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Int[Tensor, " b"]:
        """Return the labels of images; equal images share a query."""
        arrays = images.detach().cpu().numpy()
        keys = [
            CopyKey(hashlib.sha256(array.tobytes()).hexdigest(), Stage.PREDICTION, 0)
            for array in arrays
        ]
        votes: dict[CopyKey, Future[int]] = {}
        with self.session() as session:
            for key, image in zip(keys, arrays, strict=True):
                if key not in votes:
                    (votes[key],) = session.ask([key], image[None])
            return tensor([votes[key].result() for key in keys])

    def fingerprint_parts(self) -> Mapping[str, object]:
        """Return what determines the answers: no secrets, and no client settings."""
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

    def __init__(self, classifier: RemoteClassifier, client: QueryClient) -> None:
        self._classifier, self._client = classifier, client
        # Twice the queries in flight, so that copies are made while others are answered.
        self.capacity = 2 * classifier.settings.in_flight

    def known(self, key: CopyKey) -> Future[int] | None:
        if (settled := self._client.settled(key)) is None:
            return None
        vote: Future[int] = Future()
        vote.set_result(self._classifier.number(*settled))
        return vote

    def ask(
        self, keys: Sequence[CopyKey], images: Float[np.ndarray, "n c h w"]
    ) -> list[Future[int]]:
        if self._classifier.offline:
            return [_missing(key) for key in keys]
        encode, limits = self._classifier.encoding.encode, self._classifier.vendor.limits
        encoders = [partial(encode, levels, limits) for levels in to_levels(images)]
        return self._client.submit(keys, encoders)


def _missing(key: CopyKey) -> Future[int]:
    """Return the future of an answer that would have to be paid for."""
    vote: Future[int] = Future()
    vote.set_exception(
        AnswerMissingError(
            f"Copy {key.copy} of image {key.image_id!r} ({key.stage}) has no answer in the log, "
            "and no query may be sent. Remove --offline to pay for it."
        )
    )
    return vote
