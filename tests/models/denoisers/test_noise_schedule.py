"""levels.py: noise levels and timesteps, against models whose answer is known in closed form.

For Gaussian data x0 ~ N(m, d²), the posterior mean given y = x0 + s * noise is
(d² y + s² m) / (d² + s²), and an ideal network of any parametrisation must lead to it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from denoised_smoothing.errors import ImageError, SettingError, WeightsError
from denoised_smoothing.models.denoisers.diffusion import DiffusionDenoiser, ReverseDiffusion
from denoised_smoothing.models.denoisers.noise_schedule import (
    Prediction,
    VariancePreserving,
    levels_of,
)

diffusers = pytest.importorskip("diffusers")
MEAN, SPREAD = -0.1, 0.4
"""Of the data in [-1, 1]."""
SIGMAS = (0.02, 0.05, 0.1, 0.12, 0.25, 0.37, 0.5, 0.75, 1.0, 1.5)
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")


def posterior_mean(y: Tensor, s: Tensor) -> Tensor:
    """E[x0 | y]."""
    return (SPREAD**2 * y + s**2 * MEAN) / (SPREAD**2 + s**2)


class IdealVP(torch.nn.Module):
    """The ideal network of a DDPM on that data; it computes from x_t and t alone.

    Between timesteps, log √((1−ᾱ)/ᾱ) is linear in t.
    """

    def __init__(self, alphas: Tensor, prediction: str) -> None:
        super().__init__()
        self.logs = 0.5 * ((1 - alphas.double()) / alphas.double()).log().numpy()
        self.prediction = prediction

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        s = np.exp(np.interp(time.double().numpy(), np.arange(len(self.logs)), self.logs))
        alpha = torch.from_numpy(1 / (1 + s**2)).reshape(-1, 1, 1, 1)  # ᾱ
        x = x.double()
        variance = alpha * SPREAD**2 + 1 - alpha
        clean = MEAN + alpha.sqrt() * SPREAD**2 / variance * (x - alpha.sqrt() * MEAN)
        noise = (x - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        answers = {"epsilon": noise, "sample": clean, "v_prediction": velocity}
        return answers[self.prediction].float()


class IdealEDM(torch.nn.Module):
    """The ideal network of EDM on that data, solved from D = c_skip y + c_out F."""

    def __init__(self, data: float, sign: int) -> None:
        super().__init__()
        self.data, self.sign = data, sign

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        s = (4 * time.double()).exp().reshape(-1, 1, 1, 1)
        y = x.double() * (s**2 + self.data**2).sqrt()
        skip = self.data**2 / (s**2 + self.data**2)
        out = self.sign * s * self.data / (s**2 + self.data**2).sqrt()
        return ((posterior_mean(y, s) - skip * y) / out).float()


def ideal_vp(scheduler: str, schedule: str, prediction: str) -> DiffusionDenoiser:
    made = getattr(diffusers, scheduler)(beta_schedule=schedule, prediction_type=prediction)
    network = IdealVP(made.alphas_cumprod, prediction)
    return DiffusionDenoiser(network, levels_of(made, whole=False))


def noisy_images(sigma: float) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    clean = (1 + MEAN + SPREAD * torch.randn(4, 3, 6, 6, generator=generator)) / 2
    return clean + sigma * torch.randn(clean.shape, generator=generator)


def expected(noisy: Tensor, sigma: float) -> Tensor:
    return (posterior_mean(2 * noisy.double() - 1, torch.tensor(2 * sigma)) + 1) / 2


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", Prediction)
def test_one_step_is_the_posterior_mean(prediction: str, schedule: str) -> None:
    denoiser = ideal_vp("DDPMScheduler", schedule, prediction)
    for sigma in SIGMAS:
        noisy = noisy_images(sigma)
        torch.testing.assert_close(
            denoiser(noisy, sigma).double(), expected(noisy, sigma), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"])
def test_other_schedulers_of_the_same_process(scheduler: str) -> None:
    denoiser = ideal_vp(scheduler, "linear", "epsilon")
    noisy = noisy_images(0.25)
    torch.testing.assert_close(
        denoiser(noisy, 0.25).double(), expected(noisy, 0.25), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(("prediction", "sign"), [("epsilon", 1), ("v_prediction", -1)])
def test_one_step_of_edm_is_the_posterior_mean(prediction: str, sign: int) -> None:
    scheduler = diffusers.EDMEulerScheduler(prediction_type=prediction)
    denoiser = DiffusionDenoiser(IdealEDM(0.5, sign), levels_of(scheduler, whole=False))
    for sigma in SIGMAS:
        noisy = noisy_images(sigma)
        torch.testing.assert_close(
            denoiser(noisy, sigma).double(), expected(noisy, sigma), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm_agrees_with_what_diffusers_does(prediction: str) -> None:
    scheduler = diffusers.EDMEulerScheduler(prediction_type=prediction)
    levels, s = levels_of(scheduler, whole=False), torch.full((2, 1, 1, 1), 0.7)
    y, output = torch.randn(2, 2, 3, 4, 4)
    scaled, time = levels.inputs(y, s)
    torch.testing.assert_close(scaled, scheduler.precondition_inputs(y, 0.7))
    torch.testing.assert_close(time[:1], scheduler.precondition_noise(0.7))
    torch.testing.assert_close(
        levels.estimate(y, s, output), scheduler.precondition_outputs(y, output, 0.7)
    )


@pytest.mark.parametrize("prediction", Prediction)
def test_ddpm_agrees_with_what_diffusers_does(prediction: str) -> None:
    """At a timestep, the estimate is the ``pred_original_sample`` of the scheduler's step."""
    scheduler = diffusers.DDPMScheduler(prediction_type=prediction, clip_sample=False)
    step = 300
    alpha = scheduler.alphas_cumprod[step]
    s = ((1 - alpha) / alpha).sqrt().expand(2, 1, 1, 1)
    y, output = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    levels = levels_of(scheduler, whole=False)
    scaled, time = levels.inputs(y, s)
    assert time.tolist() == pytest.approx([step, step], abs=1e-2)
    theirs = scheduler.step(output, step, scaled).pred_original_sample
    torch.testing.assert_close(levels.estimate(y, s, output), theirs, rtol=1e-4, atol=1e-4)


def test_levels_and_timesteps() -> None:
    scheduler = diffusers.DDPMScheduler()
    levels = levels_of(scheduler, whole=False)
    assert isinstance(levels, VariancePreserving)
    alphas = scheduler.alphas_cumprod.double()
    table = ((1 - alphas) / alphas).sqrt()
    steps = torch.tensor([0, 1, 17, 500, 998, 999])
    found = levels.timestep(table[steps].float())
    torch.testing.assert_close(found, steps.float(), rtol=0, atol=2e-3)
    between = levels.timestep((table[400] * table[401]).sqrt().float().reshape(1))
    assert float(between) == pytest.approx(400.5, abs=2e-3)
    whole = levels_of(scheduler, whole=True)
    assert whole.timestep((table[400] * 1.001).float().reshape(1)).tolist() == [400]  # type: ignore[attr-defined]


def test_a_schedule_that_ends_without_signal_loses_its_last_level() -> None:
    scheduler = diffusers.DDPMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    levels = levels_of(scheduler, whole=False)
    assert np.isfinite(levels.largest)


def test_the_second_half_of_learned_variance_is_left_out() -> None:
    class Learned(IdealVP):
        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            return torch.cat([super().forward(x, time), torch.full_like(x, 9)], dim=1)

    scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    network = Learned(scheduler.alphas_cumprod, "epsilon")
    denoiser = DiffusionDenoiser(network, levels_of(scheduler, whole=False))
    noisy = noisy_images(0.5)
    torch.testing.assert_close(
        denoiser(noisy, 0.5).double(), expected(noisy, 0.5), rtol=0, atol=1e-4
    )


def test_each_image_may_have_its_own_sigma() -> None:
    denoiser = ideal_vp("DDPMScheduler", "linear", "epsilon")
    noisy, sigmas = noisy_images(0.5), torch.tensor([0.1, 0.25, 0.5, 1.0])
    together = denoiser(noisy, sigmas)
    for index, sigma in enumerate(sigmas.tolist()):
        alone = denoiser(noisy[index : index + 1], sigma)
        torch.testing.assert_close(together[index : index + 1], alone)


class TestSteps:
    def test_many_steps_follow_the_probability_flow(self) -> None:
        """For Gaussian data the flow keeps (y - m) / √(d² + s²), so it ends at a known image."""
        scheduler = diffusers.DDPMScheduler()
        network = IdealVP(scheduler.alphas_cumprod, "epsilon")
        noisy = noisy_images(0.5)
        y = 2 * noisy - 1
        end = MEAN + (y - MEAN) * SPREAD / (SPREAD**2 + 1.0) ** 0.5
        errors = []
        for steps in (1, 10, 100):
            reverse = ReverseDiffusion(steps=steps)
            denoiser = DiffusionDenoiser(
                network, levels_of(scheduler, whole=False), reverse=reverse
            )
            assert denoiser.model_calls == steps
            errors.append(float((denoiser(noisy, 0.5) - (end + 1) / 2).abs().max()))
        assert errors[0] > 5 * errors[1] > 25 * errors[2]
        assert errors[2] < 1e-2

    def test_the_network_is_called_as_often_as_priced(self) -> None:
        calls: list[Tensor] = []

        class Counting(IdealVP):
            def forward(self, x: Tensor, time: Tensor) -> Tensor:
                calls.append(time)
                return super().forward(x, time)

        scheduler = diffusers.DDPMScheduler()
        network = Counting(scheduler.alphas_cumprod, "epsilon")
        reverse = ReverseDiffusion(steps=3, samples=4)
        denoiser = DiffusionDenoiser(network, levels_of(scheduler, whole=False), reverse=reverse)
        samples = list(denoiser.denoise_samples(noisy_images(0.5), 0.5))
        assert len(samples) == denoiser.samples == 4
        assert len(calls) == denoiser.model_calls == 12
        times = [float(time[0]) for time in calls[:3]]
        assert times == sorted(times, reverse=True)

    def test_samples_have_noise_of_their_own_that_comes_back_and_is_the_same_for_all(self) -> None:
        scheduler = diffusers.DDPMScheduler()
        network = IdealVP(scheduler.alphas_cumprod, "epsilon")

        def samples(noisy: Tensor, seed: int = 0) -> list[Tensor]:
            reverse = ReverseDiffusion(steps=3, samples=2, seed=seed)
            made = DiffusionDenoiser(network, levels_of(scheduler, whole=False), reverse=reverse)
            return list(made.denoise_samples(noisy, 0.5))

        noisy = noisy_images(0.5)
        first, second = samples(noisy)
        assert not torch.equal(first, second)
        assert torch.equal(first, samples(noisy)[0])
        assert not torch.equal(first, samples(noisy, seed=1)[0])
        torch.testing.assert_close(samples(noisy[2:3])[0], first[2:3])

    def test_many_steps_draw_from_the_posterior(self) -> None:
        """Mean and variance of the end, over 400 samples on one pixel's noisy value.

        The standard error of the mean is 0.02 standard deviations and that of the variance
        0.07 of it; refused are 5 of them.
        """
        scheduler = diffusers.DDPMScheduler()
        network = IdealVP(scheduler.alphas_cumprod, "epsilon")
        reverse = ReverseDiffusion(steps=40, samples=25)
        denoiser = DiffusionDenoiser(network, levels_of(scheduler, whole=False), reverse=reverse)
        noisy = torch.full((1, 1, 10, 10), 0.6)
        ends = torch.stack(list(denoiser.denoise_samples(noisy, 0.5))).flatten()
        mean = float(expected(noisy, 0.5).mean())
        variance = SPREAD**2 / (SPREAD**2 + 1) / 4
        assert float(ends.mean()) == pytest.approx(mean, abs=0.1 * variance**0.5)
        assert float(ends.var()) == pytest.approx(variance, rel=0.25)

    def test_samples_of_one_step_are_refused(self) -> None:
        with pytest.raises(
            SettingError, match=r"samples of 1 step are all equal, .* got samples=3"
        ):
            ReverseDiffusion(samples=3)
        with pytest.raises(SettingError, match="must be at least 1"):
            ReverseDiffusion(steps=0)


class TestRefused:
    @pytest.mark.parametrize("sigma", [0.004, 80.0])
    def test_a_sigma_out_of_range(self, sigma: float) -> None:
        denoiser = ideal_vp("DDPMScheduler", "linear", "epsilon")
        said = r"range of this diffusion model, 0\.005001 to 78\.7, got"
        with pytest.raises(SettingError, match=said):
            denoiser(noisy_images(0.5), sigma)

    def test_an_image_of_another_size(self) -> None:
        scheduler = diffusers.DDPMScheduler()
        network = IdealVP(scheduler.alphas_cumprod, "epsilon")
        denoiser = DiffusionDenoiser(network, levels_of(scheduler, whole=False), size=32)
        with pytest.raises(ImageError, match=r"32x32 pixels, .* got 6x6\. .*--resolution 32"):
            denoiser(noisy_images(0.5), 0.5)

    def test_a_process_that_is_not_known(self) -> None:
        with pytest.raises(
            WeightsError, match=r"levels of FlowMatchEulerDiscreteScheduler .* unknown"
        ):
            levels_of(diffusers.FlowMatchEulerDiscreteScheduler(), whole=False)

    def test_a_prediction_that_is_not_known(self) -> None:
        scheduler = diffusers.DDPMScheduler()
        scheduler.register_to_config(prediction_type="score")
        with pytest.raises(WeightsError, match=r"must be one of epsilon, sample, .*got 'score'"):
            levels_of(scheduler, whole=False)
