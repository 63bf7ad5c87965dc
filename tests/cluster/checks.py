"""What must hold of a deployment, whatever was done to it: every run ended once, and as it should."""

import json
import re
import wave
from collections.abc import Collection, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from tests.cluster.client import TOKEN, Launched
from tests.cluster.cluster import Cluster
from tests.patience import wait_until

ARTEFACTS = frozenset({"recording.wav", "timeline.jsonl", "run.json"})
FINAL = frozenset({"completed", "failed", "cancelled"})
MAX_SETTLING_S = 20.0


def check(cluster: Cluster, launched: Sequence[Launched], *, may_be_lost: Collection[int] = ()) -> dict[int, str]:
    """Check everything about runs that have all ended."""
    runs = {run_id: cluster.client.run(run_id) for each in launched for run_id in each.runs}
    wrong = [
        *outcomes(cluster, launched, runs, may_be_lost),
        *ended_once(cluster, runs),
        *cluster.agent.met(),
        *logs(cluster),
    ]
    assert not wrong, "\n".join(wrong)
    wait_until(
        lambda: not leavings(cluster), lambda: f"something was left behind: {leavings(cluster)}", MAX_SETTLING_S
    )
    return {run_id: run["status"] for run_id, run in runs.items()}


def outcomes(
    cluster: Cluster, launched: Sequence[Launched], runs: Mapping[int, Any], may_be_lost: Collection[int]
) -> list[str]:
    return [
        f"run {run_id}: {problem}"
        for each in launched
        for run_id in each.runs
        for problem in _outcome(cluster, each, runs[run_id], may_be_lost)
    ]


def ended_once(cluster: Cluster, runs: Collection[int]) -> list[str]:
    """Return which runs did not end exactly once, or changed after their end."""
    wrong: list[str] = []
    changes = cluster.store.changes()
    for run_id in runs:
        made = changes.get(run_id, [])
        ends = [change for change in made if change.status in FINAL]
        if len(ends) != 1 or made[-1] != ends[0]:
            wrong.append(f"run {run_id}: did not end once: {made}")
        attempts = [change.attempt for change in made]
        if attempts != sorted(attempts):
            wrong.append(f"run {run_id}: went back to an earlier attempt: {made}")
    return wrong


def logs(cluster: Cluster) -> list[str]:
    """Return what must not stand in logs: tracebacks, and secrets.

    Not the agent's tracebacks: its aiortc may leave one when its caller is killed.
    """
    wrong: list[str] = []
    for program in cluster.programs:
        for path in (program.log, program.out):
            text = path.read_text(errors="replace") if path.exists() else ""
            found = re.search(r"(?m)^(?:.*\n){0,3}.*Traceback(?:.*\n){0,40}", text)
            if found and program is not cluster.agent.program:
                wrong.append(f"{path.name} holds a traceback:\n{found[0]}")
            if any(secret in text for secret in (TOKEN, *cluster.secrets)) and path != cluster.api.out:
                wrong.append(f"{path.name} holds a secret")
    return wrong


def leavings(cluster: Cluster) -> list[Path]:
    return [path for worker in cluster.workers for path in worker.leavings()]


def _outcome(cluster: Cluster, launched: Launched, run: Any, may_be_lost: Collection[int]) -> list[str]:
    ours = run["scenario_runner"]
    came_to = (run["status"], ours["success"], ours["cause"], ours["ended_reason"], ours["detail"])
    if run["status"] == "failed":
        is_lost = (ours["cause"], ours["ended_reason"], ours["success"]) == ("harness", "runner-error", None)
        if not is_lost or "worker lost" not in (ours["detail"] or ""):
            return [f"failed, and not with its worker: {came_to}"]
        if launched.starts_anew or run["id"] not in may_be_lost:
            return [f"was lost, though it need not have been: {came_to}"]
        return []
    if run["status"] == "cancelled":
        return [] if launched.success is None else [f"was cancelled: {came_to}"]
    wanted = (launched.success, None if launched.success else "agent")
    wrong = [] if came_to[1:3] == wanted else [f"came to {came_to}, not to {wanted}"]
    return wrong + _artefacts(cluster, run)


def _artefacts(cluster: Cluster, run: Any) -> list[str]:
    kept = run["scenario_runner"]["artefacts"]
    if kept.keys() < ARTEFACTS:
        return [f"only {sorted(kept)} is kept of it"]
    wrong: list[str] = []
    with wave.open(BytesIO(cluster.client.get(kept["recording.wav"]).content)) as wav:
        lasts_s = wav.getnframes() / wav.getframerate()
        if wav.getnchannels() != 2 or abs(lasts_s - run["scenario_runner"]["duration_s"]) > 1:
            wrong.append(f"its recording lasts {lasts_s:.1f} s, the call {run['scenario_runner']['duration_s']} s")
    events = [json.loads(line) for line in cluster.client.get(kept["timeline.jsonl"]).text.splitlines()]
    if events[0]["type"] != "call_started" or not any(event["type"] == "call_ended" for event in events):
        wrong.append("its timeline is not whole")
    if cluster.client.get(kept["run.json"]).json()["success"] != run["scenario_runner"]["success"]:
        wrong.append("its run.json says otherwise")
    return wrong
