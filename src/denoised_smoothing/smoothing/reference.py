"""The whole algorithm in plain torch: the tests compare the product with it.

CERTIFY and PREDICT of Cohen et al. 2019, section 3.2, with the denoiser of Salman et al. 2020 in
front of the classifier. Slow on purpose: one copy at a time, no engine, no store, no early end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import torch
from scipy import stats
from torch import Tensor

BaseClassifier = Callable[[Tensor], Tensor]
"""One noisy copy [1, C, H, W] to logits [1, K] or a label [1]; -1 is a vote for no class."""


def base_classifier(
    classifier: BaseClassifier, denoiser: Callable[[Tensor, float], Tensor], sigma: float
) -> BaseClassifier:
    """Denoise, then classify."""
    return lambda noisy: classifier(denoiser(noisy, sigma))


def noisy_copies(image: Tensor, sigma: float, n: int) -> Iterator[Tensor]:
    """Copies of an 8-bit image [C, H, W], with noise rounded to steps of 1/255, not clipped."""
    for _ in range(n):
        noise = (255 * sigma * torch.randn_like(image, dtype=torch.float64)).round()
        yield (((255 * image).round() + noise) / 255).float()


def count_votes(base: BaseClassifier, copies: Iterable[Tensor]) -> Counter[int]:
    """Count the copies that voted for each label."""
    with torch.inference_mode():
        answers = [base(copy[None]) for copy in copies]
    return Counter(int(answer.argmax(1) if answer.ndim == 2 else answer) for answer in answers)


def top_labels(votes: Counter[int]) -> list[int]:
    """Labels by votes, the most frequent first; of equally frequent ones the lowest first."""
    return sorted(votes.keys() - {-1}, key=lambda label: (-votes[label], label))


def certify(
    selection: Counter[int], estimation: Counter[int], sigma: float, alpha: float
) -> tuple[int | None, float]:
    """The label and its L2 radius, or (None, 0.0) to abstain. Each stage has its own copies."""
    candidate = next(iter(top_labels(selection)), -1)
    successes, n = estimation[candidate], estimation.total()
    if candidate < 0 or successes == 0:
        return None, 0.0
    lower = stats.beta.ppf(alpha, successes, n - successes + 1)  # Clopper and Pearson 1934
    return (candidate, float(sigma * stats.norm.ppf(lower))) if lower > 0.5 else (None, 0.0)


def predict(votes: Counter[int], alpha: float) -> int | None:
    """The label, or None where a fair coin explains the votes of the two most frequent labels."""
    first, second = [*top_labels(votes), -2, -2][:2]
    pair = votes[first] + votes[second]
    return first if pair and stats.binomtest(votes[first], pair).pvalue <= alpha else None
