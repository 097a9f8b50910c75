"""Spec strings, and the sources that packages register for their schemes by entry points.

The built-in sources are registered in the same way, in ``pyproject.toml``:

    [project.entry-points."denoised_smoothing.classifiers"]
    timm = "denoised_smoothing.models.classifiers.timm:SOURCE"
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from denoised_smoothing.errors import MissingExtraError, SpecError

_OWN = "denoised-smoothing"


class Role(StrEnum):
    """What a source brings; its value is the end of the entry point group's name."""

    CLASSIFIER = "classifiers"
    DENOISER = "denoisers"
    DATASET = "datasets"

    @property
    def group(self) -> str:
        """The group of entry points that is looked up."""
        return f"denoised_smoothing.{self.value}"


@dataclass(frozen=True)
class Spec:
    """A spec string, taken apart: ``scheme:rest?name=value&name=value``.

    Args:
        text: the whole string, for messages.
        scheme: what stands before the first colon.
        rest: what stands after it, without the options.
        options: the options by name; empty for a source that takes none.
    """

    text: str
    scheme: str
    rest: str
    options: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str, default: int) -> int:
        """The option as a whole number of at least 1.

        Raises:
            SpecError: it is none.
        """
        text = self.options.get(name, str(default))
        if not text.isdecimal() or int(text) < 1:
            raise SpecError(f"{self.text!r}: {name} must be a whole number above 0, got {text!r}")
        return int(text)

    def numbers(self, name: str) -> tuple[float, ...] | None:
        """The option as numbers that commas separate; None if it is not given.

        Raises:
            SpecError: one of them is no number.
        """
        if name not in self.options:
            return None
        try:
            return tuple(float(part) for part in self.options[name].split(","))
        except ValueError:
            raise SpecError(
                f"{self.text!r}: {name} takes numbers such as 0.5,0.5,0.5, "
                f"got {self.options[name]!r}"
            ) from None

    def names(self, name: str) -> tuple[str, ...] | None:
        """The option as names: between commas, or the lines of a file; None if it is not given.

        Raises:
            SpecError: the file is missing, or fewer than two names are given.
        """
        if name not in self.options:
            return None
        text = self.options[name]
        path = Path(text).expanduser()
        if "," not in text:
            if not path.is_file():
                raise SpecError(
                    f"{self.text!r}: {name} takes names between commas, or a file with one a "
                    f"line, and there is no file {text!r}"
                )
            text = ",".join(path.read_text(encoding="utf-8").splitlines())
        found = tuple(part.strip() for part in text.split(",") if part.strip())
        if len(found) < 2:
            raise SpecError(f"{self.text!r}: {name} needs at least two names, got {found}")
        return found


@dataclass(frozen=True)
class Source:
    """Where classifiers, denoisers or data sets come from: what an entry point leads to.

    Args:
        load: makes the object of a spec.
        form: how such a spec is written, scheme included: ``timm:NAME-OR-FOLDER``.
        what: one line for ``list``.
        options: the names that may follow a ``?`` in the spec; with none, a ``?`` is part of
            the rest.
        package: what must be installed to load it, as it is imported, or None.
        extra: the extra of denoised-smoothing that brings it, or None for the package itself.
    """

    load: Callable[[Spec], Any]
    form: str
    what: str
    options: tuple[str, ...] = ()
    package: str | None = None
    extra: str | None = None

    @property
    def missing(self) -> MissingExtraError | None:
        """What ``load`` would raise for want of a package, or None if it is there."""
        if self.package is None or _is_installed(self.package):
            return None
        return MissingExtraError(self.package, self.extra, self.form)


def open_spec(role: Role, text: str) -> Any:
    """The object that a spec names, from the source that its scheme names.

    Raises:
        SpecError: no such scheme, nothing behind the colon, or options it does not take.
        MissingExtraError: a package is needed.
    """
    source, spec = resolve(role, text)
    try:
        return source.load(spec)
    except ImportError as error:
        lacks = source.missing
        if lacks is None or isinstance(error, MissingExtraError):
            raise
        raise lacks from error


def resolve(role: Role, text: str) -> tuple[Source, Spec]:
    """The source of a spec, and the spec taken apart.

    Raises:
        SpecError: no such scheme, nothing behind the colon, or options it does not take.
    """
    scheme, _, rest = text.partition(":")
    entry = _entry_of(role, scheme)
    if entry is None:
        raise unknown(role, text)
    source = _loaded(entry)
    options: dict[str, str] = {}
    if source.options and "?" in rest:
        rest, _, tail = rest.partition("?")
        options = _options(text, tail, source)
    if not rest and ":" in source.form.partition("[")[0]:
        raise SpecError(f"{text!r} is not complete; write {source.form}")
    return source, Spec(text, scheme, rest, options)


def has_source(role: Role, text: str) -> bool:
    """Whether the scheme of a spec is registered."""
    return _entry_of(role, text.partition(":")[0]) is not None


def schemes(role: Role) -> list[str]:
    """The schemes that are registered."""
    return list(_entries(role))


def list_sources(role: Role) -> list[dict[str, str]]:
    """Rows of ``list``: the form of each source, what it is, and what is missing for it."""
    rows = []
    for entry in _entries(role).values():
        try:
            source = _loaded(entry)
        except SpecError as error:
            rows.append({"spec": f"{entry.name}:", "what": "plug-in", "missing": str(error)})
            continue
        lacks = source.missing
        missing = "" if lacks is None else lacks.install
        rows.append({"spec": source.form, "what": source.what, "missing": missing})
    return rows


def forms(role: Role) -> list[str]:
    """How the specs of all sources are written."""
    return [row["spec"] for row in list_sources(role)]


def unknown(role: Role, text: str, names: Collection[str] = ()) -> SpecError:
    """The error for a spec that names nothing known; suggests the nearest.

    Args:
        role: what was looked for.
        text: the spec.
        names: what else could have been named.
    """
    known = {re.split(r"[:\[A-Z]", form)[0]: form for form in (*names, *forms(role))}
    nearest = difflib.get_close_matches(text.split(":")[0], known, n=1, cutoff=0.5)
    hint = f"did you mean {known[nearest[0]]}? " if nearest else ""
    what = role.value.removesuffix("s")
    every = ", ".join([*names, *forms(role)])
    return SpecError(f"unknown {what} {text!r}; {hint}Known: {every}")


def _options(text: str, tail: str, source: Source) -> dict[str, str]:
    options = {}
    for pair in tail.split("&"):
        name, equals, value = pair.partition("=")
        if name not in source.options or not equals or not value:
            raise SpecError(
                f"{text!r}: option {pair!r} is not known; write NAME=VALUE, joined by &, with "
                f"the names {', '.join(source.options)}"
            )
        options[name] = value
    return options


def _entry_of(role: Role, scheme: str) -> metadata.EntryPoint | None:
    """The entry point of a scheme; a number at its end may be left out (cifar-resnet56)."""
    entries = _entries(role)
    return entries.get(scheme) or entries.get(scheme.rstrip("0123456789"))


@cache
def _entries(role: Role) -> dict[str, metadata.EntryPoint]:
    """Scheme to entry point: those of this package, then others by name; the first one wins."""
    found = metadata.entry_points(group=role.group)
    entries: dict[str, metadata.EntryPoint] = {}
    for entry in sorted(found, key=lambda e: (not _is_own(e), e.dist.name if e.dist else "")):
        entries.setdefault(entry.name, entry)
    return entries


def _is_own(entry: metadata.EntryPoint) -> bool:
    return entry.dist is not None and entry.dist.name == _OWN


def _loaded(entry: metadata.EntryPoint) -> Source:
    """What an entry point leads to.

    Raises:
        SpecError: it cannot be imported, or is no source.
    """
    try:
        source = entry.load()
    except Exception as error:  # of any plug-in
        raise SpecError(
            f"the plug-in {entry.name!r} ({entry.value}) cannot be loaded "
            f"({type(error).__name__}: {error}); repair or remove the package that brings it"
        ) from error
    if not isinstance(source, Source):
        raise SpecError(
            f"the plug-in {entry.name!r} ({entry.value}) is {type(source).__name__}; it must be a "
            "denoised_smoothing.models.specs.Source"
        )
    return source


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ValueError, ModuleNotFoundError):  # None in sys.modules
        return False
