"""noise.py: the noise of a copy depends on its key alone, and follows the normal law."""

from __future__ import annotations

import hashlib
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy import stats

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.engines import forward_size
from denoised_smoothing.noise import (
    CHUNK,
    chunk_size,
    derive_key,
    noisy_copies,
    standard_normal,
)

SMALL = torch.tensor([[[0.0, 0.25], [0.5, 1.0]]])
FALSE_ALARM = 1e-4
"""Share of seeds with which a statistical test below would fail on a perfect generator."""

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])


def copies(
    start: int,
    stop: int,
    image: torch.Tensor = SMALL,
    sigma: float = 0.25,
    seed: int = 0,
    image_id: str = "7",
    stage: Stage = Stage.ESTIMATION,
) -> torch.Tensor:
    return noisy_copies(
        image, sigma, seed=seed, image_id=image_id, stage=stage, start=start, stop=stop
    )


class TestDeriveKey:
    def test_is_pinned(self) -> None:
        assert derive_key(0, "7", Stage.ESTIMATION, 0) == 0x894CC38F84912BA524318DCD6144D573

    def test_has_128_bits_and_differs_wherever_a_part_differs(self) -> None:
        seeds, names, stages = (0, 1, 10, 2**127, 2**127 + 1), ("", "1", "10", "0"), tuple(Stage)
        keys = {derive_key(*parts) for parts in product(seeds, names, stages, range(5))}
        assert len(keys) == 5 * 4 * 3 * 5
        assert 2**120 < max(keys) < 2**128

    def test_parts_are_not_run_together(self) -> None:
        assert derive_key("ab", "c") != derive_key("a", "bc") != derive_key("a", "b", "c")
        assert derive_key('a", "b') != derive_key("a", "b")


class TestStandardNormal:
    def test_a_chunk_is_pinned(self) -> None:
        """Runs of old would silently get other counts if the noise of a key changed."""
        noise = standard_normal(derive_key(0, "7", "estimation", 0), (50, 3, 4, 4), SMALL.device)
        assert noise.flatten()[:3].tolist() == pytest.approx(
            [1.0995083, -0.4709671, 1.7088153], abs=1e-6
        )
        assert hashlib.sha256(noise.numpy().tobytes()).hexdigest() == (
            "858386504bf76e6155d40fe1c806a08f44ab825f9520977f341f25472eb25315"
        )

    @devices
    def test_depends_on_the_key_alone(self, device: str) -> None:
        first = standard_normal(5, (3, 4), torch.device(device))
        standard_normal(6, (7,), torch.device(device))
        torch.manual_seed(1)
        assert torch.equal(first, standard_normal(5, (3, 4), torch.device(device)))
        assert first.dtype == torch.float32

    def test_leaves_the_global_generators_alone(self) -> None:
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()
        standard_normal(5, (100,), SMALL.device)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1]

    @devices
    def test_follows_the_normal_law(self, device: str) -> None:
        shape = (CHUNK, 3, 32, 32)
        chunks = [
            standard_normal(derive_key(3, "law", chunk), shape, torch.device(device)).cpu().numpy()
            for chunk in range(4)
        ]
        noise = np.concatenate(chunks).ravel().astype(np.float64)
        limit = stats.norm.isf(FALSE_ALARM / 2) / np.sqrt(noise.size)
        # Standard errors of the moments of N normal numbers: 1, sqrt(2), sqrt(6), sqrt(24) / sqrt N
        assert abs(noise.mean()) < limit
        assert abs(noise.var() - 1) < limit * np.sqrt(2)
        assert abs(stats.skew(noise)) < limit * np.sqrt(6)
        assert abs(stats.kurtosis(noise)) < limit * np.sqrt(24)
        assert stats.kstest(noise, "norm").pvalue > FALSE_ALARM


class TestNoisyCopies:
    @devices
    def test_are_the_image_plus_sigma_times_the_noise_of_the_key_unclipped(
        self, device: str
    ) -> None:
        image = SMALL.to(device)
        noise = standard_normal(derive_key(0, "7", "estimation", 0), (CHUNK, 1, 2, 2), image.device)
        drawn = copies(0, CHUNK, image, sigma=0.5)
        assert torch.equal(drawn, image + 0.5 * noise)
        assert drawn.min() < 0
        assert drawn.max() > 1

    @settings(derandomize=True, deadline=None, max_examples=60)
    @given(st.tuples(st.integers(0, 170), st.integers(1, 170)).filter(lambda cut: cut[0] < cut[1]))
    def test_a_slice_agrees_with_the_whole(self, cut: tuple[int, int]) -> None:
        assert torch.equal(copies(*cut), copies(0, 170)[slice(*cut)])

    @devices
    @pytest.mark.parametrize(
        "cut",
        [(0, 1), (CHUNK - 1, CHUNK), (CHUNK, CHUNK + 1), (CHUNK - 1, CHUNK + 1), (3, 2 * CHUNK)],
    )
    def test_a_slice_at_a_chunk_border_agrees_with_the_whole(
        self, cut: tuple[int, int], device: str
    ) -> None:
        whole = copies(0, 3 * CHUNK, SMALL.to(device))
        assert torch.equal(copies(*cut, SMALL.to(device)), whole[slice(*cut)])

    def test_do_not_depend_on_what_is_drawn_before_or_between(self) -> None:
        alone = copies(20, 120)
        copies(0, 60, torch.rand(3, 8, 8), image_id="another")
        pieces = [copies(20, 50), copies(50, 51), copies(0, 20, image_id="8"), copies(51, 120)]
        assert torch.equal(torch.cat([pieces[0], pieces[1], pieces[3]]), alone)

    def test_the_noise_does_not_depend_on_the_image_or_on_sigma(self) -> None:
        zero = torch.zeros_like(SMALL)
        assert torch.equal(copies(0, 60, zero, sigma=1.0) * 0.5, copies(0, 60, zero, sigma=0.5))
        assert torch.equal(copies(0, 60, zero) + SMALL, copies(0, 60))

    def test_different_streams_and_copies_are_uncorrelated(self) -> None:
        zero = torch.zeros(3, 16, 16)
        streams = [
            copies(0, 2 * CHUNK, zero, seed=seed, image_id=name, stage=stage)
            for seed, name, stage in product((0, 1, 2**100), ("0", "1"), Stage)
        ]
        rows = torch.cat(streams).flatten(1).double().numpy()
        correlations = np.corrcoef(rows)[np.triu_indices(len(rows), k=1)]
        limit = stats.norm.isf(FALSE_ALARM / 2 / correlations.size) / np.sqrt(rows.shape[1])
        assert len(rows) == 18 * 2 * CHUNK
        assert np.abs(correlations).max() < limit

    def test_shapes_are_checked_in_the_tests(self) -> None:
        """Else the hook in conftest.py does not work."""
        with pytest.raises(TypeCheckError):
            copies(0, 1, torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("shape", "copies"), [((1, 8, 8), 50), ((3, 32, 32), 50), ((3, 64, 64), 12), ((3, 224, 224), 4)]
)
def test_a_chunk_of_large_images_is_about_a_forward_pass(
    shape: tuple[int, ...], copies: int
) -> None:
    assert chunk_size(shape) == copies
    assert copies <= forward_size(shape[1] * shape[2], torch.device("cpu"))
