"""Fingerprints of classifiers and denoisers: hashes of their code, weights and settings."""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from fractions import Fraction
from functools import cached_property, partial
from types import CodeType, FunctionType, MethodType, ModuleType

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice, Fraction, Enum),
    *(np.generic, torch.dtype, torch.device, type(Ellipsis)),
)
"""Values that their text describes completely."""
_OWN = "denoised_smoothing"
_LIBRARIES = {
    *(_OWN, "diffusers", "lightning", "numpy", "onnxruntime", "PIL", "scipy"),
    *("timm", "torch", "torchvision", "transformers"),
}
"""Packages whose code counts by name, as the standard library does."""
_HOOKS = {"_forward_hooks", "_forward_pre_hooks"}
_OF_MODULES = vars(nn.Module()).keys() - _HOOKS - {"_parameters", "_buffers", "_modules"} | {"card"}
"""Attributes of modules that do not change the output; the engine sets the training mode."""


def fingerprint(thing: object) -> str:
    """Return a hash of the code, the weights and the settings of a classifier or denoiser.

    Modules, objects, partial and bound functions and closures are followed to the tensors, arrays
    and plain values that they hold, and a user's functions and methods to what they use of the
    same package. Code of this package and of known libraries counts by name, without the module
    of this package. Of objects of compiled libraries, only the type counts.
    """
    digest = hashlib.sha256()
    _hash(digest, thing, {})
    return digest.hexdigest()


def _hash(digest: hashlib._Hash, thing: object, seen: dict[int, tuple[int, object]]) -> None:
    if isinstance(thing, _PLAIN):
        digest.update(f"{type(thing).__name__} {thing!r};".encode())
        return
    if not isinstance(thing, tuple):  # the interpreter decides whether equal ones are one object
        if id(thing) in seen:
            if isinstance(thing, nn.Module):  # which of them is used twice
                digest.update(f"again {seen[id(thing)][0]};".encode())
            return
        seen[id(thing)] = len(seen), thing  # kept, so that no other object gets its id
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    home = getattr(named, "__module__", "")
    if _package(home) == _OWN:  # so that a class may move to another module
        home = _OWN
    digest.update(f"{home}.{named.__qualname__}(".encode())
    for part in _parts(digest, thing):
        _hash(digest, part, seen)
    digest.update(b");")


def _parts(digest: hashlib._Hash, thing: object) -> Iterable[object]:
    """Return the parts of a thing; the digest gets the bytes of tensors and arrays at once."""
    if isinstance(thing, (Tensor, np.ndarray)):
        _hash_numbers(digest, thing)
        return ()
    if isinstance(thing, Mapping):
        return [part for item in thing.items() for part in item]
    if isinstance(thing, (list, tuple, deque)):
        return thing
    if isinstance(thing, (set, frozenset)):
        return sorted(map(fingerprint, thing))
    if isinstance(thing, partial):
        return thing.func, thing.args, thing.keywords
    if isinstance(thing, MethodType):
        return thing.__self__, thing.__func__
    if isinstance(thing, FunctionType):
        return () if _is_library(thing.__module__) else _of_function(thing)
    if isinstance(thing, type):
        return _of_class(thing)
    if isinstance(thing, ModuleType):
        return ()
    if callable(wrapped := getattr(thing, "__wrapped__", None)):  # such as by lru_cache
        return (wrapped,)
    if callable(parts := getattr(thing, "fingerprint_parts", None)):
        return (parts(),)
    return _of_object(thing)


def _hash_numbers(digest: hashlib._Hash, values: Tensor | np.ndarray) -> None:
    if isinstance(values, Tensor):
        if nn.parameter.is_lazy(values):  # type: ignore[no-untyped-call, unused-ignore]
            return
        if values.is_quantized:
            values = values.dequantize()
        dense = values.detach().to_dense() if values.layout != torch.strided else values.detach()
        flat = dense.cpu().contiguous().flatten().view(torch.uint8).numpy()
    else:
        flat = np.ascontiguousarray(values)
    digest.update(f"{values.dtype}{tuple(values.shape)}".encode())
    digest.update(flat.tobytes())


def _of_object(thing: object) -> list[object]:
    """Return the attributes of an object, and its class."""
    if isinstance(thing, torch.jit.ScriptModule):
        code, constants = thing.code_with_constants
        return [code, constants.const_mapping, thing.state_dict()]
    if isinstance(thing, nn.Module) and hasattr(thing, "_orig_mod"):  # of torch.compile
        return [thing._orig_mod]
    if isinstance(thing, nn.Module) and type(thing).__module__.startswith("torch.ao."):
        return [type(thing).__qualname__, thing.state_dict()]  # its weights are packed
    kinds = [kind for kind in type(thing).__mro__ if not _is_library(kind.__module__)]
    slots = [slot for kind in kinds for slot in _slots(kind)]
    held = {name: getattr(thing, name) for name in slots if hasattr(thing, name)}
    held |= getattr(thing, "__dict__", {})
    if isinstance(thing, nn.Module):
        held = {
            # The keys of hooks are numbers that count up in a process.
            name: list(value.values()) if name in _HOOKS else value
            for name, value in held.items()
            if name not in _OF_MODULES
        }
    return [held, type(thing)]


def _slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if not name.startswith("__")]


def _is_library(module: str | None) -> bool:
    package = _package(module)
    return package in _LIBRARIES or (package in sys.stdlib_module_names and package != "__main__")


def _package(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _of_function(function: FunctionType) -> list[object]:
    """Return a function's code, its closure, and what it uses of its own package."""
    own, names = _package(function.__module__), sorted(_names(function.__code__))
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # empty in a function that calls itself
            continue
    return [
        _text(function.__code__, function.__doc__),
        function.__defaults__,
        function.__kwdefaults__,
        cells,
        _used(function.__globals__, names, own),
    ]


def _used(
    scope: dict[str, object], names: list[str], package: str, outer: tuple[object, ...] = ()
) -> list[object]:
    """Return the values of names in a scope: plain ones and those of the package."""
    found: list[object] = []
    for name in names:
        value = scope.get(name)
        if isinstance(value, ModuleType):
            if _package(value.__name__) == package and value not in outer:
                found += _used(vars(value), names, package, (*outer, value))
        elif name in scope and _counts(value, package):
            found += [name, value]
    return found


def _counts(value: object, package: str) -> bool:
    """Return whether a value that code refers to is followed: not those of libraries."""
    if isinstance(value, (*_PLAIN, Tensor, np.ndarray, nn.Module, partial)):
        return True
    if isinstance(value, (list, tuple, set, frozenset, dict, deque)):
        return True
    if isinstance(value, (FunctionType, type)) or hasattr(value, "__wrapped__"):
        return _package(getattr(value, "__module__", None)) == package
    return _package(type(value).__module__) == package


def _of_class(kind: type) -> list[object]:
    """Return the functions and settings that a user wrote in a class or its bases."""
    found: list[object] = []
    for owner in kind.__mro__:
        if _is_library(owner.__module__):
            continue
        for name, member in sorted(vars(owner).items()):
            if isinstance(member, property):
                member = member.fget
            elif isinstance(member, cached_property):
                member = member.func
            member = getattr(member, "__func__", member)
            code = isinstance(member, FunctionType) or hasattr(member, "__wrapped__")
            if code or (name[:2] != "__" and _counts(member, _package(owner.__module__))):
                found += [name, member]
    return found


def _names(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _text(code: CodeType, documentation: str | None = None) -> str:
    """Return instructions, names and constants, equal for every compilation of the source."""
    constants = [
        _text(constant)
        if isinstance(constant, CodeType)
        else repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
        for constant in code.co_consts
        if documentation is None or constant != documentation
    ]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"
