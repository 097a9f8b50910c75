"""In all tests, annotations of the modules that handle arrays are checked at run time.

Commands run on torch unless a test names an engine, and what is converted is kept with the tests.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook

IMPORT = "from jaxtyping import"


def array_modules(package: str = "denoised_smoothing") -> list[str]:
    """Modules with array shapes; the others are left alone, where tests give wrong types."""
    spec = find_spec(package)
    assert spec is not None
    [root] = map(Path, spec.submodule_search_locations or ())
    files = [path for path in root.rglob("*.py") if IMPORT in path.read_text("utf-8")]
    return [".".join((package, *path.relative_to(root).with_suffix("").parts)) for path in files]


# Before the package is imported by a test; modules imported later are checked as well.
install_import_hook(array_modules(), "beartype.beartype")

os.environ["DENOISED_SMOOTHING_ENGINE"] = "torch"
os.environ["DENOISED_SMOOTHING_CACHE"] = os.path.join(  # noqa: PTH118
    tempfile.gettempdir(), f"denoised-smoothing-tests-{os.getuid()}"
)


def loggers() -> list[logging.Logger]:
    """The root, and the loggers of the package."""
    named = logging.root.manager.loggerDict.items()
    mine = [logger for name, logger in named if name.startswith("denoised_smoothing")]
    return [logging.root, *(logger for logger in mine if isinstance(logger, logging.Logger))]


@pytest.fixture(autouse=True)
def logging_as_before(request: pytest.FixtureRequest) -> Iterator[None]:
    """What one test does to logging hides no message from the next; a warning names that test."""
    yield
    left = [
        f"{logger.name} (level {logger.level}, disabled {logger.disabled}, propagates "
        f"{logger.propagate}, all below {logger.manager.disable} disabled)"
        for logger in loggers()
        if logger.disabled or not logger.propagate or not logger.isEnabledFor(logging.WARNING)
    ]
    if left:
        logging.disable(logging.NOTSET)
        for logger in loggers():
            logger.setLevel(logging.WARNING if logger is logging.root else logging.NOTSET)
            logger.disabled, logger.propagate = False, True
        warnings.warn(f"{request.node.nodeid} left logging as {'; '.join(left)}", stacklevel=1)


@pytest.fixture
def hub_is_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The Hugging Face hub cannot be reached, and nothing was fetched from it before."""
    hub = pytest.importorskip("huggingface_hub")

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(hub.HfApi, "model_info", fail)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
