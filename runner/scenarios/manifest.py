"""A manifest of Pipecat Evals (``pipecat eval suite``), read as a suite: its bots are called in real rooms.

Every key that Pipecat 1.14 reads is known. What has no effect here is told in the suite's warnings, and what would
mean something else is refused. Paths, names, bodies, a bot's own ``concurrency`` and the order of ``repeat`` (every
first attempt before any second) are as in Pipecat. A bot is called over SmallWebRTC, which Pipecat's runner serves
beside the socket of Pipecat Evals.
"""

import os
import shlex
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr

from runner.scenarios.evals import load_file
from runner.scenarios.model import Scenario
from runner.scenarios.nodes import Node, read_yaml
from runner.scenarios.suites import (
    AUTO,
    MAX_CONCURRENCY,
    MAX_REPEAT,
    MAX_RUNS,
    PlannedRun,
    Suite,
    load_suite,
)
from runner.scenarios.targets import AgentByCommand, json_mapping
from runner.sessions.local_agent import PORT_PLACEHOLDER, PYTHON_PLACEHOLDER
from runner.settings import Settings

DEFAULT_CONCURRENCY = 4
DEFAULT_SPAWN = "{python} {bot} --port {port}"
MAX_BASE_PORT = 65_535

_BOTS = "suite"
_FOLDERS = ("runs_dir", "cache_dir", "bots_dir", "scenarios_dir")
_KEYS = ("concurrency", "repeat", *_FOLDERS, "record", "spawn", "python", "base_port", _BOTS)
_ENTRY_KEYS = ("bot", "name", "concurrency", "runner_body", "scenarios")
_BODY_KEYS = ("path", "data")
_SUFFIXES = (".yaml", ".yml")
_TRANSPORT_OPTIONS = ("-t", "--transport")


def load_suite_or_manifest(
    path: Path,
    settings: Settings,
    *,
    token: SecretStr | None = None,
    repeat: int | None = None,
    concurrency: int | Literal["auto"] | None = None,
    retry_inconclusive: int | None = None,
) -> Suite:
    """Return the suite of a file that is a suite file or a manifest of Pipecat Evals; see :func:`load_suite`.

    Raises:
        UsageError: Something in the file, or in a scenario file, is wrong; names file and line, and how to mend it.
    """
    document = read_yaml(path)
    if not document.has_keys(_BOTS):
        return load_suite(
            path,
            settings,
            token=token,
            repeat=repeat,
            concurrency=concurrency,
            retry_inconclusive=retry_inconclusive,
        )
    suite = _Manifest(path, document.mapping(_KEYS), settings).suite(repeat, concurrency)
    retries = suite.retry_inconclusive if retry_inconclusive is None else retry_inconclusive
    return replace(suite, token=token, retry_inconclusive=retries)


class _Manifest:
    def __init__(self, path: Path, top: Node, settings: Settings):
        self._path = path
        self._top = top
        self._base = path.parent
        self._bots = self._base / (top.get("bots_dir", Node.text) or ".")
        self._scenarios = self._base / (top.get("scenarios_dir", Node.text) or "scenarios")
        self._load = cache(lambda file: load_file(file, settings))
        self._skipped: list[Scenario] = []

    def suite(self, repeat: int | None, concurrency: int | Literal["auto"] | None) -> Suite:
        top = self._top
        bots = top[_BOTS]
        planned = [run for group, node in enumerate(bots.items()) for run in self._runs(group, node)]
        times = repeat or top.get("repeat", lambda node: node.integer(1, MAX_REPEAT)) or 1
        if not planned:
            why = f"; {self._skipped[0].name} can't because {self._skipped[0].refusal}" if self._skipped else ""
            raise bots.place.error(f"{_BOTS}: holds no scenario that can be played in a room{why}")
        self._refuse_the_same_twice(planned)
        if len(planned) * times > MAX_RUNS:
            raise bots.place.error(f"more than {MAX_RUNS} runs")
        runs = [replace(run, repeat=attempt) for attempt in range(1, times + 1) for run in planned]
        given = top.get("concurrency", lambda node: node.integer(1, MAX_CONCURRENCY)) or DEFAULT_CONCURRENCY
        at_a_time = concurrency or given
        runs_dir = top.get("runs_dir", Node.text)
        return Suite(
            name=self._path.stem,
            path=self._path,
            agent=self._agent(bots.items()[0].mapping(_ENTRY_KEYS), None),
            token=None,
            participant_name=None,
            concurrency=None if at_a_time == AUTO else at_a_time,
            runs=tuple(replace(run, index=index) for index, run in enumerate(runs)),
            skipped=tuple(self._skipped),
            runs_dir=None if runs_dir is None else self._base / runs_dir,
            notes=self._notes(),
        )

    def _runs(self, group: int, node: Node) -> list[PlannedRun]:
        entry = node.mapping(_ENTRY_KEYS)
        label = entry.get("name", Node.text) or entry["bot"].text()
        data, folder = self._body(entry)
        agent = self._agent(entry, folder)
        at_a_time = entry.get("concurrency", lambda number: number.integer(1, MAX_RUNS))
        runs: list[PlannedRun] = []
        for named in entry["scenarios"].items():
            for scenario in self._load(self._scenario_file(named)):
                own = replace(scenario, name=f"{label}/{scenario.name}")
                if own.refusal is not None:
                    self._skipped.append(own)
                    continue
                runs.append(
                    PlannedRun(0, own, own.playable(), 1, data, agent=agent, group=group, at_a_time=at_a_time)
                )
        return runs

    def _agent(self, entry: Node, folder: Path | None) -> AgentByCommand:
        program = (self._bots / entry["bot"].text()).resolve()
        if not program.is_file():
            raise entry["bot"].place.error(f"bot: there is no file {program}")
        spawn = self._top.get("spawn", Node.text) or DEFAULT_SPAWN
        place = self._top["spawn"].place if "spawn" in self._top else self._top.place
        python = self._top.get("python", Node.text) or PYTHON_PLACEHOLDER
        try:
            words = [
                word.format(python=python, bot=str(program), port=PORT_PLACEHOLDER) for word in shlex.split(spawn)
            ]
        except (ValueError, LookupError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise place.error(f"spawn: only {{python}}, {{bot}} and {{port}} can be filled in ({problem})") from error
        if not any(PORT_PLACEHOLDER in word for word in words):
            raise place.error(
                f"spawn: must hold {PORT_PLACEHOLDER}, where the port goes that the bot is to listen on"
            )
        for option, value in pairwise(words):
            if option in _TRANSPORT_OPTIONS and value != "webrtc":
                raise place.error(f"spawn: a bot is called over SmallWebRTC: {option} webrtc, not {value}")
        return AgentByCommand(tuple(words), folder=folder)

    def _scenario_file(self, node: Node) -> Path:
        name = node.text()
        file = self._base / name if name.endswith(_SUFFIXES) else self._scenarios / f"{name}.yaml"
        if not os.path.isfile(file):  # noqa: PTH113 - unlike pathlib's, never an error
            raise node.place.error(f"there is no scenario file {file}")
        return file

    def _body(self, entry: Node) -> tuple[dict[str, Any] | None, Path | None]:
        if "runner_body" not in entry:
            return None, None
        node = entry["runner_body"]
        if not node.is_mapping():
            return self._body_file(node)
        mapping = node.mapping(_BODY_KEYS)
        if ("path" in mapping) == ("data" in mapping):
            raise node.place.error("runner_body must hold one of path and data")
        return self._body_file(mapping["path"]) if "path" in mapping else (json_mapping(mapping["data"]), None)

    def _body_file(self, node: Node) -> tuple[dict[str, Any], Path]:
        file = (self._base / node.text()).resolve()
        if not file.is_file():
            raise node.place.error(f"runner_body: there is no file {file}")
        return json_mapping(read_yaml(file)), file.parent

    def _refuse_the_same_twice(self, planned: list[PlannedRun]) -> None:
        seen: set[str] = set()
        for run in planned:
            if run.scenario.name in seen:
                raise self._top[_BOTS].place.error(
                    f"{run.scenario.name} is run twice; give one of the entries a name"
                )
            seen.add(run.scenario.name)

    def _notes(self) -> tuple[str, ...]:
        """Check what has no effect here, and return what is so instead."""
        top = self._top
        notes: list[str] = []
        if top.get("record", Node.flag) is False:
            notes.append("record: every call is recorded all the same")
        if top.get("cache_dir", Node.text) is not None:
            notes.append("cache_dir: the caller's lines are kept where the setting speech.cache_dir says")
        if top.get("base_port", lambda node: node.integer(1, MAX_BASE_PORT)) is not None:
            notes.append("base_port: every bot listens on a free port instead")
        return tuple(notes)
