"""serve."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.cli.options import Device, Engine, StoreUrl
from denoised_smoothing.cli.output import err
from denoised_smoothing.errors import MissingExtraError, SettingError

KEY_VARIABLE = "DENOISED_SMOOTHING_API_KEY"


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    store: StoreUrl = "runs.sqlite",
    classifier: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SPEC", show_default="the demo's", help="May be repeated."),
    ] = None,
    denoiser: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SPEC", show_default="the demo's", help="May be repeated."),
    ] = None,
    bundle: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="May be repeated.")
    ] = None,
    sigma: Annotated[
        list[float] | None,
        typer.Option(show_default="0.25, 0.5", help="Noise levels on offer; may be repeated."),
    ] = None,
    examples: Annotated[
        str | None,
        typer.Option(metavar="DATA", show_default="the demo's", help="Images on offer."),
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Side of the images, for classifiers that do not say it.")
    ] = None,
    max_copies: Annotated[int, typer.Option(help="The most noisy copies of a request.")] = 100_000,
    queue: Annotated[int, typer.Option(help="The most requests on their way.")] = 128,
    client_queue: Annotated[int, typer.Option(help="The same of one client.")] = 64,
    client_rate: Annotated[int, typer.Option(help="Requests of one client in a minute.")] = 600,
    max_megabytes: Annotated[int, typer.Option(help="The largest request.")] = 10,
    max_pixels: Annotated[int, typer.Option(help="The largest image.")] = 25_000_000,
    grace: Annotated[int, typer.Option(help="Seconds for requests when it is stopped.")] = 10,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name by which it is called; may be repeated."),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help=f"File with the key that requests need; without it, {KEY_VARIABLE} is read.",
            show_default=False,
        ),
    ] = None,
    no_api_key: Annotated[
        bool, typer.Option("--no-api-key", help="Let everybody in who reaches the address.")
    ] = False,
    device: Device = "auto",
    engine: Engine = EngineName.AUTO,
) -> None:
    """The page on which it can be seen, and the service behind it."""
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
            f"listening on {host} lets other machines in, and needs a key: name a file with "
            f"--api-key-file, or set {KEY_VARIABLE}; or let everybody in with --no-api-key"
        )
    own = bool(classifier or bundle)
    asked = ServedNames(
        classifiers=pairs("--classifier", classifier) if own else ServedNames().classifiers,
        denoisers=pairs("--denoiser", denoiser) if own or denoiser else ServedNames().denoisers,
        bundles=pairs("--bundle", bundle),
        sigmas=tuple(sigma or ServedNames().sigmas),
        examples=examples or (None if own else ServedNames().examples),
        resolution=resolution,
        engine=engine,
        device=device,
    )
    bounds = Limits(max_copies, queue, client_queue, client_rate, max_megabytes, max_pixels, grace)
    hosts = frozenset((*LOOPBACK, host, *(allow_host or ()))) if local or allow_host else None
    with closing(listen(host, port)) as socket, Store(store) as opened:
        service = Service(ServedModels(asked), opened, bounds)
        url = f"http://{host}:{socket.getsockname()[1]}/"
        err.print(f"{url} (stop with Ctrl-C)", markup=False, soft_wrap=True)
        answer(service, socket, Access(hosts, key))


def read_key(file: Path | None) -> str | None:
    """The key that requests need, from a file or the environment; None where there is none.

    Raises:
        SettingError: the file cannot be read, or the key is short.
    """
    try:
        text = os.environ.get(KEY_VARIABLE) if file is None else file.read_text("utf-8")
    except OSError as error:
        raise SettingError(
            f"the file of the API key {str(file)!r} cannot be read ({error.strerror})"
        ) from error
    key = None if text is None else text.strip()
    if key is not None and len(key) < 16:
        raise SettingError(
            f"an API key of {len(key)} characters can be guessed; take at least 16, such as those "
            "of: openssl rand -hex 24"
        )
    return key


def pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """``NAME=SPEC`` by name; a spec alone is its own name.

    Raises:
        SettingError: a name occurs twice.
    """
    found: dict[str, str] = {}
    for text in given or ():
        name, named, spec = text.partition("=")
        if not named or ":" in name:  # of options of the spec: onnx:model.onnx?mean=0.5
            name, spec = text, text
        if name in found:
            raise SettingError(f"{option} {name!r} is there twice; give each a name of its own")
        found[name] = spec
    return found
