"""The command that judges a finished call again."""

from pathlib import Path

import click

from runner.cli.options import PATH
from runner.cli.running import with_settings


@click.command()
@click.argument("run_dir", type=PATH)
@click.option(
    "--measure/--no-measure",
    default=None,
    help="Measure recording.wav again, or not at all (default: where it was not measured).",
)
@click.option("--json", "as_json", is_flag=True, help="Print run.json (of a suite: suite.json) alone.")
@with_settings
async def evaluate(_: object, run_dir: Path, measure: bool | None, as_json: bool) -> int:
    """Judge a finished call or suite again, by its stored facts.

    RUN_DIR is the folder of a run, or that of a suite: then every run in it is judged again. Nobody is called. The
    script that was played counts, not what scenario files and settings say by now.

    run.json, suite.json and report.html are overwritten, and with them the verdict of before. suite.json loses its
    `comparison`; a suite with gates or statistics needs the extra `compare`.

    Exit codes as for the call or the suite: 0 passed, 1 the agent failed, 2 anything else.
    """
    from runner.calls import run_file, suite_file
    from runner.calls.evaluate import MeasureCall, Measuring, evaluate_run, evaluate_suite, is_suite
    from runner.cli.reporting import report_run, report_suite
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
        report = report_suite
        result = evaluate_suite(run_dir, measure=measure_recording, measuring=measuring)
        print_suite(console, result, str(run_dir))
        path, exit_code = run_dir / suite_file.FILE_NAME, result.exit_code
    else:
        report = report_run
        judged = evaluate_run(run_dir, measure=measure_recording, measuring=measuring)
        print_summary(console, judged, str(run_dir))
        path, exit_code = run_dir / run_file.FILE_NAME, judged.exit_code
    if as_json:
        click.echo(path.read_text(encoding="utf-8"), nl=False)
    report(console, run_dir)
    return exit_code
