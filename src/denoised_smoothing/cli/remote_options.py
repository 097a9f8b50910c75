"""The options of classifiers whose answers are bought, and the question before they are."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from denoised_smoothing.cli.output import err
from denoised_smoothing.errors import SettingError

if TYPE_CHECKING:
    from denoised_smoothing.remote.classifier import RemoteClassifier
    from denoised_smoothing.reporting import RunResults
    from denoised_smoothing.runs.paid import QueryEstimate
    from denoised_smoothing.smoothing.classifier import SmoothedClassifier

MaxQueries = Annotated[
    int | None,
    typer.Option(help="Remote classifiers: the most queries of a run.", show_default="no limit"),
]
MaxCost = Annotated[
    float | None,
    typer.Option(help="Remote classifiers: the most dollars of a run.", show_default="no limit"),
]
Price = Annotated[
    float | None,
    typer.Option(help="Dollars a query, if not the list price.", show_default="the list price"),
]
Rate = Annotated[
    float | None,
    typer.Option(
        help="Queries a second at most; 0 for no limit.",
        show_default="what a new account is allowed",
    ),
]
InFlight = Annotated[
    int | None, typer.Option(help="Queries on their way at once.", show_default="16")
]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds to wait for an answer.", show_default="30")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before answers are bought.")]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        help="Send no query: certify anew from the stored answers of --run, with this alpha and "
        "plan.",
    ),
]


def refuse_paid(smoothed: SmoothedClassifier, spec: str) -> None:
    """Refuse a remote classifier where nothing limits what it may cost.

    Raises:
        SettingError: it is one.
    """
    from denoised_smoothing.remote.classifier import RemoteClassifier

    if isinstance(smoothed.classifier, RemoteClassifier):
        raise SettingError(
            f"this command would buy answers of {spec!r} without a limit, and takes no classifier "
            "behind a wire yet; 'certify' and 'predict' do, with --max-queries and --max-cost"
        )


def report_missing_answers(results: RunResults, source: str | None) -> None:
    """Say how many images lack answers in the log of run ``source`` for another plan.

    Raises:
        SettingError: all do, so that nothing can be shown.
    """
    advice = (
        "take its --n0 and at most its --n or --max-n, or leave --offline out to buy what lacks"
    )
    if not results.images:
        raise SettingError(
            f"the log of run {source!r} lacks answers that this plan needs, for every image; "
            f"{advice}"
        )
    err.print(
        f"note: the log of run {source!r} lacks answers that this plan needs (images: "
        f"{results.unfinished}); {advice}",
        markup=False,
    )


@dataclass(frozen=True)
class BuyingOptions:
    """What was given on the command line; None or False for what was not."""

    max_queries: int | None = None
    max_cost: float | None = None
    price: float | None = None
    rate: float | None = None
    in_flight: int | None = None
    timeout: float | None = None
    yes: bool = False
    offline: bool = False

    def apply(self, classifier: object, spec: str) -> RemoteClassifier | None:
        """Have the classifier treated as the options say; None if it is not a remote one.

        Raises:
            SettingError: an option is out of range, or is for remote classifiers.
        """
        from denoised_smoothing.remote.classifier import RemoteClassifier
        from denoised_smoothing.remote.limits import Budget

        if not isinstance(classifier, RemoteClassifier):
            given = [name for name, value in vars(self).items() if value not in (None, False)]
            if set(given) - {"yes"}:
                option = given[0].replace("_", "-")
                raise SettingError(
                    f"--{option} is for classifiers behind a wire, and {spec!r} runs here; leave "
                    "it out"
                )
            return None
        held = classifier.settings
        settings = replace(
            held,
            budget=Budget(self.max_queries, self.max_cost),
            in_flight=held.in_flight if self.in_flight is None else self.in_flight,
            timeout=held.timeout if self.timeout is None else self.timeout,
            price=held.price if self.price is None else self.price,
            rate=held.rate if self.rate is None else (self.rate or None),
        )
        classifier.settings = settings
        if self.max_cost is not None and classifier.price is None:
            raise SettingError(
                f"--max-cost {self.max_cost:g} needs the price of a query, and none is known for "
                f"{spec!r}; give --price DOLLARS"
            )
        return classifier

    def confirm(
        self,
        estimate: QueryEstimate,
        classifier: RemoteClassifier,
        spec: str,
        *,
        kept: bool = True,
    ) -> None:
        """Say what it will cost at most, and ask, unless it costs nothing.

        Args:
            estimate: of what is left to buy.
            classifier, spec: whose answers.
            kept: whether answers are; if not, that is said too.

        Raises:
            SettingError: it costs money, and nobody is there to ask.
            typer.Exit: the answer is no.
        """
        budget, price = classifier.settings.budget, estimate.price
        if price is None and not classifier.vendor.paid:
            return
        cost = "at an unknown price" if price is None else f"${estimate.most_cost:,.2f} at {price}"
        so_far = estimate.spent
        before = (
            f" So far: {so_far.queries:,} queries, ${so_far.max_cost:,.2f}."
            if so_far.attempts
            else ""
        )
        loss = "" if kept else " No answer is kept; 'certify' keeps each of them in its store."
        err.print(
            f"{spec}: at most {estimate.most_queries:,} queries more, {cost}.{before} "
            f"Budget of the run: {budget}.{loss}",
            markup=False, soft_wrap=True,
        )  # fmt: skip
        free = price is not None and price.dollars == 0.0
        if self.yes or free or estimate.most_queries == 0:
            return
        if not sys.stdin.isatty():
            raise SettingError(
                "nothing was sent, as nobody can be asked whether to buy; give --yes, with "
                "--max-cost or --max-queries for a limit"
            )
        if not typer.confirm("Buy?", err=True):
            err.print("nothing was sent")
            raise typer.Exit
