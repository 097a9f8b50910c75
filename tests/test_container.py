"""Dockerfile and compose file: what can be checked of them without building."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from denoised_smoothing.cli import app

REPOSITORY = Path(__file__).parents[1]
GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = {
    name: GROUP.get_command(typer.Context(GROUP), name) for name in GROUP.commands
}
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def read(name: str) -> str:
    path = REPOSITORY / name
    if not path.exists():
        pytest.skip(f"there is no {name} beside the tests")
    return path.read_text(encoding="utf-8")


def settings() -> dict[str, str]:
    """The variables of ``.env.example``."""
    lines = (line.partition("=") for line in read(".env.example").splitlines() if line[:1] != "#")
    return {name: value for name, _, value in lines}


@pytest.fixture
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(read("compose.yaml"))["services"]
    return found


def parse(command: list[str]) -> dict[str, Any]:
    """Return the options of a command as the command line understands it, without running it."""
    name, *arguments = command
    if name not in COMMANDS:
        pytest.skip(f"the command {name} is not there")
    options: dict[str, Any] = COMMANDS[name].make_context(name, list(arguments)).params
    return options


class TestDockerfile:
    def test_installs_extras_that_exist(self) -> None:
        [extras] = re.findall(r"^ARG EXTRAS=(\S+)$", read("Dockerfile"), re.MULTILINE)
        project = tomllib.loads(read("pyproject.toml"))["project"]
        assert set(extras.split(",")) <= project["optional-dependencies"].keys()
        assert {"web", "postgresql"} <= set(extras.split(","))
        assert settings()["EXTRAS"] == extras
        assert f"${{EXTRAS:-{extras}}}" in read("compose.yaml")

    def test_copies_what_is_there_and_is_not_ignored(self) -> None:
        copied = " ".join(
            re.findall(r"^COPY (?!--from)(.+) \S+$", read("Dockerfile"), re.M)
        ).split()
        kept = [line[1:] for line in read(".dockerignore").splitlines() if line[:1] == "!"]
        assert "src" in copied
        for name in copied:
            assert (REPOSITORY / name).exists()
            assert any(fnmatch(name, pattern) for pattern in kept)

    def test_serves_as_an_ordinary_user(self) -> None:
        lines = read("Dockerfile").splitlines()
        [user] = [line for line in lines if line.startswith("USER ")]
        [entry] = [line for line in lines if line.startswith("ENTRYPOINT ")]
        [command] = [line for line in lines if line.startswith("CMD ")]
        assert int(user.split()[1].split(":")[0]) >= 1000
        assert json.loads(entry.removeprefix("ENTRYPOINT ")) == ["denoised-smoothing"]
        assert "/healthz" in read("Dockerfile").partition("HEALTHCHECK")[2]
        parse(json.loads(command.removeprefix("CMD ")))


class TestCompose:
    def test_every_service_is_hardened(self, services: dict[str, Any]) -> None:
        assert services.keys() == {"service", "database"}
        for service in services.values():
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]
            assert "privileged" not in service

    def test_is_reached_from_this_machine_alone(self, services: dict[str, Any]) -> None:
        assert services["service"]["ports"] == ["127.0.0.1:8000:8000"]
        assert "ports" not in services["database"]

    def test_waits_for_a_database_that_says_it_is_well(self, services: dict[str, Any]) -> None:
        assert services["service"]["depends_on"]["database"]["condition"] == "service_healthy"
        assert services["database"]["healthcheck"]["test"][1] == "pg_isready"

    def test_secrets_come_from_the_environment(self, services: dict[str, Any]) -> None:
        secrets = [
            value
            for service in services.values()
            for name, value in service["environment"].items()
            if re.search("KEY|PASSWORD", name)
        ]
        assert len(secrets) == 3
        for value in secrets:
            found = VARIABLE.fullmatch(value)
            assert found is not None
            assert found[2] == "?"  # it does not start without
            assert settings()[found[1]] == ""

    def test_variables_are_in_the_example(self, services: dict[str, Any]) -> None:
        used = {found[1]: found for found in VARIABLE.finditer(read("compose.yaml"))}
        assert used.keys() == settings().keys()
        for name, found in used.items():
            assert found[2] == "?" or found[3] == settings()[name]

    def test_the_service_is_told_what_it_understands(self, services: dict[str, Any]) -> None:
        options = parse(services["service"]["command"])
        assert options["store"].startswith("postgresql+psycopg://")
        assert options["host"] == "0.0.0.0"
