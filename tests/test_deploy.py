"""What is there to copy fits the program: its commands, its settings, and the formats it is written in."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from runner.cli import main
from runner.settings import ENV_PREFIX, Settings

DEPLOY = Path(__file__).parents[1] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
FOREIGN = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "POSTGRES_PASSWORD", "POSTGRES_USER"}


def containers() -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield the containers of our image: name, arguments, and the names of their variables."""
    compose: Any = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        if service["image"] == "scenario-runner":
            yield name, service["command"], list(service["environment"])
    for item in yaml.safe_load_all((DEPLOY / "kubernetes" / "scenario-runner.yaml").read_text()):
        if item["kind"] in ("Deployment", "StatefulSet"):
            [container] = item["spec"]["template"]["spec"]["containers"]
            yield item["metadata"]["name"], container["args"], [entry["name"] for entry in container["env"]]


def check_command(arguments: list[str]) -> None:
    """Parse arguments as the program does, and run nothing."""
    group: Any = main
    with click.Context(group) as context:
        name, command, rest = group.resolve_command(context, arguments)
        command.make_context(name, rest, parent=context)


def check_variable(name: str) -> None:
    assert name.startswith(ENV_PREFIX), name
    model: Any = Settings
    for part in name.removeprefix(ENV_PREFIX).lower().split("__"):
        field = model.model_fields[part]
        model = field.annotation


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_s_command_is_one(unit: Path) -> None:
    [command] = re.findall(r"^ExecStart=\S+/scenario-runner (.*)$", unit.read_text(), re.MULTILINE)
    check_command(command.split())


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_is_never_given_up_for_good(unit: Path) -> None:
    # Started again too often systemd leaves it alone, and a database may be away for longer.
    assert {"Restart=always", "StartLimitIntervalSec=0"} <= set(unit.read_text().splitlines())


@pytest.mark.parametrize("name", ["api.env", "worker.env"])
def test_variables_of_the_units_are_settings(name: str) -> None:
    lines = (DEPLOY / "systemd" / name).read_text().splitlines()
    names = [line.lstrip("# ").partition("=")[0] for line in lines if re.match(r"(# )?[A-Z_]+=", line)]
    assert names
    for variable in names:
        check_variable(variable)


@pytest.mark.parametrize(("name", "arguments", "variables"), containers(), ids=lambda value: str(value)[:20])
def test_a_container_s_command_and_variables_are_known(name: str, arguments: list[str], variables: list[str]) -> None:
    check_command(arguments)
    for variable in set(variables) - FOREIGN:
        check_variable(variable)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    program = shutil.which("true")
    for unit in UNITS:
        text = re.sub(r"^ExecStart=\S+", f"ExecStart={program}", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    paths = [str(tmp_path / unit.name) for unit in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_pod_s_disk_can_be_written_by_the_image_s_user() -> None:
    user = re.search(r"^USER (\d+)$", (DEPLOY / "container" / "Containerfile").read_text(), re.MULTILINE)
    items = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "scenario-runner.yaml").read_text()))
    (pods,) = [item["spec"]["template"]["spec"] for item in items if item["kind"] == "StatefulSet"]
    assert user is not None and pods["securityContext"]["fsGroup"] == int(user[1])


def test_an_image_holds_what_the_package_is_built_from() -> None:
    text = (DEPLOY / "container" / "Containerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()}
    assert copied == {"requirements.lock", "pyproject.toml", "README.md", "LICENSE", "bots", "runner", "config"}
    assert all((DEPLOY.parent / name).exists() for name in copied)
