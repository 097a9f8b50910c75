"""Errors that the unit tests must find: in certificates, noise, votes and both schedulers.

    python benchmarks/mutations.py [--only TEXT]

Applies one mutation at a time to a copy of the package and runs the tests that are named for it.
Exit code 1 where a mutation survives, its text is not in the file exactly once, or the tests fail
without a mutation.
"""

# ruff: noqa: E501 -- one line a mutation

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
SECONDS = 300
"""A mutation whose tests take longer is found, too: the loop does not end."""


PYTEST = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]


class Mutation(NamedTuple):
    """A text of a file that is replaced, and the arguments of pytest that must find it."""

    name: str
    old: str
    new: str
    tests: str = ""


BOUNDS, RADII = "tests/certificates/test_bounds.py", "tests/certificates/test_radii.py"
SEQUENCE = "tests/certificates/test_confidence_sequence.py"
FIXED = "tests/certificates/plans/test_fixed.py"
ANYTIME = "tests/certificates/plans/test_anytime.py"
RADIUS = "tests/certificates/plans/test_radius.py"
PLANS = "tests/certificates/plans/test_plans.py"
PREDICTION = "tests/certificates/test_prediction.py"
CERTIFICATE = "tests/certificates/test_certificate.py"
PARAMETERS = "tests/certificates/test_parameters.py"
COUNTS, COST = "tests/certificates/test_counts.py", "tests/certificates/test_cost.py"
GRID, NOISE = "tests/certificates/test_grid.py", "tests/test_noise.py"
CLASSIFIER = "tests/smoothing/test_classifier.py"
SCHEDULER = "tests/smoothing/test_scheduler.py"
QUERIES = "tests/smoothing/test_query_scheduler.py"
ARRIVAL = "tests/smoothing/test_orders_of_arrival.py"

MUTATIONS: dict[tuple[str, str], list[Mutation]] = {
    ("certificates/bounds.py", BOUNDS): [
        Mutation(
            "lower bound of one more success",
            "betaincinv(successes, n - successes + 1,",
            "betaincinv(successes + 1, n - successes,",
        ),
        Mutation("lower bound at 1 - alpha", "+ 1, alpha)) if", "+ 1, 1.0 - alpha)) if"),
        Mutation(
            "upper bound of one success fewer",
            "betainccinv(successes + 1, n - successes,",
            "betainccinv(successes, n - successes + 1,",
        ),
        Mutation("upper bound of the other tail", "betainccinv(", "betaincinv("),
        Mutation("all succeeded: 1 - alpha", "return 1.0\n", "return 1.0 - alpha\n"),
        Mutation("one-sided binomial test", "2.0 * float(special.bdtr", "1.0 * float(special.bdtr"),
        Mutation("binomial test of the greater number", "min(first, second)", "max(first, second)"),
        Mutation("binomial test without the observed", "bdtr(fewer, n", "bdtr(fewer - 1, n"),
        Mutation("alpha 0 is accepted", "not 0.0 < alpha < 1.0", "not 0.0 <= alpha < 1.0"),
        Mutation("alpha 1 is accepted", "not 0.0 < alpha < 1.0", "not 0.0 < alpha <= 1.0"),
        Mutation("n + 1 successes of n", "0 <= successes <= n:", "0 <= successes <= n + 1:"),
        Mutation("checkpoints of a twentieth", "-(-n // 500) * 50", "-(-n // 1000) * 50", FIXED),
    ],
    ("certificates/radii.py", RADII): [
        Mutation("error not at the image", "ndtri(failure_bound + error)", "ndtri(failure_bound)"),
        Mutation("error subtracted", "ndtri(failure_bound + error)", "ndtri(failure_bound - error)"),
        Mutation("error not at the neighbour", "+ error)) - _above_half(error)", "+ error))"),
        Mutation("error of the neighbour added", "+ error)) - _above_half(error)", "+ error)) + _above_half(error)"),
        Mutation("q for a radius: error once", "(sigma) - _above_half(error))", "(sigma))"),
        Mutation("q for a radius: error added", "_above_half(error))) - error", "_above_half(error))) + error"),
        Mutation("error not at the winner", "low, high = failure_bound + error", "low, high = failure_bound"),
        Mutation("error not at the runner-up", "upper_bound + error\n", "upper_bound\n"),
        Mutation("whole distance of the quantiles", "(winner - other) / 2.0", "(winner - other)"),
        Mutation("no slack at the neighbour", "/ 2.0 - slack", "/ 2.0"),
        Mutation("half of the slack", "2.0 * error / density", "error / density"),
        Mutation("the quantiles meet elsewhere", "abs(winner + other)", "abs(winner - other)"),
        Mutation("slack where its bound does not hold", "> math.log(2.0)", "> math.log(1e9)"),
        Mutation("slack rounded inwards", "(1.0 + 1e-9)", "(1.0 - 1e-9)"),
        Mutation("the line for errors that are not tiny", "error < 1e-6", "error < 1e-2"),
        Mutation("Linf of one value fewer", "math.sqrt(dimension)", "math.sqrt(max(1, dimension - 1))"),
        Mutation("L1 of twice the L2 radius", 'exceeds the L1 norm."""\n    return radius', 'exceeds the L1 norm."""\n    return 2.0 * radius'),
        Mutation("radii rounded half up", "rounding=ROUND_FLOOR", 'rounding="ROUND_HALF_UP"'),
        Mutation("radii lose a digit each time", "Decimal(repr(float(value)))", "Decimal(float(value))"),
    ],
    ("certificates/confidence_sequence.py", SEQUENCE): [
        Mutation("slack turned inwards", "(1.0 + SLACK)", "(1.0 - SLACK)"),
        Mutation("rounding errors on the wrong side", "ROUNDING * copies", "-ROUNDING * copies"),
        Mutation("rounding errors not covered", "ROUNDING * copies", "0.0 * copies"),
        Mutation("alpha squared", "- math.log(alpha))", "- 2.0 * math.log(alpha))"),
        Mutation("evidence of 1 only", "- math.log(alpha))", ")"),
        Mutation("prior not truncated", "math.log(special.betainc(0.5, 0.5, q0))", "0.0"),
        Mutation("posterior not truncated", "+ below - prior", "- prior"),
        Mutation("q and 1 - q exchanged", "a * math.log1p(-q0) - f * math.log(q0)", "f * math.log1p(-q0) - a * math.log(q0)"),
        Mutation("failures and successes exchanged", "betainc(f + 0.5, a + 0.5", "betainc(a + 0.5, f + 0.5"),
        Mutation("alpha above 1/e", "LARGEST_ALPHA = 0.36", "LARGEST_ALPHA = 0.37"),
        Mutation("no bound above 1/2", "or missing(highest) < 0.0", "or missing(highest) < -1e9"),
        Mutation("look one success early", "return n - low", "return n - high"),
        Mutation("look at twice alpha", "n, q0) <= alpha else", "n, q0) <= 2 * alpha else"),
        Mutation("least successes one early", "return np.asarray(high)", "return np.asarray(low)"),
        Mutation("look not at the cap", "np.searchsorted(checkpoints, max_n))", "-1)"),
        Mutation("given up one success late", "out_of_reach - 1, futile", "out_of_reach - 2, futile"),
        Mutation("given up one success early", "out_of_reach - 1, futile", "out_of_reach, futile"),
        Mutation("given up without the look", "look - (max_n - checkpoints)", "last + 1 + 0 * checkpoints"),
        Mutation("futility at the level of certifying", "FUTILITY_ALPHA = 0.01", "FUTILITY_ALPHA = 0.5"),
        Mutation("unreachable is reachable", "(self.certify <= self.checkpoints)", "(self.certify <= self.checkpoints + 1)"),
    ],
    ("certificates/plans/fixed.py", FIXED): [
        Mutation("both sides at the whole alpha", "alpha / 2 if self.two_sided", "alpha if self.two_sided"),
        Mutation("failed copies not of the runner-up", " + estimation.failed +", " +"),
        Mutation("missing copies not of the runner-up", "missing * (not best_case)", "0"),
        Mutation("only larger labels run up", "max(votes.values(), default=0)", "max((n for k, n in votes.items() if k > (candidate or 0)), default=0)"),
        Mutation("only smaller labels run up", "max(votes.values(), default=0)", "max((n for k, n in votes.items() if k < (candidate or 0)), default=0)"),
        Mutation("failed copies dropped", "upper(self.n - successes, self.n, level)", "upper(self.n - successes - estimation.failed, self.n - estimation.failed, level)"),
        Mutation("missing copies never succeed", "missing * best_case", "0"),
        Mutation("missing copies succeed", "missing * best_case", "missing"),
        Mutation("failure above 1/2", "failure <= 0.5", "failure <= 0.51"),
        Mutation("no candidate is certified", "candidate is not None and above", "above"),
        Mutation("the winner of the estimation", "counts[Stage.SELECTION].top(), counts", "counts[Stage.ESTIMATION].top(), counts"),
        Mutation("fewer copies are accepted", "if had != target and not", "if had > target and not"),
        Mutation("more copies are accepted", "and had < target", "and had != target"),
        Mutation("selection may be incomplete", "ended_early = (\n                stage is Stage.ESTIMATION\n", "ended_early = (\n                stage in Stage\n"),
        Mutation("stages of two images", "check_independent(selection, estimation)\n        candidate", "candidate"),
        Mutation("decision before the selection", "or selection.n < self.n0", "", f"{FIXED} {PLANS}"),
        Mutation("decision at any number", "if had % step == 0 or had == self.n:", "if True:", f"{FIXED} {PLANS}"),
        Mutation("never ends early", "wanted = had\n", "pass\n"),
        Mutation("estimates without a candidate", "selection.top() is None\n", "False\n", f"{FIXED} {PLANS}"),
        Mutation("one copy more", "Stage.ESTIMATION: wanted}", "Stage.ESTIMATION: wanted + 1}"),
    ],
    ("certificates/plans/anytime.py", ANYTIME): [
        Mutation("the mixture at the whole alpha", "return MIXTURE_SHARE * alpha,", "return alpha,"),
        Mutation("the look at the whole alpha", ", (1 - MIXTURE_SHARE) * alpha", ", alpha"),
        Mutation("pooled at the whole alpha", "(1 if self.n0 else 2)", "1"),
        Mutation("the look at any time", "votes.n == estimation.n == self.max_n", "votes.n == estimation.n"),
        Mutation("the look is repeated", "votes.n == estimation.n == self.max_n", "votes.n >= self.max_n"),
        Mutation("the look bounds the successes", "upper(votes.n - successes", "upper(successes"),
        Mutation("the worst bound", "min(found", "max(found"),
        Mutation("certified above 1/2", "failure <= 0.5", "failure <= 1.0"),
        Mutation("what the cap proved is lost", "dict.fromkeys((estimation, total))", "(total,)"),
        Mutation("continuation is not counted", "dict.fromkeys((estimation, total))", "(estimation,)"),
        Mutation("the candidate of the estimation", "].top() if self.n0 else votes.top()", "].top() if False else votes.top()"),
        Mutation("more copies than allowed", " or more > self.more", ""),
        Mutation("more estimation than the cap", " or estimation.n > self.max_n", ""),
        Mutation("more selection than n0", "selection.n > self.n0 or", "False or"),
        Mutation("continuation before the cap", "if more and estimation.n < self.max_n", "if False"),
        Mutation("stages of two images", "check_independent(selection, estimation)\n", "\n"),
        Mutation("one success short", "successes < judged.certify[k]", "successes < judged.certify[k] - 1"),
        Mutation("one success too many", "successes < judged.certify[k]", "successes <= judged.certify[k]"),
        Mutation("the cap decides nothing later", "at_cap < judged.certify[cap]", "True"),
        Mutation("given up one success late", "successes <= judged.give_up[k]", "successes < judged.give_up[k]"),
        Mutation("a decision is passed over", "possible |= smaller <= most", "possible |= smaller < most"),
        Mutation("giving up is passed over", "possible |= low <= np.minimum", "possible |= low < np.minimum"),
        Mutation("successes beyond the copies", "least + checkpoints - had", "checkpoints - had"),
        Mutation("estimates without a candidate", "if selected and self.n0 and", "if False and", f"{PLANS} {ANYTIME}"),
        Mutation("decision before the selection", "if not selected:", "if False:"),
        Mutation("the cap is passed", "min(wanted, self.max_n)", "wanted"),
        Mutation("out of reach is drawn", "if found.reachable:", "if True:"),
    ],
    ("certificates/plans/radius.py", RADIUS): [
        Mutation("the pilot may be incomplete", "pilot.n < self.n0", "pilot.n < 1"),
        Mutation("no prior", "failures + 0.5, successes + 0.5", "failures + 1e-9, successes + 1e-9"),
        Mutation("a share of less", "share * radii[-1]", "share * share * radii[-1]"),
        Mutation("the bound of one failure fewer", "betainccinv(drawn + 1, n - drawn,", "betainccinv(drawn, n - drawn + 1,"),
        Mutation("the pilot counts at the whole n", "FixedBudget(self.n0, n).certificate", "FixedBudget(self.n0, pilot_n).certificate".replace("pilot_n", "self.of_n")),
    ],
    ("certificates/prediction.py", PREDICTION): [
        Mutation("the rest goes to nobody", "binomial_test(first, second + rest) if", "binomial_test(first, second) if"),
        Mutation("the second may pass the first", " if first >= second + rest else 1.0", ""),
        Mutation("the rest does not help the first", "binomial_test(first + rest, second)", "binomial_test(first, second)"),
        Mutation("the two least frequent labels", "nlargest(2, counts.votes.values())", "sorted(counts.votes.values())[:2]"),
        Mutation("the smallest two labels", "nlargest(2, counts.votes.values())", "list(counts.votes.values())[:2]"),
        Mutation("a label whatever the p-value", " if p_value <= parameters.alpha else None", ""),
        Mutation("more copies than n", " if counts.n <= self.n else None", ""),
        Mutation("decision at any number", "(had % step == 0 or had == self.n)", "True", f"{PREDICTION} {PLANS}"),
        Mutation("never ends early", "wanted = had\n", "pass\n"),
    ],
    ("certificates/certificate.py", CERTIFICATE): [
        Mutation("radius rounded to nearest", "round_down(self.radius, 6)", "round(self.radius, 6)"),
        Mutation("Linf rounded to nearest", "round_down(self.radius_linf, 6)", "round(self.radius_linf, 6)"),
        Mutation("lower bound rounded to nearest", "round_down(self.lower_bound, 6)", "round(self.lower_bound, 6)"),
        Mutation("upper bound rounded down", "-round_down(-upper, 6)", "round_down(upper, 6)"),
        Mutation("calls without the continuation", "(self.selection, self.counts, *more)", "(self.selection, self.counts)"),
    ],
    ("certificates/parameters.py", PARAMETERS): [
        Mutation("the error of one value", "self.dimension * grid_error", "grid_error"),
        Mutation("no error on the grid", "if on_grid else 0.0", "if not on_grid else 0.0"),
    ],
    ("certificates/cost.py", COST): [
        Mutation("one copy too few", "math.ceil(n * (1.0 - 1e-14))", "math.floor(n * (1.0 - 1e-14))"),
        Mutation("least copies one early", "return high\n", "return low\n"),
        Mutation("cap at the whole alpha", "alpha if plan.n0 else parameters.alpha / 2", "alpha"),
        Mutation("the look at the alpha of the mixture", "alpha=(1 - MIXTURE_SHARE) * alpha", "alpha=MIXTURE_SHARE * alpha"),
        Mutation("abstains one success late", "(plan.n - had) - 1", "(plan.n - had) - 2"),
        Mutation("given up stays undecided", "too_few + 1 - lowest", "too_few - lowest"),
        Mutation("calls without the selection", "Expectation(plan.n0 + calls, certified)\n\n\ndef estimate", "Expectation(calls, certified)\n\n\ndef estimate"),
    ],
    ("certificates/counts.py", COUNTS): [
        Mutation("failed copies not in n", "sum(votes.values()) + self.failed", "sum(votes.values())"),
        Mutation("the largest of equal labels", "max(self.votes, key=self.of", "max(reversed(list(self.votes)), key=self.of"),
        Mutation("the largest label", "max(self.votes, key=self.of", "max(self.votes"),
        Mutation("votes of one only", "votes.get(label, 0) + n", "n"),
        Mutation("negative votes", "[self.failed, *votes, *votes.values()]", "[self.failed, *votes]"),
        Mutation("failed copies of one only", "self.failed + other.failed", "self.failed"),
        Mutation("counts of two images", '("run", "image_id", "stage")', '("run", "stage")'),
    ],
    ("certificates/grid.py", GRID): [
        Mutation("rounded down, not to nearest", "j + mpmath.mpf(0.5)", "j + mpmath.mpf(1)"),
        Mutation("a fraction away from its sign", "mpf(0.5) - fraction", "mpf(0.5) + fraction"),
        Mutation("steps of 1/256", "(255 * mpmath", "(256 * mpmath"),
        Mutation("thresholds rounded down", "mpmath.nint", "mpmath.floor"),
        Mutation("K is not symmetric", "(whole - threshold for", "(whole - threshold - 1 for"),
        Mutation("K is moved by one", "GridLaw(-reach", "GridLaw(1 - reach"),
        Mutation("the first threshold is left out", "for j in range(reach)", "for j in range(1, reach + 1)"),
        Mutation("error without the tails", "2 * _reach(sigma) + 4", "2 * _reach(sigma)"),
        Mutation("half of the error", "-(BITS + 1)", "-(BITS + 2)"),
        Mutation("a reach of 8.1 sigma", "_REACH = 9.1", "_REACH = 8.1"),
        Mutation("noise beyond 16 bits", "LARGEST_SIGMA = 14.0", "LARGEST_SIGMA = 15.0"),
    ],
    ("noise.py", NOISE): [
        Mutation("one noise for all seeds", "derive_key(seed, image_id", "derive_key(image_id"),
        Mutation("one noise for all images", "derive_key(seed, image_id", "derive_key(seed"),
        Mutation("one noise for all stages", "image_id, stage, chunk)", "image_id, chunk)"),
        Mutation("one noise for all chunks", "image_id, stage, chunk)", "image_id, stage)"),
        Mutation("parts of keys run together", "json.dumps([str(part) for part in parts])", '"".join(str(part) for part in parts)'),
        Mutation("copies from the start of a chunk", "drawn[max(start - first, 0) :", "drawn[0:"),
        Mutation("copies one further on", "drawn[max(start - first, 0) : stop - first]", "drawn[max(start - first, 0) + 1 : stop - first + 1]"),
        Mutation("chunks of half the size", "CHUNK * 32 * 32 //", "CHUNK * 16 * 32 //"),
        Mutation("a tie of all bits goes down", "uniform, right=True", "uniform, right=False"),
        Mutation("the top bits always decide", "least == most, least", "least <= most, least"),
        Mutation("one low bit too few", "np.uint64(64 - _LOW_BITS)", "np.uint64(65 - _LOW_BITS)"),
        Mutation("half of the uniform numbers", "randint(2**BITS,", "randint(2 ** (BITS - 1),"),
        Mutation("31 bits of the key", "key & (2**63 - 1)", "key & (2**31 - 1)"),
        Mutation("steps of 1/256", "torch.tensor(255.0", "torch.tensor(256.0"),
        Mutation("noise of the other sign", "(device) + sigma * values", "(device) - sigma * values"),
        Mutation("fractions are rounded down", "(fraction.numpy() + 0.5)", "(fraction.numpy())"),
        Mutation("least noise too high", "np.floor(inner) - 1", "np.floor(inner) + 2**_STEP_BITS"),
        Mutation("most noise too low", "np.ceil(inner) + 2", "np.ceil(inner) - 2**_STEP_BITS"),
        Mutation("one threshold off", "(fraction < 0)", "(fraction > 0)"),
        Mutation("a fraction away from its sign", "level + 0.5 - fraction", "level + 0.5 + fraction"),
        Mutation("fractions do not count", "level + 0.5 - fraction", "level + 0.5"),
        Mutation("the upper tail is the lower", "(tail > edge) ^ upper", "(tail > edge)"),
        Mutation("no threshold is exact", "_DOUBT * edge + 2", "0.0 * edge - 1.0"),
        Mutation("a tie with an exact threshold", ">= exact", "> exact"),
        Mutation("fractions of float32", "image.double() * 255", "(image * 255).double()"),
        Mutation("the fraction of the other sign", "0.0, exact - whole", "0.0, whole - exact"),
        Mutation("grid values have fractions", "torch.where(on_grid == image, 0.0, exact - whole)", "exact - whole"),
    ],
    ("smoothing/votes.py", CLASSIFIER): [
        Mutation("padding is counted", "torch.cat([copies, padding])", "torch.cat([padding, copies])"),
        Mutation("failed copies are dropped", "votes.append((by_label, failed))", "votes.append((by_label, 0))"),
        Mutation("no label is a label", "by_label.pop(NO_CLASS, 0)", "by_label.get(NO_CLASS, 0)"),
        Mutation("unusable answers are dropped", "if invalid := by_label.pop(UNUSABLE, 0)", "if 0 * (invalid := by_label.pop(UNUSABLE, 0))"),
        Mutation("the first copies again", "start=part.copies.start, stop=part.copies.stop", "start=0, stop=len(part.copies)"),
    ],
    ("models/answers.py", "tests/models/test_answers.py"): [
        Mutation("labels below -1 have no class", "clamp_min(UNUSABLE)", "clamp_min(NO_CLASS)"),
        Mutation("two infinite logits have a label", ".sum(dim=1) > 1)", ".sum(dim=1) > 2)"),
        Mutation("logits of -inf alone have a label", "(answer == -torch.inf).all(dim=1) |", "False |"),
        Mutation("NaN is a label", ".masked_fill(answer.isnan().any(dim=1), UNUSABLE)", ""),
    ],
    ("smoothing/scheduler.py", f"{SCHEDULER} {ARRIVAL}::TestBatches"): [
        Mutation("ranges span two chunks", "(start // chunk + 1) * chunk", "target"),
        Mutation("copies beyond the target", "stop = min(target, ", "stop = min("),
        Mutation("more copies than a batch", "* chunk, start + room)", "* chunk)"),
        Mutation("counted copies again", "counted.n if counted else 0", "0"),
        Mutation("a stage is not remembered", "self.issued[stage] = stop", "pass"),
        Mutation("ended images get votes", "if part.task in open_tasks.wanted:", "if True:"),
        Mutation("held copies of ended images", "for part in held if part.task in open_tasks.wanted", "for part in held"),
        Mutation("a plan is asked once a batch", "open_tasks.update(part.task)\n", "pass\n"),
        Mutation("reported without votes", "on_batch(list(served))", "on_batch(list({p.task for p in ranges}))"),
        Mutation("the latest batch first", "in_flight.popleft()", "in_flight.pop()"),
        Mutation("one batch too many in flight", "while len(in_flight) < runner.max", "while len(in_flight) <= runner.max"),
        Mutation("failed copies are dropped", "part.task.add(part.stage, counts, failed)", "part.task.add(part.stage, counts, 0)"),
        Mutation("ended images stay open", "self.finished.append(task)\n", "pass\n"),
        Mutation("a stage is not counted first", "had.get(s, 0) < target), None)", "had.get(s, 0) < target and s is not Stage.SELECTION), None)"),
        Mutation("empty stages are missing", "self.counts.setdefault(stage, LabelCounts(self.run, self.image_id, stage))", "pass"),
        Mutation("images are left at the end", "self.exhausted, more = task is _END, False", "self.exhausted, more = True, False"),
    ],
    ("smoothing/query_scheduler.py", f"{QUERIES} {ARRIVAL}::TestQueries"): [
        Mutation("the latest answer first", "futures.popleft()", "futures.pop()"),
        Mutation("errors are answers", "futures[0].done() and futures[0].exception() is None", "futures[0].done()"),
        Mutation("failed copies are dropped", "failed = votes.pop(-1, 0)", "failed = 0 * votes.pop(-1, 0)"),
        Mutation("no label is label 0", "failed = votes.pop(-1, 0)", "failed = 0; votes[0] += votes.pop(-1, 0)"),
        Mutation("a plan is not asked at its target", "self.new >= ASK_EVERY or self.task.next_stage(self.wanted) is not stage", "self.new >= ASK_EVERY"),
        Mutation("stages in any order", "self.task.next_stage(self.wanted)) is not None", "next((s for s, f in self.futures.items() if f and f[0].done()), None)) is not None"),
        Mutation("queries in flight are lost", "self.in_flight += len(futures)", "self.in_flight += 1"),
        Mutation("answers are not received", "self.in_flight -= len(arrived)", "self.in_flight -= 1"),
        Mutation("it ends with queries in flight", "if not pending and not ended:", "if not ended:"),
        Mutation("queries after an error", "if loop.failure is None:\n            try:", "if True:\n            try:"),
        Mutation("errors are forgotten", "raise loop.failure", "pass"),
        Mutation("a missing answer stops everything", "if not isinstance(error, AnswerMissingError)", "if True"),
        Mutation("an error is a missing answer", "if not isinstance(error, AnswerMissingError)", "if False"),
        Mutation("queries for images without all answers", "while room and not image.given_up", "while room"),
        Mutation("more than the capacity", "self.capacity - self.in_flight >= self.forward", "self.capacity - self.in_flight >= 1"),
        Mutation("more than a forward pass", "room = self.forward", "room = self.forward + 1"),
        Mutation("answers are not reported", "if new and (ended or not pending or", "if new and (False and"),
    ],
}  # fmt: skip


def main() -> int:
    """Run all mutations, print what became of each, and return the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", default="", help="Run those whose file or name has this text.")
    only = options.parse_args().only
    chosen = [
        (file, mutation, (mutation.tests or tests).split())
        for (file, tests), mutations in MUTATIONS.items()
        for mutation in mutations
        if only in f"{file} {mutation.name}"
    ]
    os.nice(10)
    os.chdir(ROOT)
    load_libraries()
    began, bad = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        package = Path(folder) / "denoised_smoothing"
        ignored = shutil.ignore_patterns("__pycache__", "shipped")
        shutil.copytree(ROOT / "src" / package.name, package, ignore=ignored)
        (package / "shipped").symlink_to(ROOT / "src" / package.name / "shipped")
        if failed := first_failure(sorted({test for *_, tests in chosen for test in tests})):
            print(f"fails without a mutation: {failed}")
            return 1
        for file, mutation, tests in chosen:
            path = package / file
            text = path.read_text("utf-8")
            if text.count(mutation.old) != 1:
                result = f"NOT FOUND once, but {text.count(mutation.old)} times"
            else:
                path.write_text(text.replace(mutation.old, mutation.new), "utf-8")
                found = first_failure(tests)
                path.write_text(text, "utf-8")
                result = f"killed by {found}" if found else "SURVIVED"
            bad += not result.startswith("killed")
            print(f"{file}: {mutation.name}: {result}", flush=True)
    seconds = time.monotonic() - began
    print(f"{len(chosen)} mutations, {len(chosen) - bad} killed, {seconds:.0f} s")
    return int(bad > 0)


def load_libraries() -> None:
    """Import once what all tests need, except the package; each run is then a fork."""
    import hypothesis.stateful
    import mpmath  # noqa: F401
    import pytest  # noqa: F401
    import torch
    from scipy import integrate, optimize, signal, special, stats  # noqa: F401

    torch.set_num_threads(1)
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # without shrinking
    hypothesis.settings.register_profile("mutations", phases=phases)
    hypothesis.settings.load_profile("mutations")
    sys.dont_write_bytecode = True


def first_failure(tests: list[str]) -> str:
    """Run tests in a process of its own; return the name of the first that fails."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.setsid()  # a group of its own, with the processes that tests start
        os.close(reader)
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        failures = Failures()
        code = 1
        try:
            import pytest

            code = pytest.main([*PYTEST, *tests], plugins=[failures])
        finally:
            names = failures.names or (["an error outside of tests"] if code else [""])
            os.write(writer, names[0].encode())
            os._exit(0)
    os.close(writer)
    answered = []
    with os.fdopen(reader) as answer:
        try:
            answered = select.select([answer], [], [], SECONDS)[0]  # pytest uses the alarm
        finally:  # also after Ctrl-C, which the group does not get
            if not answered:
                os.killpg(child, signal.SIGKILL)
        name = answer.read()
    _, status = os.waitpid(child, 0)
    return "the time limit" if os.WIFSIGNALED(status) else name


class Failures:
    """A plugin of pytest that notes the tests that failed."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.names.append(report.nodeid.rpartition("/")[2])


if __name__ == "__main__":
    sys.exit(main())
