"""noise.py: the noise of a copy depends on its key alone, and follows its law."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy import special, stats

from denoised_smoothing import noise as noise_module
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.grid import grid_thresholds, threshold_at
from denoised_smoothing.certificates.parameters import Noise, SmoothingParameters
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.engines.engine import forward_size
from denoised_smoothing.errors import SettingError
from denoised_smoothing.noise import (
    CHUNK,
    _bounds_by_top_bits,
    _by_all_bits,
    _generator,
    _grid_noise_of,
    chunk_size,
    derive_key,
    grid_noise,
    levels_of,
    noisy_copies,
    standard_normal,
)

SMALL = torch.tensor([[[0, 64], [204, 255]]]) / 255
CPU = torch.device("cpu")
FALSE_ALARM = 1e-4
"""Share of seeds with which a statistical test below would fail on a perfect generator."""

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
samplers = pytest.mark.parametrize("noise", Noise)


def copies(
    start: int,
    stop: int,
    image: torch.Tensor = SMALL,
    sigma: float = 0.25,
    seed: int = 0,
    image_id: str = "7",
    stage: Stage = Stage.ESTIMATION,
    noise: Noise = Noise.FLOAT,
) -> torch.Tensor:
    return noisy_copies(
        image, sigma, noise=noise, seed=seed, image_id=image_id, stage=stage, start=start,
        stop=stop,
    )  # fmt: skip


class TestDeriveKey:
    def test_is_pinned(self) -> None:
        assert derive_key(0, "7", Stage.ESTIMATION, 0) == 0x894CC38F84912BA524318DCD6144D573

    def test_has_128_bits_and_differs_wherever_a_part_differs(self) -> None:
        seeds, names, stages = (0, 1, 10, 2**127, 2**127 + 1), ("", "1", "10", "0"), tuple(Stage)
        keys = {derive_key(*parts) for parts in product(seeds, names, stages, range(5))}
        assert len(keys) == 5 * 4 * len(stages) * 5
        assert 2**120 < max(keys) < 2**128

    def test_parts_are_not_run_together(self) -> None:
        assert derive_key("ab", "c") != derive_key("a", "bc") != derive_key("a", "b", "c")
        assert derive_key('a", "b') != derive_key("a", "b")


class TestStandardNormal:
    def test_a_chunk_is_pinned(self) -> None:
        """Runs of old would silently get other counts if the noise of a key changed."""
        noise = standard_normal(derive_key(0, "7", "estimation", 0), (50, 3, 4, 4), CPU)
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
        standard_normal(5, (100,), CPU)
        grid_noise(5, (100,), 0.25, CPU)
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
    @given(
        st.tuples(st.integers(0, 170), st.integers(1, 170)).filter(lambda cut: cut[0] < cut[1]),
        st.sampled_from(Noise),
    )
    def test_a_slice_agrees_with_the_whole(self, cut: tuple[int, int], noise: Noise) -> None:
        assert torch.equal(copies(*cut, noise=noise), copies(0, 170, noise=noise)[slice(*cut)])

    @devices
    @samplers
    @pytest.mark.parametrize(
        "cut",
        [(0, 1), (CHUNK - 1, CHUNK), (CHUNK, CHUNK + 1), (CHUNK - 1, CHUNK + 1), (3, 2 * CHUNK)],
    )
    def test_a_slice_at_a_chunk_border_agrees_with_the_whole(
        self, cut: tuple[int, int], device: str, noise: Noise
    ) -> None:
        whole = copies(0, 3 * CHUNK, SMALL.to(device), noise=noise)
        assert torch.equal(copies(*cut, SMALL.to(device), noise=noise), whole[slice(*cut)])

    @samplers
    def test_do_not_depend_on_what_is_drawn_before_or_between(self, noise: Noise) -> None:
        alone = copies(20, 120, noise=noise)
        copies(0, 60, torch.rand(3, 8, 8), image_id="another", noise=noise)
        pieces = [copies(20, 50, noise=noise), copies(50, 51, noise=noise)]
        copies(0, 20, image_id="8", noise=noise)
        assert torch.equal(torch.cat([*pieces, copies(51, 120, noise=noise)]), alone)

    def test_in_float_the_noise_does_not_depend_on_the_image_or_on_sigma(self) -> None:
        zero = torch.zeros_like(SMALL)
        assert torch.equal(copies(0, 60, zero, sigma=1.0) * 0.5, copies(0, 60, zero, sigma=0.5))
        assert torch.equal(copies(0, 60, zero) + SMALL, copies(0, 60))

    @samplers
    def test_different_streams_and_copies_are_uncorrelated(self, noise: Noise) -> None:
        zero = torch.zeros(3, 16, 16)
        streams = [
            copies(0, 2 * CHUNK, zero, seed=seed, image_id=name, stage=stage, noise=noise)
            for seed, name, stage in product((0, 1, 2**100), ("0", "1"), Stage)
        ]
        rows = torch.cat(streams).flatten(1).double().numpy()
        correlations = np.corrcoef(rows)[np.triu_indices(len(rows), k=1)]
        limit = stats.norm.isf(FALSE_ALARM / 2 / correlations.size) / np.sqrt(rows.shape[1])
        assert len(rows) == 3 * 2 * len(Stage) * 2 * CHUNK
        assert np.abs(correlations).max() < limit

    def test_shapes_are_checked_in_the_tests(self) -> None:
        """Else the hook in conftest.py does not work."""
        with pytest.raises(TypeCheckError):
            copies(0, 1, torch.zeros(2, 2))


class Law:
    """The exact law of the grid noise in bins of values, by the normal distribution of SciPy."""

    def __init__(
        self, sigma: float, draws: int, expected: float = 50.0, fraction: float = 0.0
    ) -> None:
        reach = math.ceil(6 * 255 * sigma)
        probabilities = np.diff(stats.norm.cdf((np.arange(-reach, reach + 1) - 0.5) / 255 / sigma))
        frequent = np.nonzero(draws * probabilities >= expected)[0] - reach
        edges = np.arange(frequent[0], frequent[-1] + 2)  # a bin a value, and one for each tail
        cumulative = stats.norm.cdf((edges - 0.5 - fraction) / (255 * sigma))
        self.lowest, self.highest = int(edges[0]) - 1, int(edges[-1])
        self.expected = draws * np.diff(np.concatenate([[0.0], cumulative, [1.0]]))

    def pvalue(self, noise: np.ndarray) -> float:
        values = np.clip(noise, self.lowest, self.highest).astype(np.int64)
        observed = np.bincount(values - self.lowest)
        return float(stats.chisquare(observed, self.expected).pvalue)


def drawn(sigma: float, draws: int) -> np.ndarray:
    size = 10**6
    keys = [derive_key(11, "law", chunk) for chunk in range(draws // size)]
    return np.concatenate([grid_noise(key, (size,), sigma, CPU).numpy() for key in keys])


def definition(key: int, size: int, sigma: float) -> tuple[list[int], int]:
    """The noise by its definition in Python's integers, and how many needed the low bits."""
    law, stream = grid_thresholds(sigma), np.random.Philox(key=key)
    words = [
        int(word) >> 16 * part & 0xFFFF
        for word in stream.random_raw(math.ceil(size / 4))
        for part in range(4)
    ][:size]
    noise, refined = [], 0
    for word in words:
        low, high = (
            bisect_right(law.thresholds, (word << 46) + rest) for rest in (0, (1 << 46) - 1)
        )
        if low != high:
            refined += 1
            uniform = (word << 46) + (int(stream.random_raw()) >> 18)
            low = bisect_right(law.thresholds, uniform)
        noise.append(law.first + low)
    return noise, refined


class TestGridNoise:
    def test_a_chunk_is_pinned(self) -> None:
        """Runs of old would silently get other counts if the noise of a key changed."""
        noise = grid_noise(derive_key(0, "7", "estimation", 0), (50, 3, 4, 4), 0.25, CPU)
        assert noise.flatten()[:5].tolist() == [-23, 30, 46, -51, 57]
        assert hashlib.sha256(noise.numpy().astype("<i2").tobytes()).hexdigest() == (
            "46691c63853102d8163376e9017c8f63482005117960263ebc6252b4febce1d4"
        )

    @pytest.mark.parametrize("sigma", [0.05, 0.25, 1.0, 4.0])
    def test_is_the_definition_in_exact_integers(self, sigma: float) -> None:
        size = 4001
        expected, refined = definition(2**100 + 9, size, sigma)
        assert grid_noise(2**100 + 9, (size,), sigma, CPU).tolist() == expected
        assert refined > 2 * math.sqrt(sigma)

    def test_follows_the_exact_law(self) -> None:
        noise, law = drawn(0.25, 10**7), Law(0.25, 10**7)
        assert len(law.expected) > 450
        assert law.expected.min() >= 50
        assert law.pvalue(noise) > FALSE_ALARM
        limit = stats.norm.isf(FALSE_ALARM / 2) / np.sqrt(noise.size)
        assert abs(noise.mean()) / 63.75 < limit
        # Rounding to steps of 1 adds 1/12 to the variance.
        assert abs(noise.var() / (63.75**2 + 1 / 12) - 1) < limit * np.sqrt(2)

    def test_that_test_of_the_law_sees_what_is_wrong(self) -> None:
        law = Law(0.25, 10**7)
        assert law.pvalue(drawn(0.2525, 10**7)) < 1e-12
        generator = np.random.default_rng(5)
        normal = 63.75 * generator.standard_normal(10**7)
        assert law.pvalue(np.rint(normal)) > FALSE_ALARM
        assert law.pvalue(np.floor(normal)) < 1e-12
        # Only the top 16 bits, without the search among the low ones:
        top = generator.integers(0, 2**16, 10**7) << 46
        thresholds = np.array(grid_thresholds(0.25).thresholds)
        coarse = np.searchsorted(thresholds, top, side="right") + grid_thresholds(0.25).first
        assert law.pvalue(coarse) < 1e-12

    @pytest.mark.parametrize("sigma", [0.05, 0.25, 1.0])
    @devices
    def test_of_a_torch_generator_follows_the_exact_law(self, sigma: float, device: str) -> None:
        source = torch.Generator(device).manual_seed(17)
        noise = _grid_noise_of(source, (10**6,), sigma)
        assert noise.device.type == device
        assert noise.dtype == torch.int16
        assert Law(sigma, 10**6).pvalue(noise.cpu().numpy()) > FALSE_ALARM
        assert Law(sigma * 1.03, 10**6).pvalue(noise.cpu().numpy()) < 1e-9

    @devices
    def test_of_a_torch_generator_is_the_definition(self, device: str) -> None:
        uniform = torch.randint(
            2**62, (3000,), generator=torch.Generator(device).manual_seed(3), device=device
        )
        law = grid_thresholds(0.5)
        expected = [law.first + bisect_right(law.thresholds, draw) for draw in uniform.tolist()]
        source = torch.Generator(device).manual_seed(3)
        assert _grid_noise_of(source, (3000,), 0.5).tolist() == expected

    @pytest.mark.parametrize("sigma", [0.004, 0.25])
    def test_at_a_threshold_is_the_next_value(self, sigma: float) -> None:
        law = grid_thresholds(sigma)
        inner = [threshold for threshold in law.thresholds if 0 < threshold < 2**62]
        for below in (1, 0):
            uniform = [threshold - below for threshold in inner]
            expected = [law.first + bisect_right(law.thresholds, draw) for draw in uniform]
            assert _by_all_bits(torch.tensor(uniform), sigma, None).tolist() == expected

    @devices
    def test_of_an_accelerator_has_63_bits_of_the_key_as_its_seed(self, device: str) -> None:
        key = 2**127 + 2**62 + 2**40 + 5
        assert _generator(key, torch.device(device)).initial_seed() == 2**62 + 2**40 + 5

    @devices
    def test_torch_draws_integers_below_2_62_from_whole_random_bits(self, device: str) -> None:
        """That it takes 64 (or 63) random bits modulo 2^62, which is exactly uniform."""
        seeded = torch.Generator(device).manual_seed(8)
        drawn = torch.randint(2**62, (1000,), generator=seeded, device=device)
        seeded.manual_seed(8)
        bits = torch.empty(1000, dtype=torch.int64, device=device).random_(generator=seeded)
        assert torch.equal(drawn, bits & (2**62 - 1))
        assert bits.max() > 2**62

    @devices
    def test_depends_on_the_key_alone(self, device: str) -> None:
        there = torch.device(device)
        first = grid_noise(5, (3, 4), 0.25, there)
        assert first.shape == (3, 4)
        assert first.dtype == torch.int16
        assert first.device.type == device
        grid_noise(6, (7,), 0.5, there)
        torch.manual_seed(1)
        assert torch.equal(first, grid_noise(5, (3, 4), 0.25, there))
        assert not torch.equal(first, grid_noise(6, (3, 4), 0.25, there))

    def test_a_device_without_a_sampler_of_its_own_gets_that_of_the_cpu(self) -> None:
        assert grid_noise(5, (3, 4), 0.25, torch.device("meta")).device.type == "meta"

    def test_a_huge_sigma_is_refused(self) -> None:
        for device in ("cpu", "meta"):
            with pytest.raises(SettingError, match=r"sigma must be at most 14 .* got 20"):
                grid_noise(5, (3, 4), 20.0, torch.device(device))


class TestGridCopies:
    @devices
    def test_are_thelevels_of_the_image_plus_the_noise_of_the_key(self, device: str) -> None:
        image = SMALL.to(device)
        key = derive_key(0, "7", "estimation", 0)
        noise = grid_noise(key, (CHUNK, 1, 2, 2), 0.5, image.device).cpu().numpy()
        levels = np.array([[[0, 64], [204, 255]]]) + noise
        made = copies(0, CHUNK, image, sigma=0.5, noise=Noise.GRID)
        assert made.dtype == torch.float32
        assert made.device == image.device
        assert np.array_equal(made.cpu().numpy(), levels.astype(np.float32) / np.float32(255))
        assert made.min() < 0
        assert made.max() > 1

    @devices
    def test_without_noise_they_are_the_image_for_every_level(self, device: str) -> None:
        image = (torch.arange(256) / 255).reshape(1, 16, 16)
        made = copies(0, 1, image.to(device), sigma=1e-9, noise=Noise.GRID)
        assert torch.equal(made[0].cpu(), image)

    def test_the_same_seed_gives_the_same_integer_noise_for_any_image(self) -> None:
        generator = np.random.default_rng(2)
        levels = torch.from_numpy(generator.integers(0, 256, (6, 3, 8, 8)))
        made = [copies(0, 60, row / 255, noise=Noise.GRID, sigma=0.33) for row in levels]
        noise = [
            (one.double() * 255).round().long() - row for one, row in zip(made, levels, strict=True)
        ]
        assert all(torch.equal(noise[0], other) for other in noise[1:])

    def test_in_float_low_bits_tell_the_image_and_on_the_grid_they_do_not(self) -> None:
        """Voráček & Hein 2023: f(z) = 1 if fl(fl(z - a) + a) == z, at a = 204/255 and at 0."""
        a, sigma, n = torch.tensor(204 / 255), 0.33, 10_000
        shares = {}
        for noise, x in product(Noise, (204, 0)):
            image = torch.full((1, 10, 10), x) / 255
            made = copies(0, n // 100, image, sigma=sigma, noise=noise)
            shares[noise, x] = float(((made - a) + a == made).double().mean())
        assert shares[Noise.FLOAT, 204] == 1.0
        assert shares[Noise.FLOAT, 0] < 0.5
        # The theorem: between the two, Phi^-1 of a share moves by at most 0.8 / sigma.
        moved = stats.norm.ppf(shares[Noise.GRID, 204]) - stats.norm.ppf(shares[Noise.GRID, 0])
        assert shares[Noise.GRID, 0] > 0.1
        assert shares[Noise.GRID, 204] < 0.999
        assert abs(moved) < 0.8 / sigma


def of_generator(draws: int, sigma: float, fraction: float) -> np.ndarray:
    source = torch.Generator().manual_seed(23)
    return _grid_noise_of(source, (draws, 1), sigma, torch.tensor([fraction]).double()).numpy()


def of_key(draws: int, sigma: float, fraction: float) -> np.ndarray:
    moved = torch.tensor([fraction]).double()
    return grid_noise(derive_key(23), (draws, 1), sigma, CPU, moved).numpy()


class TestOffTheGrid:
    FRACTIONS = (-0.5, -0.37, -0.1, -0.001, 1e-5, 0.02, 0.2, 0.33, 0.49, 0.5)

    @pytest.mark.parametrize("draw", [of_key, of_generator])
    @pytest.mark.parametrize("sigma", [0.01, 0.25])
    def test_follows_the_exact_law(
        self, sigma: float, draw: Callable[[int, float, float], np.ndarray]
    ) -> None:
        """A perfect generator fails at one of the ten fractions for a share 1e-4 of the seeds."""
        for fraction in self.FRACTIONS:
            noise = draw(10**6, sigma, fraction).ravel()
            assert Law(sigma, 10**6, fraction=fraction).pvalue(noise) > FALSE_ALARM / 10

    def test_that_test_of_the_law_sees_another_fraction(self) -> None:
        for draw, fraction in product((of_key, of_generator), self.FRACTIONS):
            noise = draw(10**6, 0.01, fraction).ravel()
            assert Law(0.01, 10**6, fraction=fraction + 0.03).pvalue(noise) < 1e-9

    @pytest.mark.parametrize("sigma", [1e-9, 0.001, 0.05, 0.25, 1.0, 4.0])
    def test_is_the_definition_next_to_every_threshold(self, sigma: float) -> None:
        random, reach = np.random.default_rng(3), -grid_thresholds(sigma).first
        fractions = [-0.5, 0.5, 0.0, 1e-40, *random.uniform(-0.5, 0.5, 60)]
        levels = np.rint(random.normal(0, 400 * sigma, len(fractions))).clip(-reach, reach - 1)
        for shift in (-3, -1, 0, 1, 3):
            uniform = [
                min(max(threshold_at(sigma, int(j), f) + shift, 0), 2**62 - 1)
                for j, f in zip(levels, fractions, strict=True)
            ]
            noise = _by_all_bits(torch.tensor(uniform), sigma, torch.tensor(fractions).double())
            for drawn, value, fraction in zip(uniform, noise.tolist(), fractions, strict=True):
                below, above = (threshold_at(sigma, j, fraction) for j in (value - 1, value))
                assert below <= drawn < above

    @pytest.mark.parametrize("sigma", [0.004, 0.25, 2.0])
    def test_of_a_key_agrees_with_its_top_bits(self, sigma: float) -> None:
        """Where they decide alone; the low bits of the others come from the rest of the stream."""
        fraction = torch.from_numpy(np.random.default_rng(4).uniform(-0.5, 0.5, 40))
        noise = grid_noise(2**99, (50, 40), sigma, CPU, fraction)
        words = np.random.Philox(key=2**99).random_raw(500).view("<u2")
        moved = fraction.tolist() * 50
        for word, value, f in zip(words.tolist(), noise.flatten().tolist(), moved, strict=True):
            assert threshold_at(sigma, value - 1, f) < (word + 1) << 46
            assert threshold_at(sigma, value, f) > word << 46

    @pytest.mark.parametrize("sigma", [0.004, 0.25, 2.0])
    def test_the_bounds_of_the_top_bits_enclose_their_noise(self, sigma: float) -> None:
        least, most = _bounds_by_top_bits(sigma)
        edges = 2**14 * 255 * sigma * special.ndtri(np.arange(1, 2**16) / 2**16)
        assert (edges - least[1:] > 0.5).all()
        assert (edges - least[1:] < 2.5).all()
        assert (most[:-1] - edges > 1.5).all()
        assert (most[:-1] - edges < 3.5).all()
        assert -least[0] == most[-1] > 2**14 * -grid_thresholds(sigma).first

    def test_the_bounds_of_the_top_bits_hold_at_all_of_them(self) -> None:
        """Phi^-1 of SciPy, at the 65,535 points where it is used, against 30 digits."""
        import mpmath

        points = np.arange(1, 2**15 + 1) / 2**16
        found = special.ndtri(points)
        assert np.array_equal(special.ndtri(1 - points), -found)
        with mpmath.workdps(30):
            for point, z in zip(points, found, strict=True):
                density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
                assert abs(float(mpmath.ncdf(z) - point)) < 1e-13 * density

    def test_erfc_is_far_more_accurate_than_is_relied_on(self) -> None:
        import mpmath

        points = torch.from_numpy(np.random.default_rng(5).uniform(0, 6.5, 20_000))
        with mpmath.workdps(30):
            for point, value in zip(points, torch.special.erfc(points), strict=True):
                exact = mpmath.erfc(float(point))
                assert abs(float(value) / exact - 1) < 2**-47

    @pytest.mark.parametrize("sigma", [1e-9, 0.05, 1.0])
    def test_the_fraction_0_is_the_grid(self, sigma: float) -> None:
        uniform = torch.from_numpy(np.random.default_rng(6).integers(0, 2**62, 10**5))
        zero = torch.zeros(10**5, dtype=torch.float64)
        assert torch.equal(_by_all_bits(uniform, sigma, zero), _by_all_bits(uniform, sigma, None))

    def test_is_symmetric(self) -> None:
        random = np.random.default_rng(7)
        uniform = torch.from_numpy(random.integers(0, 2**62, 10**5))
        fraction = torch.from_numpy(random.uniform(-0.5, 0.5, 10**5))
        mirrored = _by_all_bits(2**62 - 1 - uniform, 0.1, -fraction)
        assert torch.equal(_by_all_bits(uniform, 0.1, fraction), -mirrored)

    @devices
    def test_levels_and_fractions_are_exact(self, device: str) -> None:
        generator = torch.Generator().manual_seed(9)
        tiny = torch.tensor([1e-45, 2**-24, 0.5, 1.0])
        image = torch.cat([tiny, torch.rand(2000, generator=generator)]).reshape(1, 4, 501)
        levels, fraction = levels_of(image.to(device))
        assert fraction is not None
        assert fraction.abs().max() <= 0.5
        for value, level, rest in zip(
            image.flatten().tolist(), levels.flatten().tolist(), fraction.flatten().tolist(),
            strict=True,
        ):  # fmt: skip
            if value != np.float32(level) / np.float32(255):
                assert Fraction(level) + Fraction(rest) == 255 * Fraction(value)

    @devices
    def test_a_float_nearest_to_a_level_is_that_level(self, device: str) -> None:
        """Among others; 204 * (1 / 255) is not 204 / 255 in float32, but its neighbour."""
        near = torch.arange(256, dtype=torch.float32) * torch.tensor(1 / 255)
        exact = torch.arange(256, dtype=torch.float32) / 255
        levels, fraction = levels_of(near.reshape(1, 16, 16).to(device))
        assert levels.flatten().tolist() == list(range(256))
        assert fraction is not None
        assert torch.equal(fraction.flatten() == 0, near == exact)
        assert 0 < fraction.abs().max() < 1e-4

    @devices
    def test_without_noise_copies_are_the_nearest_levels(self, device: str) -> None:
        image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(2)).to(device)
        made = copies(0, 60, image, sigma=1e-9, noise=Noise.GRID)
        assert torch.equal((made * 255).round(), (image * 255).round().expand_as(made))

    @devices
    def test_copies_are_levels_plus_the_noise_of_the_key(self, device: str) -> None:
        image = torch.tensor([[[0.1, 0.5], [64 / 255, 0.9]]], device=device)
        levels, fraction = levels_of(image)
        key = derive_key(0, "7", "estimation", 0)
        noise = grid_noise(key, (CHUNK, 1, 2, 2), 0.25, image.device, fraction)
        made = copies(0, CHUNK, image, noise=Noise.GRID)
        assert torch.equal((made * 255).round().cpu(), (levels + noise.cpu()).float())
        there = noisy_copies(
            image.cpu(), 0.25, noise=Noise.GRID, seed=0, image_id="7", stage=Stage.ESTIMATION,
            start=0, stop=CHUNK, device=image.device,
        )  # fmt: skip
        assert torch.equal(made, there)
        assert torch.equal(copies(20, 120, image, noise=Noise.GRID)[30:31],
                           copies(50, 51, image, noise=Noise.GRID))  # fmt: skip

    def test_few_thresholds_of_a_large_image_are_computed_exactly(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each takes as long as a thousand values."""
        asked = []
        monkeypatch.setattr(
            noise_module, "threshold_at", lambda *where: asked.append(where) or threshold_at(*where)
        )
        image = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(2))
        made = copies(0, 40, image, noise=Noise.GRID)
        assert len(made) == 40
        assert len(asked) <= 10
        _by_all_bits(torch.tensor([2**61]), 0.25, torch.tensor([0.5]).double())
        assert len(asked) >= 1


class TestValidity:
    """Planes through points off the grid, where p is 1/2 or just below: nothing is certified."""

    STREAMS, ALPHA = 10_000, 0.05

    def false_certificates(self, image: torch.Tensor, label: int | None) -> int:
        """Certificates of a label, or of any, for the label 1 of copies of a mean above 1/2."""
        plan, parameters = FixedBudget(n0=10, n=90), SmoothingParameters(0.25, self.ALPHA, 9, 0)
        levels, fraction = levels_of(image)
        noise = grid_noise(31, (100 * self.STREAMS, 1, 3, 3), 0.25, CPU, fraction)
        votes = (levels + noise - 127.5).sum((1, 2, 3)) > 0
        above = votes.reshape(self.STREAMS, 100).split([10, 90], dim=1)
        streams = Counter(zip(*(part.sum(1).tolist() for part in above), strict=True))
        found = 0
        for counted, times in streams.items():
            counts = {
                stage: LabelCounts("run", "7", stage, (n - ones, ones))
                for stage, n, ones in zip(
                    (Stage.SELECTION, Stage.ESTIMATION), (10, 90), counted, strict=True
                )
            }
            certified = plan.certificate(counts, parameters).label
            found += times * (certified is not None and label in (None, certified))
        return found

    def test_at_one_half(self) -> None:
        """255x = 127.5 in the middle, and fractions of both signs around it: p is 1/2 exactly."""
        moved = torch.tensor([0.0005, -0.0005, 0.001, -0.001, 0.0, 0.0003, -0.0003, 0.004, -0.004])
        # Differences from 0.5 that float32 holds, so that the two of a pair are opposite.
        image = 0.5 + (moved * 2**20).round() / 2**20
        found = self.false_certificates(image.reshape(1, 3, 3), None)
        test = stats.binomtest(found, self.STREAMS, self.ALPHA, alternative="greater")
        assert test.pvalue > FALSE_ALARM
        assert found > 0.5 * self.ALPHA * self.STREAMS, "else the test could not fail"

    def test_just_below_one_half(self) -> None:
        image = torch.full((1, 3, 3), np.nextafter(np.float32(0.5), np.float32(0)))
        found = self.false_certificates(image, 1)
        test = stats.binomtest(found, self.STREAMS, self.ALPHA, alternative="greater")
        assert test.pvalue > FALSE_ALARM
        assert found > 0.2 * self.ALPHA * self.STREAMS, "else the test could not fail"


@pytest.mark.parametrize(
    ("shape", "copies"), [((1, 8, 8), 50), ((3, 32, 32), 50), ((3, 64, 64), 12), ((3, 224, 224), 4)]
)
def test_a_chunk_of_large_images_is_about_a_forward_pass(
    shape: tuple[int, ...], copies: int
) -> None:
    assert chunk_size(shape) == copies
    assert copies <= forward_size(shape[1] * shape[2], torch.device("cpu"))
