"""All that needs a GPU, in one call: tests, throughput, trainings, tables.

    python benchmarks/gpu.py --data FOLDER [--output FOLDER] [--budget SECONDS] [--only NAME]

Run it in the root of the repository. The table `Plan.parts` names the parts, each a command with a
time limit. A part's output goes to OUTPUT/NAME.txt while it runs. How it ended is appended to
OUTPUT/results.jsonl at once: `done`, `failed`, or `stopped` by a limit or by Ctrl-C. Repeat the
call to continue: what is done is not done again, and trainings and tables resume. A part whose
files are missing waits. The exit code is 0 if all parts are done.

FOLDER of --data holds cifar10/{train,test}.parquet, cifar10_classifiers/resnet{20,56}.safetensors,
photos/{train,validation}.parquet and imagenet/test.parquet. `--device cpu` tries the script
without a GPU, with a few steps and images.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parts import Part, execute, listing, say

SCALE = "quick"
"""The scale of the table for photographs. Trained denoisers lie where `experiment` finds them."""


@dataclass(frozen=True)
class Training:
    """The training of a denoiser for photographs, as options of `train`.

    Args:
        steps: at share 1.
        start: name of the denoiser to start from, or None.
        through: spec of the classifier that stability trains through, or None.
    """

    name: str
    options: str
    steps: int
    start: str | None = None
    through: str | None = None


LITE0, LITE1 = "efficientnet-lite0", "efficientnet-lite1"
_STABILITY = "--objective stability --sigma 0.1 --sigma-max 1.0 --crop 224 --epoch-steps 250"
_OURS = (
    "--objective stability --target features --sigma 0.05 --sigma-max 1.0 --spacing linear "
    "--crop 128 --anchor 30 --batch-size 64 --learning-rate 1e-3 --ema 0.99 --epoch-steps 500"
)
_MSE = "--weighting variance --spacing linear --sigma 0.05 --sigma-max 1.0"
TRAININGS = (
    Training(
        "photo-mse",
        f"--objective mse {_MSE} --crop 128 --batch-size 64 --learning-rate 1.5e-3",
        steps=12_000,
    ),
    Training(
        "photo-surrogate",
        _OURS,
        steps=8_000,
        start="photo-mse",
        through=LITE1,
    ),
    Training(
        "photo-efficientnet-lite0",
        _OURS,
        steps=8_000,
        start="photo-mse",
        through=LITE0,
    ),
    Training(
        "photo-stability",
        f"{_STABILITY} --target label --batch-size 128 --learning-rate 2e-4",
        steps=6_000,
        through=LITE0,
    ),
    Training(
        "photo-hybrid",
        f"{_STABILITY} --target label --batch-size 128 --learning-rate 2e-4",
        steps=3_000,
        start="photo-mse",
        through=LITE0,
    ),
)
"""Ours, then the published objectives."""


@dataclass(frozen=True)
class Plan:
    """The parts for one folder of data, one folder of results and one device.

    Args:
        share: of the steps of a training.
        small: a few steps and images, to try the commands.
    """

    data: Path
    output: Path
    device: str = "cuda"
    share: float = 1.0
    small: bool = False

    @property
    def parts(self) -> list[Part]:
        """All parts, those first whose results others need."""
        *ours, stability, hybrid = map(self.training, TRAININGS)
        names = [training.name for training in TRAININGS]
        return [
            self.tests(),
            *map(self.throughput, ("photo", "unet", "dncnn")),
            *ours,
            self.photo_table("imagenet", names[:3]),
            stability,
            hybrid,
            self.photo_table("imagenet-published", names),
            self.cifar10_table(),
        ]

    def tests(self) -> Part:
        """Return the tests of the suite that name CUDA."""
        files = sorted(map(str, Path("tests").rglob("test_*.py")))
        found = tuple(file for file in files if "cuda" in Path(file).read_text("utf-8"))
        if self.small:
            found = ("tests/test_noise.py",)
        options = "-m pytest -q -p no:cacheprovider -k cuda --continue-on-collection-errors"
        return Part("tests", python(*split(options), *found), limit=150, needs=("tests",))

    def throughput(self, pipeline: str) -> Part:
        """Return the measurement of one pipeline."""
        script = str(Path(__file__).with_name("throughput.py"))
        command = python(script, "--pipeline", pipeline, "--device", self.device)
        if self.small:
            command += split("--rounds 1 --seconds 0.1 --n 20 --engines torch --forwards eager")
        return Part(f"throughput-{pipeline}", command, limit=180)

    def training(self, training: Training) -> Part:
        """Return the training of a denoiser for photographs."""
        photos = [self.file(f"photos/{split}.parquet") for split in ("train", "validation")]
        needs, steps = list(photos), max(1, round(training.steps * self.share))
        command = package("train", f"parquet:{photos[0]}", "--validation", f"parquet:{photos[1]}")
        command += split(f"--architecture multiscale-unet --scale 0.5 {training.options}")
        command += "--steps", str(steps)
        if training.through is not None:
            command += "--classifier", training.through
        if training.start is not None:
            command += "--start", self.denoiser(training.start)
            needs.append(self.denoiser(training.start))
        if self.device == "cuda":
            command += split(f"--accelerator gpu --precision bf16-mixed --workers {cores()}")
        else:
            command += split("--accelerator cpu")
        if self.small:  # the last of two equal options counts
            command += split("--steps 2 --batch-size 2 --crop 64 --validation-limit 2")
        command += "--half", "--output", self.denoiser(training.name)
        return Part(
            training.name,
            command,
            limit=300,
            needs=tuple(needs),
            makes=self.denoiser(training.name),
        )

    def photo_table(self, name: str, denoisers: Sequence[str]) -> Part:
        """Return the certified accuracy of EfficientNet-Lite0 without and with these denoisers."""
        test, train = self.file("imagenet/test.parquet"), self.file("photos/train.parquet")
        command = package("experiment", "imagenet", "--data", f"parquet:{test}", "--stride", "1")
        command += "--classifier", LITE0, "--surrogate", LITE1
        command += "--train-data", f"parquet:{train}", "--scale", SCALE
        command += "--training-share", f"{self.share:g}"  # for the note of the table
        for row in ("none", *denoisers):
            command += "--row", row
        needs = (test, train, *map(self.denoiser, denoisers))
        return self.table(name, command, "imagenet", "0.25,0.5,1.0", needs)

    def cifar10_table(self) -> Part:
        """Return the table of the paper for ResNet-56, at full scale."""
        train, test = (self.file(f"cifar10/{split}.parquet") for split in ("train", "test"))
        white, black = (
            self.file(f"cifar10_classifiers/resnet{depth}.safetensors") for depth in (56, 20)
        )
        command = package("experiment", "cifar10", "--data", f"parquet:{test}")
        command += "--train-data", f"parquet:{train}", "--scale", "full"
        command += "--classifier", f"cifar-resnet56:{white}"
        command += "--surrogate", f"cifar-resnet20:{black}"
        needs = (train, test, white, black)
        return self.table("cifar10", command, "cifar10", "0.25,0.5,1.0", needs)

    def table(
        self, name: str, command: tuple[str, ...], folder: str, sigmas: str, needs: tuple[str, ...]
    ) -> Part:
        """Return a table on this device. It resumes from the store in its folder."""
        command += "--device", self.device, "--engine", "torch"
        if self.device == "cuda":
            command += split("--precision bfloat16 --train-precision bf16-mixed")
        sigmas = "0.25" if self.small else sigmas
        command += "--sigmas", sigmas, "--output", str(self.output / folder)
        if self.small:
            command += split("--limit 2 --max-n 20")
        return Part(name, command, limit=600, needs=needs)

    def file(self, name: str) -> str:
        """Return the path of a file of the data."""
        return str(self.data / name)

    def denoiser(self, name: str) -> str:
        """Return the file of a trained denoiser, where `experiment` looks for it."""
        return str(self.output / "imagenet" / f"denoisers-{SCALE}" / f"{name}.safetensors")


def python(*arguments: str) -> tuple[str, ...]:
    """Return a command of this Python."""
    return (sys.executable, *arguments)


def package(*arguments: str) -> tuple[str, ...]:
    """Return a command of the package."""
    return python("-m", "denoised_smoothing", *arguments)


def split(options: str) -> tuple[str, ...]:
    """Return the words of options."""
    return tuple(shlex.split(options))


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name(device: str) -> str:
    """Return the name of the GPU, or "cpu".

    Raises:
        SystemExit: there is no CUDA device.
    """
    import torch

    if device == "cpu":
        return device
    if not torch.cuda.is_available():
        raise SystemExit(
            "There is no CUDA device here. Use --device cpu to try the script with a few steps "
            "and images."
        )
    return torch.cuda.get_device_name()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    parser.add_argument("--output", type=Path, help="folder of the results")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--budget", type=float, help="seconds for all parts")
    parser.add_argument("--only", action="append", metavar="NAME", help="part; repeat for several")
    parser.add_argument("--share", type=float, default=1.0, help="share of the training steps")
    parser.add_argument(
        "--small", action="store_true", help="a few steps and images; always on CPU"
    )
    parser.add_argument("--list", action="store_true", help="print the parts, and run none")
    arguments = parser.parse_args()
    small = arguments.small or arguments.device == "cpu"
    output = arguments.output or Path("build/gpu-small" if small else "build/gpu")
    plan = Plan(arguments.data, output, arguments.device, arguments.share, small)
    names = [part.name for part in plan.parts]
    if unknown := [name for name in arguments.only or () if name not in names]:
        parser.error(f"there is no part {unknown[0]!r}. Use one of: {', '.join(names)}.")
    parts = [part for part in plan.parts if part.name in (arguments.only or names)]
    if arguments.list:
        say("\n".join(listing(parts, output)))
        return
    name = device_name(arguments.device)
    # Also where the shell ignores Ctrl-C for commands in the background, and for `timeout`.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        complete = execute(parts, output, budget=arguments.budget, device=name)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(0 if complete else 1)


if __name__ == "__main__":
    main()
