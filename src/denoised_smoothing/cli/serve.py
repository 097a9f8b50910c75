"""The command ``serve``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

from denoised_smoothing.cli.grouped import Take, command
from denoised_smoothing.cli.model_options import ModelOptions
from denoised_smoothing.cli.options import StoreUrl, in_data, option_group
from denoised_smoothing.cli.output import err, say
from denoised_smoothing.errors import MissingExtraError, SettingError

KEY_VARIABLE = "DENOISED_SMOOTHING_API_KEY"
_limit = option_group("Limits")
_access = option_group("Access")


@command()
def serve(
    model: Annotated[ModelOptions, Take(("device", "engine"))],
    host: Annotated[str, _access("Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, _access("Port to listen on.", min=0, max=65535)] = 8000,
    store: StoreUrl = "runs.sqlite",
    classifier: Annotated[
        list[str] | None,
        in_data(
            "Serve this classifier. Repeat for several.",
            metavar="NAME=SPEC",
            show_default="the demo's",
        ),
    ] = None,
    denoiser: Annotated[
        list[str] | None,
        in_data(
            "Serve this denoiser. Repeat for several.",
            metavar="NAME=SPEC",
            show_default="the demo's",
        ),
    ] = None,
    bundle: Annotated[
        list[str] | None,
        in_data("Serve this exported bundle. Repeat for several.", metavar="NAME=FOLDER"),
    ] = None,
    sigma: Annotated[
        list[float] | None,
        in_data("Serve this sigma. Repeat for several.", show_default="0.25, 0.5"),
    ] = None,
    examples: Annotated[
        str | None,
        in_data("Example images of the page.", metavar="DATA", show_default="the demo's"),
    ] = None,
    resolution: Annotated[
        int | None, in_data("Side of the images in pixels, for classifiers that do not state it.")
    ] = None,
    max_copies: Annotated[int, _limit("Maximum number of noisy copies per request.")] = 100_000,
    queue: Annotated[int, _limit("Maximum number of pending requests.")] = 128,
    client_queue: Annotated[int, _limit("Maximum number of pending requests per client.")] = 64,
    client_rate: Annotated[int, _limit("Maximum requests per client and minute.")] = 600,
    max_megabytes: Annotated[int, _limit("Maximum size of a request in megabytes.")] = 10,
    max_pixels: Annotated[int, _limit("Maximum number of pixels of an image.")] = 25_000_000,
    grace: Annotated[int, _limit("Seconds that pending requests get when the server stops.")] = 10,
    allow_host: Annotated[
        list[str] | None,
        _access("Accept requests for this host name. Repeat for several.", metavar="NAME"),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        _access(
            f"File with the key that requests need. Without it, {KEY_VARIABLE} is read.",
            show_default=False,
        ),
    ] = None,
    no_api_key: Annotated[
        bool, _access("Accept requests of other machines without a key.", "--no-api-key")
    ] = False,
) -> None:
    """Start the web page and the HTTP API.

    Example: denoised-smoothing serve --port 8000

    Requests are stored in --store. docs/deploy.md shows how to serve other machines.
    """
    try:
        import fastapi  # noqa: F401
        import limits  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "web", "the service") from error
    from denoised_smoothing.store import Store
    from denoised_smoothing.web.limits import Limits
    from denoised_smoothing.web.security import LOOPBACK, Access
    from denoised_smoothing.web.served import ServedModels, ServedNames
    from denoised_smoothing.web.server import listen
    from denoised_smoothing.web.server import serve as answer
    from denoised_smoothing.web.service import Service

    key = read_key(api_key_file)
    local = host in LOOPBACK
    if not local and key is None and not no_api_key:
        raise SettingError(
            f"--host {host} accepts other machines, which needs a key. Add --api-key-file FILE "
            f"or set {KEY_VARIABLE}. To accept requests without a key, add --no-api-key."
        )
    own = bool(classifier or bundle)
    names = ServedNames(
        classifiers=pairs("--classifier", classifier) if own else ServedNames().classifiers,
        denoisers=pairs("--denoiser", denoiser) if own or denoiser else ServedNames().denoisers,
        bundles=pairs("--bundle", bundle),
        sigmas=tuple(sigma or ServedNames().sigmas),
        examples=examples or (None if own else ServedNames().examples),
        resolution=resolution,
        engine=model.engine,
        device=model.device,
    )
    bounds = Limits(max_copies, queue, client_queue, client_rate, max_megabytes, max_pixels, grace)
    hosts = frozenset((*LOOPBACK, host, *(allow_host or ()))) if local or allow_host else None
    with closing(listen(host, port)) as socket, Store(store) as opened:
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
    except OSError as error:
        raise SettingError(
            f"Cannot read the API key file {str(file)!r}: {error.strerror}. "
            "Give --api-key-file the path of a readable file."
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
        SettingError: a name occurs twice.
    """
    found: dict[str, str] = {}
    for text in given or ():
        name, named, spec = text.partition("=")
        if not named or ":" in name:  # of options of the spec: onnx:model.onnx?mean=0.5
            name, spec = text, text
        if name in found:
            raise SettingError(
                f"{option} got the name {name!r} twice. Give each a different name: NAME=SPEC."
            )
        found[name] = spec
    return found
