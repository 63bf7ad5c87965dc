"""How long the command line takes to start, to show a first call's first words, and to say that nobody answers.

    python -m benchmarks.startup

Every figure is a process of its own. The demo is started once before it is measured, so that the caller's lines are
on disk, as they are for everyone who runs it again.
"""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.calls import BOOKING
from benchmarks.common import Claim, median, parser, percentile, report
from runner.sessions.local_agent import free_port

COMMAND = str(Path(sys.executable).with_name("scenario-runner"))
CONVERSATION = re.compile(r"^\s*[\d.]+ s\s+(agent|caller)\s+(?!is there)")
"""A line of a call's report in which somebody says something."""

MAX_HELP_S = 0.5
MAX_DEMO_S = 15.0
MAX_REFUSED_S = 5.0
USAGE_EXIT_CODE = 2


def help_s() -> float:
    """Return how long ``--help`` takes."""
    began_s = time.monotonic()
    subprocess.run([COMMAND, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began_s


def imported_by_help() -> set[str]:
    """Return the top-level packages that ``--help`` imports."""
    command = [sys.executable, "-X", "importtime", "-m", "runner.cli", "--help"]
    trace = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in trace.splitlines() if "|" in line}


def demo_s(folder: Path) -> float:
    """Return how long the demo takes until somebody says something; it is stopped then."""
    began_s = time.monotonic()
    with subprocess.Popen(
        [COMMAND, "demo", "--out", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        assert demo.stdout is not None
        seen: list[str] = []
        for line in demo.stdout:
            seen.append(line)
            if CONVERSATION.match(line):
                took_s = time.monotonic() - began_s
                demo.send_signal(signal.SIGINT)
                demo.stdout.read()
                return took_s
    raise RuntimeError(f"the demo ended without a conversation:\n{''.join(seen)}")


def refused_s(folder: Path) -> tuple[float, str]:
    """Return how long a call to a port nobody listens on takes to fail, and what it says."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [COMMAND, "call", url, "--scenario", BOOKING, "--out", str(folder)]
    began_s = time.monotonic()
    call = subprocess.run(command, check=False, capture_output=True, text=True)
    took_s = time.monotonic() - began_s
    if call.returncode != USAGE_EXIT_CODE:
        raise RuntimeError(f"exit code {call.returncode}:\n{call.stdout}{call.stderr}")
    return took_s, next((line for line in call.stdout.splitlines() if "nothing answers" in line), "")


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--repeat", type=int, default=10, help="for --help; the others are repeated 3 times")
    chosen = options.parse_args()
    few = min(chosen.repeat, 3)
    help_s()
    helps_s = [help_s() for _ in range(chosen.repeat)]
    imported = imported_by_help()
    with TemporaryDirectory(prefix="benchmark-") as folder:
        first_demo_s = demo_s(Path(folder) / "first-demo")
        demos_s = [demo_s(Path(folder) / f"demo-{index}") for index in range(few)]
        refused = [refused_s(Path(folder) / f"refused-{index}") for index in range(few)]
    refusals_s = [took_s for took_s, _ in refused]
    rows = [
        [name, f"{median(times_s):.2f}", f"{percentile(times_s, 95):.2f}", str(len(times_s))]
        for name, times_s in (
            ("--help", helps_s),
            ("demo, the first here, to its first words", [first_demo_s]),
            ("demo again, to its first words", demos_s),
            ("call to a refused port, to its end", refusals_s),
        )
    ]
    return report(
        "Start-up of scenario-runner",
        ("command", "median s", "p95 s", "times"),
        rows,
        [
            Claim(
                f"--help takes at most {MAX_HELP_S:g} s in the median ({median(helps_s):.2f})",
                median(helps_s) <= MAX_HELP_S,
            ),
            Claim(
                "--help imports neither Pipecat nor aiortc nor numpy", not imported & {"pipecat", "aiortc", "numpy"}
            ),
            Claim(
                f"the demo's first words come within {MAX_DEMO_S:g} s ({median(demos_s):.1f})",
                median(demos_s) <= MAX_DEMO_S,
            ),
            Claim(
                f"a refused port is told within {MAX_REFUSED_S:g} s ({median(refusals_s):.1f})",
                median(refusals_s) <= MAX_REFUSED_S,
            ),
            Claim("it is told that nothing answers there", all(line for _, line in refused)),
        ],
        raw={
            "help_s": helps_s,
            "first_demo_s": first_demo_s,
            "demos_s": demos_s,
            "refusals_s": refusals_s,
            "imported_by_help": sorted(imported),
        },
        json_file=chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
