"""Makes the pictures of reports again, and docs/faults.md, from real calls to the reference agent.

    python -m benchmarks.gallery
    python -m benchmarks.gallery --only slow,mute
    python -m benchmarks.gallery --simulated

Each fault is called with the scenario that catches it. Where a call comes to something else than it must, its picture
and its section stay as they were, and the exit code is 1. Needs Debian's Chromium, and a machine that does nothing
else: what slows the runner down is told in the pictures. Simulated calls, in virtual time, take a few minutes on any
machine; of these only the page of the faults is made.
"""

import argparse
import io
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import yaml
from loguru import logger
from PIL import Image
from playwright.sync_api import Browser

from bots.agents.faults import FAULTS, NOISE_DBFS
from runner.calls.run_file import Run
from runner.calls.suite_file import SuiteRun, read_suite
from runner.reports.evidence import headline_of, verdict_words
from runner.reports.html.write import FILE_NAME, write_run_report
from runner.scenarios.evals import load_scenario
from tests.browser import started
from tests.faults import FAULTS as TABLE
from tests.faults import SETTINGS, Caught
from tests.simulated.call import Simulation
from tests.simulated.conditions import bed
from tests.simulated.faults import BEHAVIOURS

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs" / "faults.md"
PICTURES = PROJECT / "docs" / "pictures"

WIDTH_PX = 1_000
MARGIN_PX = 16
SEED = 3
COLOURS = 256
"""A picture of a page needs no more, and is a third as large."""

MAX_PICTURE_BYTES = 120_000

ABOUT = {
    "slow": "The greeting comes in time, and every answer 5 s late.",
    "talks_over": "Begins to speak 0.9 s into every line of the caller, and answers the line afterwards.",
    "never_stops": "Speaks to the end of what it has to say when the caller interrupts.",
    "deaf": "Greets, then neither hears nor says anything: it is connected and sends silence.",
    "mute": "Hears, acts, and reports over RTVI that it speaks, but what it sends is silence.",
    "wrong_answer": "Takes one person more than the caller said, and repeats and books that.",
    "hangs_up": "Ends the call in good order where its second answer should be.",
    "leaves": "Leaves as soon as it has greeted.",
    "crashes": "Its process is killed where its second answer should be.",
    "noisy": "An office is heard behind it all the time, 42 dB below full scale. It does nothing wrong, and passes.",
    "errors": "An exception is raised in place of its second answer. It is connected, and says nothing more.",
    "drops_sentence": "Reports the sentence that asks for the name, as any other, but makes no sound of it.",
    "greets_early": "Greets as soon as it is connected, whether the caller is ready or not. It is: the run passes.",
    "stops_for_mm_hmm": 'Takes the "mm-hmm" of a listener for an interruption, stops, and does not go on.',
    "never_joins": "Accepts the connection, and nothing ever comes.",
}
"""What the agent does, for a reader who has not seen it."""

TOP = """\
# Faults

What a run says of an agent that fails, and what its report shows first: one call to each fault of the reference agent
[`restaurant`](calls.md#reference-agents), with the scenario that catches it.

`python -m benchmarks.gallery` makes this page and its pictures again, in 15 minutes on a machine that does nothing
else. It needs Debian's `chromium`. On any machine `python -m benchmarks.gallery --simulated` makes them of calls in
virtual time, in which the tests' double of the restaurant, with the same voice, takes its place.
"""

SHOWN_SUITE = [
    {"scenario": "booking.yaml:table_for_four", "data": {"restaurant": {"fault": "wrong_answer"}}},
    {"scenario": "restaurant.yaml:answers_in_time", "repeat": 2},
    {"scenario": "restaurant.yaml:answers_in_time", "data": {"restaurant": {"fault": "slow"}}},
    {
        "scenario": "restaurant.yaml:lets_the_caller_finish",
        "repeat": 3,
        "data": {"restaurant": {"fault": "talks_over"}},
    },
    {"scenario": "restaurant.yaml:greets", "repeat": 3},
    {"scenario": "restaurant.yaml:hangs_up_after_goodbye", "repeat": 3},
]
"""What the picture of a suite is of: an agent that fails in some scenarios, and in one of them now and then."""


def run_suite(name: str, entries: Sequence[dict[str, Any]], folder: Path) -> list[SuiteRun]:
    """Run a suite of the reference agent with the command line, and return its runs; its reports are beside them."""
    command = ["{python}", "-m", "bots.agents.restaurant", "-t", "webrtc", "--host", "127.0.0.1", "--port", "{port}"]
    scenarios = PROJECT / "config" / "scenarios"
    suite = {
        "name": name,
        "agent": {"command": command},
        "retry_inconclusive": 3,
        "scenarios": [{**entry, "scenario": str(scenarios / entry["scenario"])} for entry in entries],
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")
    run = [sys.executable, "-m", "runner.cli", "run", str(file), "--out", str(folder / name)]
    subprocess.run(run, cwd=PROJECT, check=False)
    return read_suite(folder / name).runs


def picture(
    browser: Browser,
    report: Path,
    target: Path,
    *,
    width: int = WIDTH_PX,
    height: int | None = None,
    theme: Literal["light", "dark"] = "light",
) -> None:
    """Take a picture of a report: of what shows the failure, or of a window of a given height.

    Raises:
        RuntimeError: It is larger than a page of the documentation should hold, or the report is not quiet.
    """
    page = browser.new_page(viewport={"width": width, "height": height or 2_000}, color_scheme=theme)
    noise: list[str] = []
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("request", lambda request: noise.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_timeout(1_000)
    if noise := [text for text in noise if text != report.as_uri() and not text.startswith("data:")]:
        raise RuntimeError(f"{report}: asks for something, or has an error: {noise[0]}")
    clip = None
    if height is None:
        top, bottom = page.locator(".verdict").bounding_box(), page.locator(".tl").bounding_box()
        assert top is not None and bottom is not None
        from_px = top["y"] - MARGIN_PX
        clip = {"x": 0, "y": from_px, "width": width, "height": bottom["y"] + bottom["height"] + MARGIN_PX - from_px}
    shot = Image.open(io.BytesIO(page.screenshot(clip=clip)))  # type: ignore[arg-type]
    page.close()
    target.parent.mkdir(parents=True, exist_ok=True)
    # By coverage: the usual way spends all colours on greys, and the small green signs turn blue.
    shot.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(target, optimize=True)
    if (size := target.stat().st_size) > MAX_PICTURE_BYTES:
        raise RuntimeError(f"{target}: {size} bytes, more than {MAX_PICTURE_BYTES}")


def section(caught: Caught, run: Run | SuiteRun, *, is_simulated: bool) -> str:
    """Return what the page says of a fault."""
    call = "A simulated call" if is_simulated else "A call"
    name = str(caught.fault)
    said = "passed"
    if not run.success:
        said = f"{verdict_words(run.success, run.cause, run.failure)}: "
        said += headline_of(run.failure, run.detail, run.ended_reason)
    return f"""\
## {name}

{ABOUT[name]}
{call} with `{caught.scenario}` comes to:

```text
{said}
```

![The report of a call to an agent with the fault {name}](pictures/faults/{name}.png)
"""


def sections_of(page: str) -> dict[str, str]:
    """Return the sections of a page by their titles."""
    parts = re.split(r"^(?=## )", page, flags=re.MULTILINE)[1:]
    return {part.splitlines()[0].removeprefix("## "): part.rstrip() + "\n" for part in parts}


def came_to(run: Run | SuiteRun) -> tuple[Any, ...]:
    """Return whose fault a run says it was, and what kind of failure: where that is right, the fault was caught."""
    return run.cause, run.failure.kind if run.failure else None


def simulated(table: Sequence[Caught], folder: Path) -> list[tuple[Run, Path]]:
    """Make the calls in virtual time, where nothing is late on any machine, and return them with their reports."""
    made: list[tuple[Run, Path]] = []
    for caught in table:
        background = bed("office", NOISE_DBFS) if caught.fault == "noisy" else None
        call = Simulation(seed=SEED, behaviour=BEHAVIOURS[caught.fault], background=background)
        script, run_folder = load_scenario(caught.spec, SETTINGS).playable(), folder / str(caught.fault)
        run = call.play(script, run_folder, settings=SETTINGS, transcribe=True)
        made.append((run, write_run_report(run_folder).report))
    return made


def called(table: Sequence[Caught], folder: Path) -> list[tuple[SuiteRun, Path]]:
    """Make the calls, and return them with their reports."""
    entries = [{"scenario": c.scenario, "data": {"restaurant": {"fault": c.fault}}} for c in table]
    runs = {(run.scenario, run.repeat): run for run in run_suite("faults", entries, folder)}
    seen: Counter[str] = Counter()
    made: list[tuple[SuiteRun, Path]] = []
    for caught in table:
        # A scenario's repeats are numbered as they stand in the file.
        name = caught.scenario.replace(".yaml:", "/")
        seen[name] += 1
        run = runs[name, seen[name]]
        made.append((run, folder / "faults" / str(run.folder) / FILE_NAME))
    return made


def show_faults(made: Sequence[tuple[Caught, tuple[Run | SuiteRun, Path]]], browser: Browser) -> bool:
    """Make the page of the faults; return whether all calls came to what they must."""
    sections = sections_of(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    right = True
    for caught, (run, report) in made:
        if came_to(run) != (caught.cause, caught.kind):
            print(f"{caught.fault}: came to {came_to(run)}: {run.detail}", file=sys.stderr)
            right = False
            continue
        picture(browser, report, PICTURES / "faults" / f"{caught.fault}.png")
        sections[str(caught.fault)] = section(caught, run, is_simulated=isinstance(run, Run))
    PAGE.write_text("\n".join([TOP, *(sections[name] for name in FAULTS if name in sections)]), encoding="utf-8")
    return right


def show_suite(runs: Sequence[SuiteRun], folder: Path, browser: Browser) -> bool:
    """Make the pictures of a run and of a suite; return whether the runs came to what they must."""
    came = Counter(run.success for run in runs)
    if came != {True: 8, False: 5}:
        print(f"suite: not 8 runs passed and 5 failed: {dict(came)}", file=sys.stderr)
        return False
    wrong = next(run for run in runs if run.scenario == "booking/table_for_four")
    report, suite = folder / str(wrong.folder) / FILE_NAME, folder / FILE_NAME
    picture(browser, report, PICTURES / "run.png", width=1_180, height=820)
    picture(browser, report, PICTURES / "phone.png", width=390, height=800, theme="dark")
    picture(browser, suite, PICTURES / "suite.png", width=1_180, height=1_180, theme="dark")
    return True


def main() -> int:
    """Make the calls and the pictures."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--only", default="", metavar="NAME,…", help="these faults alone, and no other picture")
    options.add_argument("--simulated", action="store_true", help="the faults alone, in simulated calls")
    options.add_argument("--runs", type=Path, metavar="DIR", help="keep the runs in this new folder")
    chosen = options.parse_args()
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    only = [name for name in chosen.only.split(",") if name]
    if unknown := set(only) - set(FAULTS):
        options.error(f"no such fault: {', '.join(sorted(unknown))}; there are: {', '.join(FAULTS)}")
    table = [caught for caught in TABLE if not only or caught.fault in only]
    with TemporaryDirectory(prefix="gallery-") as name:
        folder = Path(name)
        if chosen.runs is not None:
            folder = chosen.runs.resolve()
            folder.mkdir(parents=True)
        # All calls come first: a browser takes what calls need.
        made = simulated(table, folder) if chosen.simulated else called(table, folder)
        runs = [] if only or chosen.simulated else run_suite("restaurant", SHOWN_SUITE, folder)
        with started() as browser:
            right = show_faults(list(zip(table, made, strict=True)), browser)
            right = (not runs or show_suite(runs, folder / "restaurant", browser)) and right
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
