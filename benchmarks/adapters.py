"""Processor time of the adapters, compared with the bare model's forward pass.

Models of ordinary size with random weights. Each is compared with its own network on images that
were normalised before. The two take turns, because machines are shared: compare the ratios.

    python benchmarks/adapters.py [--rounds 15] [--batch 8]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoised_smoothing import load_classifier
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.onnx import OnnxClassifier

Pair = tuple[Callable[[Tensor], Any], Callable[[Tensor], Any], tuple[int, int]]


def of_modules(spec: str, side: int) -> Pair:
    """Return an adapter that is a module, and its network on normalised images."""
    classifier = load_classifier(spec)
    assert isinstance(classifier, ImageClassifier)
    network = classifier.network
    return classifier, getattr(network, "model", network), (side, side)


def vit(folder: Path) -> str:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 224, "width": 224}).save_pretrained(folder)
    return f"hf:{folder}"


def small_resnet(folder: Path) -> str:
    from denoised_smoothing.models.classifiers.cifar_resnet import CifarResNet, save_cifar_resnet

    network = ImageClassifier(CifarResNet(20), [0.5] * 3, [0.25] * 3, resolution=32)
    save_cifar_resnet(folder / "resnet20.safetensors", network, {})
    return f"cifar-resnet20:{folder}/resnet20.safetensors"


def onnx_pair(path: Path) -> Pair:
    """Return an ONNX file of three convolutions through the adapter and through its session."""
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    widths = (3, 64, 64, 64)
    nodes, weights, last = [], [], "images"
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        kernel = random.normal(size=(outputs, inputs, 3, 3)).astype(np.float32) / 20
        weights.append(numpy_helper.from_array(kernel, f"kernel{index}"))
        names = [last, f"kernel{index}"]
        nodes.append(helper.make_node("Conv", names, [f"c{index}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        last = f"r{index}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["logits"]))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [value("images", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [value("logits", TensorProto.FLOAT, ["n", 64])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def bare(images: Tensor) -> Any:
        return session.run(None, {"images": images.numpy()})

    classifier = load_classifier(f"onnx:{path}?mean=0.5,0.5,0.5&std=0.25,0.25,0.25")
    assert isinstance(classifier, OnnxClassifier)
    return classifier, bare, (64, 64)


def pairs(folder: Path) -> dict[str, Pair]:
    """Return adapter, bare network and image size by name."""
    (folder / "vit").mkdir()
    return {
        "torchvision resnet18": of_modules("torchvision:resnet18:none", 224),
        "timm resnet18": of_modules("timm:resnet18:none", 224),
        "transformers ViT-S/16": of_modules(vit(folder / "vit"), 224),
        "CIFAR ResNet-20": of_modules(small_resnet(folder), 32),
        "ONNX, 3 convolutions of 64": onnx_pair(folder / "small.onnx"),
    }


def measured(
    adapter: Callable[..., Any], bare: Callable[..., Any], images: Tensor, rounds: int
) -> tuple[float, float]:
    """Return processor seconds of the bare network and the ratio of turns, as medians."""
    seconds: list[float] = []
    ratios = []
    for turn in range(rounds + 1):
        times = []
        for function in (bare, adapter) if turn % 2 else (adapter, bare):
            began = time.process_time()
            function(images)
            times.append(time.process_time() - began)
        first, second = times if turn % 2 else reversed(times)
        if turn:
            seconds.append(first)
            ratios.append(second / first)
    return statistics.median(seconds), statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {arguments.batch}\n"
    )
    print("| | bare, ms | adapter |")
    print("| --- | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for name, (adapter, bare, size) in pairs(Path(folder)).items():
            images = torch.rand(arguments.batch, 3, *size)
            seconds, ratio = measured(adapter, bare, images, arguments.rounds)
            print(f"| {name} | {1000 * seconds:.1f} | {100 * (ratio - 1):+.1f} % |")


if __name__ == "__main__":
    main()
