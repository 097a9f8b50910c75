"""In this process: threads that each count on a device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from denoised_smoothing.certificates.parameters import EngineName, Noise, Precision
from denoised_smoothing.engines import EngineChoice, choose_device, limit_threads
from denoised_smoothing.engines.prepared import PreparedPipeline
from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.protocols import Classifier
from denoised_smoothing.noise import chunk_size
from denoised_smoothing.smoothing.scheduler import BatchRunner, CopyRange, Votes
from denoised_smoothing.smoothing.votes import Seed, VoteCounter


class Devices(PreparedPipeline):
    """An execution in this process; several devices have a copy of the modules each.

    Args:
        classifier, denoiser, sigma, noise, engine, precision: as of :class:`PreparedPipeline`.
        devices: where, all of one kind; the first one's engine and forward shape are those of all.

    Raises:
        SettingError: the devices are of several kinds, so that counts would depend on which of
            them had a copy, or what they shall share is no module.
    """

    def __init__(
        self,
        classifier: Classifier,
        denoiser: Callable[..., Tensor] | None,
        sigma: float,
        noise: Noise,
        engine: EngineName,
        precision: Precision,
        devices: Sequence[torch.device],
    ) -> None:
        super().__init__(classifier, denoiser, sigma, noise, engine, precision, devices[0])
        self.devices = tuple(devices)
        self._votings = [VoteCounter(sigma, noise, device) for device in devices]
        self._copies: tuple[object, list[PreparedPipeline]] = (None, [])
        _check_alike(self.devices)
        if len(devices) > 1 and not self.pipeline.is_module:
            raise SettingError(
                "classifier or denoiser is no torch module, and cannot be copied to "
                f"{len(devices)} devices; name one device"
            )

    @property
    def voting(self) -> VoteCounter:
        """That of the first device."""
        return self._votings[0]

    @contextmanager
    def executor(
        self, image: Float[np.ndarray, "c h w"], seed: Seed, most: int | None = None
    ) -> Iterator[BatchRunner]:
        """Threads, as many as the engines want, for images of this size.

        Args:
            image: one of them.
            seed: of the noise, or of each image's.
            most: copies on their way, if more than a batch; None for two batches a thread.
        """
        choices = [self.choice(image), *(other.choice(image) for other in self._others(image))]
        forward, chunk = choices[0].forward, chunk_size(image.shape)
        batch = forward * -(-chunk // forward)  # whole chunks and whole passes
        workers = sum(choice.engine.workers for choice in choices)
        depth = 2 * workers if most is None else max(1, most // batch)
        places: SimpleQueue[tuple[VoteCounter, EngineChoice]] = SimpleQueue()
        for _ in range(choices[0].engine.workers):  # in turn, so that no device is left out
            for place in zip(self._votings, choices, strict=True):
                places.put(place)
        mine = threading.local()

        def begin() -> None:
            mine.voting, mine.choice = places.get()
            limit_threads(mine.choice.engine)

        def count(parts: list[CopyRange]) -> Votes:
            votes: Votes = mine.voting.votes(parts, mine.choice, seed)
            return votes

        before = torch.get_num_threads()
        pool = ThreadPoolExecutor(workers, initializer=begin)
        try:
            yield BatchRunner(
                lambda parts: pool.submit(count, list(parts)), batch, min(depth, workers), depth
            )
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)

    def _others(self, image: Float[np.ndarray, "c h w"]) -> list[PreparedPipeline]:
        """On the further devices; copied again where weights have changed since."""
        choice, state = self.choice(image), self.pipeline.state()
        if self._copies[0] != state:
            self._copies = (state, [self.on(device) for device in self.devices[1:]])
        for other in self._copies[1]:
            if (other.engine, other.forward) != (choice.engine.name, choice.forward):
                other.adopt(choice.engine.name, choice.forward)
        return self._copies[1]


def choose_devices(names: str | torch.device | Sequence[str | torch.device]) -> list[torch.device]:
    """The devices of these names: one, or several with commas between.

    Raises:
        SettingError: one is not there.
    """
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",")]
    if isinstance(names, torch.device):
        names = [names]
    return [choose_device(name) for name in names]


def _check_alike(devices: Sequence[torch.device]) -> None:
    kinds = {
        torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        for device in devices
    }
    if len(kinds) > 1:
        raise SettingError(
            f"the devices {', '.join(map(str, devices))} are of several kinds "
            f"({', '.join(sorted(kinds))}), which differ in the last bits; name devices of one kind"
        )
