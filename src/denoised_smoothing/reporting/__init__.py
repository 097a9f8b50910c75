"""Stored counts to tables, curves, reports and exports. Imports no deep-learning stack."""

from denoised_smoothing.reporting.attacks import (
    AttackOutcome,
    AttackRow,
    ShareRow,
    Verdict,
    attack_figure,
    by_share,
    radius_table,
    share_table,
    to_attack,
    under_attack,
)
from denoised_smoothing.reporting.export import Format, export
from denoised_smoothing.reporting.html import write_report
from denoised_smoothing.reporting.plots import (
    certified_accuracy_figure,
    inline_svg,
    save_figure,
    sigma_figure,
)
from denoised_smoothing.reporting.results import ImageResult, RunResults, load_results
from denoised_smoothing.reporting.tables import (
    Cell,
    Row,
    Summary,
    abstention_rate,
    accuracy,
    average_certified_radius,
    best_over_sigma,
    certified_accuracy,
    comparison,
    default_radii,
    summary,
    to_markdown,
    to_rich,
)

__all__ = [
    "AttackOutcome",
    "AttackRow",
    "Cell",
    "Format",
    "ImageResult",
    "Row",
    "RunResults",
    "ShareRow",
    "Summary",
    "Verdict",
    "abstention_rate",
    "accuracy",
    "attack_figure",
    "average_certified_radius",
    "best_over_sigma",
    "by_share",
    "certified_accuracy",
    "certified_accuracy_figure",
    "comparison",
    "default_radii",
    "export",
    "inline_svg",
    "load_results",
    "radius_table",
    "save_figure",
    "share_table",
    "sigma_figure",
    "summary",
    "to_attack",
    "to_markdown",
    "to_rich",
    "under_attack",
    "write_report",
]
