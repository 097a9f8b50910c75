"""Small models with random weights, saved to a folder as their libraries do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

SIDE = 32


def save_timm(folder: Path, **config: Any) -> Any:
    """A ResNet of timm with 4 classes for 32x32 images, which it crops from 36."""
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=4, in_chans=config.pop("channels", 3))
    names = config.pop("label_names", ["cat", "dog", "fox", "owl"])
    data = {"input_size": (model.pretrained_cfg["input_size"][0], SIDE, SIDE), "crop_pct": 0.89}
    data |= {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "interpolation": "bicubic"}
    if "in_chans" in data or model.conv1[0].in_channels != 3:
        data |= {"input_size": (model.conv1[0].in_channels, SIDE, SIDE)}
        data |= {"mean": (0.5,), "std": (0.25,)}
    save_for_hf(
        model,
        str(folder),
        model_config={"label_names": names} if names else {},
        safe_serialization=True,
        data_config=data | config,
    )
    return model.eval()


def vit_config(**changes: Any) -> Any:
    from transformers import ViTConfig

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    names = {"id2label": dict(enumerate(["cat", "dog", "fox", "owl"]))}
    arguments = {"image_size": SIDE, "patch_size": 8, "num_attention_heads": 2}
    return ViTConfig(**{**sizes, **names, **arguments, **changes})


def save_vit(folder: Path, processor: Any = None, **changes: Any) -> Any:
    """A ViT of transformers with 4 classes for 32x32 images."""
    from transformers import ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    model = ViTForImageClassification(vit_config(**changes)).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(20)
    model.save_pretrained(folder)
    if processor is not False:
        size = {"height": SIDE, "width": SIDE}
        (processor or ViTImageProcessor(size=size)).save_pretrained(folder)
    return model


def save_convnext(folder: Path, side: int = SIDE) -> Any:
    """A ConvNeXt, whose processor scales by a share and crops below 384 pixels."""
    from transformers import ConvNextConfig, ConvNextForImageClassification, ConvNextImageProcessor

    torch.manual_seed(0)
    config = ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_labels=4)
    model = ConvNextForImageClassification(config).eval()
    model.save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": side}, crop_pct=0.875).save_pretrained(folder)
    return model


def save_clip(folder: Path) -> Any:
    """A CLIP with a tokenizer of letters."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTokenizer,
    )

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    tokenizer = CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[])
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            **sizes, **ends, "vocab_size": len(tokens), "num_attention_heads": 2,
            "max_position_embeddings": 40,
        },
        vision_config={**sizes, "image_size": SIDE, "patch_size": 8, "num_attention_heads": 2},
        projection_dim=16,
    )  # fmt: skip
    model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    crop = {"height": SIDE, "width": SIDE}
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=crop)
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return model


def save_siglip(folder: Path) -> Any:
    """A SigLIP with a tokenizer of letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SiglipConfig,
        SiglipImageProcessor,
        SiglipModel,
    )

    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<unk>", *letters])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>", model_max_length=24
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = SiglipConfig(
        text_config={
            **sizes, "vocab_size": len(vocabulary), "num_attention_heads": 2,
            "max_position_embeddings": 24, "projection_size": 32,
        },
        vision_config={**sizes, "image_size": SIDE, "patch_size": 8, "num_attention_heads": 2},
    )  # fmt: skip
    model = SiglipModel(config).eval()
    model.save_pretrained(folder)
    SiglipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def save_onnx(
    path: Path,
    shape: tuple[int | str, ...] = ("batch", 3, "height", "width"),
    *,
    labels: bool = False,
    half: bool = False,
) -> None:
    """Means of a convolution's features, times a matrix: 4 logits, or the best label."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    number = np.float16 if half else np.float32
    last = shape[-1] == 3
    weights = {
        "kernel": random.normal(size=(8, 3 if last else shape[1], 3, 3)),
        "matrix": random.normal(size=(8, 4)),
    }
    nodes = [
        helper.make_node("Conv", ["planes", "kernel"], ["features"]),
        helper.make_node("Relu", ["features"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
    ]
    if last:
        nodes.insert(0, helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]))
    else:
        nodes.insert(0, helper.make_node("Identity", ["images"], ["planes"]))
    outputs = [helper.make_tensor_value_info("logits", kind, [shape[0], 4])]
    if labels:
        nodes.append(helper.make_node("ArgMax", ["logits"], ["labels"], axis=1, keepdims=0))
        outputs = [helper.make_tensor_value_info("labels", TensorProto.INT64, [shape[0]])]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", kind, list(shape))],
        outputs,
        [numpy_helper.from_array(value.astype(number), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
