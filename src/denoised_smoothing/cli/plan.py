"""plan: what a run will cost, before it is paid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from denoised_smoothing.certificates.cost import (
    PROBABILITIES,
    Bound,
    Estimate,
    Expectation,
    estimate,
    expected_calls,
    least_cap,
    least_copies,
)
from denoised_smoothing.certificates.parameters import Noise, SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.cli.options import Alpha, AsJson, NoiseName, Sigma, StoreUrl
from denoised_smoothing.cli.output import out, print_json, print_rows
from denoised_smoothing.errors import SettingError


def plan(
    sigma: Sigma,
    radius: Annotated[float, typer.Option(help="L2 radius asked about, pixel values in [0, 1].")],
    alpha: Alpha = 0.001,
    max_n: Annotated[
        int, typer.Option(help="Cap on copies an image, and the fixed budget to compare with.")
    ] = 10_000,
    shape: Annotated[
        str, typer.Option(help="Channels, height and width of the images.")
    ] = "3x32x32",
    noise: NoiseName = Noise.GRID,
    images: Annotated[
        int | None, typer.Option(help="Images of the whole data set.", show_default="1 image")
    ] = None,
    price: Annotated[float | None, typer.Option(help="What one classifier call costs.")] = None,
    rate: Annotated[float | None, typer.Option(help="Classifier calls a second.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Diffusion denoiser: number of steps.")] = 1,
    samples: Annotated[
        int,
        typer.Option(min=1, help="Diffusion denoiser: samples, each with a classifier call."),
    ] = 1,
    votes: Annotated[int | None, typer.Option(hidden=True)] = None,
    pilot: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Estimate --images from the images of a stored run, a sample "
            "of them (certify --stride).",
        ),
    ] = None,
    store: StoreUrl = "runs.sqlite",
    as_json: AsJson = False,
) -> None:
    """Least copies, expected calls, time and cost for one radius; from a pilot run, for all."""
    parameters = SmoothingParameters(
        sigma=sigma, alpha=alpha, dimension=parse_shape(shape), seed=0, noise=noise
    )
    if votes is not None:
        raise SettingError(f"--votes is now --samples, got --votes {votes}. Use --samples {votes}.")
    costs = Costs(1 if images is None else images, price, rate, steps, samples)
    plans = (Anytime(radii=(radius,), max_n=max_n), FixedBudget(n=max_n))
    if pilot is not None and images is None:
        raise SettingError(f"--pilot {pilot} needs --images, how many the whole data set has")
    reach = _reach(plans[0], parameters, radius)
    answer: dict[str, Any] = {
        "sigma": sigma,
        "radius": radius,
        "alpha": alpha,
        "max_n": max_n,
        "images": costs.images,
        "least_n": reach,
        "reachable": bool(plans[0].boundaries(parameters)),
        "expected": [_row(plans, parameters, p, costs) for p in PROBABILITIES],
    }
    if pilot is not None:
        answer["pilot"] = _pilot(store, pilot, plans[0], parameters, costs)
    if as_json:
        print_json(answer)
        return
    _show(answer)


@dataclass(frozen=True)
class Costs:
    """What turns calls into time and money.

    Raises:
        SettingError: a value is not above 0.
    """

    images: int
    price: float | None
    rate: float | None
    steps: int = 1
    samples: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0.0 < value < float("inf"):
                raise SettingError(f"--{name} must be above 0 and finite, got {value!r}")
        if self.samples > 1 and self.steps == 1:
            raise SettingError(
                "samples of 1 step are all equal, because noise is drawn between steps, got "
                f"--samples {self.samples}. Use --steps 2 or more."
            )

    def of(self, copies: float) -> dict[str, float]:
        """Calls of the classifier for some noisy copies; passes, seconds and cost where known."""
        calls = copies * self.samples
        values = {"calls": calls}
        if self.steps > 1:
            values["passes"] = calls * self.steps
        if self.rate is not None:
            values["seconds"] = calls / self.rate
        if self.price is not None:
            values["cost"] = calls * self.price
        return values


def parse_shape(text: str) -> int:
    """``"3x32x32"`` to its number of pixel values."""
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise SettingError(f"--shape is channels x height x width such as 3x32x32, got {text!r}")
    channels, height, width = map(int, parts)
    return channels * height * width


def _reach(asked: Anytime, parameters: SmoothingParameters, radius: float) -> dict[str, int | None]:
    """Copies without a failure: of a fixed n, of the mixture at whole alpha, and the least cap."""
    return {
        "fixed": least_copies(Bound.CLOPPER_PEARSON, parameters, radius),
        "mixture": least_copies(Bound.MIXTURE, parameters, radius),
        "anytime": least_cap(asked, parameters, radius),
    }


def _row(
    plans: tuple[Anytime, FixedBudget], parameters: SmoothingParameters, p: float, costs: Costs
) -> dict[str, Any]:
    radius = plans[0].radii[0]
    row: dict[str, Any] = {"p": p}
    for which in plans:
        one: Expectation = expected_calls(which, parameters, radius, p)
        row[which.kind] = {
            "certified": one.certified,
            **costs.of(one.calls),
            **{f"all_{k}": v for k, v in costs.of(one.calls * costs.images).items()},
        }
    return row


def _pilot(
    store: str, name: str, asked: Anytime, parameters: SmoothingParameters, costs: Costs
) -> dict[str, Any]:
    """The estimate for all images from the finished ones of a run, by the plan of that run."""
    from denoised_smoothing.reporting import load_results
    from denoised_smoothing.store import Store

    with Store(store, read_only=True) as opened:
        results = load_results(opened, name)
    held = results.run.settings
    for option, ours in (("sigma", parameters.sigma), ("alpha", parameters.alpha)):
        if held[option] != ours:
            raise SettingError(
                f"the pilot {name!r} was run with {option} {held[option]:g}, --{option} is "
                f"{ours:g}; the calls depend on it, so take that of the pilot"
            )
    calls = estimate([image.certificate.calls for image in results.images], costs.images)
    values = {"calls": _plain(calls, costs.samples)}
    if costs.steps > 1:
        values["passes"] = _plain(calls, costs.steps * costs.samples)
    if costs.rate is not None:
        values["seconds"] = _plain(calls, costs.samples / costs.rate)
    else:
        values["seconds"] = _plain(estimate([i.seconds for i in results.images], costs.images), 1.0)
    if costs.price is not None:
        values["cost"] = _plain(calls, costs.price * costs.samples)
    return {
        "run": name,
        "plan": held["plan"]["kind"],
        "images": len(results.images),
        **values,
        "notes": _notes(held, asked, parameters, costs.images // len(results.images)),
    }


def _notes(
    held: dict[str, Any], asked: Anytime, parameters: SmoothingParameters, stride: int
) -> list[str]:
    """What keeps the pilot's images from being a sample, and its plan from being the one asked."""
    notes = []
    if stride > 1 and held.get("stride", 1) == 1:
        notes.append(
            "its images are the first ones of the data (--stride 1), which are no random sample "
            f"where the data are sorted; certify with --stride {stride} to spread the pilot"
        )
    plan = held["plan"]
    cap = next(plan[key] for key in ("max_n", "n", "of_n") if key in plan) + plan.get("more", 0)
    pairs: list[tuple[str, Any, Any]] = [
        ("noise", held["noise"], parameters.noise.value),
        ("values an image (--shape)", held["dimension"], parameters.dimension),
        ("copies an image at most (--max-n)", cap, asked.max_n),
    ]
    if "radii" in plan:
        pairs.append(("radii", list(plan["radii"]), list(asked.radii)))
    notes += [
        f"the estimate is for the pilot's {what}, {theirs}, not {ours}"
        for what, theirs, ours in pairs
        if theirs != ours
    ]
    return notes


def _plain(amount: Estimate, factor: float) -> dict[str, float]:
    return {
        "total": amount.total * factor,
        "standard_error": amount.error * factor,
        "low": amount.low * factor,
        "high": amount.high * factor,
    }


def _show(answer: dict[str, Any]) -> None:
    least, max_n, rows = answer["least_n"], answer["max_n"], answer["expected"]
    asked = f"L2 radius {answer['radius']:g} at sigma {answer['sigma']:g}, alpha"
    if least["fixed"] is None or least["mixture"] is None:
        _say(f"{asked} {answer['alpha']:g}: no number of copies certifies it; take a larger sigma.")
    else:
        _say(
            f"{asked} {answer['alpha']:g}: at least {least['fixed']:,} copies without a failure "
            f"by a fixed budget, {least['mixture']:,} by the mixture."
        )
    if answer["reachable"]:
        _say(
            "Expected for an image whose class has the probability p under noise, by the anytime "
            f"plan with the cap {max_n:,} and by a fixed budget of {max_n:,}:"
        )
        _say_rows(rows, "", ("calls", "certified"))
        if {"cost", "seconds", "passes"} & rows[0]["fixed"].keys():
            _say("For one image (passes are those of the denoiser):")
            _say_rows(rows, "", ("passes", "seconds", "cost"))
        if answer["images"] > 1:
            _say(f"For {answer['images']:,} images, were they all of that kind:")
            _say_rows(rows, "all_", ("calls", "passes", "seconds", "cost"))
    elif least["anytime"] is not None:
        _say(
            f"Out of reach of {max_n:,} copies: the anytime plan draws none. The least cap with "
            f"which it can be certified: --max-n {least['anytime']}."
        )
    if "pilot" in answer:
        _show_pilot(answer["pilot"], answer["images"])


def _say_rows(rows: list[dict[str, Any]], prefix: str, names: tuple[str, ...]) -> None:
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
    print_rows(cells, as_json=False)


def _show_pilot(pilot: dict[str, Any], images: int) -> None:
    _say(
        f"From {pilot['images']} images of the run {pilot['run']} (plan {pilot['plan']}), for "
        f"{images:,} images, if they are a random sample of these; with 95 % intervals:"
    )
    for name in ("calls", "passes", "seconds", "cost"):
        if name in pilot:
            value = {key: _amount(amount) for key, amount in pilot[name].items()}
            _say(f"  {name}: {value['total']} ({value['low']} to {value['high']})")
    for note in pilot["notes"]:
        _say(f"note: {note}")


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def _say(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)
