"""Copy trained denoisers into the package, with checksums and cards.

    python benchmarks/ship.py cifar10.safetensors photo.safetensors

The sections Data, Training and Quality of a card are written from the metadata of the file.
Intended use and Limits are kept, and the text below `<!-- measured -->` in Quality unless the
weights changed. Without files, the cards of the shipped denoisers are written again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import torch

from denoised_smoothing.models.shipped import shipped_folder
from denoised_smoothing.models.weights import load_weights

FOLDER = shipped_folder("denoisers")
CARDS = FOLDER.parent / "cards"
MARK = "<!-- measured -->"


def handwritten(path: Path) -> tuple[str, str]:
    """Return the texts that a person wrote: below the mark of Quality, and from Intended use."""
    text = path.read_text("utf-8") if path.exists() else ""
    measured = text.partition(MARK)[2].partition("## Intended use")[0].strip()
    use = text.partition("## Intended use")[2].strip()
    return measured, use or "TODO\n\n## Limits\n\nTODO"


def card(path: Path, measured: str, use: str) -> str:
    """Return the text of the card of a file."""
    weights, meta = load_weights(path)
    half = all(value.dtype is torch.float16 for value in weights.values())
    settings = json.loads(meta["settings"])
    quality = json.loads(meta["quality"])
    commands = [*json.loads(meta.get("history", "[]")), meta["command"]]
    numbers = [f"PSNR {quality['validation_psnr']:.2f} dB (MSE {quality['validation_mse']:.5f})"]
    numbers += [
        f"`{key.removeprefix('accuracy_')}` after it {100 * value:.1f} % correct"
        for key, value in quality.items()
        if key.startswith("accuracy_")
    ]
    versions = ", ".join(f"{k} {v}" for k, v in json.loads(meta["versions"]).items())
    minutes = float(meta["seconds"].split()[0]) / 60
    return "\n".join(
        [
            f"# {path.stem}",
            "",
            f"{meta['architecture']} with {meta['config']}, for sigma from {meta['sigma_min']} to "
            f"{meta['sigma_max']} and images of {meta['image_channels']} channel(s). "
            f"Weights in {'half' if half else 'single'} precision.",
            "",
            "## Data",
            "",
            f"`{meta['data']}`, SHA-256 fingerprint `{meta['data_fingerprint'][:16]}…`; validated "
            f"on the {meta['validation']}.",
            "",
            "## Training",
            "",
            f"Objective {meta['objective']}, {settings['steps']:,} steps of "
            f"{settings['batch_size']} images, seed {meta['seed']}, {minutes:.0f} minutes for the "
            f"last command ({versions}):",
            "",
            "```",
            *commands,
            "```",
            "",
            "## Quality",
            "",
            f"On the validation images, with sigma drawn from the range: {'; '.join(numbers)}.",
            "",
            MARK,
            "",
            *([measured, ""] if measured else []),
            "## Intended use",
            "",
            use,
            "",
        ]
    )


def main() -> None:
    """Copy the files, and write checksums and cards."""
    for source in map(Path, sys.argv[1:]):
        shutil.copyfile(source, FOLDER / source.name)
    CARDS.mkdir(exist_ok=True)
    sums = FOLDER / "SHA256SUMS"
    before = sums.read_text("ascii").splitlines()
    lines = []
    for path in sorted(FOLDER.glob("*.safetensors")):
        line = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"
        measured, use = handwritten(CARDS / f"{path.stem}.md")
        text = card(path, measured if line in before else "", use)
        (CARDS / f"{path.stem}.md").write_text(text, "utf-8")
        lines.append(f"{line}\n")
    sums.write_text("".join(lines), "ascii")


if __name__ == "__main__":
    main()
