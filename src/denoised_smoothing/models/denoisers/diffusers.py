"""Diffusion models from folders in the layout of diffusers, and from the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from denoised_smoothing.errors import SpecError, WeightsError
from denoised_smoothing.models.denoisers.diffusion import CARD, DiffusionDenoiser, ReverseDiffusion
from denoised_smoothing.models.denoisers.noise_schedule import levels_of
from denoised_smoothing.models.hub import model_folder
from denoised_smoothing.models.specs import Source, Spec


def load_diffusion(named: str, walk: ReverseDiffusion | None = None) -> DiffusionDenoiser:
    """An unconditional pixel diffusion model of diffusers, in evaluation mode.

    Args:
        named: a folder with ``model_index.json``, as ``save_pretrained`` of a pipeline writes,
            or ``OWNER/NAME`` on the hub, fetched once.
        walk: steps and votes.

    Raises:
        WeightsError: it cannot be had, is conditional, works on latents, or has a scheduler
            whose levels are not known.
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
            f"{named} is a model of {channels} channels"
            f"{' that wants a class' if unet.config.num_class_embeds else ''}; as a denoiser, it "
            "must work on pixels of 1 or 3 channels and on them alone"
        )
    clips = scheduler.config.get("clip_sample", False)
    denoiser = DiffusionDenoiser(
        unet,
        levels_of(scheduler, whole=unet.config.time_embedding_type == "learned"),
        image_channels=channels,
        size=size if isinstance(size, int) else None,
        clip=scheduler.config.get("clip_sample_range", 1.0) if clips else None,
        walk=walk,
        scheduler=scheduler,
    )
    card = folder / CARD
    denoiser.card = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
    return denoiser.eval()


def _part(folder: Path, name: str, file: str) -> Path:
    """Where a part of a pipeline is: in a folder of its own, or beside the index."""
    return folder / name if (folder / name / file).is_file() else folder


def _class_name(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path} cannot be read ({error}); save the whole pipeline again"
        ) from error


def _loaded(library: Any, folder: Path, named: str, kind: str) -> Any:
    """A part of a pipeline, from its folder alone.

    Raises:
        WeightsError: it is of another kind, unknown, or not whole.
    """
    file = "config.json" if kind == "UNet2DModel" else "scheduler_config.json"
    stated, loader = _class_name(folder / file), getattr(library, kind, None)
    if stated != kind or loader is None:
        raise WeightsError(
            f"{named} holds a {stated}; a diffusion denoiser is an unconditional UNet2DModel that "
            "works on pixels, with a scheduler that this version of diffusers knows"
        )
    options = {"low_cpu_mem_usage": False, "output_loading_info": True}
    try:
        if kind != "UNet2DModel":
            return loader.from_pretrained(folder, local_files_only=True)
        unet, report = loader.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise WeightsError(
            f"the {kind} of {named} cannot be loaded "
            f"({str(error).strip().partition(chr(10))[0]}); fetch or save the pipeline again"
        ) from error
    if report["missing_keys"]:
        raise WeightsError(
            f"{named} holds no weights for {', '.join(sorted(report['missing_keys'])[:3])}; fetch "
            "or save the pipeline again"
        )
    return unet


def _load(spec: Spec) -> DiffusionDenoiser:
    seed = spec.options.get("seed", "0")
    if not seed.isdecimal():
        raise SpecError(f"{spec.text!r}: seed must be a whole number, got {seed!r}")
    walk = ReverseDiffusion(spec.number("steps", 1), spec.number("votes", 1), int(seed))
    return load_diffusion(spec.rest, walk)


SOURCE = Source(
    _load,
    "diffusers:NAME-OR-FOLDER[?steps=N&votes=N]",
    "diffusion models of diffusers",
    options=("steps", "votes", "seed"),
    package="diffusers",
    extra="diffusion",
)
