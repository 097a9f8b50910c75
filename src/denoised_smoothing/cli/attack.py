"""The command ``attack``."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoised_smoothing.certificates.parameters import EngineName, Precision
from denoised_smoothing.certificates.radii import format_down
from denoised_smoothing.cli.grouped import Take, command
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import (
    FAILED,
    INTERRUPTED,
    AsJson,
    Limit,
    Seed,
    StoreUrl,
    command_line,
    in_copies,
    in_data,
    in_output,
    parse_radii,
)
from denoised_smoothing.cli.output import err, out, print_json, progress_bar, say
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
"""Exit code: another label wins within a certified radius. The image is kept."""
SHARE = 0.99
"""Share of the certified radius, unless radii or shares are given."""
NAMES = ("data", "classifier", "denoiser", "calibration_data")
"""Run settings that only name what the fingerprints identify."""


def _moved(what: str, metavar: str) -> Any:
    """Return an option that replaces a spec of the run."""
    return in_data(f"{what}, if it has moved.", metavar=metavar, show_default="that of the run")


@command()
def attack(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.")],
    model: Annotated[ModelOptions, Take(("device",))],
    radii: Annotated[
        str | None,
        in_copies(
            "L2 radii to attack at, such as 0.25,0.5, in pixel values in [0, 1].",
            show_default="those within reach",
        ),
    ] = None,
    share: Annotated[
        list[float] | None,
        in_copies(
            "Share of each image's certified radius to attack at. Repeat for several.",
            show_default=f"{SHARE} without --radii",
        ),
    ] = None,
    steps: Annotated[int, in_copies("Gradient steps per attack.")] = 50,
    copies: Annotated[int, in_copies("Noisy copies per step.")] = 32,
    n: Annotated[
        int, in_copies("New noisy copies that decide the label of an attacked image.")
    ] = 1000,
    limit: Limit = None,
    surrogate: Annotated[
        str | None,
        in_data(
            "Classifier to take gradients from, if the certified one has none.", metavar="SPEC"
        ),
    ] = None,
    surrogate_denoiser: Annotated[
        str | None,
        in_data(
            "Denoiser in front of the surrogate.", metavar="SPEC", show_default="that of the run"
        ),
    ] = None,
    classifier: Annotated[str | None, _moved("Classifier of the run", "SPEC")] = None,
    denoiser: Annotated[str | None, _moved("Denoiser of the run", "SPEC")] = None,
    data: Annotated[str | None, _moved("Images of the run", "DATA")] = None,
    store: StoreUrl = "runs.sqlite",
    output: Annotated[
        Path,
        in_output(
            "New folder for attack.json, curve.png and the changed images.", metavar="FOLDER"
        ),
    ] = Path("attack"),
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Attack the certified images of a run, and write the changed images.

    Example: denoised-smoothing attack my-run --radii 0.25,0.5

    Exit code 3: an attack contradicts a certificate. That image is kept.
    """
    from denoised_smoothing.attacks import PGD, AttackRecord, Campaign
    from denoised_smoothing.attacks.report import to_attack
    from denoised_smoothing.reporting import load_results
    from denoised_smoothing.store import Store

    with Store(store, read_only=True) as opened:
        results, images = to_attack(load_results(opened, run), limit)
        request = _request(results.run, data, classifier, denoiser, model.device)
        read = _Reader(opened, request, run)
    lengths = _lengths(results, radii, share)
    guide = None
    if surrogate is not None or surrogate_denoiser is not None:
        specs = (
            surrogate or request.settings["classifier"],
            surrogate_denoiser or request.settings["denoiser"],
        )
        guide = _smoothed(results.run, *specs, model.device)
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
        smoothed.prepared.use_engine(
            EngineName(run.settings["engine"]), run.settings["forward_shape"][0]
        )
    return smoothed


def _request(
    run: StoredRun, data: str | None, classifier: str | None, denoiser: str | None, device: str
) -> CertificationRun:
    """Build the run again, as it was certified.

    Raises:
        RunMismatchError: it differs from the stored run.
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
            f"The models or data differ from those of run {run.name!r}: {'; '.join(differs)}. "
            "Use the same data, classifier and denoiser on the same kind of machine, or certify "
            "again here."
        )
    return request


def _calibration(settings: Mapping[str, Any]) -> ImageDataset | None:
    """Load the images of the int8 calibration, where there was one."""
    from denoised_smoothing.datasets import load_dataset

    named = settings.get("calibration_data")
    return None if named is None else load_dataset(named)


class _Reader:
    """Read an image of a run as it was certified."""

    def __init__(self, store: Store, request: CertificationRun, run: str) -> None:
        self._request = request
        self._digests = {image.image_id: image.digest for image in store.images(run)}

    def __call__(self, image: ImageResult) -> np.ndarray:
        from denoised_smoothing.images import digest

        example, pixels = self._request.image(image.index)
        if (example.image_id, digest(pixels)) != (image.image_id, self._digests[image.image_id]):
            raise StoreError(
                f"Image {image.image_id!r} differs from the certified one, because the data "
                "changed. Certify the data again, and attack that run."
            )
        return pixels


def _execute(campaign: Campaign, record: AttackRecord) -> None:
    """Attack, and keep what is found however it ends; an alarm's exit code is never lost."""
    code = 0
    text = "images, {task.fields[attacks]} attacks, {task.fields[changed]} changed"
    try:
        with progress_bar(text, "attacking", attacks=0, changed=0) as update:
            for attacks in campaign.run():
                record.add(attacks)
                update(
                    total=len(campaign.images),
                    completed=len({outcome.image_id for outcome in record.outcomes}),
                    attacks=len(record.outcomes),
                    changed=sum(o.verdict.value == "changed" for o in record.outcomes),
                )
    except KeyboardInterrupt:
        say(f"Interrupted. All attacks so far are stored in {record.folder}.", err)
        code = INTERRUPTED
    except DenoisedSmoothingError as error:  # in the middle
        say(f"error: {error}", err)
        code = FAILED
    finally:
        for outcome, path in record.alarms:
            say(_alarm(outcome, path, campaign), err)
    try:
        record.finish(complete=not code)
    except DenoisedSmoothingError as error:  # no room for the curve
        say(f"error: {error}", err)
        code = FAILED
    if code:
        raise typer.Exit(ALARM if record.alarms else code)


def _alarm(outcome: AttackOutcome, path: Path, campaign: Campaign) -> str:
    return (
        f"ALARM: image {outcome.image_id!r} is certified as label {outcome.certified_label} "
        f"within L2 radius {format_down(outcome.certified_radius)}, but label {outcome.label} wins "
        f"at distance {outcome.norm:.4f} (p-value {outcome.p_value:.2g}, level "
        f"{campaign.level:.2g}). The image is stored as {path}. A certificate is wrong with "
        f"probability at most alpha = {campaign.alpha:g}, and so are the verdicts of this attack. "
        "Certify and attack again with other seeds. If the alarm repeats, do not trust the "
        "certificates of this classifier."
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
    alarms = len(record.alarms) or "None"
    say(
        f"{len(outcomes)} attacks on {len(campaign.images)} images. {alarms} of them contradict a "
        f"certificate. Stored in {record.folder}."
    )
