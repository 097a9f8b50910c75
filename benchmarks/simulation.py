"""Simulations of the sampling plans: validity, economy, radius.

A noisy copy fails with a known probability, so that every false certificate is known. There is no
classifier. The tables are those of docs/statistics.md.

    python benchmarks/simulation.py [--quick] [PART]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import image_statements
import numpy as np
import numpy.typing as npt
from scipy import special
from set_coverage import set_coverage
from simulation_sets import sets

from denoised_smoothing.certificates.confidence_sequence import boundary
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime, FixedBudget, RadiusTarget
from denoised_smoothing.certificates.radii import failure_for_radius

ALPHA, EVERY, SEED = 0.001, 100, 20190208
CAPS = (10_000, 100_000)
RADII = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
SIGMAS = (0.25, 0.5, 1.0)
DIMENSION = 3072

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def parameters(sigma: float) -> SmoothingParameters:
    return SmoothingParameters(sigma=sigma, alpha=ALPHA, dimension=DIMENSION, seed=0)


def most_failures(n: Integers, q0: Floats | float, alpha: float) -> Integers:
    """Return the maximum failures of n with a Clopper-Pearson bound of at most q0, or -1."""
    n, q0 = np.broadcast_arrays(np.asarray(n, dtype=np.int64), q0)
    low, high = np.full(n.shape, -1), n.copy()
    while (high - low > 1).any():
        middle = (low + high) // 2
        enough = special.bdtr(middle.clip(0).astype(np.float64), n, q0) <= alpha
        going = high - low > 1
        low, high = np.where(going & enough, middle, low), np.where(going & ~enough, middle, high)
    return low


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print("\n| " + " | ".join(headings) + " |")
    print("| --- |" + " ---: |" * (len(headings) - 1))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")


# Validity: streams exactly at the threshold, at which every certificate is false.

SHIFTS = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0)  # r / sigma; 0 is a coin
LAST = 100_000


def plans_at(q0: float) -> dict[str, Integers]:
    """Return for each plan the maximum failures with which it certifies, at every checkpoint.

    Nobody gives up, so that every stream has every chance to be certified.
    """
    n = np.arange(EVERY, LAST + 1, EVERY)

    def anytime(alpha: float, look: float, max_n: int) -> Integers:
        found = boundary(q0, alpha, look, max_n, LAST - max_n, EVERY)
        assert (found.checkpoints == n).all()
        return found.checkpoints - found.certify

    naive = most_failures(n, q0, ALPHA)
    return {
        "fixed 100,000": np.where(n == LAST, naive, -1),
        "anytime 100,000": anytime(0.75 * ALPHA, 0.25 * ALPHA, LAST),
        "anytime 10,000, continued to 100,000": anytime(0.75 * ALPHA, 0.25 * ALPHA, 10_000),
        "mixture alone": anytime(ALPHA, 0.0, LAST),
        "anytime without selection (alpha / 2)": anytime(0.375 * ALPHA, 0.125 * ALPHA, LAST),
        "naive peeking at Clopper-Pearson": naive,
    }


def validity(streams: int) -> None:
    random = np.random.default_rng(SEED)
    wrong: dict[str, list[object]] = {}
    for shift in SHIFTS:
        q0 = failure_for_radius(1.0, shift)
        plans = plans_at(q0)
        ever = {name: np.zeros(streams, dtype=bool) for name in plans}
        failures = np.zeros(streams, dtype=np.int64)
        for k in range(LAST // EVERY):
            failures += random.binomial(EVERY, q0, streams)
            for name, most in plans.items():
                ever[name] |= failures <= most[k]
        for name, certified in ever.items():
            wrong.setdefault(name, []).append(f"{certified.sum():,}")
        for of_n in CAPS:
            missed = radius_plan(RadiusTarget(of_n), np.full(streams, q0), random)[1]
            wrong.setdefault(f"radius {of_n:,}", []).append(f"{(missed < q0).sum():,}")
    print(f"\nFalse certificates of {streams:,} streams at the threshold, by r / sigma")
    table(["plan", *(f"{shift:g}" for shift in SHIFTS)], [[k, *v] for k, v in wrong.items()])
    selection(streams)


def selection(streams: int) -> None:
    """Simulate two classes of probability 1/2: every certificate is false."""
    random = np.random.default_rng(SEED + 3)
    plans = plans_at(0.5)
    fresh, pooled = plans["anytime 100,000"], plans["anytime without selection (alpha / 2)"]
    votes = np.zeros(streams, dtype=np.int64)
    wrong = np.zeros((4, streams), dtype=bool)
    first = random.binomial(50, 0.5, streams) >= 25  # 50 separate copies choose
    for k in range(LAST // EVERY):
        votes += random.binomial(EVERY, 0.5, streams)
        other = (k + 1) * EVERY - votes
        fewest = np.minimum(votes, other)
        wrong[0] |= np.where(first, other, votes) <= fresh[k]
        wrong[1] |= fewest <= pooled[k]
        wrong[2] |= fewest <= fresh[k]
        wrong[3] |= fewest <= plans["fixed 100,000"][k]
    names = (
        "anytime, 50 fresh copies",
        "anytime, the same copies at alpha / 2",
        "anytime, the same copies at alpha (not proven)",
        "fixed 100,000, the same copies at alpha (wrong)",
    )
    print(f"\nFalse certificates of {streams:,} images whose two classes have probability 1/2")
    table(["selection", "wrong"], [(n, f"{w.sum():,}") for n, w in zip(names, wrong, strict=True)])


# Two-sided: more classes than two, the runner-up unknown.

CLASSES = {  # probabilities; the rest are failed copies, each a vote for class 1
    "0.5, 0.5": (0.5, 0.5),
    "0.4, 0.4, 0.2": (0.4, 0.4, 0.2),
    "0.4, 0.3, 0.2; 0.1 fail that would vote for the second": (0.4, 0.3, 0.2),
    "0.4, 0.2, 0.2, 0.2": (0.4, 0.2, 0.2, 0.2),
    "ten of 0.1": (0.1,) * 10,
}


def two_sided(streams: int) -> None:
    """Return certificates of the plan itself, from multinomial counts.

    In all but the fourth row two classes are the most probable, so that any certificate is false.
    """
    random = np.random.default_rng(SEED + 4)
    rows = []
    for name, named in CLASSES.items():
        p = np.array([*named, max(0.0, 1.0 - sum(named))])
        truth = p[:-1].copy()
        truth[1] += p[-1]
        row: list[object] = [name]
        for cap in CAPS:
            plan = FixedBudget(n=cap, two_sided=True)
            candidates = random.multinomial(plan.n0, p, streams)[:, :-1].argmax(axis=1)
            votes = random.multinomial(cap, p, streams)
            own = votes[np.arange(streams), candidates]
            others = votes[:, :-1].copy()
            others[np.arange(streams), candidates] = -1
            cases = np.stack([candidates, own, others.max(axis=1), votes[:, -1]], axis=1)
            kinds, times = np.unique(cases, axis=0, return_counts=True)
            wrong = sum(
                number
                for kind, number in zip(kinds.tolist(), times.tolist(), strict=True)
                if _is_false(plan, kind, truth)
            )
            row.append(f"{wrong:,}")
        rows.append(row)
    print(f"\nFalse two-sided certificates of {streams:,} images, by n")
    table(["probabilities", *(f"{cap:,}" for cap in CAPS)], rows)


def _is_false(plan: FixedBudget, kind: Sequence[int], truth: Floats) -> bool:
    """Return whether a certificate exceeds the true radius (sigma 1). Other labels are pooled."""
    candidate, own, other, failed = kind
    rest = plan.n - own - other - failed
    # The candidate is label 0, the largest other label is 1, and the rest is spread over many.
    spread = [other] * (rest // max(other, 1)) + [rest % max(other, 1)] if rest else []
    counts = {
        Stage.SELECTION: LabelCounts("", "", Stage.SELECTION, (plan.n0,)),
        Stage.ESTIMATION: LabelCounts("", "", Stage.ESTIMATION, (own, other, *spread), failed),
    }
    certificate = plan.certificate(counts, parameters(1.0))
    runner_up = np.delete(truth, candidate).max()
    radius = (special.ndtri(truth[candidate]) - special.ndtri(runner_up)) / 2
    return certificate.label is not None and (radius < 1e-12 or certificate.radius > radius)


# Economy: images of all kinds.


def failure_rates(images: int, random: np.random.Generator) -> Floats:
    """Return rates of exactly 30 % sure, 30 % likely, 20 % doubtful and 20 % lost images."""
    parts = np.round(np.array([0.3, 0.6, 0.8, 1.0]) * images).astype(int)
    sizes = np.diff(parts, prepend=0)
    return np.concatenate(
        [
            10.0 ** -random.uniform(3, 6, sizes[0]),
            1.0 - random.uniform(0.9, 0.999, sizes[1]),
            1.0 - random.uniform(0.5, 0.9, sizes[2]),
            1.0 - random.uniform(0.2, 0.5, sizes[3]),
        ]
    )


def judge(plan: Anytime, sigma: float, q: Floats, random: np.random.Generator) -> tuple:
    """Return the calls of each image, its certified radii, and those of the fixed plan.

    Radii that the plan cannot reach are omitted.
    """
    pairs = plan.boundaries(parameters(sigma))
    at_end = [
        int(most_failures(np.array(plan.max_n), failure_for_radius(sigma, radius), ALPHA))
        for radius, _ in pairs
    ]
    failures = np.zeros(len(q), dtype=np.int64)
    calls = np.zeros(len(q), dtype=np.int64)
    certified = np.zeros((len(pairs), len(q)), dtype=bool)
    if not pairs:
        return calls, certified, certified
    for k, n in enumerate(pairs[0][1].checkpoints.tolist()):
        failures += random.binomial(EVERY, q)
        going = calls == 0
        if not going.any():
            last = plan.max_n - n
            failures += random.binomial(last, q)
            break
        successes = n - failures
        enough = np.array([successes >= judged.certify[k] for _, judged in pairs])
        hopeless = np.array([successes <= judged.give_up[k] for _, judged in pairs])
        # It ends when all are certified, or the smallest of the others is given up.
        smallest = enough.argmin(axis=0)
        done = enough.all(axis=0) | hopeless[smallest, np.arange(len(q))]
        ends = going & done
        calls[ends] = plan.n0 + n
        certified[:, ends] = enough[:, ends]
    fixed = np.array([failures <= most for most in at_end])
    return calls, certified, fixed


def economy(images: int) -> None:
    random = np.random.default_rng(SEED + 1)
    total, grid = [], []
    for cap in CAPS:
        rows, whole = [], []
        for sigma in SIGMAS:
            for radius in RADII:
                q = failure_rates(images, random)
                plan = Anytime(radii=(radius,), max_n=cap)
                calls, got, fixed = judge(plan, sigma, q, random)
                if len(got):
                    rows.append((sigma, radius, calls.mean(), got.sum(), fixed.sum()))
            calls, got, fixed = judge(
                Anytime(radii=RADII, max_n=cap), sigma, failure_rates(images, random), random
            )
            whole.append((cap, sigma, len(got), calls.mean(), got.sum(), fixed.sum()))
        print(f"\nOne radius a decision, at most {cap:,} copies, {images:,} images a row")
        table(
            ["sigma", "radius", "mean calls", "certified", "fixed", "share in %"],
            [
                (s, r, f"{calls:,.0f}", f"{got:,}", f"{fixed:,}", f"{100 * got / fixed:.2f}")
                for s, r, calls, got, fixed in rows
            ],
        )
        mean = np.mean([row[2] for row in rows])
        got, fixed = sum(row[3] for row in rows), sum(row[4] for row in rows)
        total.append((f"{cap:,}", f"{mean:,.0f}", f"{got:,}", f"{fixed:,}", 100 * got / fixed))
        grid += whole
    print("\nAll of them")
    headings = ["cap", "mean calls", "certified", "fixed", "share in %"]
    table(headings, [(*row[:4], f"{row[4]:.2f}") for row in total])
    print("\nAll six radii on one stream")
    table(
        ["cap", "sigma", "radii in reach", *headings[1:]],
        [
            (
                f"{cap:,}",
                s,
                n,
                f"{calls:,.0f}",
                f"{got:,}",
                f"{fixed:,}",
                f"{100 * got / fixed:.2f}",
            )
            for cap, s, n, calls, got, fixed in grid
        ],
    )


# Radius: a pilot, and the copies that 95 % of the radius needs.


def radius_plan(
    plan: RadiusTarget, q: Floats, random: np.random.Generator
) -> tuple[Integers, Floats]:
    """Return the calls of each image, and the bound on its failure probability (1.0: abstains)."""
    pilots = plan.n0 - random.binomial(plan.n0, q)
    sizes = {int(successes): _size(plan, int(successes)) for successes in np.unique(pilots)}
    n = np.array([sizes[successes] for successes in pilots.tolist()])
    step = np.minimum(n, -(-n // 500) * 50)
    most = most_failures(n, 0.5, ALPHA)  # with more it abstains, and stops
    had, failures = np.zeros_like(n), np.zeros_like(n)
    while True:
        drawn = np.where(failures > most, 0, np.minimum(step, n - had))
        if not drawn.any():
            break
        failures += random.binomial(drawn, q)
        had += drawn
    bound = special.betainccinv(failures + 1.0, np.maximum(n - failures, 0.5), ALPHA)
    return plan.n0 + had, np.where(failures <= most, bound, 1.0)


def _size(plan: RadiusTarget, successes: int) -> int:
    pilot = LabelCounts("", "", Stage.SELECTION, (successes,), plan.n0 - successes)
    n = plan.n({Stage.SELECTION: pilot}, parameters(1.0))
    assert n is not None
    return n


def radius(images: int) -> None:
    random = np.random.default_rng(SEED + 2)
    rows = []
    for of_n in CAPS:
        plan, fixed = RadiusTarget(of_n), FixedBudget(n=of_n)
        q = failure_rates(images, random)
        calls, bound = radius_plan(plan, q, random)
        failures = random.binomial(of_n, q)
        best = special.betainccinv(failures + 1.0, np.maximum(of_n - failures, 0.5), ALPHA)
        mine, theirs = (-special.ndtri(np.minimum(b, 0.5)).mean() for b in (bound, best))
        rows.append(
            (
                f"{of_n:,}",
                f"{calls.mean():,.0f}",
                f"{fixed.most_calls():,}",
                f"{mine:.4f}",
                f"{theirs:.4f}",
                f"{100 * mine / theirs:.2f}",
            )
        )
    print(f"\nRadius plan, share 0.95, {images:,} images")
    table(["of n", "mean calls", "fixed calls", "mean radius / sigma", "fixed", "share in %"], rows)


# More than one image.


def population(sets: int) -> None:
    print(f"\nStatements about {sets:,} data sets, at 95 %")
    rows = [
        *(
            ("population, " + n, f"{f:.2%}", f"{100 * m:.2f} points")
            for n, f, m in image_statements.population(sets)
        ),
        *(
            ("these images, " + n, f"{f:.2%}", f"{m:g} images")
            for n, f, m in image_statements.these_images(sets)
        ),
    ]
    table(["statement", "false", "median slack"], rows)


def family(sets: int) -> None:
    print(f"\nFamilies with a false certificate at beta 0.05, of {sets:,} with 20 coins each")
    rows = [(n, f"{f:.2%}", f"{m:.1%}") for n, f, m in image_statements.family(sets)]
    table(["plan", "false", "radius lost"], rows)


def comparison(sets: int) -> None:
    print(f"\nComparisons of equally good runs, {sets:,} pairs, at 95 %")
    found = image_statements.comparison(sets)
    rows = [
        (n, f"{beyond:.2%}", f"{missed:.2%}", f"{width:.1f} points")
        for (n, beyond, _), (_, missed, width) in zip(
            found["McNemar"], found["interval"], strict=True
        )
    ]
    table(["runs", "beyond chance", "outside the interval", "half width"], rows)


def prediction_sets(data_sets: int) -> None:
    print(f"\nCoverage in % of the worst change, 90 % requested, {data_sets:,} data sets")
    table(["position", "rule", *(f"r = {s:g}σ" for s in (0.25, 0.5, 1.0))], set_coverage(data_sets))


PARTS: dict[str, tuple[Callable[[int], None], int]] = {
    "validity": (validity, 200_000),
    "two-sided": (two_sided, 200_000),
    "economy": (economy, 10_000),
    "radius": (radius, 10_000),
    "population": (population, 20_000),
    "family": (family, 20_000),
    "comparison": (comparison, 20_000),
    "prediction-sets": (prediction_sets, 20_000),
    "sets": (sets, 20_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", default="all", choices=[*PARTS, "all"])
    parser.add_argument("--quick", action="store_true", help="a tenth of the streams and images")
    arguments = parser.parse_args()
    share = 10 if arguments.quick else 1
    for name, (part, size) in PARTS.items():
        if arguments.what in (name, "all"):
            begin = time.perf_counter()
            part(size // share)
            print(f"\n{name}: {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
