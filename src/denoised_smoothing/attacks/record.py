"""The folder of an attack: every outcome, the curve, and the images that changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from denoised_smoothing.attacks.campaign import Attacked, Campaign
from denoised_smoothing.attacks.report import (
    AttackOutcome,
    Verdict,
    accuracy_under_attack,
    attack_figure,
    by_share,
)
from denoised_smoothing.errors import SettingError
from denoised_smoothing.files import write_atomically
from denoised_smoothing.images import to_png
from denoised_smoothing.reporting.plots import save_figure
from denoised_smoothing.reporting.results import RunResults

FILE = "attack.json"
"""Its name in the folder."""


class AttackRecord:
    """The outcomes of a campaign, written to a folder as they come.

    ``attack.json`` is written in full after each image. An image that changed is written at once
    as two PNG files, before and after. ``curve.png`` is written at the end, also after an
    interruption.

    Args:
        folder: created if it does not exist.
        results: of the run, up to the last image attacked.
        info: recorded next to the settings of the campaign.

    Raises:
        SettingError: the folder holds an attack already, or cannot be written.
        MissingExtraError: matplotlib is not installed.
    """

    def __init__(
        self, folder: Path, campaign: Campaign, results: RunResults, info: Mapping[str, Any]
    ) -> None:
        attack_figure(results, [])
        self.folder, self.outcomes = folder, list[AttackOutcome]()
        self.alarms: list[tuple[AttackOutcome, Path]] = []
        self._campaign, self._results, self._info = campaign, results, info
        self._rows: list[dict[str, Any]] = []
        if (folder / FILE).exists():
            raise SettingError(
                f"{str(folder / FILE)!r} exists, and no attack is overwritten. Name another folder."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingError(
                f"Cannot create the folder {str(folder)!r}: {error.strerror}. Name another one."
            ) from error
        self._write(complete=False)

    def add(self, attacks: list[Attacked]) -> None:
        """Record the attacks on one image."""
        for attack in attacks:
            outcome, files = attack.outcome, dict[str, str]()
            if outcome.verdict is Verdict.CHANGED:
                files = {when: f"{outcome.index:05}-{when}.png" for when in ("before", "after")}
                for when, name in files.items():
                    write_atomically(self.folder / name, to_png(getattr(attack, when)))
            if outcome.alarm:
                self.alarms.append((outcome, self.folder / files["after"]))
            self.outcomes.append(outcome)
            self._rows.append(outcome.to_dict() | files)
        self._write(complete=False)

    def finish(self, *, complete: bool = True) -> None:
        """Record whether all images were attacked, and draw the curve of those that were."""
        self._write(complete=complete)
        figure = attack_figure(self._results, self.outcomes, self._campaign.radii)
        save_figure(figure, self.folder / "curve.png")

    def to_dict(self, *, complete: bool) -> dict[str, Any]:
        """Return plain values for JSON."""
        campaign = self._campaign
        radii = accuracy_under_attack(self._results, self.outcomes, campaign.radii)
        shares = by_share(self.outcomes, campaign.shares)
        return {
            "run": self._results.run.name,
            **self._info,
            "steps": campaign.pgd.steps,
            "copies": campaign.pgd.copies,
            "step": campaign.pgd.step,
            "n": campaign.n,
            "alpha": campaign.alpha,
            "attacks_planned": campaign.attacks,
            "level": campaign.level,
            "seed": str(campaign.seed),
            "complete": complete,
            "alarms": [str(path) for _, path in self.alarms],
            "radii": [asdict(row) for row in radii],
            "shares": [asdict(row) for row in shares],
            "attacks": self._rows,
        }

    def _write(self, *, complete: bool) -> None:
        text = json.dumps(self.to_dict(complete=complete), indent=1)
        write_atomically(self.folder / FILE, text.encode())
