"""The choice of sigma: the function, the figure in the report, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.certificates.population import population_bound
from denoised_smoothing.cli import main
from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.labels import LabelMatch
from denoised_smoothing.reporting.html import write_report
from denoised_smoothing.reporting.plots import sigma_figure
from denoised_smoothing.reporting.tables import comparison
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.runs.sweep import sweep_sigma
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store

for package in ("sklearn", "jinja2", "matplotlib"):
    pytest.importorskip(package)

RADII = (0.1, 0.3)


class Digits:
    """Two classes, by the mean brightness."""

    def __call__(self, images: Tensor) -> Tensor:
        return torch.stack([images.mean((1, 2, 3)) - 0.1, torch.zeros(len(images))], dim=1)


def requests(*sigmas: float, **options: Any) -> list[CertificationRun]:
    values: dict[str, Any] = {"plan": Anytime(RADII, max_n=200, n0=20), "limit": 6} | options
    return [
        CertificationRun(
            SmoothedClassifier(Digits(), sigma, device="cpu"),
            load_dataset("digits:test"),
            alpha=0.01,
            classifier="c",
            denoiser="none",
            name=f"sweep-{sigma:g}",
            seed=5,
            **values,
        )
        for sigma in sigmas
    ]


def shares(store: Store, *sigmas: float) -> dict[float, float]:
    sweep = sweep_sigma(requests(*sigmas), store, 0.3)
    rows = comparison(sweep.results, (0.3,))
    return {row.cells[0].sigma: row.cells[0].share for row in rows}


def test_the_sigma_that_certifies_most_is_chosen(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        sweep = sweep_sigma(requests(1.0, 0.05, 0.3), store, 0.3)
        found = shares(store, 0.05, 0.3, 1.0)
    assert [run.sigma for run in sweep.results] == [0.05, 0.3, 1.0]
    assert (sweep.share, sweep.sigma) == (max(found.values()), max(found, key=found.__getitem__))
    assert sweep.share > 0.0
    assert found[0.05] == 0.0, "six sigma away is out of the reach of 200 copies"


def test_where_nothing_is_certified_no_sigma_is_named(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        sweep = sweep_sigma(requests(0.02, 0.01), store, 0.3)
    assert (sweep.share, sweep.sigma) == (0.0, None)
    assert [row.best_of for row in sweep.rows(RADII)] == ["", ""]


def test_the_chosen_row_is_the_best_of_all_sigmas(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        sweep = sweep_sigma(requests(1.0, 0.05, 0.3), store, 0.3)
    plain, rows = comparison(sweep.results, RADII), sweep.rows(RADII)
    assert [row.best_of for row in rows] == (
        ["best of 3" if row.sigma == sweep.sigma else "" for row in rows]
    )
    at = [row.sigma for row in rows].index(sweep.sigma)
    before, after = plain[at].cells[0], rows[at].cells[0]
    assert after.certified == before.certified > 0
    assert after.population == population_bound(
        before.certified, before.attempted, 0.01, statements=3
    )


def test_one_sigma_is_no_sweep(tmp_path: Path) -> None:
    with (
        Store(tmp_path / "s.sqlite") as store,
        pytest.raises(SettingError, match=r"at least two sigmas, got \[0.3\]"),
    ):
        sweep_sigma(requests(0.3), store, 0.3)


def test_the_figure_has_the_share_of_every_radius_at_every_sigma(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        rows = comparison(sweep_sigma(requests(0.3, 0.1), store, 0.3).results, RADII)
    lines = sigma_figure(rows).axes[0].lines
    assert [line.get_label() for line in lines] == ["r = 0.1", "r = 0.3"]
    by_sigma = sorted(rows, key=lambda row: row.cells[0].sigma)
    for number, line in enumerate(lines):
        assert np.asarray(line.get_xdata()).tolist() == [0.1, 0.3]
        expected = [100 * row.cells[number].share for row in by_sigma]
        assert np.asarray(line.get_ydata()).tolist() == expected
    with pytest.raises(SettingError, match="at least two sigmas"):
        sigma_figure(rows[:1])


def test_the_report_shows_the_trade_off_of_one_method_only(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        names = [run.run.name for run in sweep_sigma(requests(0.1, 0.3), store, 0.3).results]
        other = replace(requests(0.1)[0], name="other", method="another")
        names.append(other.execute(store).name)
        write_report(store, names[:2], tmp_path / "one.html", radii=RADII)
        write_report(store, names, tmp_path / "two.html", radii=RADII)
    assert "Which σ?" in (tmp_path / "one.html").read_text("utf-8")
    assert "Which σ?" not in (tmp_path / "two.html").read_text("utf-8")


def test_the_command_names_a_sigma_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "digits:test", "--classifier", "digits", "--denoiser", "digits-stability"]
    words += ["--sigmas", "0.12,0.25", "--radius", "0.3", "--radii", "0.1", "--max-n", "200"]
    printed = []
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--limit", "3", "--json"])
        assert ended.value.code == 0
        printed.append(json.loads(capsys.readouterr().out))
    assert printed[0] == printed[1]
    assert printed[0]["runs"] == ["sweep-r0.3-0.12", "sweep-r0.3-0.25"]
    assert printed[0]["sigma"] == 0.25
    assert set(printed[0]["rows"][0]["certified"]) == {"0.1", "0.3"}
    assert (tmp_path / "sweep.html").exists()


def test_the_command_notes_labels_that_are_compared_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "labels are compared by number"
    match = LabelMatch({n: n for n in range(10)}, None, note)
    monkeypatch.setattr(CertificationRun, "label_match", match)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*WORDS, "--radius", "0.1", "--radii", "0.1"])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert printed.err.count(f"note: {note}") == 1
    assert json.loads(printed.out)["runs"] == ["sweep-0.2", "sweep-0.4"]


WORDS = ("sweep", "digits:test", "--classifier", "digits", "--denoiser", "digits-stability")
WORDS += ("--sigmas", "0.2,0.4", "--max-n", "200", "--limit", "2", "--json")


def run_names() -> list[str]:
    with Store("runs.sqlite", read_only=True) as store:
        return [run.name for run in store.runs()]


def test_an_alpha_that_is_refused_leaves_nothing_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*WORDS, "--radius", "0.25", "--alpha", "0.5"])
    assert ended.value.code == 2
    assert "alpha must be at most 0.36 with an anytime plan, got 0.5" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not Path("runs.sqlite").exists()
    with pytest.raises(SystemExit) as ended:
        main([*WORDS, "--radius", "0.25"])
    assert ended.value.code == 0
    assert run_names() == ["sweep-0.2", "sweep-0.4"]


def test_another_radius_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the same runs if they were asked about it, else by runs of its own."""
    monkeypatch.chdir(tmp_path)
    for radius, runs in (
        ("0.25", ["sweep-0.2", "sweep-0.4"]),
        ("0.5", ["sweep-0.2", "sweep-0.4"]),
        ("0.3", ["sweep-r0.3-0.2", "sweep-r0.3-0.4"]),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*WORDS, "--radius", radius])
        assert ended.value.code == 0
        printed = json.loads(capsys.readouterr().out)
        assert (printed["runs"], printed["radius"]) == (runs, float(radius))
    assert run_names() == ["sweep-0.2", "sweep-0.4", "sweep-r0.3-0.2", "sweep-r0.3-0.4"]


@pytest.mark.parametrize("sigmas", ["0.25", "a,b"])
def test_sigmas_that_are_no_sweep_are_refused(
    sigmas: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "digits:test", "--classifier", "digits", "--radius", "0.3"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--sigmas", sigmas])
    assert ended.value.code == 2
    assert sigmas.split(",")[0] in capsys.readouterr().err
