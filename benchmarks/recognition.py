"""What recognition costs: while a call is on, and when it is over.

    python -m benchmarks.recognition

A caller recognises during the call only where its script waits for words and the agent speaks no RTVI. The
metronome speaks RTVI, so for these calls its messages are ignored: to the caller it is then an agent without. The
same calls are made with a script that waits for any response and with one that waits for words; and one call is made
whose words are recognised when it is over, which every call does unless told not to.
"""

import dataclasses
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from benchmarks.calls import MAX_ERROR_MS, Measured, Plan, Row, conversation, measure, turns_for
from benchmarks.common import Claim, agents, in_fresh_process, median, parser, percentile, report, synthesise
from bots.caller.script import Expectation

WORD = "time"
"""A word of the metronome's sentence."""

MAX_AFTER_S_PER_S = 1.0


async def run_plans(options: Any) -> dict[str, list[Measured]]:
    """Measure every kind of call, in turn."""
    turns = turns_for(options.seconds)
    any_response = conversation(turns)
    words = conversation(turns, Expectation(event="response", text_contains=WORD))
    synthesise(any_response)
    with TemporaryDirectory(prefix="benchmark-truth-") as folder:
        logs = Path(folder)
        async with agents("metronome", 1, logs) as urls:
            where = tuple(urls)
            plans = {
                "none": Plan(where, options.calls, any_response, logs, deaf_to_messages=True),
                "live": Plan(where, options.calls, words, logs, deaf_to_messages=True),
                "none, one call": Plan(where, 1, any_response, logs),
                "after": Plan(where, 1, any_response, logs, transcribe=True),
            }
            measured: dict[str, list[Measured]] = {name: [] for name in plans}
            for _ in range(options.repeat):
                for name, plan in plans.items():
                    measured[name].append(await anyio.to_thread.run_sync(in_fresh_process, measure, plan))
                    for detail in measured[name][-1].details:
                        print(f"{name}: {detail}", file=sys.stderr)
    return measured


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--calls", type=int, default=4, help="how many calls at once, for live recognition")
    options.add_argument("--seconds", type=float, default=30, help="length of a call")
    options.add_argument("--repeat", type=int, default=2)
    options.add_argument("--max-error-ms", type=float, default=MAX_ERROR_MS)
    chosen = options.parse_args()
    measured = anyio.run(run_plans, chosen)
    kinds = {name: Row(repeats[0].plan_calls, 1, repeats) for name, repeats in measured.items()}
    live, none, after, before = (kinds[name] for name in ("live", "none", "after", "none, one call"))
    rows = [
        [
            name,
            str(row.calls),
            f"{sum(r.passed for r in row.repeats)}/{row.calls * len(row.repeats)}",
            f"{row.cores_per_call:.3f}",
            f"{median([r.rss_mb for r in row.repeats]):.0f}",
            f"{percentile([abs(error) for error in row.errors_ms], 95):.1f} / {row.max_error_ms:.1f}",
            f"{percentile(lags := [lag for r in row.repeats for lag in r.lags_ms], 99):.1f} / {max(lags):.1f}",
        ]
        for name, row in kinds.items()
    ]
    speech_share = median([r.agent_speech_s / r.steady_s / r.plan_calls for r in live.repeats])
    live_per_s = (live.cores_per_call - none.cores_per_call) / speech_share
    closing_s = median([r.after_call_s for r in before.repeats])
    closing_cpu_s = median([r.after_call_cpu_s for r in before.repeats])
    after_s = median([(r.after_call_s - closing_s) / r.agent_speech_s for r in after.repeats])
    after_cpu_s = median([(r.after_call_cpu_s - closing_cpu_s) / r.agent_speech_s for r in after.repeats])
    code = report(
        "Recognition of what the agent says (offline Whisper tiny.en)",
        (
            "recognition",
            "calls",
            "passed",
            "cores per call",
            "RSS MB",
            "abs. latency error, p95 / max ms",
            "loop lag, p99 / max ms",
        ),
        rows,
        [
            Claim("every call passed", all(row.all_passed for row in kinds.values())),
            Claim("no silence in the middle of a caller's line", not any(row.underruns for row in kinds.values())),
            Claim(
                f"live recognition leaves every latency within {chosen.max_error_ms:g} ms ({live.max_error_ms:.1f})",
                live.max_error_ms <= chosen.max_error_ms,
            ),
            Claim(
                f"recognition after a call is done sooner than the speech lasted ({after_s:.2f} s for each second)",
                after_s <= MAX_AFTER_S_PER_S,
            ),
        ],
        raw={name: [dataclasses.asdict(repeat) for repeat in repeats] for name, repeats in measured.items()},
        json_file=chosen.json,
    )
    print(f"\nAgent speech: {speech_share:.0%} of the call.")
    print(f"Live: {live_per_s * 60:.1f} CPU s for each minute of agent speech.")
    print(
        f"After the call: {after_cpu_s * 60:.1f} CPU s, done in {after_s * 60:.1f} s, for a minute of agent speech."
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
