"""attack."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from denoised_smoothing.certificates.parameters import EngineName, Precision
from denoised_smoothing.certificates.radii import format_down
from denoised_smoothing.cli.options import (
    FAILED,
    INTERRUPTED,
    AsJson,
    Device,
    Seed,
    StoreUrl,
    command_line,
    parse_radii,
)
from denoised_smoothing.cli.output import err, out, print_json
from denoised_smoothing.cli.remote_options import refuse_paid
from denoised_smoothing.errors import DenoisedSmoothingError, RunMismatchError, StoreError

if TYPE_CHECKING:
    import numpy as np

    from denoised_smoothing.attacks import AttackRecord, Campaign
    from denoised_smoothing.attacks.report import AttackOutcome
    from denoised_smoothing.datasets import ImageDataset
    from denoised_smoothing.reporting import ImageResult, RunResults
    from denoised_smoothing.runs.run import CertificationRun
    from denoised_smoothing.smoothing.classifier import SmoothedClassifier
    from denoised_smoothing.store import Store, StoredRun

ALARM = 3
"""Exit code: within a certified radius, another label wins; the image is kept."""
SHARE = 0.99
"""Of the certified radius, unless radii or shares are given."""
NAMES = ("data", "classifier", "denoiser", "calibration_data")
"""Settings that only name what the fingerprints identify."""


def attack(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.")],
    radii: Annotated[
        str | None,
        typer.Option(help="L2 radii to attack at, such as 0.25,0.5.", show_default="those reached"),
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(
            help="Share of each image's own certified radius to attack at; may be given again.",
            show_default=f"{SHARE} unless there are --radii",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Gradient steps of an attack.")] = 50,
    copies: Annotated[int, typer.Option(help="Noisy copies in each step.")] = 32,
    n: Annotated[int, typer.Option(help="Fresh noisy copies that judge an attacked image.")] = 1000,
    limit: Annotated[
        int | None, typer.Option(help="At most so many images.", show_default="all")
    ] = None,
    surrogate: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Classifier whose gradients are followed instead, if the certified has none.",
        ),
    ] = None,
    surrogate_denoiser: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Its denoiser.", show_default="that of the run"),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Where it is now.", show_default="that of the run"),
    ] = None,
    denoiser: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Where it is now.", show_default="that of the run"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Where they are now.", show_default="those of the run"),
    ] = None,
    store: StoreUrl = "runs.sqlite",
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="For attack.json, curve.png, changed images.")
    ] = Path("attack"),
    seed: Seed = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Attack what a run certified. Exit code 3: an attack contradicts a certificate."""
    from denoised_smoothing.attacks import PGD, AttackRecord, Campaign
    from denoised_smoothing.attacks.report import to_attack
    from denoised_smoothing.reporting import load_results
    from denoised_smoothing.store import Store

    with Store(store, read_only=True) as opened:
        results, images = to_attack(load_results(opened, run), limit)
        request = _request(results.run, data, classifier, denoiser, device)
        read = _Reader(opened, request, run)
    lengths = _lengths(results, radii, share)
    guide = None
    if surrogate is not None or surrogate_denoiser is not None:
        specs = (
            surrogate or request.settings["classifier"],
            surrogate_denoiser or request.settings["denoiser"],
        )
        guide = _smoothed(results.run, *specs, device)
    campaign = Campaign(
        request.smoothed,
        images,
        read,
        secrets.randbits(128) if seed is None else seed,
        *lengths,
        pgd=PGD(steps, copies),
        n=n,
        alpha=float(results.run.settings["alpha"]),
        surrogate=guide,
    )
    campaign.check()
    info = {
        "store": store,
        "surrogate": surrogate,
        "surrogate_denoiser": surrogate_denoiser,
        "command": command_line(),
    }
    record = AttackRecord(output, campaign, results, info)
    _execute(campaign, record)
    _print(campaign, record, results, as_json=as_json)
    if record.alarms:
        raise typer.Exit(ALARM)


def _lengths(
    results: RunResults, radii: str | None, share: list[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from denoised_smoothing.reporting import default_radii

    given = parse_radii(radii)
    if given is None and not share:
        return tuple(radius for radius in default_radii([results]) if radius > 0), (SHARE,)
    return tuple(dict.fromkeys(given or ())), tuple(dict.fromkeys(share or ()))


def _smoothed(
    run: StoredRun, classifier: str, denoiser: str, device: str, *, as_certified: bool = False
) -> SmoothedClassifier:
    from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
    from denoised_smoothing.smoothing.classifier import SmoothedClassifier

    smoothed = SmoothedClassifier(
        load_classifier(classifier),
        float(run.settings["sigma"]),
        load_denoiser(denoiser),
        noise=run.settings["noise"],
        device=device,
        precision=run.settings["precision"] if as_certified else Precision.FLOAT32,
    )
    refuse_paid(smoothed, classifier)
    if as_certified:
        smoothed.execution.adopt(
            EngineName(run.settings["engine"]), run.settings["forward_shape"][0]
        )
    return smoothed


def _request(
    run: StoredRun, data: str | None, classifier: str | None, denoiser: str | None, device: str
) -> CertificationRun:
    """What was certified, built anew.

    Raises:
        RunMismatchError: it is not the same.
    """
    from denoised_smoothing.certificates.certificate import SamplingPlan
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.runs.run import CertificationRun

    settings = run.settings
    specs = (classifier or settings["classifier"], denoiser or settings["denoiser"])
    request = CertificationRun(
        _smoothed(run, *specs, device, as_certified=True),
        load_dataset(data or settings["data"]),
        SamplingPlan.from_dict(settings["plan"]),
        float(settings["alpha"]),
        *specs,
        resolution=settings["resolution"],
        stride=settings["stride"],
        calibration=_calibration(settings),
    )
    now: dict[str, Any] = json.loads(json.dumps(request.settings))
    differs = [
        f"{key}: {settings.get(key)!r} in the run, {now.get(key)!r} now"
        for key in sorted({*settings, *now}.difference(NAMES))
        if settings.get(key) != now.get(key)
    ]
    if differs:
        raise RunMismatchError(
            f"this is not what run {run.name!r} certified: {'; '.join(differs)}; name the same "
            "data, classifier and denoiser, on the same kind of machine, or certify anew here"
        )
    return request


def _calibration(settings: Mapping[str, Any]) -> ImageDataset | None:
    """The images from which int8 took its ranges, where it did."""
    from denoised_smoothing.datasets import load_dataset

    named = settings.get("calibration_data")
    return None if named is None else load_dataset(named)


class _Reader:
    """Reads an image of a run as it was certified."""

    def __init__(self, store: Store, request: CertificationRun, run: str) -> None:
        self._request = request
        self._digests = {image.image_id: image.digest for image in store.images(run)}

    def __call__(self, image: ImageResult) -> np.ndarray:
        from denoised_smoothing.images import digest

        example, pixels = self._request.image(image.index)
        if (example.image_id, digest(pixels)) != (image.image_id, self._digests[image.image_id]):
            raise StoreError(
                f"image {image.image_id!r} is not the one that was certified: the data changed; "
                "attack a run on the data as they are now"
            )
        return pixels


def _execute(campaign: Campaign, record: AttackRecord) -> None:
    """Attack, and keep what is found however it ends; an alarm's exit code is never lost."""
    code = 0
    try:
        with _bar(len(campaign.images)) as show:
            for attacks in campaign.run():
                record.add(attacks)
                show(record.outcomes)
    except KeyboardInterrupt:
        err.print(f"interrupted; everything found is kept in {record.folder}", markup=False)
        code = INTERRUPTED
    except DenoisedSmoothingError as error:  # in the middle
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        code = FAILED
    finally:
        for outcome, path in record.alarms:
            err.print(_alarm(outcome, path, campaign), markup=False, soft_wrap=True)
    try:
        record.finish(complete=not code)
    except DenoisedSmoothingError as error:  # no room for the curve
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        code = FAILED
    if code:
        raise typer.Exit(ALARM if record.alarms else code)


def _alarm(outcome: AttackOutcome, path: Path, campaign: Campaign) -> str:
    return (
        f"ALARM: image {outcome.image_id!r} is certified as label {outcome.certified_label} "
        f"within L2 radius {format_down(outcome.certified_radius)}, but at distance "
        f"{outcome.norm:.4f} label {outcome.label} wins (p-value {outcome.p_value:.2g}, level "
        f"{campaign.level:.2g}). The image is kept as {path}. By chance a certificate is wrong "
        f"with probability at most alpha = {campaign.alpha:g}, and so is any verdict of this "
        "attack: certify and attack again with other seeds, and if the alarm comes back, trust "
        "no certificate of this classifier"
    )


def _print(campaign: Campaign, record: AttackRecord, results: RunResults, *, as_json: bool) -> None:
    from denoised_smoothing.attacks.report import (
        accuracy_under_attack,
        by_share,
        radius_table,
        share_table,
    )
    from denoised_smoothing.reporting.tables import measure

    if as_json:
        print_json({"output": str(record.folder), **record.to_dict(complete=True)})
        return
    outcomes = record.outcomes
    if campaign.radii:
        rows = accuracy_under_attack(results, outcomes, campaign.radii)
        out.print(radius_table(rows, measure([results])))
    if campaign.shares:
        out.print(share_table(by_share(outcomes, campaign.shares)))
    alarms = len(record.alarms) or "none"
    out.print(
        f"{len(outcomes)} attacks on {len(campaign.images)} images; {alarms} of them against a "
        f"certificate. Kept in {record.folder}.",
        markup=False,
        soft_wrap=True,
    )


@contextmanager
def _bar(images: int) -> Iterator[Callable[[Sequence[AttackOutcome]], None]]:
    """A progress bar on standard error: images done, attacks made, how many images changed."""
    columns = (
        SpinnerColumn(),
        TextColumn("attacking"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("images, {task.fields[attacks]} attacks, {task.fields[changed]} changed"),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=images, attacks=0, changed=0)

        def show(outcomes: Sequence[AttackOutcome]) -> None:
            bar.update(
                task,
                completed=len({outcome.image_id for outcome in outcomes}),
                attacks=len(outcomes),
                changed=sum(outcome.verdict.value == "changed" for outcome in outcomes),
            )

        yield show
