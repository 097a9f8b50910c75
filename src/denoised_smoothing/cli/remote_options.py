"""Options of remote classifiers, and the confirmation of their cost."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer

from denoised_smoothing.cli.grouped import option_group
from denoised_smoothing.cli.output import err, note, say
from denoised_smoothing.errors import SettingError

if TYPE_CHECKING:
    from denoised_smoothing.remote.classifier import RemoteClassifier
    from denoised_smoothing.reporting.results import RunResults
    from denoised_smoothing.runs.paid import QueryEstimate

_paid = option_group("Paid queries")


def report_missing_answers(results: RunResults, source: str | None) -> None:
    """Print how many images lack answers in the log of run ``source`` for another plan.

    Raises:
        SettingError: all images lack some, so there is no result.
    """
    lacks = f"The query log of run {source!r} lacks answers that this plan needs"
    advice = "Use its --n0 and at most its --n or --max-n, or remove --offline to send the queries."
    if not results.images:
        raise SettingError(f"{lacks}, for every image. {advice}")
    note(f"{lacks} (images: {results.unfinished}). {advice}")


@dataclass(frozen=True)
class RemoteOptions:
    """The options as typed; None or False for those that were omitted."""

    max_queries: int | None = _paid("Maximum queries of a run.", show_default="no limit")
    max_cost: float | None = _paid("Maximum cost of a run in US dollars.", show_default="no limit")
    price: float | None = _paid("Price of a query in US dollars.", show_default="the list price")
    rate: float | None = _paid("Maximum queries per second; 0: no limit.", show_default="by vendor")
    in_flight: int | None = _paid("Maximum number of queries in flight.", show_default="16")
    timeout: float | None = _paid("Seconds for a whole answer.", show_default="30")
    largest_answer: str | None = _paid(
        "Maximum size of an answer, such as 500KB.", show_default="2MB"
    )
    longest_pause: float | None = _paid(
        "Seconds of a pause that the vendor may ask for; a longer one ends the run.",
        show_default="120",
    )
    yes: bool = _paid("Send paid queries without asking.", "--yes", default=False)
    offline: bool = _paid(
        "Send no queries. Certify again from the stored answers of --run.",
        "--offline",
        default=False,
    )

    def apply(self, classifier: object, spec: str) -> RemoteClassifier | None:
        """Set the options on a remote classifier; return None for a local one.

        Raises:
            SettingError: an option is out of range, or is for remote classifiers only.
        """
        from denoised_smoothing.remote.classifier import RemoteClassifier
        from denoised_smoothing.remote.limits import Budget

        if not isinstance(classifier, RemoteClassifier):
            typed = {name for name, value in vars(self).items() if value not in (None, False)}
            if names := sorted(typed - {"yes"}):
                option = f"--{names[0].replace('_', '-')}"
                raise SettingError(
                    f"{option} is for remote classifiers, and {spec!r} runs on this machine. "
                    f"Remove {option}."
                )
            return None
        changes: dict[str, Any] = {
            name: value
            for name in ("in_flight", "timeout", "longest_pause", "price", "rate")
            if (value := getattr(self, name)) is not None
        }
        if self.largest_answer is not None:
            changes["largest_answer"] = _bytes(self.largest_answer)
        if self.rate == 0:
            changes["rate"] = None
        classifier.settings = replace(
            classifier.settings, budget=Budget(self.max_queries, self.max_cost), **changes
        )
        if self.max_cost is not None and classifier.price is None:
            raise SettingError(
                f"--max-cost {self.max_cost:g} needs the price of a query, which is not known for "
                f"{spec!r}. Add --price DOLLARS."
            )
        return classifier

    def confirm(
        self, estimate: QueryEstimate, classifier: RemoteClassifier, spec: str, *, kept: bool = True
    ) -> None:
        """Print the maximum cost and ask for confirmation, unless the queries are free.

        Args:
            estimate: of the queries that are left.
            kept: whether answers are stored; if not, that is printed too.

        Raises:
            SettingError: the queries cost money, and there is no terminal to confirm it.
            typer.Exit: the answer is no.
        """
        budget, price, spent = classifier.settings.budget, estimate.price, estimate.spent
        if price is None and not classifier.vendor.paid:
            return
        cost = "at an unknown price" if price is None else f"${estimate.most_cost:,.2f} at {price}"
        loss = "" if kept else " Answers are not stored. 'certify' stores them."
        more = f"{spec}: at most {estimate.most_copies:,} more copies, a query each, {cost}."
        if estimate.most_queries > estimate.most_copies:
            more += (
                f" Queries that fail are repeated: at most {estimate.most_queries:,} queries"
                + ("." if price is None else f", ${estimate.most_queries * price.dollars:,.2f}.")
            )
        if spent.attempts:
            more += f" So far: {spent.queries:,} queries, ${spent.max_cost:,.2f}."
        say(f"{more} Budget of the run: {budget}.{loss}", err)
        free = price is not None and price.dollars == 0.0
        if self.yes or free or estimate.most_copies == 0:
            return
        if not sys.stdin.isatty():
            raise SettingError(
                "No query was sent: confirmation needs a terminal, and standard input is none. "
                "Add --yes, and --max-cost or --max-queries for a limit."
            )
        if not typer.confirm("Send the queries?", err=True):
            say("No query was sent.", err)
            raise typer.Exit


def _bytes(text: str) -> int:
    """Return the bytes of a size such as 2MB."""
    from denoised_smoothing.models.cache import parse_limit

    try:
        size = parse_limit(text)
    except SettingError:  # which names another setting
        size = None
    if size is None:
        raise SettingError(
            f"--largest-answer must be a size such as 500KB or 2MB, got {text!r}. Correct it."
        )
    return size
