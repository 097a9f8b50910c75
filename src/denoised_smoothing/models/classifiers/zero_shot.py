"""Zero-shot classifiers of transformers, such as CLIP and SigLIP, with a list of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from denoised_smoothing.errors import SpecError, WeightsError, raised_as
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.transformers import load_model, with_processor
from denoised_smoothing.models.hub import model_folder
from denoised_smoothing.models.sources import ZERO_SHOT
from denoised_smoothing.models.specs import Spec

TEMPLATE = "a photo of a {}"
"""The default sentence about a label (Radford et al. 2021, section 3.1.4)."""


def load_zero_shot(named: str, labels: Sequence[str], template: str = TEMPLATE) -> ImageClassifier:
    """Load a classifier whose logits are the similarities of images and labels.

    The labels are embedded once. An image costs one pass of the image encoder.

    Args:
        named: as of :func:`.load_transformers`.
        labels: K names; the k-th is the text of logit k.
        template: the sentence about a label, which replaces ``{}``.

    Raises:
        SpecError: the template has no ``{}``.
        WeightsError, SettingError, ImportError: as :func:`.load_transformers`.
    """
    import transformers

    if "{}" not in template:
        raise SpecError(
            f"a template must contain {{}}, got {template!r}. Write {{}} for the label."
        )
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

    remedy = "Save the model's processor to the same folder, with its save_pretrained."
    with raised_as(WeightsError, f"{named} has no tokenizer", remedy):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    # SigLIP was trained on padded sentences. CLIP ignores tokens after the end.
    length = getattr(model.config.text_config, "max_position_embeddings", None)
    tokens = tokenizer(
        sentences, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    if len({tuple(row) for row in tokens["input_ids"].tolist()}) < len(set(sentences)):
        raise WeightsError(
            f"the tokenizer of {named} maps different labels to equal tokens, because its "
            "vocabulary is missing. Save the model's processor there, with its save_pretrained."
        )
    if "siglip" in model.config.model_type:
        tokens.pop("attention_mask", None)
    with torch.inference_mode():
        texts = functional.normalize(_features(model.get_text_features(**tokens)), dim=-1)
    return texts.clone()


def _features(answer: Any) -> Tensor:
    """Return the projected features of transformers 5 or an earlier version."""
    features: Tensor = answer if isinstance(answer, Tensor) else answer.pooler_output
    return features


def load_spec(spec: Spec) -> ImageClassifier:
    """Return the model of a spec."""
    labels = spec.names("labels")
    if labels is None:
        raise SpecError(
            f"{spec.text!r} names no labels. Write {ZERO_SHOT.form}, in quotes in a shell."
        )
    return load_zero_shot(spec.rest, labels, spec.options.get("template", TEMPLATE))
