"""Every error that this package raises on purpose.

    DenoisedSmoothingError
    ├── InputError (also a ValueError)   refused before any work is done
    │   ├── SettingError                 sigma, n0, n, alpha, a radius, an option
    │   ├── ImageError                   an image: unreadable, shape, channels, range
    │   ├── DatasetError                 a data set: missing, empty, without the columns
    │   └── SpecError                    a spec string that names nothing known
    ├── WeightsError                     a weights file: a pickle, altered, another architecture
    ├── ClassifierError                  a classifier or denoiser answered what cannot be used
    ├── RemoteError                      a classifier behind a wire cannot go on; answers are kept
    │   ├── BudgetReachedError           the limit of queries or cost
    │   ├── ModelChangedError            the vendor answers with another model than before
    │   └── AnswerMissingError           without queries, and the log has no answer
    ├── WorkerError                      workers of a cluster cannot be reached, or are lost
    ├── CountsError                      counts that do not belong together
    ├── TrainingError                    a training that cannot start or go on
    │   └── TrainingInterruptedError     stopped by Ctrl-C; the same command goes on
    ├── StoreError                       the store cannot be read or written
    │   ├── StoreUnreachableError        a server that is away, and may come back
    │   ├── RunBusyError                 another driver works on the run
    │   ├── SchemaTooNewError            written by a newer version of this package
    │   ├── RunNotFoundError             no run of that name
    │   └── RunMismatchError             the run exists, with other settings
    └── MissingExtraError (also an ImportError)   an optional package is not installed

A message names the value it got, what was expected, and what to do next.
"""

from __future__ import annotations


class DenoisedSmoothingError(Exception):
    """Base of all errors of this package."""


class InputError(DenoisedSmoothingError, ValueError):
    """Something the caller gave cannot be used; nothing was done yet."""


class SettingError(InputError):
    """A setting (sigma, n0, n, alpha, radius, option) is out of its range."""


class ImageError(InputError):
    """An image cannot be read, or has the wrong shape, channels or range."""


class DatasetError(InputError):
    """A data set is missing, empty or not of the expected form."""


class SpecError(InputError):
    """A spec string (classifier, denoiser, data) names nothing known."""


class WeightsError(DenoisedSmoothingError):
    """A weights file is refused: a pickle, altered, or of another architecture."""


class ClassifierError(DenoisedSmoothingError):
    """A classifier or a denoiser returned something that cannot be used."""


class RemoteError(DenoisedSmoothingError):
    """A classifier behind a wire cannot go on; every answer so far is kept."""


class BudgetReachedError(RemoteError):
    """One query more would pass the limit of queries or cost."""


class ModelChangedError(RemoteError):
    """The vendor answers with another version of the model than earlier in the run."""


class AnswerMissingError(RemoteError):
    """No query may be sent, and the log holds no answer for this copy."""


class WorkerError(DenoisedSmoothingError):
    """Workers of a cluster cannot be reached, failed or are lost; every count so far is kept."""


class CountsError(DenoisedSmoothingError):
    """Label counts of different runs, images or stages were mixed."""


class TrainingError(DenoisedSmoothingError):
    """A training cannot start or cannot go on."""


class TrainingInterruptedError(TrainingError):
    """A training was stopped from outside; it goes on from its last checkpoint."""


class StoreError(DenoisedSmoothingError):
    """The store of runs cannot be opened, read or written."""


class StoreUnreachableError(StoreError):
    """The server of the store is away; it may come back."""


class RunBusyError(StoreError):
    """Another driver works on the run."""


class SchemaTooNewError(StoreError):
    """The store was written by a newer version of this package."""


class RunNotFoundError(StoreError):
    """The store holds no run of that name."""


class RunMismatchError(StoreError):
    """The run exists, but with other settings than the ones asked for."""


class MissingExtraError(DenoisedSmoothingError, ImportError):
    """An optional package is needed; the message names the extra that brings it.

    ``install`` is the command that brings it; without an extra, the package by itself.
    """

    def __init__(self, package: str, extra: str | None, purpose: str) -> None:
        wanted = f"'denoised-smoothing[{extra}]'" if extra else package
        self.install = f"pip install {wanted}"
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed; "
            f"install it with: {self.install}"
        )
        self.package, self.extra, self.purpose = package, extra, purpose

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.package, self.extra, self.purpose)
