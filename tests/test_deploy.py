"""What is there to copy fits the program: its commands, its settings, and the formats it is written in."""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.licences import IMAGES, closure
from runner.settings import ENV_PREFIX
from tests.command_line import check_command, check_variable

PROJECT = Path(__file__).parents[1]
DEPLOY = PROJECT / "deploy"
CONTAINERFILE = (DEPLOY / "container" / "Containerfile").read_text()
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMPOSE = ["compose.yaml", "compose.worker.yaml"]
KUBERNETES = ["record.yaml", "scenario-runner.yaml"]
LOCKS = ["build.lock", "server.lock", "worker.lock"]
OURS = {"scenario-runner": "server", "scenario-runner-worker": "worker"}
"""Our images, and the target each is built of."""

FOREIGN = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
NOT_FOR_WORKERS = {"aiosqlite", "alembic", "dbos", "fastapi", "obstore", "psycopg", "psycopg-binary", "sqlalchemy"}


@dataclass
class Container:
    """A container of ours, however it is written down."""

    name: str
    image: str
    arguments: list[str]
    env: dict[str, str]
    of: dict[str, Any]
    pod: dict[str, Any] = field(default_factory=dict)

    @property
    def is_worker(self) -> bool:
        return self.arguments[0] == "worker"


def composed() -> Iterator[Container]:
    for file in COMPOSE:
        services = yaml.safe_load((DEPLOY / "container" / file).read_text())["services"]
        for name, service in services.items():
            if service["image"] in OURS:
                yield Container(
                    f"{file}: {name}", service["image"], service["command"], service["environment"], service
                )


def items(*kinds: str) -> list[dict[str, Any]]:
    found = [item for file in KUBERNETES for item in yaml.safe_load_all((DEPLOY / "kubernetes" / file).read_text())]
    return [item for item in found if not kinds or item["kind"] in kinds]


def in_pods() -> Iterator[Container]:
    for item in items("Pod", "Deployment", "StatefulSet"):
        pod = item["spec"] if item["kind"] == "Pod" else item["spec"]["template"]["spec"]
        [container] = pod["containers"]
        arguments = container.get("args") or container["command"]
        env = {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}
        yield Container(item["metadata"]["name"], container["image"], arguments, env, container, pod)


CONTAINERS = [*composed(), *in_pods()]
SERVING = [container for container in CONTAINERS if container.arguments[0] != "sleep"]
WORKERS = [container for container in SERVING if container.is_worker]


def each(containers: list[Container]) -> Any:
    return pytest.mark.parametrize("container", containers, ids=lambda container: container.name)


def variables(file: str) -> dict[str, str]:
    """Return what a file of variables sets, or has commented out."""
    lines = (DEPLOY / "systemd" / file).read_text().splitlines()
    found = [re.fullmatch(r"(?:# )?([A-Z_]+)=(.*)", line) for line in lines]
    return {match[1]: match[2].strip("'") for match in found if match}


def settings_of(unit: Path) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))


def drain_limit_s(arguments: list[str]) -> float:
    return check_command(arguments)["drain_limit_s"]


def command_of(unit: Path) -> list[str]:
    [command] = re.findall(r"^ExecStart=\S+/scenario-runner (.*)$", unit.read_text(), re.MULTILINE)
    return command.split()


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_s_command_is_one(unit: Path) -> None:
    check_command(command_of(unit))


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_is_never_given_up_for_good(unit: Path) -> None:
    # Started again too often systemd leaves it alone, and a database may be away for longer.
    assert {"Restart=always", "StartLimitIntervalSec=0"} <= set(unit.read_text().splitlines())


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_may_hold_a_connection_a_worker_and_reader(unit: Path) -> None:
    assert settings_of(unit)["LimitNOFILE"] == "65536"


@pytest.mark.parametrize("name", ["api.env", "worker.env"])
def test_variables_of_the_units_are_settings(name: str) -> None:
    found = variables(name)
    assert found
    for variable, value in found.items():
        check_variable(variable, value)


@each(SERVING)
def test_a_container_s_command_and_variables_are_known(container: Container) -> None:
    check_command(container.arguments)
    for variable in set(container.env) - FOREIGN:
        check_variable(variable, container.env[variable])


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")


@pytest.fixture(scope="module")
def installed_units(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The units as they are, but for the program: it has to be there."""
    folder, program = tmp_path_factory.mktemp("units"), shutil.which("true")
    for unit in UNITS:
        text = re.sub(r"^ExecStart=\S+", f"ExecStart={program}", unit.read_text(), flags=re.MULTILINE)
        (folder / unit.name).write_text(text)
    return [str(folder / unit.name) for unit in UNITS]


@needs_systemd
def test_systemd_takes_the_units(installed_units: list[str]) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", *installed_units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_systemd_finds_the_units_hardened(installed_units: list[str]) -> None:
    for unit in installed_units:
        # Tenths of its scale of 10, on which up to 4.9 is "OK".
        command = ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", unit]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_confined_unit_lets_recognition_lower_its_priority() -> None:
    (worker,) = [unit for unit in UNITS if command_of(unit)[0] == "worker"]
    # Each line takes from the ones before it, or adds to them.
    filters = re.findall(r"^SystemCallFilter=(.*)$", worker.read_text(), re.MULTILINE)
    assert "setpriority" in filters[-1].split()


def test_webrtc_can_list_the_addresses_of_a_unit_s_machine() -> None:
    (worker,) = [unit for unit in UNITS if command_of(unit)[0] == "worker"]
    assert {"AF_INET", "AF_INET6", "AF_NETLINK"} <= set(settings_of(worker)["RestrictAddressFamilies"].split())


@each(WORKERS)
def test_a_workers_container_has_address_and_key_file_alone(container: Container) -> None:
    assert "--key-file" in container.arguments and "envFrom" not in container.of
    assert f"{ENV_PREFIX}WORKER__RECORD_URL" in container.env
    assert not [name for name in container.env if not name.startswith(f"{ENV_PREFIX}WORKER__")]
    assert f"{ENV_PREFIX}WORKER__KEY" not in container.env
    volumes = container.of.get("volumes") or container.of["volumeMounts"]
    assert any("/var/lib/scenario-runner" in str(volume) for volume in volumes)


def test_a_workers_unit_has_address_and_key_file_alone() -> None:
    (worker,) = [unit for unit in UNITS if command_of(unit)[0] == "worker"]
    found = variables("worker.env")
    assert f"{ENV_PREFIX}WORKER__RECORD_URL" in found and f"{ENV_PREFIX}WORKER__KEY" not in found
    assert not [name for name in found if "__SERVER__" in name or name.startswith(f"{ENV_PREFIX}SERVER__")]
    credential, _, _ = settings_of(worker)["LoadCredential"].partition(":")
    assert f"--key-file %d/{credential}" in settings_of(worker)["ExecStart"]


def test_a_worker_elsewhere_reaches_the_api_by_https() -> None:
    urls = [variables("worker.env")[f"{ENV_PREFIX}WORKER__RECORD_URL"]]
    urls += [container.env[f"{ENV_PREFIX}WORKER__RECORD_URL"] for container in in_pods() if container.is_worker]
    assert urls == ["https://voice-tests.example.com"] * 2
    (ingress,) = items("Ingress")
    assert ingress["spec"]["tls"][0]["hosts"] == [ingress["spec"]["rules"][0]["host"]] == ["voice-tests.example.com"]
    # On one machine the proxy alone is reached from outside.
    services = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text())["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]


@each([container for container in composed() if not container.is_worker])
def test_a_composed_api_trusts_the_proxys_network_alone(container: Container) -> None:
    whole = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text())
    (subnet,) = whole["networks"]["front"]["ipam"]["config"]
    assert json.loads(container.env[f"{ENV_PREFIX}SERVER__TRUSTED_PROXIES"]) == [subnet["subnet"]]
    assert sorted(name for name, service in whole["services"].items() if "front" in service["networks"]) == [
        "api",
        "proxy",
    ]


@each([container for container in CONTAINERS if container.pod])
def test_a_pod_is_confined(container: Container) -> None:
    whole, own = container.pod["securityContext"], container.of["securityContext"]
    assert whole["runAsNonRoot"] and whole["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not container.pod["automountServiceAccountToken"]
    assert {"cpu", "memory"} <= set(container.of["resources"]["requests"])


@each(list(composed()))
def test_a_composed_container_is_confined(container: Container) -> None:
    assert container.of["read_only"] and container.of["cap_drop"] == ["ALL"] and container.of["tmpfs"] == ["/tmp"]
    assert container.of["security_opt"] == ["no-new-privileges:true"]


def test_pods_are_probed_where_they_answer() -> None:
    probed = {container.name: container for container in in_pods() if container in SERVING}
    assert len(probed) == 2
    for container in probed.values():
        ports = {port["name"] for port in container.of["ports"]}
        for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            asked = container.of[probe]["httpGet"]
            assert asked["path"] == path and asked["port"] in ports
    # The worker's port is the image's, on every address.
    (worker,) = [container for container in probed.values() if container.is_worker]
    (port,) = worker.of["ports"]
    assert f"{ENV_PREFIX}WORKER__HEALTH_PORT={port['containerPort']}\n" in CONTAINERFILE
    assert check_command(worker.arguments)["health_host"] == "0.0.0.0"


def test_workers_are_given_longer_to_stop_than_their_calls() -> None:
    (unit,) = [unit for unit in UNITS if command_of(unit)[0] == "worker"]
    assert int(settings_of(unit)["TimeoutStopSec"]) > drain_limit_s(command_of(unit)) + 45
    for container in WORKERS:
        minutes = container.of.get("stop_grace_period")
        given_s = int(minutes[:-1]) * 60 if minutes else container.pod["terminationGracePeriodSeconds"]
        assert given_s > drain_limit_s(container.arguments) + 45, container.name


def test_a_pod_is_the_image_s_user() -> None:
    user = re.search(r"^USER (\d+):(\d+)$", CONTAINERFILE, re.MULTILINE)
    assert user is not None and CONTAINERFILE.count(user[0]) == 2
    for container in CONTAINERS:
        if container.pod:
            context = container.pod["securityContext"]
            assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (
                int(user[1]),
                int(user[2]),
                int(user[2]),
            )


def test_containers_have_the_image_that_is_built_for_them() -> None:
    for name, target in OURS.items():
        assert f"--target {target} --tag {name} ." in CONTAINERFILE
        assert re.search(rf"^FROM base AS {target}$", CONTAINERFILE, re.MULTILINE)
    for container in CONTAINERS:
        assert OURS[container.image] == ("worker" if container.is_worker else "server"), container.name
        if "build" in container.of:
            assert container.of["build"]["target"] == OURS[container.image]


@pytest.mark.parametrize("target", OURS.values())
def test_an_image_runs_and_looks_after_itself(target: str) -> None:
    stage = CONTAINERFILE.partition(f"FROM base AS {target}\n")[2].partition("\nFROM ")[0]
    (command,) = re.findall(r"^CMD (.*)$", stage, re.MULTILINE)
    check_command(json.loads(command))
    assert re.search(r"^HEALTHCHECK .*\\\n +CMD \[.*/healthz", stage, re.MULTILINE)
    assert re.search(r"^USER \d+:\d+$", stage, re.MULTILINE)
    for variable, value in re.findall(rf"({ENV_PREFIX}\w+)=(\S+)", CONTAINERFILE):
        check_variable(variable, value)


def test_an_image_is_built_from_what_exists_and_sends_no_more() -> None:
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINERFILE, re.MULTILINE)
        for word in line.split()
    }
    assert copied >= {"bots", "config", "runner", "pyproject.toml", "README.md", "LICENSE"}
    assert all((PROJECT / name).exists() for name in copied)
    first, *taken = (DEPLOY / "container" / "Containerfile.dockerignore").read_text().split()
    kept = {line.removeprefix("!") for line in taken if line.startswith("!")}
    assert first == "*" and all(any(f"{name}/".startswith(f"{there}/") for there in kept) for name in copied)


def blocks(path: Path) -> set[str]:
    """Return the packages of a lock file, each with its hashes."""
    return set(re.split(r"\n(?=\S)", path.read_text().strip()))


def names(lock: str) -> set[str]:
    """Return the packages that a lock file has for this machine."""
    found = [Requirement(block.partition("\\")[0].strip()) for block in blocks(DEPLOY / "locks" / lock)]
    return {canonicalize_name(each.name) for each in found if each.marker is None or each.marker.evaluate()}


@pytest.mark.parametrize("lock", LOCKS)
def test_what_is_deployed_is_what_is_tested(lock: str) -> None:
    assert blocks(DEPLOY / "locks" / lock) <= blocks(PROJECT / "requirements.lock")


@pytest.mark.parametrize(("image", "extras"), IMAGES.items())
def test_an_image_has_its_extras_and_none_of_our_tools(image: str, extras: tuple[str, ...]) -> None:
    assert names(f"{image}.lock") == closure(*extras)


def test_a_worker_has_no_database_and_no_framework_of_the_api() -> None:
    assert not NOT_FOR_WORKERS & names("worker.lock")
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    server = {Requirement(line).name for line in project["optional-dependencies"]["server"]}
    # The API is the whole: it has what a worker has.
    assert closure("worker") <= closure("server") and server >= {"fastapi", "sqlalchemy"}


@pytest.mark.skipif(shutil.which("caddy") is None, reason="Caddy is not installed")
def test_caddy_takes_the_proxy_s_settings() -> None:
    command = ["caddy", "adapt", "--config", str(DEPLOY / "proxy" / "Caddyfile"), "--validate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
