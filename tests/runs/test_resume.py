"""The number of images of a run, which is recorded before any is certified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from denoised_smoothing.reporting.pairs import compare_runs
from denoised_smoothing.reporting.proven import conditions
from denoised_smoothing.reporting.results import load_results
from denoised_smoothing.reporting.tables import comparison
from denoised_smoothing.runs.shards import Shard, merge
from denoised_smoothing.runs.writer import RunProgress
from denoised_smoothing.store import Store

from .test_clean import request


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "runs.sqlite") as opened:
        yield opened


def stop_after_two(progress: RunProgress) -> None:
    if progress.images_done == 2:
        raise KeyboardInterrupt


def test_images_that_an_interrupted_run_never_began_are_counted(store: Store) -> None:
    request(limit=2).execute(store)
    with pytest.raises(KeyboardInterrupt):
        request().execute(store, stop_after_two)
    results = load_results(store, "a")
    assert (results.attempted, results.missing, results.unfinished) == (6, 4, 0)
    [row] = comparison([results], (0.0,))
    assert row.cells[0].attempted == 6
    assert conditions(results)[1].met is False
    request(name="b").execute(store)
    found = compare_runs(load_results(store, "b"), results, (0.0,))
    assert (found.images, found.missing) == (6, (0, 4))


def test_a_larger_number_is_recorded_next_to_the_first(store: Store) -> None:
    for limit, expected in ((2, [2]), (2, [2]), (4, [2, 4]), (3, [2, 4])):
        request(limit=limit).execute(store)
        assert store.run("a").info["planned"] == expected
    assert "raised from 2 to 4" in conditions(load_results(store, "a"))[1].known


def test_merged_shards_have_the_number_of_the_whole_run(store: Store, tmp_path: Path) -> None:
    parts = [Store(tmp_path / f"{number}.sqlite") for number in (1, 2)]
    with pytest.raises(KeyboardInterrupt):
        request(shard=Shard.parse("1/2")).execute(parts[0], stop_after_two)
    request(shard=Shard.parse("2/2")).execute(parts[1])
    assert load_results(parts[0], "a").places == {0, 2, 4}
    merge(parts, store, examples=0, partial=True)
    results = load_results(store, "a")
    assert (results.attempted, len(results.images) < 6) == (6, True)
    for part in parts:
        part.close()
