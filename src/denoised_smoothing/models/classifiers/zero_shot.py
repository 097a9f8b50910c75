"""Zero-shot classifiers: CLIP, SigLIP and others of transformers, with a list of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from denoised_smoothing.errors import SpecError, WeightsError
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.transformers import load_model, with_processor
from denoised_smoothing.models.hub import model_folder
from denoised_smoothing.models.specs import Source, Spec

TEMPLATE = "a photo of a {}"
"""What is made of a label, unless another template is given (Radford et al. 2021, 3.1.4)."""


def load_zero_shot(named: str, labels: Sequence[str], template: str = TEMPLATE) -> ImageClassifier:
    """A classifier whose logits are the similarities of images and labels.

    The labels are embedded once; an image costs one pass of the image encoder.

    Args:
        named: a folder that ``save_pretrained`` of model and processor wrote, or ``OWNER/NAME``
            on the hub, fetched once.
        labels: K names; the k-th is the text of logit k.
        template: the sentence about a label, which takes the place of ``{}``.

    Raises:
        SpecError: the template has no ``{}``.
        WeightsError: it cannot be had, or is of another kind.
        SettingError: as :func:`.load_transformers`.
        ImportError: transformers is not installed.
    """
    import transformers

    if "{}" not in template:
        raise SpecError(f"the template needs {{}} where the label goes, got {template!r}")
    folder = model_folder(named, holds="config.json")
    model = load_model(transformers.AutoModelForZeroShotImageClassification, folder, named)
    texts = _embedded(model, folder, named, [template.format(label) for label in labels])
    return with_processor(_Similarity(model, texts), model.config, folder, named, labels)


class _Similarity(nn.Module):
    """Images to logits: scaled cosines with embedded texts (Radford et al. 2021, Figure 3)."""

    def __init__(self, model: Any, texts: Float[Tensor, "k d"]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("texts", texts)

    texts: Tensor

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        features = functional.normalize(_features(self.model.get_image_features(images)), dim=-1)
        logits: Tensor = features @ self.texts.T * self.model.logit_scale.exp()
        bias = getattr(self.model, "logit_bias", None)
        return logits if bias is None else logits + bias


def _embedded(model: Any, folder: Path, named: str, sentences: list[str]) -> Float[Tensor, "k d"]:
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{named} holds no tokenizer ({str(error).strip().partition(chr(10))[0]}); save the "
            "model's processor into the same folder, with its save_pretrained"
        ) from error
    # SigLIP was trained on padded sentences; to CLIP, what follows the end makes no difference.
    length = getattr(model.config.text_config, "max_position_embeddings", None)
    tokens = tokenizer(
        sentences, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    if len({tuple(row) for row in tokens["input_ids"].tolist()}) < len(set(sentences)):
        raise WeightsError(
            f"the tokenizer of {named} makes the same of different labels: its vocabulary is not "
            "in the folder; save the model's processor there, with its save_pretrained"
        )
    if "siglip" in model.config.model_type:
        tokens.pop("attention_mask", None)
    with torch.inference_mode():
        texts = functional.normalize(_features(model.get_text_features(**tokens)), dim=-1)
    return texts.clone()


def _features(answer: Any) -> Tensor:
    """The projected features, in the form of transformers 5 or before."""
    features: Tensor = answer if isinstance(answer, Tensor) else answer.pooler_output
    return features


def _load(spec: Spec) -> ImageClassifier:
    labels = spec.names("labels")
    if labels is None:
        raise SpecError(
            f"{spec.text!r} names no labels; write {SOURCE.form}, with quotes around it in a shell"
        )
    return load_zero_shot(spec.rest, labels, spec.options.get("template", TEMPLATE))


SOURCE = Source(
    _load,
    "zero-shot:NAME-OR-FOLDER?labels=CAT,DOG,...",
    "CLIP and SigLIP of transformers, with your labels",
    options=("labels", "template"),
    package="transformers",
    extra="hf",
)
