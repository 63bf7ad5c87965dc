"""The command that measures a recording. Importing this imports no audio library: the command loads what it needs."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.options import PATH, json_option
from runner.cli.running import without_settings

if TYPE_CHECKING:
    from runner.calls.any_recording import RecordingMeasures


@click.command()
@click.argument("recording", type=PATH)
@click.option("--timeline", type=PATH, help="The call's timeline.jsonl: then the caller's edges are known.")
@click.option(
    "--caller-channel", type=click.IntRange(0, 1), default=0, show_default=True, help="The channel the caller is on."
)
@json_option
@without_settings
async def measure(recording: Path, timeline: Path | None, caller_channel: int, as_json: bool) -> None:
    """Measure latencies and barge-ins in a two-channel recording.

    RECORDING is a WAV file with the caller on one channel and the agent on the other, whoever made it. Each figure
    comes with its uncertainty: the true value lies within it in 95 of 100 cases. Without a timeline both sides are
    detected.

    Exit codes: 0 measured, 2 the recording can't be measured.
    """
    from runner.calls.any_recording import measure_recording
    from runner.calls.timeline import read_timeline

    facts = None if timeline is None else read_timeline(timeline)
    measured = measure_recording(recording, facts, caller_channel=caller_channel)
    if as_json:
        click.echo(json.dumps(asdict(measured)))
    else:
        for line in _lines(measured):
            click.echo(line)


def _lines(measured: "RecordingMeasures") -> Iterator[str]:
    agent = "says nothing" if measured.agent_dbfs is None else f"at {measured.agent_dbfs:.0f} dBFS"
    edges = "known from the timeline" if measured.caller_known else "detected"
    yield f"recording   {measured.duration_s:.1f} s, {measured.rate_hz} Hz; the caller's edges are {edges}"
    yield f"agent       {agent}; background at {measured.bed_dbfs:.0f} dBFS"
    for warning in measured.warnings:
        yield f"warning     {warning}"
    if measured.turns:
        yield ""
        yield "caller               agent                latency"
    for turn in measured.turns:
        latency = _within(turn.response_latency_ms, turn.uncertainty_ms)
        notes = [latency] if turn.response_latency_ms is not None else []
        notes += ["talked over the caller"] if turn.interrupted else []
        notes += ["no answer"] if turn.agent_start_s is None else []
        notes += ["background too loud to tell"] if turn.too_loud else []
        caller = _span(turn.caller_start_s, turn.caller_end_s)
        yield f"{caller:<20} {_span(turn.agent_start_s, turn.agent_end_s):<20} {', '.join(notes)}".rstrip()
    for barge_in in measured.barge_ins:
        stopped = _within(barge_in.stop_time_ms, barge_in.uncertainty_ms)
        note = ", background too loud to tell" if barge_in.too_loud else ""
        yield f"barge-in at {barge_in.caller_start_s:.2f} s: the agent stopped after {stopped}{note}"


def _within(value_ms: float | None, uncertainty_ms: float | None) -> str:
    if value_ms is None or uncertainty_ms is None:
        return "an unknown time"
    return f"{value_ms:.0f} ms ± {uncertainty_ms:.0f}"


def _span(start_s: float | None, end_s: float | None) -> str:
    if start_s is None:
        return "-"
    return f"{start_s:.2f} to {'?' if end_s is None else f'{end_s:.2f}'} s"
