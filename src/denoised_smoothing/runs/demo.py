"""The demos: an ordinary classifier, certified without a denoiser and with some."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from denoised_smoothing.attacks.plain import fool
from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.datasets import ImageDataset, load_dataset
from denoised_smoothing.errors import SpecError
from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
from denoised_smoothing.models.protocols import Classifier
from denoised_smoothing.reporting.html import write_report
from denoised_smoothing.reporting.opening import Opening
from denoised_smoothing.reporting.plots import (
    certified_accuracy_figure,
    opening_figure,
    save_figure,
)
from denoised_smoothing.reporting.results import RunResults, label_name, load_results
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.runs.writer import RunProgress
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store


@dataclass(frozen=True)
class Demo:
    """The data, the models and the plan of a demo.

    Args:
        data, classifier: specs.
        methods: rows of the table, the spec of the denoiser of each.
        sigmas: of the noise, for each row.
        radii: L2 radii of the table, in pixel values in [0, 1].
        plan: for each image.
        images: number of images, from the first.
        engine: executes denoiser and classifier.
        opening: numbers of the images that the report may open with: one of them is changed
            until the plain classifier is wrong. Empty for no such opening.
    """

    data: str
    classifier: str
    methods: Mapping[str, str]
    sigmas: tuple[float, ...]
    radii: tuple[float, ...]
    plan: FixedBudget
    images: int
    engine: EngineName = EngineName.TORCH
    opening: tuple[int, ...] = ()


DEMOS = {
    "photos": Demo(
        data="photos",
        classifier="efficientnet-lite0",
        methods={
            "no denoiser": "none",
            "black box (mse)": "photo-mse",
            "white box (features)": "photo-efficientnet-lite0",
        },
        sigmas=(0.25,),
        radii=(0.0, 0.1, 0.2, 0.3),
        plan=FixedBudget(n0=10, n=80),
        images=12,
        engine=EngineName.AUTO,
        opening=(0, 1),
    ),
    "digits": Demo(
        data="digits:test",
        classifier="digits",
        methods={
            "no denoiser": "none",
            "black box (mse)": "digits-mse",
            "white box (stability)": "digits-stability",
        },
        sigmas=(0.25, 0.5),
        radii=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
        plan=FixedBudget(n0=100, n=1000),
        images=200,
    ),
}
"""The demos by name. The first one is the default."""
CHANGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
"""L2 lengths of the changes that are tried on the opening image."""


@dataclass(frozen=True)
class DemoResult:
    """The results of each run of the demo, the paths of report and store, and the time."""

    demo: Demo
    results: list[RunResults]
    opening: Opening | None
    report: Path
    store: Path
    seconds: float


def run_demo(
    folder: Path,
    name: str = "photos",
    *,
    images: int | None = None,
    progress: Callable[[RunProgress], None] | None = None,
) -> DemoResult:
    """Certify images without a denoiser and with those of the demo.

    The classifier was trained without noise. A black-box denoiser was trained without the
    classifier, a white-box one through it. Every number is computed with fresh noise.

    Args:
        folder: where ``report.html``, ``figure.png`` and a new store are written.
        name: a key of :data:`DEMOS`.
        images: number of images, from the first; None for that of the demo.
        progress: called after every batch.

    Raises:
        InputError: there is no such demo, ``images`` is below 1, or an extra is missing.
    """
    if name not in DEMOS:
        raise SpecError(
            f"there is no demo {name!r}; expected one of {', '.join(DEMOS)}. Use one of them."
        )
    began = time.monotonic()
    demo = DEMOS[name]
    path = folder / f"runs-{datetime.now(UTC):%Y%m%d-%H%M%S}.sqlite"
    classifier, dataset = load_classifier(demo.classifier), load_dataset(demo.data)
    denoisers = {spec: load_denoiser(spec) for spec in demo.methods.values()}
    results = []
    with Store(path) as store:
        for method, spec in demo.methods.items():
            for sigma in demo.sigmas:
                run = CertificationRun(
                    SmoothedClassifier(classifier, sigma, denoisers[spec], engine=demo.engine),
                    dataset,
                    demo.plan,
                    alpha=0.001,
                    classifier=demo.classifier,
                    denoiser=spec,
                    name=f"{spec}-{sigma:g}",
                    limit=demo.images if images is None else images,
                    method=method,
                    command=f"denoised-smoothing demo {name}",
                )
                results.append(load_results(store, run.execute(store, progress).name))
        opening = _opening(demo, classifier, dataset, results)
        names = [result.run.name for result in results]
        report = folder / "report.html"
        title = "An ordinary classifier, certified"
        write_report(store, names, report, radii=demo.radii, title=title, opening=opening)
        rows = [(result.method, result) for result in results]
        figure = (
            certified_accuracy_figure(rows)
            if opening is None
            else opening_figure(opening, store.examples(opening.run), rows)
        )
    save_figure(figure, folder / "figure.png")
    return DemoResult(demo, results, opening, report, path, time.monotonic() - began)


def _opening(
    demo: Demo, classifier: Classifier, dataset: ImageDataset, results: list[RunResults]
) -> Opening | None:
    """Fool the plain classifier on one of the images that may open.

    It is one that is certified with the right label, if there is one, and has the largest radius.
    """
    found = [
        (image, result)
        for result in results
        if result.run.settings["denoiser"] != "none"
        for image in result.images
        if image.index in demo.opening
    ]
    if not found:
        return None
    image, result = max(found, key=lambda pair: (pair[0].correct, pair[0].radius))
    original = dataset[image.index].image
    fooled = fool(classifier, original, CHANGES)
    if fooled is None:
        return None
    names = getattr(classifier, "label_names", None)
    return Opening(
        image=original,
        changed=fooled.image,
        before=str(label_name(fooled.before, names)),
        after=str(label_name(fooled.after, names)),
        distance=fooled.distance,
        run=result.run.name,
        image_id=image.image_id,
    )
