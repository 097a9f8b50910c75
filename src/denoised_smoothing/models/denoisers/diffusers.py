"""Diffusion models from folders in the layout of diffusers, and from the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from denoised_smoothing.errors import SpecError, WeightsError, raised_as
from denoised_smoothing.models.denoisers.diffusion import CARD, DiffusionDenoiser, ReverseDiffusion
from denoised_smoothing.models.denoisers.noise_schedule import levels_of
from denoised_smoothing.models.hub import model_folder
from denoised_smoothing.models.specs import Spec


def load_diffusion(named: str, reverse: ReverseDiffusion | None = None) -> DiffusionDenoiser:
    """Load an unconditional pixel diffusion model of diffusers, in evaluation mode.

    Args:
        named: a folder with ``model_index.json``, as ``save_pretrained`` of a pipeline writes,
            or ``OWNER/NAME`` on the hub, downloaded once.
        reverse: steps and samples.

    Raises:
        WeightsError: the model is not available, is conditional, works on latents, or has a
            scheduler of unknown levels.
        ImportError: diffusers is not installed.
    """
    import diffusers

    folder = model_folder(named, holds="model_index.json")
    unet = _loaded(diffusers, _part(folder, "unet", "config.json"), named, "UNet2DModel")
    place = _part(folder, "scheduler", "scheduler_config.json")
    scheduler = _loaded(diffusers, place, named, _class_name(place / "scheduler_config.json"))
    channels, size = unet.config.in_channels, unet.config.sample_size
    if unet.config.class_embed_type or unet.config.num_class_embeds or channels not in (1, 3):
        raise WeightsError(
            f"a denoiser must be an unconditional model of 1 or 3 channels, got {named} with "
            f"{channels} channels"
            f"{' and classes' if unet.config.num_class_embeds else ''}. Use another model."
        )
    clips = scheduler.config.get("clip_sample", False)
    with raised_as(WeightsError, f"cannot use the scheduler of {named}", "Use another model."):
        levels = levels_of(scheduler, whole=unet.config.time_embedding_type == "learned")
        clip = float(scheduler.config.get("clip_sample_range", 1.0)) if clips else None
    denoiser = DiffusionDenoiser(
        unet,
        levels,
        image_channels=channels,
        size=size if isinstance(size, int) else None,
        clip=clip,
        reverse=reverse,
        scheduler=scheduler,
    )
    denoiser.card = read_card(folder) if (folder / CARD).is_file() else {}
    return denoiser.eval()


def read_card(folder: Path) -> dict[str, str]:
    """Return the card of a diffusion model that was trained by this package.

    Raises:
        WeightsError: the file of the card is damaged.
    """
    path = folder / CARD
    with raised_as(WeightsError, f"cannot read {path}", "Copy it again, or remove it."):
        return dict(json.loads(path.read_text(encoding="utf-8")))


def _part(folder: Path, name: str, file: str) -> Path:
    """Return the folder of a part of a pipeline: its own, or that of the index."""
    return folder / name if (folder / name / file).is_file() else folder


def _class_name(path: Path) -> str:
    with raised_as(WeightsError, f"cannot read {path}", "Save the whole pipeline again."):
        return str(json.loads(path.read_text(encoding="utf-8"))["_class_name"])


def _loaded(library: Any, folder: Path, named: str, kind: str) -> Any:
    """Load a part of a pipeline from its folder, without the hub."""
    file = "config.json" if kind == "UNet2DModel" else "scheduler_config.json"
    stated, loader = _class_name(folder / file), getattr(library, kind, None)
    if stated != kind or loader is None:
        raise WeightsError(
            f"a diffusion denoiser needs an unconditional UNet2DModel and a scheduler that this "
            f"version of diffusers knows, got {stated} in {named}. Use another model."
        )
    options = {"low_cpu_mem_usage": False, "output_loading_info": True}
    what = f"cannot load the {kind} of {named}"
    with raised_as(WeightsError, what, "Download or save the pipeline again."):
        if kind != "UNet2DModel":
            return loader.from_pretrained(folder, local_files_only=True)
        unet, report = loader.from_pretrained(folder, local_files_only=True, **options)
    if report["missing_keys"]:
        raise WeightsError(
            f"{named} has no weights for {', '.join(sorted(report['missing_keys'])[:3])}. Download "
            "or save the pipeline again."
        )
    return unet


def load_spec(spec: Spec) -> DiffusionDenoiser:
    """Return the model of a spec."""
    if votes := spec.options.get("votes"):  # the old name
        raise SpecError(f"{spec.text!r}: votes is now samples. Write samples={votes}.")
    seed = spec.options.get("seed", "0")
    if not seed.isdecimal():
        raise SpecError(f"{spec.text!r}: seed must be a whole number, got {seed!r}. Use seed=0.")
    reverse = ReverseDiffusion(spec.number("steps", 1), spec.number("samples", 1), int(seed))
    return load_diffusion(spec.rest, reverse)
