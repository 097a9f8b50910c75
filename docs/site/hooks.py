"""Pages, links and figures that the documentation takes from the code when it is built."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import figures
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

from denoised_smoothing.cli import app
from denoised_smoothing.models.shipped import shipped_denoisers

REPOSITORY = Path(__file__).parents[2]
PROGRAM = "denoised-smoothing"
MOVED = {
    "../src/denoised_smoothing/shipped/cards": "cards.md",
    "../src/denoised_smoothing/training/objectives.py": "reference.md#objectives-of-training",
    "../README.md": "index.md",
    "../CHANGELOG.md": "changes.md",
}
"""Places on the site of files that are outside of ``docs`` in the repository."""
FIGURE = re.compile(r'<figure id="(\w+)">')
FOREIGN = re.compile(r"<(?:img|link|script|iframe)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
ROLE = re.compile(r":(?:class|func|meth|mod):<code>[~.]?([^<]+)</code>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated from the package."""
    for name, content in (
        ("command-line.md", command_line()),
        ("cards.md", cards()),
        ("changes.md", (REPOSITORY / "CHANGELOG.md").read_text("utf-8")),
    ):
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links to files outside of ``docs``, and draw the figures."""
    for path, place in MOVED.items():
        markdown = markdown.replace(f"]({path})", f"]({place})")
    return FIGURE.sub(lambda found: f"{found[0]}\n{figures.draw(found[1])}\n", markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show ``:class:`Name``` of a docstring as code."""
    return ROLE.sub(r"<code>\1</code>", html)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse pages that load files from other sites: the site works without a network."""
    if loaded := FOREIGN.search(output):
        raise PluginError(
            f"{page.file.src_uri} loads a file of another site: {loaded[0]}. Put it in docs."
        )
    return output


def command_line() -> str:
    """Return all commands with their options, as ``--help`` prints them."""
    command = typer.main.get_command(app)
    with typer.Context(command, info_name=PROGRAM) as context:
        text = get_docs_for_click(obj=command, ctx=context, name=PROGRAM, title="Command line")
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", text)  # with truncated summaries
    return re.sub(f"^(#+) `{PROGRAM} (.+)`$", r"\1 \2", text, flags=re.MULTILINE)


def cards() -> str:
    """Return the cards of the shipped denoisers on one page."""
    folder = resources.files("denoised_smoothing.shipped") / "cards"
    texts = [(folder / f"{name}.md").read_text("utf-8") for name in shipped_denoisers()]
    lower = (re.sub("^##", "####", text, flags=re.MULTILINE) for text in texts)
    return "\n\n".join(["# Cards of the denoisers", *(f"#{text}" for text in lower)])
