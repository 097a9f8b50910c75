"""The command ``serve``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from denoised_smoothing.cli.grouped import Take, command, option_group
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import StoreUrl, require
from denoised_smoothing.cli.output import err, say
from denoised_smoothing.errors import SettingError
from denoised_smoothing.web.limits import Limits

KEY_VARIABLE = "DENOISED_SMOOTHING_API_KEY"
_data, _access = option_group("Data and model"), option_group("Access")
_served = partial(_data, metavar="NAME=SPEC", show_default="those of digits")


@dataclass(frozen=True)
class ServeOptions:
    """The options of this command alone."""

    host: str = _access("Address to listen on.", default="127.0.0.1")
    port: int = _access("Port to listen on.", default=8000, min=0, max=65535)
    allow_host: list[str] | None = _access(
        "Accept requests for this host name. Repeat for several.", metavar="NAME"
    )
    api_key_file: Path | None = _access(
        f"File with the key that requests need. Without it, {KEY_VARIABLE} is read.",
        show_default=False,
    )
    no_api_key: bool = _access(
        "Accept requests of other machines without a key.", "--no-api-key", default=False
    )
    classifier: list[str] | None = _served("Serve this classifier. Repeat for several.")
    denoiser: list[str] | None = _served("Serve this denoiser. Repeat for several.")
    bundle: list[str] | None = _data(
        "Serve this bundle. Repeat for several.", metavar="NAME=FOLDER"
    )
    sigma: list[float] | None = _data(
        "Serve this sigma. Repeat for several.", show_default="0.25, 0.5", length=True
    )
    examples: str | None = _data(
        "Example images of the page.", metavar="DATA", show_default="digits"
    )
    resolution: int | None = _data("Side of the images in pixels, if no model states it.")


@command()
def serve(
    options: ServeOptions,
    bounds: Annotated[Limits, Take(panel="Limits")],
    model: Annotated[ModelOptions, Take(("device", "engine"))],
    store: StoreUrl = "runs.sqlite",
) -> None:
    """Start the web page and the HTTP API.

    Example: denoised-smoothing serve --port 8000

    Requests are stored in --store. docs/deploy.md shows how to serve other machines.
    """
    packages = ("fastapi", "limits", "prometheus_client", "python_multipart", "uvicorn")
    require("web", "the service", *packages)
    from denoised_smoothing.store import Store
    from denoised_smoothing.web.security import LOOPBACK, Access
    from denoised_smoothing.web.served import ServedModels, ServedNames
    from denoised_smoothing.web.server import listen
    from denoised_smoothing.web.server import serve as answer
    from denoised_smoothing.web.service import Service

    key, host = read_key(options.api_key_file), options.host
    local = host in LOOPBACK
    if not local and key is None and not options.no_api_key:
        raise SettingError(
            f"--host {host} accepts other machines, which needs a key. Add --api-key-file FILE "
            f"or set {KEY_VARIABLE}. To accept requests without a key, add --no-api-key."
        )
    own, demo = bool(options.classifier or options.bundle), ServedNames()
    denoisers = pairs("--denoiser", options.denoiser)
    names = ServedNames(
        classifiers=pairs("--classifier", options.classifier) if own else demo.classifiers,
        denoisers=denoisers if own or denoisers else demo.denoisers,
        bundles=pairs("--bundle", options.bundle),
        sigmas=tuple(options.sigma or demo.sigmas),
        examples=options.examples or (None if own else demo.examples),
        resolution=options.resolution,
        engine=model.engine,
        device=model.device,
    )
    hosts = None
    if local or options.allow_host:
        hosts = frozenset((*LOOPBACK, host, *(options.allow_host or ())))
    with closing(listen(host, options.port)) as socket, Store(store) as opened:
        service = Service(ServedModels(names), opened, bounds)
        url = f"http://{host}:{socket.getsockname()[1]}/"
        say(f"{url} (stop with Ctrl-C)", err)
        answer(service, socket, Access(hosts, key))


def read_key(file: Path | None) -> str | None:
    """Return the key that requests need, from a file or the environment, or None.

    Raises:
        SettingError: the file cannot be read, or the key is too short.
    """
    try:
        text = os.environ.get(KEY_VARIABLE) if file is None else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not in UTF-8"
        raise SettingError(
            f"Cannot read the API key file {str(file)!r}: {reason}. "
            "Give --api-key-file the path of a readable text file."
        ) from error
    key = None if text is None else text.strip()
    if key is not None and len(key) < 16:
        raise SettingError(
            f"The API key must have at least 16 characters, got {len(key)}. "
            "Create one with: openssl rand -hex 24"
        )
    return key


def pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """Return specs by name. ``NAME=SPEC`` gives the name; a spec alone is its own name.

    Raises:
        SettingError: a name or a spec is empty, or a name occurs twice.
    """
    found: dict[str, str] = {}
    for text in given or ():
        name, named, spec = text.partition("=")
        if not named or ":" in name:  # of options of the spec: onnx:model.onnx?mean=0.5
            name, spec = text, text
        if not (name and spec):
            raise SettingError(f"{option} must be NAME=SPEC or SPEC, both not empty, got {text!r}.")
        if name in found:
            raise SettingError(
                f"{option} got the name {name!r} twice. Give each a different name: NAME=SPEC."
            )
        found[name] = spec
    return found
