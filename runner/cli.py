"""The command line. Importing it imports no Pipecat: a command loads what it needs when it runs."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from runner.commands import PATH, Concurrency, fail, run_command
from runner.errors import USAGE_EXIT_CODE, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from bots.timeline import TimelineEvent
    from runner.calls.request import CallRequest
    from runner.calls.suite_file import SuiteResult
    from runner.evaluation.verdicts import ExpectationVerdict
    from runner.reports.listen import Speakers
    from runner.reports.terminal import TerminalReport
    from runner.rooms.open import RoomAddress
    from runner.scenarios.suites import Suite
    from runner.settings import Settings

TOKEN_VARIABLE = "SCENARIO_RUNNER_TOKEN"  # noqa: S105 - the name of a variable
AGENT_NAMES = ("restaurant", "metronome", "quickstart")

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_Command = Callable[..., Any]


_ELSEWHERE = {
    "keys": "runner.cli_server",
    "measure": "runner.cli_measure",
    "migrate": "runner.cli_server",
    "projects": "runner.cli_server",
    "serve": "runner.cli_serve",
    "status": "runner.cli_status",
    "worker": "runner.cli_worker",
}
"""Commands of other modules, by name."""


class _Commands(click.Group):
    """The commands, those of other modules included: such a module is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _ELSEWHERE:
            return getattr(import_module(_ELSEWHERE[cmd_name]), cmd_name)
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pipecat-scenario-runner")
def main() -> None:
    """Call voice agents as a user would, and tell whether they still work.

    Exit codes: 0 passed, 1 the agent failed, 2 anything else.
    """


def _common(command: _Command) -> _Command:
    command = click.option(
        "--config",
        type=PATH,
        help="Settings file (default: config/runner.toml, if it is there).",
    )(command)
    return click.option("-v", "--verbose", count=True, help="Log more; twice for everything.")(command)


@main.command()
@click.argument("room_url")
@click.option("--scenario", "spec", required=True, metavar="FILE[:NAME]", help="What the caller does.")
@click.option(
    "--token",
    help=f"Room token; - reads it from standard input. Prefer the environment variable {TOKEN_VARIABLE}.",
)
@click.option("--publish", metavar="JSON", help="Data message, published once when both sides are in the room.")
@click.option("--data", metavar="JSON", help="Object for the bot's runner arguments (SmallWebRTC only).")
@click.option("--participant-name", metavar="NAME", help="The agent's user name in a Daily room.")
@click.option("--listen", is_flag=True, help="Play the call on this machine's speakers.")
@click.option("--out", type=PATH, help="Folder for the run (default: runs/<id>).")
@click.option("--json", "as_json", is_flag=True, help="Print run.json alone on standard output.")
@click.option("--allow-unjudged", is_flag=True, help="Pass a run whose only problem is inconclusive checks.")
@_common
def call(
    room_url: str,
    spec: str,
    token: str | None,
    publish: str | None,
    data: str | None,
    participant_name: str | None,
    listen: bool,
    out: Path | None,
    as_json: bool,
    allow_unjudged: bool,
    config: Path | None,
    verbose: int,
) -> None:
    """Make one call to the agent at ROOM_URL.

    ROOM_URL is a Daily room (https://acme.daily.co/room), a SmallWebRTC address
    (http://localhost:7860/api/offer), or the base address of a Pipecat runner
    (http://localhost:7860), which is asked to start a session first.
    """

    async def run() -> int:
        settings = _settings(config, verbose)
        from runner.calls.request import CallRequest, DataMessage
        from runner.rooms.open import RoomAddress
        from runner.rooms.urls import RoomKind, check_data_message, room_kind
        from runner.scenarios.evals import load_scenario

        kind = room_kind(room_url, settings.room.daily_domains)
        message = None if publish is None else DataMessage(_json(publish, "--publish"))
        if message is not None:
            check_data_message(kind, message.value)
        if data is not None and kind is RoomKind.DAILY:
            raise UsageError("--data: reaches no bot in a Daily room; leave it out, or use --publish")
        scenario = load_scenario(spec, settings)
        request = CallRequest(
            script=scenario.playable(),
            address=RoomAddress(
                room_url,
                _token(token),
                request_data=None if data is None else _json_object(data, "--data"),
                participant_name=participant_name,
            ),
            data_message=message,
            allow_unjudged=allow_unjudged,
            notes=scenario.notes,
        )
        return await _make_call(request, settings, out=out, as_json=as_json, listen=listen)

    run_command(run, verbose=verbose)


@main.command("run")
@click.argument("suite_file", metavar="SUITE.yaml", type=PATH)
@click.option("--repeat", type=click.IntRange(1, 1_000), help="Runs of every scenario, whatever the file says.")
@click.option(
    "--concurrency",
    type=Concurrency(),
    metavar="N|auto",
    help="Runs at a time, whatever the file says; auto: as many as this machine has headroom for.",
)
@click.option(
    "--retry-inconclusive",
    type=click.IntRange(0, 5),
    help="How often a run is made again that our own side or the network spoilt, whatever the file says.",
)
@click.option("--junit", type=PATH, metavar="FILE", help="Write JUnit XML, after every run.")
@click.option("--json", "as_json", is_flag=True, help="Print suite.json alone on standard output.")
@click.option("--out", type=PATH, help="Folder for the suite (default: runs/suite-<id>).")
@click.option(
    "--token",
    help="Token for the agent's side; - reads it from standard input. Prefer the environment variable that the "
    f"file names, or {TOKEN_VARIABLE}.",
)
@click.option("--allow-unjudged", is_flag=True, help="Pass runs whose only problem is inconclusive checks.")
@_common
def run_suite(
    suite_file: Path,
    repeat: int | None,
    concurrency: "int | Literal['auto'] | None",
    retry_inconclusive: int | None,
    junit: Path | None,
    as_json: bool,
    out: Path | None,
    token: str | None,
    allow_unjudged: bool,
    config: Path | None,
    verbose: int,
) -> None:
    """Run every scenario of a suite, with a fresh session for each run.

    Exit codes: 0 every run passed, 1 the agent failed in one, 2 anything else.
    """

    async def run() -> int:
        settings = _settings(config, verbose)
        from runner.scenarios.suites import load_suite

        suite = load_suite(
            suite_file,
            settings,
            token=None if token is None else _token(token),
            repeat=repeat,
            concurrency=concurrency,
            retry_inconclusive=retry_inconclusive,
        )
        if suite.token is None:
            suite = replace(suite, token=_token(None))
        from runner.calls.request import new_run_id

        folder = out or settings.runs_dir / f"suite-{new_run_id()}"
        return await _run_suite(
            suite, settings, folder=folder, junit=junit, as_json=as_json, allow_unjudged=allow_unjudged
        )

    run_command(run, verbose=verbose)


@main.command()
@click.option("--listen", is_flag=True, help="Play the call on this machine's speakers.")
@click.option("--out", type=PATH, help="Folder for the run (default: runs/<id>).")
@click.option("--json", "as_json", is_flag=True, help="Print run.json alone on standard output.")
@_common
def demo(listen: bool, out: Path | None, as_json: bool, config: Path | None, verbose: int) -> None:
    """Book a table by voice: a real WebRTC call to a real Pipecat agent, on this machine alone."""
    _need_agents_extra()

    async def run() -> int:
        settings = _settings(config, verbose)
        from runner.demo import demo_script
        from runner.sessions.local_agent import free_port, local_agent, reference_agent_command

        port = free_port()
        async with local_agent(reference_agent_command("restaurant", port), port) as base_url:
            from runner.calls.request import CallRequest
            from runner.rooms.open import RoomAddress

            request = CallRequest(demo_script(settings), RoomAddress(base_url))
            return await _make_call(request, settings, out=out, as_json=as_json, listen=listen)

    run_command(run, verbose=verbose)


@main.command()
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE…")
@_common
def check(files: Sequence[Path], config: Path | None, verbose: int) -> None:
    """Check scenario files, and print what each scenario would do.

    Calls nobody. Exit code 0 if every scenario can be played in a room, 2 if not.
    """

    async def run() -> int:
        settings = _settings(config, verbose)
        from runner.reports.scenarios import describe_scenario
        from runner.scenarios.evals import load_file

        fine = True
        for file in files:
            try:
                scenarios = load_file(file, settings)
            except UsageError as error:
                click.echo(f"error: {error}", err=True)
                fine = False
                continue
            for scenario in scenarios:
                fine = fine and scenario.refusal is None
                for line in describe_scenario(scenario, has_judge=settings.judge.configured):
                    click.echo(line)
        return 0 if fine else USAGE_EXIT_CODE

    run_command(run, verbose=verbose)


@main.command()
@click.argument("run_dir", type=PATH)
@click.option(
    "--measure/--no-measure",
    default=None,
    help="Measure recording.wav again, or not at all (default: where it was not measured).",
)
@click.option("--json", "as_json", is_flag=True, help="Print run.json (of a suite: suite.json) alone.")
@_common
def evaluate(run_dir: Path, measure: bool | None, as_json: bool, config: Path | None, verbose: int) -> None:
    """Judge a finished call again by its stored facts, without calling anyone.

    RUN_DIR is the folder of a run, or that of a suite: then every run in it is judged again. run.json and suite.json
    are written anew. Exit codes as for the call: 0 passed, 1 the agent failed, 2 anything else.
    """

    async def run() -> int:
        _settings(config, verbose)
        from runner.calls import run_file, suite_file
        from runner.calls.evaluate import MeasureCall, Measuring, evaluate_run, evaluate_suite, is_suite
        from runner.reports.console import make_console
        from runner.reports.suite import print_suite
        from runner.reports.terminal import print_summary

        measuring = {None: Measuring.IF_MISSING, True: Measuring.ALWAYS, False: Measuring.NEVER}[measure]
        measure_recording: MeasureCall | None = None
        if measuring is not Measuring.NEVER:
            from runner.calls.measuring import measure_call

            measure_recording = measure_call
        console = make_console(stderr=as_json)
        if is_suite(run_dir):
            result = evaluate_suite(run_dir, measure=measure_recording, measuring=measuring)
            print_suite(console, result, str(run_dir))
            path, exit_code = run_dir / suite_file.FILE_NAME, result.exit_code
        else:
            judged = evaluate_run(run_dir, measure=measure_recording, measuring=measuring)
            print_summary(console, judged, str(run_dir))
            path, exit_code = run_dir / run_file.FILE_NAME, judged.exit_code
        if as_json:
            click.echo(path.read_text(encoding="utf-8"), nl=False)
        return exit_code

    run_command(run, verbose=verbose)


@main.command()
@click.argument("run_dir", type=PATH)
@click.option("--speed", type=click.FloatRange(0, 100), default=1.0, show_default=True, help="0 shows all at once.")
def replay(run_dir: Path, speed: float) -> None:
    """Replay a finished call."""

    async def run() -> int:
        _log_to_stderr("WARNING")
        from runner.reports.console import make_console
        from runner.reports.replay import replay as play
        from runner.reports.terminal import TerminalReport, print_summary

        console = make_console()
        with TerminalReport(console, show_heard=True) as report:
            finished = await play(run_dir, report, speed=speed)
        print_summary(console, finished, str(run_dir))
        return finished.exit_code

    run_command(run)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("name", type=click.Choice(AGENT_NAMES))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65_535), default=7860, show_default=True)
@click.option("-v", "--verbose", count=True, help="Log more; twice for everything.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def agent(name: str, host: str, port: int, verbose: int, options: Sequence[str]) -> None:
    """Serve a reference agent over SmallWebRTC, until Ctrl-C.

    OPTIONS go to the agent and to Pipecat's own runner as they are.
    """
    _need_agents_extra()
    from bots.agents.serve import serve

    serve(name, host, port, log_level=_log_level("WARNING", verbose), options=options)


@main.command()
@click.option("--room", "room_url", metavar="URL", help="Enter this room, say who is there, and leave.")
@click.option("--token", help=f"Room token; - reads it from standard input (or the variable {TOKEN_VARIABLE}).")
@click.option("--participant-name", metavar="NAME", help="The agent's user name in a Daily room.")
@_common
def doctor(
    room_url: str | None, token: str | None, participant_name: str | None, config: Path | None, verbose: int
) -> None:
    """Check that this machine can make calls; with --room, that a room can be entered."""

    async def run() -> int:
        settings = _settings(config, verbose)
        from runner import doctor as clinic
        from runner.reports.console import make_console
        from runner.rooms.open import RoomAddress

        console = make_console()
        if room_url is not None:
            address = RoomAddress(room_url, _token(token), participant_name=participant_name)
            return await _visit(console, address, settings)

        def report(finding: clinic.Finding) -> None:
            mark = "[green]✓[/]" if finding.ok else ("[red]✗[/]" if finding.required else "[yellow]-[/]")
            console.print(f"{mark} {finding.check}: ", end="", highlight=False)
            console.print(finding.detail, markup=False, highlight=False, soft_wrap=True)

        return 0 if await clinic.examine(settings, report) else USAGE_EXIT_CODE

    run_command(run, verbose=verbose)


async def _visit(console: "Console", address: "RoomAddress", settings: "Settings") -> int:
    from runner.doctor import visit_room

    visit = await visit_room(address, settings)

    def say(ok: bool, text: str) -> None:
        console.print(f"{'✓' if ok else '✗'} {text}", markup=False, highlight=False, soft_wrap=True)

    if visit.error is not None:
        say(False, visit.error)
        return USAGE_EXIT_CODE
    say(True, f"entered the room after {visit.entered_s:.1f} s")
    say(bool(visit.participants), f"there: {', '.join(visit.participants) or 'nobody else'}")
    if visit.agent is None:
        say(
            False,
            "nobody sends audio: the agent is not in the room, or not by the name that --participant-name or the "
            "setting room.participant_name gives",
        )
        return USAGE_EXIT_CODE
    if visit.audio_s == 0:
        say(False, f"the agent is {visit.agent!r}, but no audio of it arrived")
        return USAGE_EXIT_CODE
    level = "silence so far" if visit.agent_level_dbfs is None else f"peak {visit.agent_level_dbfs:.0f} dBFS"
    say(True, f"the agent is {visit.agent!r}: {visit.audio_s:.1f} s of audio ({level}), {visit.messages} messages")
    return 0


class _Watchers:
    """Passes a call on to everyone who watches it."""

    def __init__(self, report: "TerminalReport", speakers: "Speakers | None"):
        self._report = report
        self._speakers = speakers

    def fact(self, event: "TimelineEvent") -> None:
        self._report.fact(event)

    def verdicts(self, verdicts: "Sequence[ExpectationVerdict]") -> None:
        self._report.verdicts(verdicts)

    def audio(self, channel: int, at_ns: int, pcm: bytes) -> None:
        if self._speakers is not None:
            self._speakers.audio(channel, pcm)


async def _make_call(
    request: "CallRequest", settings: "Settings", *, out: Path | None, as_json: bool, listen: bool
) -> int:
    """Make a call, showing it, and return its exit code."""
    from runner.calls.call import Call
    from runner.calls.request import new_run_id
    from runner.calls.run_file import FILE_NAME
    from runner.interruption import ending_in_good_order
    from runner.reports.console import make_console
    from runner.reports.terminal import TerminalReport, print_summary
    from runner.rooms.base import AUDIO_RATE_HZ

    console = make_console(stderr=as_json)
    run_id = new_run_id()
    folder = out or settings.runs_dir / run_id
    with ExitStack() as stack:
        speakers = None
        if listen:
            from runner.reports.listen import Speakers

            speakers = stack.enter_context(Speakers(AUDIO_RATE_HZ))
        report = stack.enter_context(TerminalReport(console))
        the_call = Call(request, settings, folder, run_id=run_id, watcher=_Watchers(report, speakers))
        with ending_in_good_order(the_call):
            run = await the_call.make()
    print_summary(console, run, str(folder))
    if as_json:
        click.echo((folder / FILE_NAME).read_text(encoding="utf-8"), nl=False)
    return run.exit_code


async def _run_suite(
    suite: "Suite", settings: "Settings", *, folder: Path, junit: Path | None, as_json: bool, allow_unjudged: bool
) -> int:
    """Run a suite, showing it, and return its exit code."""
    from runner.calls.suite import SuiteRunner
    from runner.calls.suite_file import FILE_NAME
    from runner.interruption import ending_in_good_order
    from runner.reports.console import make_console
    from runner.reports.junit import write_junit
    from runner.reports.suite import SuiteReport, print_suite

    def keep(result: "SuiteResult") -> None:
        if junit is not None:
            write_junit(junit, result, folder)

    console = make_console(stderr=as_json)
    runner = SuiteRunner(suite, settings, folder, allow_unjudged=allow_unjudged, keep=keep)
    with SuiteReport(console, suite, most_at_once=runner.most_at_once) as report:
        runner.watcher = report
        with ending_in_good_order(runner):
            result = await runner.make()
    print_suite(console, result, str(folder))
    if as_json:
        click.echo((folder / FILE_NAME).read_text(encoding="utf-8"), nl=False)
    return result.exit_code


def _settings(config: Path | None, verbose: int) -> "Settings":
    from runner.settings import load_settings

    settings = load_settings(config)
    _log_to_stderr(_log_level(settings.log_level, verbose))
    return settings


def _log_level(default: str, verbose: int) -> str:
    return {0: default, 1: "INFO", 2: "DEBUG"}.get(verbose, "TRACE")


def _log_to_stderr(level: str) -> None:
    from loguru import logger

    logger.remove()
    logger.add(
        sys.stderr, level=level, format="<level>{level: <7}</level> {message}", backtrace=False, diagnose=False
    )


def _token(given: str | None) -> Any:
    from pydantic import SecretStr

    if given == "-":
        given = sys.stdin.readline().strip()
        if not given:
            raise UsageError("--token -: standard input holds no token")
    elif given == "":
        raise UsageError("--token: is empty")
    if given is None:
        # A variable that is set to nothing, as CI does without a secret, is no token.
        given = os.environ.get(TOKEN_VARIABLE) or None
    return None if given is None else SecretStr(given)


def _json(text: str, option: str) -> Any:
    try:
        value = json.loads(text)
        # Python reads more than JSON is (NaN, halves of surrogate pairs), which no one else could read again.
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{option}: not valid JSON ({error})") from error
    return value


def _json_object(text: str, option: str) -> dict[str, Any]:
    value = _json(text, option)
    if not isinstance(value, dict):
        raise UsageError(f'{option}: must be a JSON object, such as \'{{"key": "value"}}\'')
    return value


def _need_agents_extra() -> None:
    """End with one line where Pipecat's own runner, which serves the reference agents, is not installed."""
    if find_spec("fastapi") is None or find_spec("pipecat_ai_prebuilt") is None:
        fail("this needs the extra 'agents' (Pipecat's runner): pip install 'pipecat-scenario-runner[agents]'")


if __name__ == "__main__":
    main()
