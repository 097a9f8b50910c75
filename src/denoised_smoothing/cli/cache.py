"""The command ``cache``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from rich.filesize import decimal

from denoised_smoothing.cli.grouped import command
from denoised_smoothing.cli.options import AsJson, option
from denoised_smoothing.cli.output import print_json, print_rows, say


@command()
def cache(
    empty: Annotated[
        bool, option("Output", "Remove the converted models and measured choices.", "--empty")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the converted models and measured choices on disk, or remove them.

    Example: denoised-smoothing cache

    Other files in the folder, such as downloaded data sets, are shown and never removed.
    """
    from denoised_smoothing.models.cache import Cache

    opened = Cache()
    entries = opened.empty() if empty else opened.entries()
    total = sum(entry.size for entry in entries)
    rows = [
        {
            "kind": entry.kind,
            "size": entry.size if as_json else decimal(entry.size),
            "used": datetime.fromtimestamp(entry.used).isoformat(timespec="seconds"),
            "name": entry.path.name,
        }
        for entry in (entries if empty else [*entries, *opened.others()])
    ]
    if as_json:
        name = "removed" if empty else "entries"
        print_json({"folder": str(opened.folder), "limit": opened.limit, "size": total, name: rows})
    elif empty:
        say(f"Removed {len(rows)} entries ({decimal(total)}) from {opened.folder}")
    else:
        print_rows(rows)
        limit = "no limit" if opened.limit is None else f"limit {decimal(opened.limit)}"
        say(f"{opened.folder}: {decimal(total)}, {limit}")
