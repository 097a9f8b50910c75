"""benchmarks/: what they must not do."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy as sa

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    path = BENCHMARKS / f"{name}.py"
    if not path.exists():
        pytest.skip(f"there is no {path.name} next to the tests")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_database_that_holds_tables_is_not_emptied(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/precious.sqlite"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table precious (id integer)")
    options = argparse.Namespace(postgresql=url, images=4)
    with pytest.raises(SystemExit, match="must be empty, got tables precious, which"):
        load("scale").driver(options)
    assert sa.inspect(engine).get_table_names() == ["precious"]
    engine.dispose()
