"""Groups of labels: the votes of a group are added, so that a group may win where no label does.

A certificate of a group is about the classifier that votes by group: "dog", where the breeds share
the votes. Proofs: ``docs/sets.md``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, islice, pairwise
from operator import index
from typing import Any, cast

from denoised_smoothing.certificates.bounds import check_alpha
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.counts import LabelCounts
from denoised_smoothing.certificates.fields import quoted
from denoised_smoothing.certificates.radii import gaussian_radius, round_down
from denoised_smoothing.certificates.sets import event_bound, others
from denoised_smoothing.errors import SettingError

MOST_LABELS, MOST_LEVELS = 100_000, 32
"""Maximum numbers of labels of a level that is read, and of levels: a short text can name many."""
DEFAULT_LEVEL = "groups"
"""Name of a level that has none of its own."""
_Pairs = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Groups:
    """Disjoint groups of labels of one level; a label that is in none stands for itself.

    Args:
        members: the labels of each group, by its name; or pairs of both.
        level: name of the level.

    Raises:
        SettingError: a group is empty, or a label is negative or in two groups.
    """

    members: Mapping[str, Collection[int]] | _Pairs
    level: str = DEFAULT_LEVEL

    def __post_init__(self) -> None:
        given = self.members
        items = given.items() if isinstance(given, Mapping) else given
        pairs = tuple((name, tuple(sorted(map(index, labels)))) for name, labels in items)
        object.__setattr__(self, "members", pairs)
        owner = dict[int, str]()
        for name, labels in pairs:
            if not labels or labels[0] < 0:
                raise SettingError(
                    f"The group {name!r} must have labels of at least 0, got {labels}. Name them, "
                    "or remove the group."
                )
            for label in labels:
                if label in owner:
                    raise SettingError(
                        f"The label {label} is in the group {owner[label]!r} and in {name!r}. "
                        "Groups of one level must be disjoint: remove it from one."
                    )
                owner[label] = name

    @property
    def pairs(self) -> _Pairs:
        """Names and labels of the groups."""
        return cast(_Pairs, self.members)

    @cached_property
    def _groups(self) -> dict[int, tuple[str, tuple[int, ...]]]:
        return {label: (name, labels) for name, labels in self.pairs for label in labels}

    def of(self, label: int) -> tuple[str | None, tuple[int, ...]]:
        """Return the name and the labels of the group of a label; None and itself without one."""
        return self._groups.get(label, (None, (label,)))

    def most_voted(
        self, votes: LabelCounts, within: Collection[int] | None = None
    ) -> tuple[str | None, tuple[int, ...]]:
        """Return name and labels of the group with the most votes; no labels without votes.

        Args:
            within: labels among which to look; None for all.
        """
        units = {self.of(label): None for label in votes.votes if within is None or label in within}
        return max(
            units, key=lambda unit: sum(map(votes.of, unit[1])), default=(None, tuple[int, ...]())
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        members = {name: label_ranges(labels) for name, labels in self.pairs}
        return {"level": self.level, "members": members}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Groups:
        """Return the groups that :meth:`to_dict` wrote.

        Raises:
            SettingError: they are not of that form.
        """
        try:
            members, left = dict[str, list[int]](), MOST_LABELS
            for name, text in values["members"].items():
                members[name] = of_ranges(text, left)
                left -= len(members[name])
            return cls(members, str(values["level"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SettingError(
                f"Groups must be a level and members as ranges of labels, got "
                f"{quoted(values)}: {error}. Use groups as they were written."
            ) from error


def check_nested(levels: Iterable[Groups]) -> tuple[Groups, ...]:
    """Return the levels if each group of one lies within a group of the next.

    Raises:
        SettingError: there is no level, there are too many, a group does not, or two levels have
            one name.
    """
    levels = tuple(islice(levels, MOST_LEVELS + 1))
    if not 1 <= len(levels) <= MOST_LEVELS:
        raise SettingError(
            f"Groups need at least one level and at most {MOST_LEVELS}, got "
            f"{'more' if levels else 'none'}. Name groups of labels."
        )
    names = [groups.level for groups in levels]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SettingError(
            f"Two levels of groups have the name {twice!r}. Give each level a name of its own."
        )
    for fine, coarse in pairwise(levels):
        for name, labels in fine.pairs:
            holder = coarse.of(labels[0])
            if any(coarse.of(label) != holder for label in labels):
                raise SettingError(
                    f"The group {name!r} of the level {fine.level!r} is not within one group of "
                    f"the level {coarse.level!r} ({holder[0] or labels[0]!r} has not all of its "
                    "labels). Order levels from fine to coarse, and let coarse groups hold fine "
                    "ones whole."
                )
    return levels


@dataclass(frozen=True)
class GroupCertificate:
    """The proof that the classifier that votes by group answers this group up to ``radius``.

    With probability at least 1 - alpha over the noise, this group is the most probable one at
    every image closer than ``radius`` in L2, where a copy votes for the group of its label. The
    most probable label there may lie outside the group. A radius of 0.0 means that nothing is
    proven.

    Attributes:
        level: name of the level of groups.
        group: name of the group; None for a label that is in no group.
        labels: of the group.
        radius: in pixel values in [0, 1], not rounded.
        lower_bound: lower confidence bound on the probability of the group.
        alpha: probability that the certificate is wrong.
    """

    level: str
    group: str | None
    labels: tuple[int, ...]
    radius: float
    lower_bound: float
    alpha: float

    @property
    def certified(self) -> bool:
        """Whether anything is proven."""
        return self.radius > 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, rounded down at 6 decimals."""
        return {
            "level": self.level,
            "group": self.group,
            "labels": list(self.labels),
            "radius": round_down(self.radius, 6),
            "lower_bound": round_down(self.lower_bound, 6),
            "alpha": self.alpha,
        }


def group_certificates(
    certificate: Certificate,
    levels: Sequence[Groups],
    alpha: float | None = None,
    *,
    split: bool = True,
) -> tuple[GroupCertificate, ...]:
    """Return what the counts of a certificate prove about groups of labels, one for each level.

    The group of the coarsest level is the one with the most votes of the selection stage; that of
    a finer level has the most votes within it.

    Args:
        certificate: of an image, also one that abstains or ended early.
        levels: from fine to coarse; each group lies within one of the next level.
        alpha: probability that any of them is wrong; None for that of the run.
        split: share alpha between the levels, so that all radii hold together. Else each has the
            whole alpha. Then each certificate holds on its own, and at any one radius that was
            fixed in advance all levels hold together, as hypotheses and tests are nested.

    Raises:
        SettingError: levels are not nested, or no copies chose the candidate (n0 = 0).
    """
    levels = check_nested(levels)
    level_alpha = check_alpha(certificate.alpha if alpha is None else alpha)
    if split:
        level_alpha /= len(levels)
    parameters, found = certificate.parameters, list[GroupCertificate]()
    chosen = chosen_groups(levels, certificate.selection)
    for groups, (name, labels) in zip(levels, chosen, strict=True):

        def rest(votes: LabelCounts, labels: tuple[int, ...] = labels) -> int:
            return others(votes, labels)

        failure = event_bound(certificate, rest, level_alpha)
        proven = gaussian_radius(parameters.sigma, failure, parameters.error)
        found.append(
            GroupCertificate(groups.level, name, labels, proven, 1.0 - failure, level_alpha)
        )
    return tuple(found)


def finest_group(
    certificate: Certificate,
    levels: Sequence[Groups],
    radius: float,
    alpha: float | None = None,
) -> GroupCertificate | None:
    """Return the group of the finest level that is certified at one radius, at the whole alpha.

    The tests of nested levels at one radius are nested, so that no level needs a share of alpha
    (``docs/sets.md``). This holds for a radius that was fixed before results were seen.

    Args:
        certificate, levels, alpha: as for :func:`group_certificates`.
        radius: in pixel values in [0, 1], above 0; that of the result, which claims no more.

    Returns:
        None where no level is certified at the radius.

    Raises:
        SettingError: the radius is not above 0, or as for :func:`group_certificates`.
    """
    if not 0.0 < radius < math.inf:
        raise SettingError(
            f"radius must be a length above 0, got {radius!r}. Use an L2 distance in pixel values "
            "in [0, 1], such as 0.25."
        )
    found = group_certificates(certificate, levels, alpha, split=False)
    passed = (held for held in found if held.radius >= radius)
    return next((replace(held, radius=radius) for held in passed), None)


def chosen_groups(
    levels: Sequence[Groups], selection: LabelCounts
) -> list[tuple[str | None, tuple[int, ...]]]:
    """Return name and labels of the group that the selection stage chooses on each level."""
    chosen = list[tuple[str | None, tuple[int, ...]]]()
    for groups in reversed(levels):
        within = chosen[-1][1] if chosen else None
        chosen.append(groups.most_voted(selection, within))
    return chosen[::-1]


def label_ranges(labels: Sequence[int]) -> str:
    """Return ascending labels as text: ``1-3, 7`` for 1, 2, 3 and 7."""
    parts = []
    for _, run in groupby(enumerate(labels), key=lambda pair: pair[1] - pair[0]):
        first, *rest = [label for _, label in run]
        parts.append(f"{first}-{rest[-1]}" if rest else str(first))
    return ", ".join(parts)


def of_ranges(text: str, most: int = MOST_LABELS) -> list[int]:
    """Return the labels of such a text.

    Raises:
        ValueError: it has another form, or names more labels than ``most``.
    """
    parts = text.split(",", most)
    ends = [[int(end) for end in part.split("-", 1)] for part in parts if "," not in part]
    ranges = [range(first, (last or [first])[0] + 1) for first, *last in ends]
    if len(ends) < len(parts) or sum(max(0, r.stop - r.start) for r in ranges) > most:
        raise ValueError(f"a level may have at most {MOST_LABELS:,} labels")
    return [label for found in ranges for label in found]
