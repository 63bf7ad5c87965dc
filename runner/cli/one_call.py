"""One call, shown while it is made: what `call` and `demo` share."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bots.timeline import TimelineEvent
    from runner.calls.request import CallRequest
    from runner.evaluation.verdicts import ExpectationVerdict
    from runner.reports.listen import Speakers
    from runner.reports.terminal import TerminalReport
    from runner.settings import Settings


async def make_call(
    request: "CallRequest",
    settings: "Settings",
    *,
    out: Path | None,
    as_json: bool,
    listen: bool,
    html: Path | None = None,
) -> int:
    """Make a call, showing it, write its report, and return its exit code."""
    from runner.calls.call import Call
    from runner.calls.request import new_run_id
    from runner.calls.run_file import FILE_NAME
    from runner.cli.interruption import ending_in_good_order
    from runner.cli.reporting import check_html, report_run
    from runner.reports.console import make_console
    from runner.reports.terminal import TerminalReport, print_summary
    from runner.rooms.base import AUDIO_RATE_HZ

    check_html(html)
    console = make_console(stderr=as_json)
    run_id = new_run_id()
    folder = out or settings.runs_dir / run_id
    with ExitStack() as stack:
        speakers = None
        if listen:
            from runner.reports.listen import Speakers

            speakers = stack.enter_context(Speakers(AUDIO_RATE_HZ))
        report = stack.enter_context(TerminalReport(console, turns=len(request.script.turns)))
        watchers = _Watchers(report, speakers)
        the_call = Call(request, settings, folder, run_id=run_id, watcher=watchers, progress=report.afterwards)
        with ending_in_good_order(the_call):
            run = await the_call.make()
    print_summary(console, run, str(folder))
    if as_json:
        click.echo((folder / FILE_NAME).read_text(encoding="utf-8"), nl=False)
    report_run(console, folder, html)
    return run.exit_code


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
