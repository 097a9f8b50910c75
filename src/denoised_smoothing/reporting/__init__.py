"""Tables, curves, reports and exports from stored counts. Imports no deep-learning stack."""

from denoised_smoothing.reporting.export import ExportFormat, export
from denoised_smoothing.reporting.html import write_report
from denoised_smoothing.reporting.plots import (
    certified_accuracy_figure,
    radius_figure,
    save_figure,
    sigma_figure,
)
from denoised_smoothing.reporting.results import (
    ImageResult,
    RunResults,
    label_name,
    load_results,
    top_votes,
)
from denoised_smoothing.reporting.tables import (
    Row,
    accuracy_steps,
    best_over_sigma,
    certified_accuracy,
    comparison,
    default_radii,
    markdown_table,
    to_markdown,
    to_rich,
)

__all__ = [
    "ExportFormat",
    "ImageResult",
    "Row",
    "RunResults",
    "accuracy_steps",
    "best_over_sigma",
    "certified_accuracy",
    "certified_accuracy_figure",
    "comparison",
    "default_radii",
    "export",
    "label_name",
    "load_results",
    "markdown_table",
    "radius_figure",
    "save_figure",
    "sigma_figure",
    "to_markdown",
    "to_rich",
    "top_votes",
    "write_report",
]
