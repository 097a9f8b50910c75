"""Strict reading of plain values: JSON without exceptions, and fields that have their type."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from denoised_smoothing.errors import CertificateError, MalformedCertificateError

_Name = TypeVar("_Name", bound=StrEnum)
_REQUIRED: Any = object()
LARGEST = 2**63 - 1
"""Largest whole number that a field may have."""
AS_WRITTEN = "Use the file as it was written, or certify the image again."
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,999}")


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text in UTF-8.

    Raises:
        MalformedCertificateError: it is not JSON, an object has two values of one name, or a number
            is NaN or infinite.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedCertificateError(
            f"A certificate must be a JSON object in UTF-8, and this cannot be read: {error}. "
            f"{AS_WRITTEN}"
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen = set[str]()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"an object has two values of {quoted(name)}")
            seen.add(name)
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def same(one: Any, other: Any) -> bool:
    """Return whether two plain values are equal, where 1 equals 1.0, but not True."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def quoted(value: object) -> str:
    """Return a value for a message, shortened, without characters that cannot be printed."""
    return ascii(value[:200]) if isinstance(value, str) else reprlib.repr(value)


@contextmanager
def refused_as_malformed(what: str) -> Iterator[None]:
    """Raise every exception about values as a MalformedCertificateError, with its cause."""
    try:
        yield
    except CertificateError:
        raise
    except Exception as error:  # numbers far out of range: numpy and scipy raise several kinds
        reason = str(error).rstrip(".")
        raise MalformedCertificateError(f"{what}: {reason}. {AS_WRITTEN}") from error


class Fields:
    """The fields of an object, taken one by one; :meth:`end` refuses those that were not taken.

    Args:
        values: a value of JSON.
        where: the name of the object in messages, "" for the whole certificate.

    Raises:
        MalformedCertificateError: ``values`` is not an object; the methods: a field is missing, or
            its value is not of the type. The message names the field and the value.
    """

    def __init__(self, values: Any, where: str = "") -> None:
        if not isinstance(values, Mapping):
            what = f"The field {where!r} of the certificate" if where else "A certificate"
            raise MalformedCertificateError(
                f"{what} must be an object, got {quoted(values)}. {AS_WRITTEN}"
            )
        self._values, self._where, self._taken = values, where, set[str]()

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def path(self, name: str) -> str:
        """Return the name of a field with that of the object."""
        return f"{self._where}.{name}" if self._where else name

    def take(
        self, name: str, expected: str, holds: Callable[[Any], bool], default: Any = _REQUIRED
    ) -> Any:
        """Return the value of a field for which ``holds`` is true; of a missing one the default."""
        self._taken.add(name)
        if name not in self._values:
            if default is not _REQUIRED:
                return default
            raise MalformedCertificateError(
                f"The field {self.path(name)!r} of the certificate is missing, which must be "
                f"{expected}. {AS_WRITTEN}"
            )
        value = self._values[name]
        if not holds(value):
            raise MalformedCertificateError(
                f"The field {self.path(name)!r} of the certificate must be {expected}, got "
                f"{quoted(value)}. {AS_WRITTEN}"
            )
        return value

    def text(self, name: str) -> str:
        """Return a text."""
        return str(self.take(name, "a text", lambda value: isinstance(value, str)))

    def texts(self, name: str, default: Any = _REQUIRED) -> tuple[str, ...]:
        """Return a list of texts."""
        return tuple(
            self.take(
                name,
                "a list of texts",
                lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
                default,
            )
        )

    def whole(self, name: str, least: int = 0) -> int:
        """Return a whole number from ``least`` on."""
        return int(self.take(name, f"a whole number from {least} on", lambda v: is_whole(v, least)))

    def number(self, name: str) -> float:
        """Return a finite number."""
        return self.take(name, "a finite number", is_number)  # type: ignore[no-any-return]

    def one_of(self, kind: type[_Name], name: str, default: Any = _REQUIRED) -> _Name:
        """Return the member of an enumeration."""
        known = tuple(member.value for member in kind)
        found = self.take(name, f"one of {', '.join(known)}", lambda v: v in known, default)
        return kind(found)

    def optional(self, name: str, read: Callable[[str], Any]) -> Any:
        """Return what ``read`` returns for a field, or None where it is null."""
        if self._values.get(name, name) is None:
            self._taken.add(name)
            return None
        return read(name)

    def whole_text(self, name: str) -> int:
        """Return a whole number of any size that is written as text, such as a seed."""
        expected = "a whole number as text"
        return int(
            self.take(name, expected, lambda v: isinstance(v, str) and bool(_WHOLE.fullmatch(v)))
        )

    def fields(self, name: str) -> Fields:
        """Return the fields of an object in a field."""
        return Fields(self.take(name, "an object", lambda value: True), self.path(name))

    def items(self) -> Mapping[str, Any]:
        """Return all values by name, as taken."""
        self._taken.update(self._values)
        return self._values

    def end(self) -> None:
        """Refuse fields that were not taken.

        Raises:
            MalformedCertificateError: there are some.
        """
        if unknown := sorted(self._values.keys() - self._taken, key=str):
            raise MalformedCertificateError(
                f"The field {quoted(self.path(unknown[0]))} of the certificate is unknown, or has "
                f"no meaning with its plan. {AS_WRITTEN}"
            )


def is_whole(value: Any, least: int) -> bool:
    """Return whether a value of JSON is a whole number, from ``least`` to :data:`LARGEST`."""
    return type(value) is int and least <= value <= LARGEST


def is_number(value: Any) -> bool:
    """Return whether a value of JSON is a finite number."""
    if type(value) is int:
        return abs(value) <= LARGEST
    return type(value) is float and math.isfinite(value)
