"""Put trained denoisers into the package: files, checksums, and what their cards say of them.

    python benchmarks/ship.py cifar10.safetensors photo.safetensors

A card's sections Data, Training and Quality are written from the file's own metadata; Intended use,
Limits and what was added to Quality below the line `<!-- measured -->` are kept as they are.
Without files, the cards of what ships are written anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

from denoised_smoothing.models.shipped import shipped_folder
from denoised_smoothing.models.weights import load_weights

FOLDER = shipped_folder("denoisers")
CARDS = FOLDER.parent / "cards"
MARK = "<!-- measured -->"


def kept(path: Path) -> tuple[str, str]:
    """What a person wrote: below the mark of Quality, and from Intended use on."""
    text = path.read_text("utf-8") if path.exists() else ""
    measured = text.partition(MARK)[2].partition("## Intended use")[0].strip()
    use = text.partition("## Intended use")[2].strip()
    return measured, use or "TODO\n\n## Limits\n\nTODO"


def card(name: str, said: dict[str, str], measured: str, use: str) -> str:
    """The text of a card."""
    settings = json.loads(said["settings"])
    quality = json.loads(said["quality"])
    commands = [*json.loads(said.get("history", "[]")), said["command"]]
    numbers = [f"PSNR {quality['validation_psnr']:.2f} dB (MSE {quality['validation_mse']:.5f})"]
    numbers += [
        f"`{key.removeprefix('accuracy_')}` behind it {100 * value:.1f} % correct"
        for key, value in quality.items()
        if key.startswith("accuracy_")
    ]
    versions = ", ".join(f"{k} {v}" for k, v in json.loads(said["versions"]).items())
    minutes = float(said["seconds"].split()[0]) / 60
    return "\n".join(
        [
            f"# {name}",
            "",
            f"{said['architecture']} with {said['config']}, told sigma from {said['sigma_min']} to "
            f"{said['sigma_max']}, for images of {said['image_channels']} channel(s); "
            "weights in half precision.",
            "",
            "## Data",
            "",
            f"`{said['data']}`, SHA-256 fingerprint `{said['data_fingerprint'][:16]}…`; validated "
            f"on the {said['validation']}.",
            "",
            "## Training",
            "",
            f"Objective {said['objective']}, {settings['steps']:,} steps of "
            f"{settings['batch_size']} images, seed {said['seed']}, {minutes:.0f} minutes for the "
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
    """Copy, sum, describe."""
    for source in map(Path, sys.argv[1:]):
        shutil.copyfile(source, FOLDER / source.name)
    CARDS.mkdir(exist_ok=True)
    lines = []
    for path in sorted(FOLDER.glob("*.safetensors")):
        lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
        text = CARDS / f"{path.stem}.md"
        text.write_text(card(path.stem, load_weights(path)[1], *kept(text)), "utf-8")
    (FOLDER / "SHA256SUMS").write_text("".join(lines), "ascii")


if __name__ == "__main__":
    main()
