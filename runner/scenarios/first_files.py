"""The first files of a project: a scenario, a suite and a CI job, fitted to the bot that is found there."""

import ast
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

SCENARIO = Path("tests/voice/hello.yaml")
SUITE = Path("tests/voice/suite.yaml")
GITHUB = Path(".github/workflows/voice.yml")
GITLAB = Path(".gitlab/voice.yml")

_LIKELY = ("bot.py", "agent.py", "main.py", "server.py", "app.py")
_WHERE = (".", "src", "server", "bot", "app")
_MAX_BYTES = 1_000_000
"""Of a source file that is looked into."""

_MAX_FILES = 200
_GREETS = frozenset({"TTSSpeakFrame", "LLMRunFrame", "LLMMessagesAppendFrame"})


@dataclass(frozen=True)
class Found:
    """What a project says of its bot.

    Attributes:
        bot: The bot's file, relative to the project; None where none was found.
        python: What starts Python with the bot's packages, as words of a command.
        variables: The environment variables that the bot reads and that sound like keys, by name.
        greets: Whether the bot speaks first.
        install: How CI installs the bot's packages, one command a line.
        cloud_agent: The name of the agent on Pipecat Cloud, where the project deploys one.
        gitlab: Whether CI is GitLab's.
    """

    bot: Path | None
    python: tuple[str, ...]
    variables: tuple[str, ...]
    greets: bool
    install: tuple[str, ...]
    python_version: str
    cloud_agent: str | None
    gitlab: bool


def look_at(project: Path) -> Found:
    """Return what a project says of its bot. Nothing of it is run."""
    bot, tree = _bot_of(project)
    names = [] if tree is None else list(ast.walk(tree))
    by_uv = (project / "uv.lock").is_file()
    return Found(
        bot=bot,
        python=("uv", "run", "python") if by_uv else (_python_of(project),),
        variables=tuple(sorted(set(_variables(names)))),
        greets=tree is None
        or any(isinstance(n, ast.Name) and n.id in _GREETS and isinstance(n.ctx, ast.Load) for n in names),
        install=_install(project, by_uv),
        python_version=_python_version(project),
        cloud_agent=_cloud_agent(project),
        gitlab=(project / ".gitlab-ci.yml").is_file() and not (project / ".github").is_dir(),
    )


def first_files(found: Found) -> dict[Path, str]:
    """Return the files that a project begins with: what each holds, by its path in the project."""
    ci = {GITLAB: _gitlab(found)} if found.gitlab else {GITHUB: _github(found)}
    return {SCENARIO: _scenario(found), SUITE: _suite(found), **ci}


# What is found.


def _bot_of(project: Path) -> tuple[Path | None, ast.Module | None]:
    """Return the first file, the likeliest names first, that has a ``bot`` as Pipecat's runner starts it."""
    folders = [project / name for name in _WHERE if (project / name).is_dir()]
    likely = [folder / name for folder in folders for name in _LIKELY]
    others = sorted(file for folder in folders for file in folder.glob("*.py"))[:_MAX_FILES]
    for file in dict.fromkeys([*likely, *others]):
        tree = _parsed(file)
        if tree is not None and any(isinstance(n, ast.AsyncFunctionDef) and n.name == "bot" for n in tree.body):
            return file.relative_to(project), tree
    return None, None


def _parsed(file: Path) -> ast.Module | None:
    try:
        if file.stat().st_size > _MAX_BYTES:
            return None
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None  # not a file that Python could start either
    return tree if any(name.split(".")[0] == "pipecat" for name in _imported(tree)) else None


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _variables(nodes: list[ast.AST]) -> Iterator[str]:
    """Yield the names that are read as ``os.getenv("X")``, ``os.environ.get("X")`` or ``os.environ["X"]``."""
    for node in nodes:
        match node:
            case (
                ast.Call(func=ast.Attribute(attr="getenv" | "get"), args=[ast.Constant(value=str(name)), *_])
                | ast.Subscript(value=ast.Attribute(attr="environ"), slice=ast.Constant(value=str(name)))
            ) if name.isidentifier() and name.endswith(("_KEY", "_TOKEN", "_SECRET")):
                yield name
            case _:
                pass


def _python_of(project: Path) -> str:
    for folder in (".venv", "venv"):
        if (project / folder / "bin" / "python").exists():
            return f"{folder}/bin/python"
    return "python"


def _install(project: Path, by_uv: bool) -> tuple[str, ...]:
    if by_uv:
        return ("pipx install uv", "uv sync")
    python = _python_of(project)
    make = () if python == "python" else (f"python -m venv {python.split('/')[0]}",)
    what = "'pipecat-ai[runner,webrtc]'"
    if (project / "requirements.txt").is_file():
        what = "-r requirements.txt"
    elif (project / "pyproject.toml").is_file():
        what = "."
    return (*make, f"{python} -m pip install {what}")


def _python_version(project: Path) -> str:
    try:
        first = (project / ".python-version").read_text(encoding="utf-8").split()[0]
    except (OSError, ValueError, IndexError):
        return "3.11"
    numbers = first.split(".")
    return ".".join(numbers[:2]) if all(number.isdecimal() for number in numbers) else "3.11"


def _cloud_agent(project: Path) -> str | None:
    try:
        name = tomllib.loads((project / "pcc-deploy.toml").read_text(encoding="utf-8")).get("agent_name")
    except (OSError, ValueError):
        return None
    return name if isinstance(name, str) and name.isprintable() else None


# What is written.


def _scenario(found: Found) -> str:
    greeting = """\
  # The bot speaks first: no `user`, the caller listens.
  - expect:
      - event: response
        within_ms: 10000
"""
    return f"""\
# What the caller does, and what is expected of the bot. Every key: docs/scenarios.md in the runner's repository.
name: hello
max_duration_s: 60
turns:
{greeting if found.greets else ""}\
  - user: "Hello! What can you do for me?"
    agent_speaks_within_ms: 4000      # from the caller's last audible sample to the bot's first one
    expect:
      - event: response
      # Say what the answer must hold:
      # - event: response
      #   text_contains: a table
"""


def _suite(found: Found) -> str:
    if found.bot is not None:
        words = [*found.python, found.bot.as_posix(), "-t", "webrtc", "--port", "{port}"]
        agent = f"""\
  # Started on this machine, from the folder in which the command is given.
  command: [{", ".join(json.dumps(word, ensure_ascii=False) for word in words)}]
"""
    else:
        agent = """\
  # Start the bot first: python bot.py -t webrtc
  url: http://localhost:7860
"""
    if found.cloud_agent is not None:
        address = f"https://api.pipecat.daily.co/v1/public/{found.cloud_agent}/start"
        agent += f"""\
  # The one that is deployed on Pipecat Cloud, in place of the above:
  # start_url: {json.dumps(address, ensure_ascii=False)}
  # transport: daily
  # token: env:PIPECAT_CLOUD_API_KEY
"""
    return f"""\
# Which scenarios are run against which agent. Every key: docs/suites.md in the runner's repository.
name: voice
agent:
{agent}\
repeat: 1
concurrency: 1
scenarios:
  - hello.yaml
"""


_RUNNER = "pipx install 'pipecat-scenario-runner[offline] @ git+<address of the runner>'"
_RUN = f"scenario-runner run {SUITE.as_posix()} --junit results/voice.xml --out results/suite"


def _github(found: Found) -> str:
    env = "".join(f"{name}: ${{{{ secrets.{name} }}}}\n" for name in found.variables)
    install = "".join(f"      - run: {json.dumps(line, ensure_ascii=False)}\n" for line in found.install)
    return f"""\
name: voice
on:
  push:
  schedule:
    - cron: "0 5 * * *"
jobs:
  calls:
    runs-on: ubuntu-latest
    timeout-minutes: 30
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "{found.python_version}"
{install}\
      # Say where the runner comes from:
      - run: {json.dumps(_RUNNER)}
      - run: {_RUN}
{indent("env:" + chr(10) + indent(env, "  "), " " * 8) if env else ""}\
      - uses: actions/upload-artifact@v4
        if: always()
        with:
          name: voice
          path: results
"""


def _gitlab(found: Found) -> str:
    lines = ["pip install pipx", *found.install, _RUNNER, f"~/.local/bin/{_RUN}"]
    script = "".join(f"    - {json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    keys = (
        f"  # Set these under Settings, CI/CD, Variables: {', '.join(found.variables)}\n" if found.variables else ""
    )
    return f"""\
# In .gitlab-ci.yml:
#   include: {GITLAB.as_posix()}
voice:
  image: python:{found.python_version}
  timeout: 30 minutes
{keys}\
  script:
{script}\
  artifacts:
    when: always
    paths: [results]
    reports:
      junit: results/voice.xml
"""
