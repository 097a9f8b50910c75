"""The command ``attack``."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoised_smoothing.certificates.parameters import Contract, EngineName, Noise, Precision
from denoised_smoothing.certificates.radii import format_down
from denoised_smoothing.cli.grouped import Take, command, option_group
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import (
    FAILED,
    INTERRUPTED,
    REACH,
    AsJson,
    Limit,
    Seed,
    StoreUrl,
    command_line,
    parse_radii,
)
from denoised_smoothing.cli.output import Interrupted, err, note, out, print_json, progress_bar, say
from denoised_smoothing.errors import DenoisedSmoothingError, RunMismatchError, differences

if TYPE_CHECKING:
    from denoised_smoothing.attacks import AttackRecord, Campaign
    from denoised_smoothing.attacks.report import AttackOutcome
    from denoised_smoothing.reporting.results import RunResults
    from denoised_smoothing.runs.run import CertificationRun
    from denoised_smoothing.store import StoredRun

ALARM = 3
"""Exit code: another label wins within a certified radius. The image is kept."""
SHARE = 0.99
"""Share of the certified radius, unless radii or shares are given."""
NAMES = ("data", "classifier", "denoiser", "calibration_data")
"""Run settings that only name what the fingerprints identify."""
_data, _copies = option_group("Data and model"), option_group("Copies")
_spec = partial(_data, metavar="SPEC", show_default="that of the run")


@dataclass(frozen=True)
class AttackOptions:
    """The options of this command alone."""

    radii: str | None = _copies("L2 radii to attack at: 0.25,0.5.", show_default=REACH)
    share: list[float] | None = _copies(
        "Share of each image's certified radius to attack at. Repeat for several.",
        show_default=f"{SHARE} without --radii",
    )
    steps: int = _copies("Gradient steps per attack.", default=50)
    copies: int = _copies("Noisy copies per step.", default=32)
    n: int = _copies("New noisy copies that decide the label of an attacked image.", default=1000)
    surrogate: str | None = _spec("Classifier to take gradients from.")
    surrogate_denoiser: str | None = _spec("Denoiser in front of the surrogate.")
    classifier: str | None = _spec("Classifier of the run, if it has moved.")
    denoiser: str | None = _spec("Denoiser of the run, if it has moved.")
    data: str | None = _spec("Images of the run, if they have moved.", metavar="DATA")
    output: Path = option_group("Output")(
        "New folder for attack.json, curve.png and the changed images.", default=Path("attack")
    )


@command()
def attack(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.")],
    options: AttackOptions,
    model: Annotated[ModelOptions, Take(("device",))],
    limit: Limit = None,
    store: StoreUrl = "runs.sqlite",
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Attack the certified images of a run, and write the changed images.

    Example: denoised-smoothing attack my-run --radii 0.25,0.5

    Exit code 3: an attack contradicts a certificate. That image is kept.
    """
    from denoised_smoothing.attacks import PGD, AttackRecord, Campaign
    from denoised_smoothing.attacks.campaign import certified_images
    from denoised_smoothing.attacks.report import to_attack
    from denoised_smoothing.reporting.results import load_results
    from denoised_smoothing.store import Store

    with Store(store, read_only=True) as opened:
        results, images = to_attack(load_results(opened, run), limit)
        digests = {image.image_id: image.digest for image in opened.images(run)}
    held = results.run.settings
    model = replace(
        model,
        classifier=options.classifier or held["classifier"],
        denoiser=options.denoiser or held["denoiser"],
        sigma=float(held["sigma"]),
        noise=Noise(held["noise"]),
        stochastic=held.get("contract") == Contract.STOCHASTIC,
        engine=EngineName.TORCH,
    )
    request = _request(results.run, model, options.data)
    guide = None
    if options.surrogate is not None or options.surrogate_denoiser is not None:
        guide = replace(
            model,
            classifier=options.surrogate or model.classifier,
            denoiser=options.surrogate_denoiser or model.denoiser,
        ).build()
    campaign = Campaign(
        request.smoothed,
        images,
        certified_images(request.image, digests),
        secrets.randbits(128) if seed is None else seed,
        *_lengths(results, options),
        pgd=PGD(options.steps, options.copies),
        n=options.n,
        alpha=float(held["alpha"]),
        surrogate=guide,
    )
    campaign.check()
    if campaign.note:
        note(campaign.note)
    info = {
        "store": store,
        "surrogate": options.surrogate,
        "surrogate_denoiser": options.surrogate_denoiser,
        "command": command_line(),
    }
    record = AttackRecord(options.output, campaign, results, info)
    _execute(campaign, record)
    _print(campaign, record, results, as_json=as_json)
    if record.alarms:
        raise typer.Exit(ALARM)


def _lengths(
    results: RunResults, options: AttackOptions
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the radii and the shares of the certified radius to attack at, once each."""
    from denoised_smoothing.reporting.tables import default_radii

    if options.radii is None and not options.share:
        return tuple(radius for radius in default_radii([results]) if radius > 0), (SHARE,)
    radii = () if options.radii is None else parse_radii(options.radii)
    return tuple(dict.fromkeys(radii)), tuple(dict.fromkeys(options.share or ()))


def _request(run: StoredRun, model: ModelOptions, data: str | None) -> CertificationRun:
    """Build the run again, as it was certified.

    Raises:
        RunMismatchError: it differs from the stored run.
    """
    from denoised_smoothing.certificates.certificate import SamplingPlan
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.runs.identity import as_compared, renamed_weights
    from denoised_smoothing.runs.run import CertificationRun

    held = run.settings
    smoothed = replace(model, precision=Precision(held["precision"])).build()
    images, shape = held.get("calibration_data"), held.get("image_shape")
    smoothed.prepared.use_engine(EngineName(held["engine"]), held["forward_shape"][0])
    request = CertificationRun(
        smoothed,
        load_dataset(data or held["data"]),
        SamplingPlan.from_dict(held["plan"]),
        float(held["alpha"]),
        resolution=held["resolution"],
        shape=None if shape is None else tuple(shape),
        stride=held["stride"],
        labels=held.get("labels"),
        calibration=None if images is None else load_dataset(images),
    )
    now = as_compared(json.loads(json.dumps(request.settings)), run)
    if differs := differences(_identity(held), _identity(now), where=("in the run", "now")):
        raise RunMismatchError(
            f"The models or data differ from those of run {run.name!r}: {'; '.join(differs)}. "
            "Use the same data, classifier and denoiser on the same kind of machine, or certify "
            f"again here.{renamed_weights(held, now)}"
        )
    return request


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in NAMES}


def _execute(campaign: Campaign, record: AttackRecord) -> None:
    """Attack, and store the results even if the attack fails or is interrupted."""
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
        say(
            f"Interrupted. All attacks so far are stored in {record.folder}. An attack cannot be "
            "resumed. To start again, repeat the command with another --output.",
            err,
        )
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
        end = Interrupted if code == INTERRUPTED else typer.Exit
        raise end(ALARM if record.alarms else code)


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
