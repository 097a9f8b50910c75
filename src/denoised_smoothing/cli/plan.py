"""The command ``plan``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from denoised_smoothing.certificates.cost import (
    PROBABILITIES,
    Bound,
    Estimate,
    estimate,
    expected_calls,
    least_cap,
    least_copies,
)
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.cli.grouped import Take, command, option_group
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import Alpha, AsJson, MaxN, Radius, StoreUrl, option
from denoised_smoothing.cli.output import print_json, print_rows, say
from denoised_smoothing.errors import SettingError

_option = option_group("Time and cost")


@dataclass(frozen=True)
class Costs:
    """Options that turn classifier calls into time and money.

    Raises:
        SettingError: a value is not above 0.
    """

    images: int | None = _option("Number of images of the data set.", show_default="1 image")
    price: float | None = _option("Price of a classifier call, in any currency.")
    rate: float | None = _option("Classifier calls per second.")
    steps: int = _option("Steps of a diffusion denoiser.", default=1, min=1)
    samples: int = _option(
        "Samples of a diffusion denoiser. Each takes a classifier call.", default=1, min=1
    )

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0.0 < value < math.inf:
                raise SettingError(
                    f"--{name} must be above 0 and finite, got {value!r}. Give a positive number."
                )
        if self.samples > 1 and self.steps == 1:
            raise SettingError(
                f"--samples {self.samples} needs --steps 2 or more, got 1, because noise is drawn "
                "between steps. Add --steps 2, or remove --samples."
            )

    def of(self, copies: float) -> dict[str, float]:
        """Return the calls for noisy copies; also passes, seconds and cost where known."""
        calls = copies * self.samples
        values = {"calls": calls}
        if self.steps > 1:
            values["passes"] = calls * self.steps
        if self.rate is not None:
            values["seconds"] = calls / self.rate
        if self.price is not None:
            values["cost"] = calls * self.price
        return values


@command()
def plan(
    model: Annotated[ModelOptions, Take(("sigma", "noise"), required=("sigma",))],
    radius: Radius,
    costs: Costs,
    alpha: Alpha = 0.001,
    max_n: MaxN = 10_000,
    shape: Annotated[
        str, option("Data and model", "Channels, height and width of the images.")
    ] = "3x32x32",
    pilot: Annotated[
        str | None,
        option(
            "Data and model",
            "Estimate from the images of this run, a sample of --images.",
            metavar="RUN",
        ),
    ] = None,
    store: StoreUrl = "runs.sqlite",
    votes: Annotated[int | None, typer.Option(hidden=True, help="Old name of --samples.")] = None,
    as_json: AsJson = False,
) -> None:
    """Estimate the copies, time and cost of a run before you start it.

    Example: denoised-smoothing plan --sigma 0.5 --radius 0.5 --images 10000 --rate 2000

    docs/statistics.md explains the numbers.
    """
    if votes is not None:
        raise SettingError(f"--votes has a new name, got --votes {votes}. Use --samples {votes}.")
    assert model.sigma is not None
    parameters = SmoothingParameters(
        sigma=model.sigma, alpha=alpha, dimension=parse_shape(shape), seed=0, noise=model.noise
    )
    plans = (Anytime(radii=(radius,), max_n=max_n), FixedBudget(n=max_n))
    if pilot is not None and costs.images is None:
        raise SettingError(
            f"--pilot {pilot} needs the number of images of the whole data set. Add --images N."
        )
    answer: dict[str, Any] = {
        "sigma": model.sigma,
        "radius": radius,
        "alpha": alpha,
        "max_n": max_n,
        "images": costs.images or 1,
        "least_n": {
            "fixed": least_copies(Bound.CLOPPER_PEARSON, parameters, radius),
            "mixture": least_copies(Bound.MIXTURE, parameters, radius),
            "anytime": least_cap(plans[0], parameters, radius),
        },
        "reachable": bool(plans[0].boundaries(parameters)),
        "expected": [_row(plans, parameters, p, costs) for p in PROBABILITIES],
    }
    if pilot is not None:
        answer["pilot"] = _pilot(store, pilot, plans[0], parameters, costs)
    if as_json:
        print_json(answer)
    else:
        _show(answer)


def parse_shape(text: str) -> int:
    """Return the number of pixel values of ``"3x32x32"``."""
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise SettingError(
            f"--shape must be channels x height x width, got {text!r}. Write for example 3x32x32."
        )
    return math.prod(map(int, parts))


def _row(
    plans: tuple[Anytime, FixedBudget], parameters: SmoothingParameters, p: float, costs: Costs
) -> dict[str, Any]:
    radius = plans[0].radii[0]
    row: dict[str, Any] = {"p": p}
    for which in plans:
        one = expected_calls(which, parameters, radius, p)
        row[which.kind] = {
            "certified": one.certified,
            **costs.of(one.calls),
            **{f"all_{k}": v for k, v in costs.of(one.calls * (costs.images or 1)).items()},
        }
    return row


def _pilot(
    store: str, name: str, planned: Anytime, parameters: SmoothingParameters, costs: Costs
) -> dict[str, Any]:
    """Estimate all images from the finished ones of a run, by the plan of that run."""
    from denoised_smoothing.reporting.results import load_results
    from denoised_smoothing.store import Store

    with Store(store, read_only=True) as opened:
        results = load_results(opened, name)
    held, finished, total = results.run.settings, results.images, costs.images or 1
    for key, ours in (("sigma", parameters.sigma), ("alpha", parameters.alpha)):
        if held[key] != ours:
            raise SettingError(
                f"--{key} must be that of the pilot {name!r}, {held[key]:g}, got {ours:g}. "
                f"Use --{key} {held[key]:g}."
            )
    calls = estimate([image.certificate.calls for image in finished], total)
    values = {key: _plain(calls, factor) for key, factor in costs.of(1).items()}
    if costs.rate is None:
        values["seconds"] = _plain(estimate([image.seconds for image in finished], total), 1)
    return {
        "run": name,
        "plan": held["plan"]["kind"],
        "images": len(finished),
        **values,
        "notes": _notes(held, planned, parameters, total // len(finished)),
    }


def _notes(
    held: dict[str, Any], planned: Anytime, parameters: SmoothingParameters, stride: int
) -> list[str]:
    """Return why the pilot may be no random sample, and what it has different from the plan."""
    notes = []
    if stride > 1 and held.get("stride", 1) == 1:
        notes.append(
            "Its images are the first ones of the data (--stride 1), which are not a random sample "
            f"of sorted data. Certify with --stride {stride} to spread the pilot."
        )
    plan = held["plan"]
    cap = next(plan[key] for key in ("max_n", "n", "of_n") if key in plan) + plan.get("more", 0)
    pairs: list[tuple[str, Any, Any]] = [
        ("noise", held["noise"], parameters.noise.value),
        ("values per image (--shape)", held["dimension"], parameters.dimension),
        ("maximum of copies (--max-n)", cap, planned.max_n),
    ]
    if "radii" in plan:
        pairs.append(("radii", list(plan["radii"]), list(planned.radii)))
    notes += [
        f"The estimate is for the pilot's {what}, {theirs}, not {ours}."
        for what, theirs, ours in pairs
        if theirs != ours
    ]
    return notes


def _plain(amount: Estimate, factor: float) -> dict[str, float]:
    names = {"total": "total", "standard_error": "error", "low": "low", "high": "high"}
    return {name: getattr(amount, key) * factor for name, key in names.items()}


def _show(answer: dict[str, Any]) -> None:
    least, max_n, rows = answer["least_n"], answer["max_n"], answer["expected"]
    wanted = (
        f"L2 radius {answer['radius']:g} at sigma {answer['sigma']:g}, alpha {answer['alpha']:g}"
    )
    if least["fixed"] is None or least["mixture"] is None:
        say(f"{wanted}: no number of copies certifies it. Use a larger --sigma.")
    else:
        say(
            f"{wanted}: at least {least['fixed']:,} copies without a failure by a fixed budget, "
            f"{least['mixture']:,} by the mixture of the anytime plan."
        )
    if answer["reachable"]:
        say(
            "Expected for an image whose class has probability p under noise, with the anytime "
            f"plan (--max-n {max_n}) and with a fixed budget (--n {max_n}):"
        )
        _show_rows(rows, "", ("calls", "certified"))
        if {"cost", "seconds", "passes"} & rows[0]["fixed"].keys():
            say("For one image (passes are those of the denoiser):")
            _show_rows(rows, "", ("passes", "seconds", "cost"))
        if answer["images"] > 1:
            say(f"For {answer['images']:,} images, if all have this p:")
            _show_rows(rows, "all_", ("calls", "passes", "seconds", "cost"))
    elif least["anytime"] is not None:
        say(
            f"Out of reach of {max_n:,} copies: the anytime plan draws none. The smallest maximum "
            f"that can certify it: --max-n {least['anytime']}."
        )
    if "pilot" in answer:
        _show_pilot(answer["pilot"], answer["images"])


def _show_rows(rows: list[dict[str, Any]], prefix: str, names: tuple[str, ...]) -> None:
    cells = []
    for row in rows:
        line = {"p": f"{row['p']:g}"}
        for kind in (Anytime.kind, FixedBudget.kind):
            for name in names:
                value = row[kind].get(prefix + name)
                if name == "certified":
                    line[f"{kind} certified"] = f"{100 * value:.1f} %"
                elif value is not None:
                    line[f"{kind} {name}"] = _amount(value)
        cells.append(line)
    print_rows(cells)


def _show_pilot(pilot: dict[str, Any], images: int) -> None:
    say(
        f"From {pilot['images']} images of the run {pilot['run']} (plan {pilot['plan']}), for "
        f"{images:,} images, if they are a random sample of these. With 95 % intervals:"
    )
    for name in ("calls", "passes", "seconds", "cost"):
        if name in pilot:
            value = {key: _amount(amount) for key, amount in pilot[name].items()}
            say(f"  {name}: {value['total']} ({value['low']} to {value['high']})")
    for text in pilot["notes"]:
        say(f"note: {text}")


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
