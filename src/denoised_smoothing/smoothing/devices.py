"""Counting in this process: threads that each use a device."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle

import numpy as np
import torch
from jaxtyping import Float

from denoised_smoothing.engines.choice import EngineChoice
from denoised_smoothing.engines.engine import choose_device
from denoised_smoothing.engines.prepared import PreparedPipeline
from denoised_smoothing.errors import SettingError
from denoised_smoothing.noise import chunk_size
from denoised_smoothing.smoothing.scheduler import BatchRunner, CopyRange, Votes
from denoised_smoothing.smoothing.votes import Seed, VoteCounter


class Devices:
    """Counts in threads of this process; each further device has a copy of the modules.

    Args:
        prepared: the pipeline, on the first device.
        devices: all of one kind; the first one's engine and forward shape are those of all.

    Raises:
        SettingError: the devices are of several kinds, so that counts would depend on which of
            them had a copy, or the pipeline is not made of modules.
    """

    def __init__(self, prepared: PreparedPipeline, devices: Sequence[torch.device]) -> None:
        kinds = {
            torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
            for device in devices
        }
        if len(kinds) > 1:
            raise SettingError(
                f"The devices {', '.join(map(str, devices))} are of several kinds "
                f"({', '.join(sorted(kinds))}), which differ in the last bits. Name devices of "
                "one kind."
            )
        if len(devices) > 1 and not prepared.pipeline.is_module:
            raise SettingError(
                "The classifier or the denoiser is no torch module, and cannot be copied to "
                f"{len(devices)} devices. Name one device."
            )
        self.prepared = prepared
        self._counters = [VoteCounter(prepared, device) for device in devices]
        self._copies: tuple[object, list[PreparedPipeline]] = (None, [])

    @contextmanager
    def runner(
        self,
        image: Float[np.ndarray, "c h w"],
        seed: Seed,
        max_in_flight: int | None = None,
        choice: EngineChoice | None = None,
    ) -> Iterator[BatchRunner]:
        """Start as many threads as the engines want, for images of this size.

        Args:
            seed: of the noise, or of each image's.
            max_in_flight: maximum number of copies in flight, but at least one batch; None for
                two batches a thread.
            choice: the engine for these images; None to ask for it.
        """
        choices = [choice or self.prepared.engine_for(image)]
        if len(self._counters) > 1:
            choices += self._further(image, choices[0])
        forward, chunk = choices[0].forward, chunk_size(image.shape)
        batch = forward * -(-chunk // forward)  # whole chunks and whole passes
        workers = sum(choice.engine.workers for choice in choices)
        batches = 2 * workers if max_in_flight is None else max(1, max_in_flight // batch)
        # The threads take devices in turn, so that every device has some.
        places = cycle(zip(self._counters, choices, strict=True))
        mine, lock = threading.local(), threading.Lock()

        def count(ranges: Sequence[CopyRange]) -> Votes:
            if not hasattr(mine, "place"):
                with lock:
                    mine.place = next(places)
            counter, choice = mine.place
            votes: Votes = counter.votes(ranges, choice, seed)
            return votes

        before = torch.get_num_threads()
        threads = choices[0].engine.threads or before
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,))
        try:
            yield BatchRunner(
                lambda ranges: pool.submit(count, ranges), batch, min(batches, workers), batches
            )
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)

    def _further(
        self, image: Float[np.ndarray, "c h w"], choice: EngineChoice
    ) -> list[EngineChoice]:
        """Return the engines of the further devices; weights that changed are copied again."""
        state, copies = self._copies
        if state != self.prepared.state:
            copies = [self.prepared.on(counter.device) for counter in self._counters[1:]]
            self._copies = self.prepared.state, copies
        for other in copies:
            if (other.engine, other.forward) != (choice.engine.name, choice.forward):
                other.use_engine(choice.engine.name, choice.forward)
        return [other.engine_for(image) for other in copies]


def choose_devices(names: str | torch.device | Sequence[str | torch.device]) -> list[torch.device]:
    """Return the devices of these names: one, or several with commas between.

    Raises:
        SettingError: one is not available.
    """
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",")]
    if isinstance(names, torch.device):
        names = [names]
    return [choose_device(name) for name in names]


def check_alone(several: bool, remote: bool, stochastic: bool) -> None:
    """Refuse several devices or a cluster for a classifier that must run alone.

    Raises:
        SettingError: a remote or a stochastic classifier would be called in several places.
    """
    if remote and several:
        raise SettingError(
            "Queries of a remote classifier are sent by threads of this process, in order and "
            "within one budget. Omit --ray and further --devices."
        )
    if stochastic and (remote or several):
        raise SettingError(
            "A stochastic classifier runs in this process on one device, because copies of it "
            "could draw the same random numbers. Omit --stochastic, --ray and further devices."
        )
