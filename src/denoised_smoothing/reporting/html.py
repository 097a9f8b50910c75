"""The report: one HTML file that needs nothing else, no network and no script."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from denoised_smoothing.certificates.certificate import SamplingPlan
from denoised_smoothing.certificates.parameters import Noise
from denoised_smoothing.certificates.radii import LEVEL, format_down, linf_radius, short_down
from denoised_smoothing.errors import MissingExtraError, SettingError
from denoised_smoothing.files import write_atomically
from denoised_smoothing.images import load_image, to_jpeg, to_png
from denoised_smoothing.reporting.cells import Cell, Row
from denoised_smoothing.reporting.cohen import AnyResults, PublishedResults, read_published
from denoised_smoothing.reporting.further_claims import (
    Questions,
    claim_rows,
    claim_table,
    first_positive,
    sentences,
)
from denoised_smoothing.reporting.opening import Opening
from denoised_smoothing.reporting.plots import certified_accuracy_figure, inline_svg, sigma_figure
from denoised_smoothing.reporting.proven import condition_rows, statements
from denoised_smoothing.reporting.results import (
    RunResults,
    hold_together,
    label_name,
    load_results,
    top_votes,
)
from denoised_smoothing.reporting.tables import (
    best_cell,
    comparison,
    default_radii,
    plain_tables,
)
from denoised_smoothing.text import shown as shown_text

if TYPE_CHECKING:
    from denoised_smoothing.store import Store, StoredExample, StoredRun

SHARED_SETTINGS = ("data", "data_fingerprint", "resolution", "stride", "noise", "alpha", "plan")
"""Settings that runs must share for their rows to be compared."""
SHOWN_VOTES = 3
"""Labels shown for each example, those with the most votes."""
MOST_BANDS = 3
"""Runs up to which bounds are drawn next to the curves."""
LONGEST_SETTING = 1_000
"""Characters shown of a setting, such as of many label names."""
SMALL = 96
"""Images narrower than this (pixels) are PNG, and enlarged pixel by pixel."""


@dataclass(frozen=True)
class Report:
    """The numbers of a report as written.

    Attributes:
        runs: the results, evaluated again where all certificates hold together.
        rows: of the runs in the table.
        radii: of the table.
    """

    runs: list[RunResults]
    rows: list[Row]
    radii: Sequence[float]


def write_report(
    store: Store,
    names: Sequence[str],
    path: str | Path,
    radii: Sequence[float] | None = None,
    title: str = "Certified robustness",
    opening: Opening | None = None,
    indices: Collection[int] | None = None,
    published: Sequence[str | Path] = (),
    together: float | None = None,
    questions: Mapping[str, Questions] | None = None,
) -> Report:
    """Write the report of one or several runs as a single HTML file.

    It has curves, a comparison table, what the numbers mean and what they prove about these
    images and the population that they were sampled from. Of each run it shows the settings
    and the stored example images with votes, labels and radii (rounded down).

    Args:
        names: the runs, in the order of the table.
        path: the HTML file; replaced if it exists.
        radii: L2 radii of the table; None for :func:`default_radii`.
        title: heading of the report.
        opening: a changed image and the certificate of its original, shown first.
        indices: of the images to report on, by their places in the data set; None for all.
        published: files with the columns of Cohen et al. 2019, shown in curves and tables after
            the runs (see :func:`~denoised_smoothing.reporting.cohen.read_published`).
        together: evaluate the counts again, so that all certificates of top labels hold together
            but for this probability (:func:`~denoised_smoothing.reporting.results.hold_together`).
        questions: by the names of runs, the answers to count next to the top label. Examples that
            abstain show those that are certified; without questions about their run, sets of
            labels.

    Returns:
        The numbers of the report.

    Raises:
        RunNotFoundError: the store holds no run of one of the names.
        SettingError: no run, a probability out of range, a file that cannot be used or written,
            runs that cannot be compared, questions that a run cannot answer, or an opening whose
            run is not in the report or has no pictures of its image.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingExtraError("jinja2", "report", "the HTML report") from error
    runs = [load_results(store, name, indices=indices) for name in names]
    others = [read_published(file) for file in published]
    if not runs:
        raise SettingError("A report needs at least one stored run, got none. Name one.")
    asked = questions or {}
    for run in runs:
        if run.name in asked:
            asked[run.name].check(run)
    if together is not None:
        runs = hold_together(runs, together)
    radii = default_radii(runs) if radii is None else radii
    compared: list[AnyResults] = [*runs, *others]
    all_rows = comparison(compared, radii)
    rows = all_rows[: len(runs)]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"down": format_down}
    template = environment.from_string(_part("report.html.j2"))
    pairs = list(zip(rows, runs, strict=True))
    methods = [row.method for row in all_rows]
    bounds_to = max(cell.radius for cell in rows[0].cells) if len(runs) <= MOST_BANDS else 0.0
    figure = certified_accuracy_figure(list(zip(methods, compared, strict=True)), bounds_to)
    one_method = len({row.method for row in rows}) == 1 and len({row.sigma for row in rows}) > 1
    at = first_positive(radii)
    shown = {
        run.run.name: _examples(run, store.examples(run.run.name), asked.get(run.run.name), at)
        for run in runs
    }
    html = template.render(
        title=title,
        theme=_part("theme.css"),
        headline=_headline(runs, rows),
        opening=None if opening is None else _opening(opening, runs, shown),
        figure=inline_svg(figure),
        trade_off=inline_svg(sigma_figure(rows)) if one_method else None,
        tables=plain_tables(all_rows),
        published=[
            {"name": other.name, "same_images": _are_same_images(runs[0], other)}
            for other in others
        ],
        bounded=bounds_to > 0.0,
        statements=statements(*_best(rows)),
        conditions=condition_rows(rows),
        together=None if together is None else _together(runs, together),
        differing=differing_settings(runs),
        measure=rows[0].measure,
        alpha=f"{max(run.alpha for run in runs):.3g}",
        implied=_implied(runs, rows),
        unproven=unproven_runs(runs),
        runs=[
            {
                "row": row,
                "results": run,
                "settings": _settings(run.run),
                "notes": [
                    *run.run.info.get("notes", ()),
                    *filter(None, [run.run.info.get("clean_error")]),
                ],
                "examples": shown[run.run.name],
                "claims": _claim_table(run, radii, asked.get(run.run.name)),
            }
            for row, run in pairs
        ],
    )
    write_atomically(path, shown_text(html).encode())
    return Report(runs, rows, radii)


def _are_same_images(run: RunResults, other: PublishedResults) -> bool:
    """Return whether a file has the places and true labels of the images of a run."""
    mine, theirs = (
        {image.index: image.true_label for image in results.images} for results in (run, other)
    )
    return mine == theirs


def _opening(
    opening: Opening, runs: Sequence[RunResults], shown: Mapping[str, Sequence[dict[str, Any]]]
) -> dict[str, Any]:
    found = [
        (run, held)
        for run in runs
        for held in shown[run.run.name]
        if (run.run.name, held["image"].image_id) == (opening.run, opening.image_id)
    ]
    if not found:
        raise SettingError(
            f"The opening shows {opening.image_id!r} of run {opening.run!r}, but the report has no "
            "pictures of it. Choose one of the first images of a run in the report."
        )
    run, example = found[0]
    return {
        "method": run.method,
        "sigma": f"{run.sigma:g}",
        "before": opening.before,
        "after": opening.after,
        "before_picture": _uri(to_png(opening.image)),
        "after_picture": _uri(to_png(opening.changed)),
        "difference_picture": _uri(to_png(opening.difference)),
        "gain": opening.gain,
        "distance": f"{opening.distance:.3f}",
        "covered": opening.distance < example["image"].radius,
        "example": example,
    }


def _uri(png: bytes) -> str:
    """Return the picture as an address; a large one as JPEG, as PNG does not shrink noise."""
    width = int.from_bytes(png[16:20], "big")  # of the header chunk, which comes first
    kind, content = ("png", png) if width < SMALL else ("jpeg", to_jpeg(load_image(png)))
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _part(name: str) -> str:
    """Return a part of the report; the web page has the same theme."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _best(rows: Sequence[Row]) -> tuple[Row, Cell]:
    """Return the best row at the first radius above 0, and its cell."""
    column = next((at for at, cell in enumerate(rows[0].cells) if cell.radius > 0), 0)
    best = best_cell([row.cells[column] for row in rows])
    return next(row for row in rows if row.cells[column].share == best.share), best


def _headline(runs: Sequence[RunResults], rows: Sequence[Row]) -> str:
    """Name the best run at the first radius above 0, and the best one without a denoiser."""
    winner, cell = _best(rows)
    correct = "certified and correct" if runs[0].labelled else "certified"
    within = f" within an L2 radius of {cell.reach}" if cell.radius > 0.0 else ""
    sentence = (
        f"{cell} % of {cell.images:,} images are {correct}{within}, with {winner.method} at "
        f"σ = {cell.sigma:g}"
    )
    pairs = zip(rows, runs, strict=True)
    plain = [row for row, run in pairs if run.run.settings["denoiser"] == "none"]
    if plain and winner not in plain:
        sentence += f"; without a denoiser it is {_best(plain)[1]} %"
    return sentence + "."


def _together(runs: Sequence[RunResults], beta: float) -> str:
    """Say that all certificates of top labels hold together."""
    attempted = sum(run.attempted for run in runs)
    sure = short_down(float(1 - Decimal(repr(float(beta)))))  # 0.93 for 0.07, not 0.929999
    return (
        f"With probability {sure} over the noise, all certificates of top labels in this report "
        f"hold together: the counts were evaluated again at α = {beta} / {attempted:,}, the number "
        "of images attempted in all runs, or at the α of the run if that is smaller. Sets, groups "
        "and top-k are not included: each is wrong with at most the probability that it states."
    )


def unproven_runs(runs: Sequence[RunResults]) -> list[str]:
    """Return the names of the runs whose noise was drawn in floating point."""
    return [run.run.name for run in runs if run.run.settings["noise"] == Noise.FLOAT]


def differing_settings(runs: Sequence[RunResults]) -> list[str]:
    """Return the settings that the runs should share and do not."""
    names = [
        name
        for name in SHARED_SETTINGS
        if len({json.dumps(run.run.settings[name], sort_keys=True) for run in runs}) > 1
    ]
    if len({tuple(image.image_id for image in run.images) for run in runs}) > 1:
        names.append("finished images")
    return names


def _implied(runs: Sequence[RunResults], rows: Sequence[Row]) -> list[str]:
    """Say for each image size which Linf radius the largest radius of the table implies."""
    radius, sentences = max(cell.radius for cell in rows[0].cells), []
    for dimension in sorted({run.run.settings["dimension"] for run in runs}):
        linf = linf_radius(radius, dimension)
        below = " (below 1/255: no other 8-bit image lies within it)" if linf < LEVEL else ""
        sentences.append(
            f"L2 radius {radius:g} implies L∞ radius {format_down(linf, 5)} for images of "
            f"{dimension:,} values{below}"
        )
    return sentences


def _settings(run: StoredRun) -> dict[str, str]:
    values = {
        **run.settings,
        "seed": str(run.seed),
        "created": run.created.isoformat(" ", "seconds"),
        "command": run.info.get("command", ""),
        **{f"version of {name}": text for name, text in run.info.get("versions", {}).items()},
    }
    return {
        key: v
        if isinstance(v, str)
        else "none"
        if v is None
        else shorten(json.dumps(v), LONGEST_SETTING)
        for key, v in values.items()
    }


def _claim_table(
    results: RunResults, radii: Sequence[float], questions: Questions | None
) -> dict[str, Any] | None:
    """Return headings and rows of the answers next to the top label, if they are asked for."""
    if questions is None:
        return None
    return claim_table(claim_rows(results, questions, radii), radii, results)


def _examples(
    results: RunResults,
    examples: Sequence[StoredExample],
    questions: Questions | None,
    at: float | None,
) -> list[dict[str, Any]]:
    """Return the finished images that have examples, with their pictures by kind and votes.

    Args:
        at: the radius at which groups are certified, at the whole alpha; None for their own radii.
    """
    names, plan = results.run.label_names, SamplingPlan.from_dict(results.run.settings["plan"])
    if questions is None and not plan.selects:
        questions = Questions(sizes=())
    pictures: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for example in sorted(examples, key=lambda example: example.position):
        kinds = pictures.setdefault(example.image_id, {"clean": [], "noisy": [], "denoised": []})
        uri = _uri(example.png)
        kinds[example.kind].append({"uri": uri, "small": uri.startswith("data:image/png")})
    return [
        {
            "image": image,
            "pictures": pictures[image.image_id],
            "counts": image.certificate.counts,
            "label": label_name(image.predicted, names),
            "true_label": label_name(image.true_label, names),
            "votes": top_votes(image.certificate.counts, names, SHOWN_VOTES),
            "claims": sentences((questions or Questions()).claims(image.certificate, at=at), names)
            if image.predicted is None
            else [],
        }
        for image in results.images
        if image.image_id in pictures
    ]
