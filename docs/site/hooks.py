"""What the documentation takes from the package and its repository when it is built."""

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
ELSEWHERE = {
    "../src/denoised_smoothing/shipped/cards": "cards.md",
    "../src/denoised_smoothing/training/objectives.py": "reference.md#objectives-of-training",
    "../README.md": "index.md",
    "../CHANGELOG.md": "changes.md",
}
"""Where on the site is what lies beside the documentation in the repository."""
FIGURE = re.compile(r'<figure id="(\w+)">')
FOREIGN = re.compile(r"<(?:img|link|script|iframe)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
ROLE = re.compile(r":(?:class|func|meth|mod):<code>[~.]?([^<]+)</code>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of the package."""
    for name, content in (
        ("command-line.md", command_line()),
        ("cards.md", cards()),
        ("changes.md", (REPOSITORY / "CHANGELOG.md").read_text("utf-8")),
    ):
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of the documentation to their place on the site; draw the figures."""
    for path, place in ELSEWHERE.items():
        markdown = markdown.replace(f"]({path})", f"]({place})")
    return FIGURE.sub(lambda found: f"{found[0]}\n{figures.draw(found[1])}\n", markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show ``:class:`Name``` of a docstring as a name."""
    return ROLE.sub(r"<code>\1</code>", html)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse what a browser would load from elsewhere: the site works without a network."""
    if loaded := FOREIGN.search(output):
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {loaded[0]}")
    return output


def command_line() -> str:
    """All commands with their options, as ``--help`` says them."""
    command = typer.main.get_command(app)
    with typer.Context(command, info_name=PROGRAM) as context:
        text = get_docs_for_click(obj=command, ctx=context, name=PROGRAM, title="Command line")
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", text)  # summaries that are cut off
    return re.sub(f"^(#+) `{PROGRAM} (.+)`$", r"\1 \2", text, flags=re.MULTILINE)


def cards() -> str:
    """The cards of what ships, on one page."""
    folder = resources.files("denoised_smoothing.shipped") / "cards"
    texts = [(folder / f"{name}.md").read_text("utf-8") for name in shipped_denoisers()]
    lower = (re.sub("^##", "####", text, flags=re.MULTILINE) for text in texts)
    return "\n\n".join(["# Cards of the denoisers", *(f"#{text}" for text in lower)])
