"""What the documentation shows is so: commands, files, settings and links are held against the program."""

import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from cekura.cli.main import app as cekura
from click.testing import CliRunner
from packaging.requirements import Requirement
from prometheus_client import generate_latest
from pydantic import BaseModel
from typer.main import get_command

from bots.agents.backgrounds import BackgroundName
from bots.agents.faults import FAULTS
from bots.timeline import EndedReason
from runner import pytest_plugin
from runner.api.configured import read_schedules
from runner.api.metrics import Metrics
from runner.cli import main
from runner.cli.agent import AGENTS
from runner.cli.options import TOKEN_VARIABLE
from runner.cli.sources import API_KEY_VARIABLE, API_URL_VARIABLE
from runner.scenarios.evals import load_file, load_scenario
from runner.scenarios.manifest import load_suite_or_manifest
from runner.settings import ENV_PREFIX, FILE_VARIABLE, Settings, load_settings
from tests.command_line import check_command, check_variable, options_of
from tests.documentation import (
    BESIDE_WHAT_THEY_DESCRIBE,
    PAGES,
    PROJECT,
    Block,
    anchors,
    blocks,
    commands,
    filled_in,
    links,
    pictures,
    quoted,
)

PAGES_BY_NAME = {str(page.relative_to(PROJECT)): page for page in PAGES}
EVERY_PAGE = [*PAGES, *BESIDE_WHAT_THEY_DESCRIBE]
SETTINGS_FILE = PROJECT / "config" / "runner.toml"
MAKEFILE = (PROJECT / "Makefile").read_text()
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
LANGUAGES = {"sh", "crontab", "yaml", "toml", "json", "python", "text"}
"""What is checked, and `text`: what was printed."""

OFFLINE = {"check"}
"""Commands that call nobody and take no time: these are run."""

OTHER_VARIABLES = {TOKEN_VARIABLE, FILE_VARIABLE, API_URL_VARIABLE, API_KEY_VARIABLE}
OF_THE_SYSTEM = {".", "cat", "cd", "git", "mkdir"}
FOR_AGENTS = {"--fault", "--background", "--background-dbfs"}
"""Options that `agent` hands on."""

OF_INSTALLERS = {"--force"}

each_page = pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(PROJECT)))


def each(*languages: str) -> Any:
    found = blocks(*languages)
    return pytest.mark.parametrize("block", found, ids=map(str, found))


@pytest.fixture
def folder(bare_folder: Path) -> Path:
    """A folder as a reader has it: what there is to copy, and the files that the pages show."""
    shutil.copytree(PROJECT / "config", bare_folder / "config")
    for block in blocks("yaml"):
        if block.title is not None:
            path = bare_folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
            for bot in yaml.safe_load(block.text).get("suite", []):
                (path.parent / bot["bot"]).touch()
                shutil.copytree(bare_folder / "config" / "scenarios", path.parent / "scenarios", dirs_exist_ok=True)
    return bare_folder


def test_every_block_is_in_a_language_that_is_checked() -> None:
    assert {str(block): block.language for block in blocks() if block.language not in LANGUAGES} == {}


@each("yaml")
def test_a_yaml_block_is_what_it_looks_like(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: Any = yaml.safe_load(block.text)
    if "jobs" in whole:
        assert problems_of_workflow(block.text) == ""
        return
    if block.title == ".gitlab-ci.yml":
        assert all({"script"} <= set(job) for job in whole.values())
        return
    if "schedules" in whole:
        path = folder / "schedules.yaml"
        path.write_text(block.text)
        assert read_schedules(path)
        return
    for variable in re.findall(r"\benv:(\w+)", block.text):
        monkeypatch.setenv(variable, "a token")
    path = folder / (block.title or f"config/{'suites' if 'agent' in whole else 'scenarios'}/shown.yaml")
    path.write_text(block.text)
    if {"agent", "suite"} & set(whole):
        assert load_suite_or_manifest(path, Settings()).runs
    else:
        assert [scenario.playable() for scenario in load_file(path, Settings())]


def problems_of_workflow(text: str) -> str:
    # Its checks of shell commands need another program; these commands are checked as all others are.
    command = [Path(sys.executable).parent / "actionlint", "-no-color", "-shellcheck=", "-pyflakes=", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def test_the_workflow_to_copy_is_the_one_shown() -> None:
    copied = (PROJECT / "config" / "ci" / "github.yml").read_text()
    assert copied in [block.text for block in blocks("yaml")]
    assert 'undefined function "alwas"' in problems_of_workflow(copied.replace("if: always()", "if: alwas()"))


@each("toml")
def test_a_toml_block_is_a_settings_file(block: Block, folder: Path) -> None:
    path = folder / "shown.toml"
    path.write_text(block.text)
    load_settings(path)


@each("json")
def test_a_json_block_can_be_read(block: Block) -> None:
    json.loads(block.text)


@each("python")
def test_a_python_block_runs(block: Block) -> None:
    names: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), names)
    for name, shown in names.items():
        if name.startswith("test_"):
            shown()


@each("sh")
def test_a_block_of_commands_is_one_that_a_shell_reads(block: Block) -> None:
    done = subprocess.run(
        ["bash", "-n"], input=filled_in(block.text), capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("place", "words"), commands(), ids=[place for place, _ in commands()])
def test_a_command_is_one(place: str, words: list[str], folder: Path) -> None:
    variables = []
    while "=" in words[0] and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        variables.append(words[0].partition("="))
        words = words[1:]
    for name, _, value in variables:
        if name.startswith(ENV_PREFIX) and name not in OTHER_VARIABLES:
            check_variable(name, value)
    program, *arguments = words
    if program not in OF_THE_SYSTEM:
        CHECKS[Path(program).name](arguments)


def check_ours(arguments: list[str]) -> None:
    if {"--help", "--version"} & set(arguments) or arguments[0] in OFFLINE:
        ran = CliRunner().invoke(main, arguments)
        assert ran.exit_code == 0, ran.output
        return
    given = check_command(arguments)
    match arguments[0]:
        case "agent":
            assert given["name"] in AGENTS
            handed_on = dict(zip(given["options"][::2], given["options"][1::2], strict=True))
            assert set(handed_on) <= FOR_AGENTS
            assert handed_on.get("--fault", "slow") in FAULTS
            assert handed_on.get("--background", "crowd") in set(BackgroundName)
        case "call":
            load_scenario(given["spec"], Settings()).playable()
        case "run":
            load_suite_or_manifest(Path(arguments[1]), Settings())


def check_make(arguments: list[str]) -> None:
    for argument in arguments:
        name, is_variable, _ = argument.partition("=")
        if is_variable:
            assert f"$({name})" in MAKEFILE or f"$${name}" in MAKEFILE, name
        else:
            assert re.search(rf"^[\w -]*\b{name}\b[\w -]*:", MAKEFILE, re.MULTILINE), name


def check_python(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        assert find_spec(arguments[1]) is not None
    else:
        # The reader's own bot, or a file of the project.
        assert arguments[0] == "bot.py" or (PROJECT / arguments[0]).is_file()


def check_installation(arguments: list[str]) -> None:
    assert "install" in arguments
    ours = Requirement(arguments[-1])
    assert ours.name == PYPROJECT["project"]["name"] and ours.url is not None
    assert ours.extras and ours.extras <= set(PYPROJECT["project"]["optional-dependencies"])


def check_curl(arguments: list[str]) -> None:
    # tests/api/test_documented.py sends them.
    assert arguments[arguments.index("--url") + 1].startswith("http://localhost:8000/")
    json.loads(arguments[arguments.index("--data") + 1])


def check_pytest(arguments: list[str]) -> None:
    assert all((PROJECT / argument).is_file() for argument in arguments if argument.endswith(".py"))


def check_cekura(arguments: list[str]) -> None:
    check_command(arguments, get_command(cekura))


CHECKS = {
    "cekura": check_cekura,
    "curl": check_curl,
    "hatchling": lambda arguments: arguments.index("build"),
    "make": check_make,
    "pip": lambda arguments: arguments.index("install"),
    "pipx": check_installation,
    "pytest": check_pytest,
    "python": check_python,
    "scenario-runner": check_ours,
    "uv": check_installation,
}


@each_page
def test_commands_and_options_within_the_text_exist(page: Path) -> None:
    every = options_of()
    known = set().union(*every.values()) | FOR_AGENTS | OF_INSTALLERS | options_of_plugin()
    for text in quoted(page):
        program, *words = text.split()
        program = Path(program).name
        given = {word.partition("=")[0] for word in words if re.match(r"--?\w", word)}
        if program == "scenario-runner" and words:
            name = " ".join(words[:2]) if " ".join(words[:2]) in every else words[0]
            if not name.startswith("-"):
                assert given <= every[name] | (FOR_AGENTS if name == "agent" else set()), text
        elif program == "make":
            check_make([word for word in words if "…" not in word])
        elif program.startswith("benchmarks."):
            check_benchmark(program, given)
        elif text.startswith("--"):
            assert {program} | given <= known | benchmark_options(page), text


def options_of_plugin() -> set[str]:
    return set(re.findall(r'"(--[\w-]+)"', inspect.getsource(pytest_plugin.pytest_addoption)))


def test_every_option_of_the_plugin_is_explained() -> None:
    explained = {word for text in quoted(PAGES_BY_NAME["docs/pytest.md"]) for word in text.split()}
    assert options_of_plugin() and options_of_plugin() <= explained


def benchmark_options(page: Path) -> set[str]:
    """Return the options of the benchmarks that a page names: it may show them apart from their command."""
    named = {text.split()[0] for text in quoted(page) if text.startswith("benchmarks.")}
    return set(re.findall(r'"(--[\w-]+)"', "".join(benchmark_source(name) for name in named)))


def benchmark_source(name: str) -> str:
    folder = PROJECT / "benchmarks"
    return (folder / f"{name.removeprefix('benchmarks.')}.py").read_text() + (folder / "common.py").read_text()


def check_benchmark(name: str, options: set[str]) -> None:
    source = benchmark_source(name)
    assert not [option for option in options if f'"{option}"' not in source], name


@each_page
def test_a_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), link
        assert there.is_relative_to(PROJECT), link
        if anchor:
            assert anchor in anchors(there), link


@each_page
def test_a_picture_is_there_and_not_large(page: Path) -> None:
    sizes = {name: (page.parent / name).stat().st_size for name in pictures(page)}
    assert {name: size for name, size in sizes.items() if size > 150_000} == {}


def test_every_fault_has_its_picture() -> None:
    page = PAGES_BY_NAME["docs/faults.md"]
    assert pictures(page) == [f"pictures/faults/{name}.png" for name in FAULTS]
    assert set(FAULTS) <= anchors(page)


@pytest.mark.parametrize("page", sorted(set(PAGES_BY_NAME) - {"README.md"}))
def test_every_page_is_reached_from_the_first(page: str) -> None:
    assert page in links(PROJECT / "README.md")


@pytest.mark.parametrize("page", [*EVERY_PAGE, SETTINGS_FILE], ids=lambda page: str(page.relative_to(PROJECT)))
def test_settings_and_variables_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for variable in re.findall(rf"\b{ENV_PREFIX}[A-Z_]+\b", text):
        if variable not in (*OTHER_VARIABLES, ENV_PREFIX):
            check_variable(variable, "")
    sections = "|".join(Settings.model_fields)
    for setting in re.findall(rf"`((?:{sections})\.[\w.]+)`", text):
        model: Any = Settings
        for part in setting.split("."):
            model = model.model_fields[part].annotation


def test_figures_that_are_named_are_served() -> None:
    served = generate_latest(Metrics().registry).decode()
    for text in quoted(PAGES_BY_NAME["docs/workers.md"]):
        if re.fullmatch(r"scenario_runner_\w+", text):
            assert f"# TYPE {text} " in served, text


def test_what_can_be_chosen_from_is_listed() -> None:
    in_calls = set(quoted(PAGES_BY_NAME["docs/calls.md"]))
    assert set(FAULTS) | set(BackgroundName) | set(AGENTS) | set(EndedReason) <= in_calls
    assert set(PYPROJECT["project"]["optional-dependencies"]) <= set(quoted(PAGES_BY_NAME["README.md"]))
    sections = {
        name for name, setting in Settings.model_fields.items() if isinstance(setting.annotation, type(BaseModel))
    }
    assert sections <= set(quoted(PAGES_BY_NAME["docs/settings.md"]))


@pytest.mark.parametrize(
    ("page", "command"), [("docs/calls.md", "call"), ("docs/suites.md", "run"), ("docs/comparing.md", "compare")]
)
def test_every_option_is_explained(page: str, command: str) -> None:
    explained = {word for text in quoted(PAGES_BY_NAME[page]) for word in text.split()}
    options = {option for option in options_of()[command] if option.startswith("--")}
    assert options - {"--verbose", "--config", "--help"} - explained == set()


def test_every_package_is_on_the_map() -> None:
    guide = PAGES_BY_NAME["CONTRIBUTING.md"].read_text()
    packages = [
        path.parent.relative_to(PROJECT)
        for top in ("bots", "runner")
        for path in (PROJECT / top).rglob("__init__.py")
    ]
    missing = [str(package) for package in packages if f"**`{package}/`" not in guide and package.name != "versions"]
    assert len(packages) > 15 and missing == []
    for package, text in re.findall(r"^\*\*`(\S+)/`\*\* (.*?)\n\n", guide, re.MULTILINE | re.DOTALL):
        for file in re.findall(r"`(\w+\.py)`", text):
            assert (PROJECT / package / file).is_file(), f"{package}/{file}"


def test_the_changelog_is_about_this_version() -> None:
    text = PAGES_BY_NAME["CHANGELOG.md"].read_text()
    assert PYPROJECT["project"]["version"] in text and "\n## [Unreleased]\n" in text
