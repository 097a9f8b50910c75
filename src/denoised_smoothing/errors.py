"""Every error that this package raises on purpose.

    DenoisedSmoothingError
    ├── InputError (also a ValueError)   refused before any work is done
    │   ├── SettingError                 sigma, n0, n, alpha, a radius, an option
    │   ├── ImageError                   an image: unreadable, shape, channels, range
    │   │   └── RefusedImagesError       some images of a run; all others are certified
    │   ├── DatasetError                 a data set: missing, empty, without the columns
    │   └── SpecError                    a spec string that names nothing known
    ├── WeightsError                     a weights file: a pickle, altered, another architecture
    ├── ClassifierError                  a classifier or denoiser returned an unusable result
    │   ├── ContractError                its answer to a copy depends on more than that copy
    │   └── MemoryLackError              it got no memory for a batch
    ├── RemoteError                      a remote classifier cannot resume; answers are kept
    │   ├── BudgetReachedError           the limit of queries or cost
    │   ├── ModelChangedError            the vendor answers with another model than before
    │   └── AnswerMissingError           without queries, and the log has no answer
    ├── WorkerError                      workers of a cluster cannot be reached, or are lost
    ├── CountsError                      counts that do not belong together
    ├── CertificateError                 a stored certificate that cannot be relied on
    │   ├── MalformedCertificateError    a field is missing, unknown or has an impossible value
    │   └── AlteredCertificateError      a field does not follow from the counts
    ├── TrainingError                    a training that cannot start or resume
    │   └── TrainingInterruptedError     stopped by Ctrl-C; the same command resumes it
    ├── StoreError                       the store cannot be read or written
    │   ├── StoreUnreachableError        a server that is unreachable, and may come back
    │   ├── RunBusyError                 another driver works on the run
    │   ├── SchemaTooNewError            written by a newer version of this package
    │   ├── RunNotFoundError             no run of that name
    │   └── RunMismatchError             the run exists, with other settings
    ├── BusyError                        the service has its maximum of pending requests
    ├── ClosingError                     the service is being stopped
    ├── BodyTooLargeError                the body of a request is larger than the limit
    ├── BodyTooSlowError                 the body of a request did not arrive in time
    └── MissingExtraError (also an ImportError)   an optional package is not installed

A message names the value it got, what was expected, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, TypeGuard


class DenoisedSmoothingError(Exception):
    """Base of all errors of this package."""

    exit_code: ClassVar[int] = 1
    """Of a command that ends with this error: 1 failed midway, 2 refused, 130 interrupted."""


class InputError(DenoisedSmoothingError, ValueError):
    """An input of the caller cannot be used; nothing was done yet."""

    exit_code = 2


class SettingError(InputError):
    """A setting (sigma, n0, n, alpha, radius, option) is out of its range."""


class ImageError(InputError):
    """An image cannot be read, or has the wrong shape, channels or range."""


class RefusedImagesError(ImageError):
    """Some images of a run cannot be certified; all others are, and the reasons are stored."""

    exit_code = 1


class DatasetError(InputError):
    """A data set is missing, empty or not in the expected format."""


class SpecError(InputError):
    """A spec string (classifier, denoiser, data) names nothing known."""


class WeightsError(DenoisedSmoothingError):
    """A weights file is refused: a pickle, altered, or of another architecture."""

    exit_code = 2


class ClassifierError(DenoisedSmoothingError):
    """A classifier or a denoiser returned something that cannot be used."""


class ContractError(ClassifierError):
    """The answer to a noisy copy depends on more than that copy, so nothing can be proven."""


class MemoryLackError(ClassifierError):
    """A classifier or a denoiser got no memory for a batch."""


class RemoteError(DenoisedSmoothingError):
    """A remote classifier cannot resume; every answer so far is kept."""


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


class CertificateError(DenoisedSmoothingError):
    """A stored certificate cannot be relied on."""

    exit_code = 2


class MalformedCertificateError(CertificateError):
    """A field of a stored certificate is missing, unknown or has an impossible value."""


class AlteredCertificateError(CertificateError):
    """A field of a stored certificate, such as the radius, does not follow from its counts."""


class TrainingError(DenoisedSmoothingError):
    """A training cannot start or cannot resume."""


class TrainingInterruptedError(TrainingError):
    """A training was stopped from outside; it resumes from its last checkpoint."""

    exit_code = 130


class StoreError(DenoisedSmoothingError):
    """The store of runs cannot be opened, read or written."""


class StoreUnreachableError(StoreError):
    """The server of the store is unreachable; it may come back."""


class RunBusyError(StoreError):
    """Another driver works on the run."""

    exit_code = 2


class SchemaTooNewError(StoreError):
    """The store was written by a newer version of this package."""

    exit_code = 2


class RunNotFoundError(StoreError):
    """The store holds no run of that name."""

    exit_code = 2


class RunMismatchError(StoreError):
    """The run exists, but with other settings than the requested ones."""

    exit_code = 2


class BusyError(DenoisedSmoothingError):
    """The service has its maximum of pending requests; retry after ``retry_after`` seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ClosingError(DenoisedSmoothingError):
    """The service is being stopped."""


class BodyTooLargeError(DenoisedSmoothingError):
    """The body of a request is larger than the limit; its header did not state the length."""


class BodyTooSlowError(DenoisedSmoothingError):
    """The next piece of the body of a request did not arrive in time."""


class MissingExtraError(DenoisedSmoothingError, ImportError):
    """An optional package is not installed; the message names the extra that installs it.

    ``install`` is the command that installs it; without an extra, the package alone.
    """

    exit_code = 2

    def __init__(self, package: str, extra: str | None, purpose: str) -> None:
        wanted = f"'denoised-smoothing[{extra}]'" if extra else package
        self.install = f"pip install {wanted}"
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed. "
            f"Install it with: {self.install}"
        )
        self.package, self.extra, self.purpose = package, extra, purpose

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.package, self.extra, self.purpose)


@contextmanager
def raised_as(kind: type[DenoisedSmoothingError], what: str, remedy: str) -> Iterator[None]:
    """Raise every exception of a wrapped library as an error of this package, with its cause.

    Args:
        kind: the error to raise.
        what: what failed, to begin the message: "cannot load FILE".
        remedy: what to do, to end it.
    """
    try:
        yield
    except DenoisedSmoothingError:
        raise
    except Exception as error:  # libraries have no common base, and change what they raise
        raise kind(f"{what} ({type(error).__name__}: {first_line(error)}). {remedy}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message."""
    return str(error).strip().partition("\n")[0]


_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "bad allocation")
"""Parts of the messages of libraries that got no memory, in lower case."""


def lacks_memory(error: BaseException) -> bool:
    """Return whether a library raised this because it got no memory."""
    text = str(error).lower()
    return isinstance(error, (MemoryError, MemoryLackError)) or (
        isinstance(error, (RuntimeError, OSError)) and any(part in text for part in _NO_MEMORY)
    )


def differences(
    held: Mapping[Any, Any],
    requested: Mapping[Any, Any],
    *,
    where: tuple[str, str] = ("in the run", "requested"),
    path: str = "",
) -> list[str]:
    """List the settings that differ, for the message of an error; nested ones by their path.

    Of two lists of names, such as those of labels, only the first difference is listed.
    """
    found = []
    for key in sorted({*held, *requested}):
        mine, theirs = held.get(key), requested.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            found += differences(mine, theirs, where=where, path=f"{path}{key}.")
        elif _are_names(mine) and _are_names(theirs):
            numbered = dict(enumerate(mine)), dict(enumerate(theirs))
            found += differences(*numbered, where=where, path=f"{path}{key}.")[:1]
        elif mine != theirs:
            found.append(f"{path}{key}: {mine!r} {where[0]}, {theirs!r} {where[1]}")
    return found


def _are_names(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and {type(name) for name in value} == {str}
