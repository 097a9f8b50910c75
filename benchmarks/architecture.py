"""What a reader has to pass: rooms, arrows, circles, lines, and functions called by one request.

    python benchmarks/architecture.py            # the package that is installed
    python benchmarks/architecture.py --only certify

A room is a package or module directly below ``denoised_smoothing``. A function counts once,
however often it is called, in any thread of the process; comprehensions, generator expressions
and lambdas do not count. Each scenario runs in a process of its own, on the first call.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import denoised_smoothing

ROOT = Path(denoised_smoothing.__file__).parent
PACKAGE = "denoised_smoothing"
LONG = 400


def room_of(path: Path) -> str:
    """The first part of a path in the package, without ``.py``."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def record(call: Callable[[], Any]) -> set[CodeType]:
    """The functions of the package that a call passes, in all threads."""
    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            seen.add(frame.f_code)

    threading.setprofile_all_threads(note) if hasattr(
        threading, "setprofile_all_threads"
    ) else threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    here = str(ROOT)
    return {
        code
        for code in seen
        if code.co_filename.startswith(here)
        and not code.co_name.startswith("<")
        and code.co_flags & 0x02  # a function with locals of its own, not the body of a class
    }


def certify() -> set[CodeType]:
    """``SmoothedClassifier.certify(image)`` of a digit, with the white-box denoiser."""
    from denoised_smoothing import (
        SmoothedClassifier,
        load_classifier,
        load_dataset,
        load_denoiser,
    )

    smoothed = SmoothedClassifier(
        load_classifier("digits"), sigma=0.5, denoiser=load_denoiser("digits-stability")
    )
    image = load_dataset("digits")[0].image
    return record(lambda: smoothed.certify(image, n0=100, n=1000))


def _main(*arguments: str) -> Callable[[], None]:
    from denoised_smoothing.cli import main

    import_module(f"denoised_smoothing.cli.{arguments[0]}")  # makes the options of the command

    def call() -> None:
        try:
            main(list(arguments))
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"{arguments} ended with {end.code}") from None

    return call


def _folder(folder: Path) -> Path:
    """Two classes of two digits each, as PNG files."""
    import numpy as np
    from PIL import Image

    from denoised_smoothing import load_dataset

    dataset = load_dataset("digits")
    for index in range(4):
        example = dataset[index]
        target = folder / "images" / f"class{index % 2}"
        target.mkdir(parents=True, exist_ok=True)
        levels = np.rint(example.image[0] * 255).astype("uint8")
        Image.fromarray(levels).save(target / f"{index}.png")
    return folder / "images"


def folder() -> set[CodeType]:
    """``certify folder:`` from the command line."""
    with tempfile.TemporaryDirectory() as made:
        images = _folder(Path(made))
        return record(
            _main(
                "certify", f"folder:{images}", "--classifier", "digits", "--denoiser",
                "digits-stability", "--sigma", "0.5", "--n", "1000", "--engine", "torch",
                "--store", f"{made}/runs.sqlite",
            )
        )  # fmt: skip


def paid() -> set[CodeType]:
    """``certify folder:`` with a remote classifier that is simulated."""
    with tempfile.TemporaryDirectory() as made:
        images = _folder(Path(made))
        return record(
            _main(
                "certify", f"folder:{images}", "--classifier", "simulated", "--denoiser",
                "digits-mse", "--sigma", "0.5", "--n", "200", "--engine", "torch", "--yes",
                "--store", f"{made}/runs.sqlite",
            )
        )  # fmt: skip


def web() -> set[CodeType]:
    """A certificate over HTTP, without the start of the service."""
    from fastapi.testclient import TestClient

    from denoised_smoothing import Store
    from denoised_smoothing.certificates.parameters import EngineName
    from denoised_smoothing.web.app import create_app
    from denoised_smoothing.web.served import ServedModels, ServedNames
    from denoised_smoothing.web.service import Service

    with tempfile.TemporaryDirectory() as made, Store(f"{made}/runs.sqlite") as store:
        service = Service(ServedModels(ServedNames(engine=EngineName.TORCH)), store)
        with TestClient(create_app(service), base_url="http://127.0.0.1:8000") as client:
            request = {"example": "0", "n": 200, "denoiser": "white box (stability)", "sigma": 0.5}

            def call() -> None:
                reply = client.post("/v1/certificates", json=request)
                if reply.status_code != 200:
                    raise RuntimeError(reply.text)

            return record(call)


SCENARIOS = {"certify": certify, "folder": folder, "paid": paid, "web": web}


def measure(name: str) -> dict[str, Any]:
    """Functions by room, of one scenario."""
    codes = SCENARIOS[name]()
    rooms = Counter(room_of(Path(code.co_filename)) for code in codes)
    return {"functions": len(codes), "rooms": len(rooms), "by_room": dict(rooms.most_common())}


def structure() -> dict[str, Any]:
    """Rooms, arrows, circles and lines, from the imports as text."""
    import grimp

    graph = grimp.build_graph(PACKAGE, cache_dir=None)  # lazy and TYPE_CHECKING imports count
    imports = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
    room = {m: m.partition(".")[2].partition(".")[0] for m in imports}
    arrows = {(room[a], room[b]) for a in imports for b in imports[a] if room[a] != room[b]}
    inner = {(a, b) for a, b in arrows if a not in ("", "__main__")}
    try:
        TopologicalSorter(imports).prepare()
        circle = None
    except CycleError as error:
        circle = error.args[1]
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines())
        for path in ROOT.rglob("*.py")
    }
    return {
        "rooms": len(set(room.values()) - {"", "__main__"}),
        "arrows": len(inner),
        "arrows_with_init": len(arrows),
        "circle": circle,
        "lines": sum(lengths.values()),
        "long": {name: length for name, length in lengths.items() if length > LONG},
    }


def main() -> None:
    """Print all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SCENARIOS)
    only = parser.parse_args().only
    if only:
        print(json.dumps(measure(only)))
        return
    found = {"structure": structure()}
    for name in SCENARIOS:
        command = [sys.executable, "-W", "ignore", __file__, "--only", name]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        found[name] = json.loads(lines[-1]) if done.returncode == 0 else done.stderr[-2000:]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
