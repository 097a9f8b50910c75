"""Right votes of noisy copies after denoising, as a cheap estimate of certificates.

    python benchmarks/votes.py --data parquet:test.parquet --classifier cifar-resnet56:FILE \
        cifar10 cifar10-resnet20 "mean:cifar10-resnet20?mirror=yes"

Prints for each denoiser and sigma the share of copies with the right label, and the share of
images with enough right copies for a radius. A certificate of unlimited copies would reach that
share. With few copies it is an upper estimate at large radii. Every denoiser gets the same noise.
The first rows are skipped, because certified tables use them; ``--first 0`` takes them. In bfloat16
where the processor has it.
"""

from __future__ import annotations

import argparse

import torch
from torch.distributions import Normal

from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.engines.engine import processor
from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
from denoised_smoothing.models.denoisers.ensemble import logits_after_denoising
from denoised_smoothing.models.protocols import Classifier, Denoiser

RADII = {0.25: (0.25, 0.5), 0.5: (0.25, 0.5, 0.75, 1.0)}
"""The radii of each sigma that its copies can distinguish."""


@torch.inference_mode()
def right_votes(
    denoiser: Denoiser | None, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor,
    sigma: float, copies: int,
) -> torch.Tensor:  # fmt: skip
    """Return the share of right votes of each image [N]."""
    source, shares = torch.Generator().manual_seed(1), []
    for image, label in zip(images, labels, strict=True):
        noisy = image + sigma * torch.randn(copies, *image.shape, generator=source)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in processor()):
            answers = logits_after_denoising(denoiser, classifier, sigma, noisy)
        shares.append((answers.argmax(dim=1) == label).float().mean())
    return torch.stack(shares)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--classifier", required=True)
    parser.add_argument("--first", type=int, default=500, help="first row")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--copies", type=int, default=40)
    parser.add_argument("denoiser", nargs="+")
    arguments = parser.parse_args()
    dataset, classifier = load_dataset(arguments.data), load_classifier(arguments.classifier)
    rows = range(arguments.first, arguments.first + arguments.images)
    examples = [dataset[row] for row in rows]
    images = torch.stack([torch.from_numpy(example.image) for example in examples])
    labels = torch.tensor([example.label for example in examples])
    heads = [f"votes σ {s:g} | " + " | ".join(f"r {r:g}" for r in RADII[s]) for s in RADII]
    print(f"| denoiser | {' | '.join(heads)} |")
    print("| --- |" + " ---: |" * sum(1 + len(radii) for radii in RADII.values()))
    for name in arguments.denoiser:
        denoiser, cells = load_denoiser(name), []
        for sigma, radii in RADII.items():
            shares = right_votes(denoiser, classifier, images, labels, sigma, arguments.copies)
            needed = [float(Normal(0, 1).cdf(torch.tensor(r / sigma))) for r in radii]
            cells += [shares.mean(), *((shares >= least).float().mean() for least in needed)]
        print(f"| `{name}` | {' | '.join(f'{100 * cell:.1f}' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
