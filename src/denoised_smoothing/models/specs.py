"""Spec strings, and the sources that packages register for their schemes by entry points.

The built-in sources are registered in the same way, in ``pyproject.toml``:

    [project.entry-points."denoised_smoothing.classifiers"]
    timm = "denoised_smoothing.models.sources:TIMM"

A spec is written ``scheme:rest?name=value&name=value``. An ``&`` begins an option where ``NAME=``
follows, and is a part of the value elsewhere. Two kinds of sources read more (see :class:`Source`):

*   Where the rest is a URL, the options begin at the first ``?NAME=`` with the name of an option.
    The URL keeps its own query in front: ``http:http://host/x?key=1?label=name``. If that query
    begins with the name of an option, write ``?&``: ``http:http://host/x?&size=1?label=name``.
*   Remote classifiers also read ``scheme:rest#name=value#name=value``, and log the new form.
"""

from __future__ import annotations

import difflib
import logging
import re
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import EnumType, StrEnum
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any, TypeVar

from denoised_smoothing.errors import MissingExtraError, SpecError, raised_as
from denoised_smoothing.models.label_names import read_names

_OWN = "denoised-smoothing"
_log = logging.getLogger(__name__)
_loaded_by: dict[int, tuple[Callable[[], object], str]] = {}
"""By the id of an object: a reference to it, and the spec that loaded it."""
T = TypeVar("T")


class Role(StrEnum):
    """The kind of object that a source loads; its value ends the name of the entry point group."""

    CLASSIFIER = "classifiers"
    DENOISER = "denoisers"
    DATASET = "datasets"

    @property
    def group(self) -> str:
        """The group of entry points that is looked up."""
        return f"denoised_smoothing.{self.value}"


@dataclass(frozen=True)
class Spec:
    """A parsed spec string, ``scheme:rest?name=value&name=value``.

    Args:
        text: the whole string, for messages.
        scheme: the part before the first colon.
        rest: the part after it, without the options.
        options: the options by name; empty for a source that takes none.
    """

    text: str
    scheme: str
    rest: str
    options: Mapping[str, str] = field(default_factory=dict)

    def given(self, **kinds: Callable[[str], Any]) -> dict[str, Any]:
        """Return the given ones of these options, converted, as keyword arguments.

        Args:
            kinds: by name ``int``, ``float``, ``str``, a StrEnum, or a function whose ValueError
                completes "NAME must be ...".

        Raises:
            SpecError: a value cannot be converted.
        """
        found = {}
        for name, convert in kinds.items():
            if (text := self.options.get(name)) is None:
                continue
            try:
                found[name] = convert(text)
            except ValueError as error:
                choices = " or ".join(convert) if isinstance(convert, EnumType) else None
                expected = choices or _EXPECTED.get(convert, str(error))
                raise SpecError(
                    f"{self.text!r}: {name} must be {expected}, got {text!r}"
                ) from error
        return found

    def number(self, name: str, default: int) -> int:
        """Return the option as a whole number above 0; SpecError if it is none."""
        return int(self.given(**{name: _positive}).get(name, default))

    def numbers(self, name: str) -> tuple[float, ...] | None:
        """Return the option as numbers that commas separate; None if it is not given."""
        return self.given(**{name: _numbers}).get(name)

    def names(self, name: str) -> tuple[str, ...] | None:
        """Return at least two names between commas, or those of a file; None if not given."""
        return self.given(**{name: read_names}).get(name)


_EXPECTED: dict[object, str] = {int: "a whole number", float: "a number"}


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("a whole number above 0")
    return int(text)


def _numbers(text: str) -> tuple[float, ...]:
    from denoised_smoothing.certificates.radii import parse_length

    try:
        return tuple(map(parse_length, text.split(",")))
    except ValueError:
        raise ValueError("numbers such as 0.5,0.5,0.5") from None


@dataclass(frozen=True)
class Source:
    """A kind of classifier, denoiser or data set: the value of an entry point.

    Args:
        load: makes the object of a spec: a function, or ``MODULE:FUNCTION``, imported when used.
        form: how such a spec is written, scheme included: ``timm:NAME-OR-FOLDER``.
        what: one line for ``list``.
        options: the names that may follow a ``?`` in the spec; with none, a ``?`` is part of
            the rest.
        package: what must be installed to load it, as it is imported, or None.
        extra: the extra of denoised-smoothing that brings it, or None for the package itself.
        url: whether the rest is a URL, which may have a query. The URL itself is a spec, too.
        hashes: whether ``#name=value``, the earlier form of options, is read as well.
        in_bundles: whether an exported bundle may name it. Its specs choose data alone, such as
            weights: neither code to run nor a server to ask.
    """

    load: Callable[[Spec], Any] | str
    form: str
    what: str
    options: tuple[str, ...] = ()
    package: str | None = None
    extra: str | None = None
    url: bool = False
    hashes: bool = False
    in_bundles: bool = False

    @property
    def missing(self) -> MissingExtraError | None:
        """The error of ``load`` without the package, or None if it is installed."""
        if self.package is None:
            return None
        try:
            installed = find_spec(self.package) is not None
        except (ValueError, ModuleNotFoundError):  # None in sys.modules, no parent package
            installed = False
        return None if installed else MissingExtraError(self.package, self.extra, self.form)


def open_spec(role: Role, text: str) -> Any:
    """Load the object that a spec names, from the source of its scheme.

    Raises:
        SpecError: the scheme is unknown, the rest is missing, an option is refused, or the source
            failed with an error that is none of this package.
        MissingExtraError: a package is needed.
    """
    source, spec = resolve(role, text)
    remedy = f"Check what the spec names: {source.form}."
    with raised_as(SpecError, f"cannot load {text!r}", remedy):
        try:
            load = resolve_name(source.load) if isinstance(source.load, str) else source.load
            return load(spec)
        except ImportError as error:
            if source.missing is None:
                raise
            raise source.missing from error


def resolve(role: Role, text: str) -> tuple[Source, Spec]:
    """Return the source of a spec, and the parsed spec.

    Raises:
        SpecError: the scheme is unknown, the rest is missing, or an option is refused.
    """
    found = _find(role, text)
    if found is None:
        raise unknown(role, text)
    source, scheme, rest = found
    rest, options = _parse(text, rest, source)
    if source.url and rest.startswith("//"):
        rest = f"{scheme}:{rest}"
    if not rest and ":" in source.form.partition("[")[0]:
        raise SpecError(f"{text!r} is not complete. Write {source.form}")
    if rest and ":" not in source.form:
        raise SpecError(f"{text!r}: {rest!r} is not expected. Write {source.form}")
    return source, Spec(text, scheme, rest, options)


def has_source(role: Role, text: str) -> bool:
    """Return whether the scheme of a spec is registered."""
    return _find(role, text) is not None


def schemes(role: Role) -> list[str]:
    """Return the schemes that are registered."""
    return list(_entries(role))


def list_sources(role: Role) -> list[dict[str, str]]:
    """Return the rows of ``list``: form and description of each source, and its missing extra."""
    rows = []
    for entry in _entries(role).values():
        try:
            source = _loaded(entry)
        except SpecError as error:
            rows.append({"spec": f"{entry.name}:", "what": "plug-in", "missing": str(error)})
            continue
        missing = "" if source.missing is None else source.missing.install
        rows.append({"spec": source.form, "what": source.what, "missing": missing})
    return rows


def forms(role: Role) -> list[str]:
    """Return how the specs of all sources are written."""
    return [row["spec"] for row in list_sources(role)]


def unknown(role: Role, text: str, names: Collection[str] = ()) -> SpecError:
    """Return the error for a spec that names nothing known; it suggests the nearest form.

    Args:
        role: what was looked for.
        names: further names that are known.
    """
    every = [*names, *forms(role)]
    known = {re.split(r"[:\[?A-Z]", form)[0]: form for form in every}
    hint = _nearest(re.split("[:?#]", text)[0], known, 0.5)
    what = role.value.removesuffix("s")
    return SpecError(f"Unknown {what} {text!r}. {hint}Known: {', '.join(every)}")


def remember_spec(thing: T, spec: str) -> T:
    """Note the spec that loaded an object, outside of the object, and return the object."""
    key = id(thing)
    try:
        held: Callable[[], object] = weakref.ref(thing, lambda _: _loaded_by.pop(key, None))
    except TypeError:  # takes no weak references: kept, so that nothing else gets its id
        held = lambda: thing  # noqa: E731
    _loaded_by[key] = held, spec
    return thing


def spec_of(thing: object) -> str | None:
    """Return the spec by which a classifier or denoiser was loaded; None without any."""
    held, spec = _loaded_by.get(id(thing), (None, None))
    return spec if held is not None and held() is thing else None


def _find(role: Role, text: str) -> tuple[Source, str, str] | None:
    """Return the source of a spec, the scheme, and what follows it."""
    scheme, _, rest = text.partition(":")
    if (entry := _entry_of(role, scheme)) is not None:
        return _loaded(entry), scheme, rest
    scheme = re.split("[?#]", text, maxsplit=1)[0]  # options right behind the scheme
    entry = _entry_of(role, scheme)
    if entry is None or not (source := _loaded(entry)).options:
        return None
    return source, scheme, text[len(scheme) :]


def _parse(text: str, rest: str, source: Source) -> tuple[str, dict[str, str]]:
    """Return the rest without its options, and the options."""
    if not source.options:
        return rest, {}
    names = "|".join(source.options).replace("_", "[-_]")
    start = rf"\?(?=(?:{names})=)" if source.url else r"\?"
    head, *tail = re.split(start, rest, maxsplit=1)
    old: list[str] = []
    if source.hashes and ("#" in head or re.search(f"#(?:{names})=", rest)):
        head, *old = rest.split("#")
        head, *tail = [head] if source.url else head.split("?", maxsplit=1)
    pairs = [pair for part in tail for pair in re.split(r"&(?=[A-Za-z][\w-]*=(?!=))", part)] + old
    options = dict(_option(text, pair, source) for pair in pairs)
    if old:
        shown = re.sub(start, "?&", head) if source.url else head
        new = f"{text.removesuffix(rest)}{shown}?{'&'.join(pairs)}"
        _log.warning("note: #name=value in %r is an earlier form of options. Write %r", text, new)
    return head, options


def _option(text: str, pair: str, source: Source) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals or not value or value.endswith("&"):
        raise SpecError(
            f"{text!r}: option {pair!r} is not complete. Write ?NAME=VALUE&NAME=VALUE, with the "
            f"names {', '.join(source.options)}"
        )
    for known in (name, name.replace("-", "_")):
        if known in source.options:
            return known, value
    hint = _nearest(name, {option: option for option in source.options}, 0.7)
    query = ". A query of the URL stands before the options: URL?query?NAME=VALUE" * source.url
    raise SpecError(
        f"{text!r}: option {name!r} is not known. {hint}Known: {', '.join(source.options)}{query}"
    )


def _nearest(text: str, known: Mapping[str, str], cutoff: float) -> str:
    """Return a question that suggests the value of the most similar key, or an empty string."""
    nearest = difflib.get_close_matches(text, known, n=1, cutoff=cutoff)
    return f"Did you mean {known[nearest[0]]}? " if nearest else ""


def _entry_of(role: Role, scheme: str) -> metadata.EntryPoint | None:
    """Return the entry point of a scheme, whose number at the end is optional (cifar-resnet56)."""
    entries = _entries(role)
    return entries.get(scheme) or entries.get(scheme.rstrip("0123456789"))


@cache
def _entries(role: Role) -> dict[str, metadata.EntryPoint]:
    """Return entry points by scheme: those of this package, then others by name; the first wins."""

    def order(entry: metadata.EntryPoint) -> tuple[bool, str]:
        package = entry.dist.name if entry.dist else ""
        return package != _OWN, package

    entries: dict[str, metadata.EntryPoint] = {}
    for entry in sorted(metadata.entry_points(group=role.group), key=order):
        entries.setdefault(entry.name, entry)
    return entries


def _loaded(entry: metadata.EntryPoint) -> Source:
    """Return the source that an entry point names.

    Raises:
        SpecError: it cannot be imported, or is not a source.
    """
    try:
        source = entry.load()
        if not isinstance(source, Source):
            raise TypeError(f"must be a denoised_smoothing.Source, got {type(source).__name__}")
    except Exception as error:  # of any plug-in
        raise SpecError(
            f"The plug-in {entry.name!r} ({entry.value}) cannot be loaded "
            f"({type(error).__name__}: {error}). Repair or remove the package that brings it."
        ) from error
    return source
