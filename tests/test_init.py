"""`scenario-runner init`: the first files of a project, fitted to what is found there."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from runner.cli.init import init
from runner.scenarios.evals import load_file
from runner.scenarios.first_files import GITHUB, GITLAB, SCENARIO, SUITE, first_files, look_at
from runner.scenarios.suites import load_suite
from runner.scenarios.targets import AgentAtUrl, AgentByCommand
from runner.settings import Settings

BOT = """
import os
from pipecat.frames.frames import LLMRunFrame
from pipecat.services.openai.llm import OpenAILLMService

async def run_bot(transport):
    llm = OpenAILLMService(api_key=os.getenv("OPENAI_API_KEY"), base_url=os.getenv("BASE_URL"))
    stt = os.environ["DEEPGRAM_API_KEY"], os.environ.get("CARTESIA_API_KEY"), os.getenv("OPENAI_API_KEY")
    {greeting}

async def bot(runner_args):
    await run_bot(None)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bot.py").write_text(BOT.format(greeting="await task.queue_frames([LLMRunFrame()])"))
    return tmp_path


def initialised(project: Path) -> str:
    done = CliRunner().invoke(init, [str(project)])
    assert done.exit_code == 0, done.output
    return done.output


def suite_of(project: Path):
    return load_suite(project / SUITE, Settings())


def test_the_suite_starts_the_bot_that_is_found(project: Path):
    said = initialised(project)
    assert "found the bot bot.py" in said
    suite = suite_of(project)
    assert isinstance(suite.agent, AgentByCommand)
    assert suite.agent.command == ("python", "bot.py", "-t", "webrtc", "--port", "{port}")
    assert [run.scenario.name for run in suite.runs] == ["hello"]


@pytest.mark.parametrize(("greeting", "turns"), [("queue(LLMRunFrame())", 2), ("pass", 1)])
def test_the_caller_listens_first_where_the_bot_greets(tmp_path: Path, greeting: str, turns: int):
    text = BOT.format(greeting=greeting).replace("from pipecat.frames.frames import LLMRunFrame\n", "")
    (tmp_path / "bot.py").write_text(text)
    initialised(tmp_path)
    (scenario,) = load_file(tmp_path / SCENARIO, Settings())
    assert len(scenario.playable().turns) == turns


def test_ci_gets_the_keys_that_the_bot_reads(project: Path):
    initialised(project)
    workflow = yaml.safe_load((project / GITHUB).read_text())
    (env,) = [step["env"] for step in workflow["jobs"]["calls"]["steps"] if "env" in step]
    assert list(env) == ["CARTESIA_API_KEY", "DEEPGRAM_API_KEY", "OPENAI_API_KEY"]


def test_a_uv_project_is_run_by_uv(project: Path):
    (project / "uv.lock").touch()
    initialised(project)
    assert suite_of(project).agent.command[:3] == ("uv", "run", "python")
    assert "uv sync" in (project / GITHUB).read_text()


def test_an_environment_of_the_project_is_used_and_made_in_ci(project: Path):
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    (project / "requirements.txt").touch()
    found = look_at(project)
    assert found.python == (".venv/bin/python",)
    assert found.install == ("python -m venv .venv", ".venv/bin/python -m pip install -r requirements.txt")


def test_a_bot_in_a_folder_and_by_another_name(tmp_path: Path):
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / 'pizza "x".py').write_text(BOT.format(greeting="pass"))
    initialised(tmp_path)
    assert 'server/pizza "x".py' in suite_of(tmp_path).agent.command


def test_without_a_bot_the_suite_calls_one_that_runs(tmp_path: Path):
    (tmp_path / "bot.py").write_text("async def bot(args): this is no Python")
    (tmp_path / "main.py").write_text("async def bot(args): pass")
    assert "no bot found" in initialised(tmp_path)
    assert suite_of(tmp_path).agent == AgentAtUrl("http://localhost:7860")


def test_gitlab_gets_a_job_of_its_own(project: Path):
    (project / ".gitlab-ci.yml").touch()
    assert f"include: {GITLAB}" in initialised(project)
    job = yaml.safe_load((project / GITLAB).read_text())["voice"]
    assert job["artifacts"]["reports"] == {"junit": "results/voice.xml"}
    assert not (project / GITHUB).exists()


def test_an_agent_on_pipecat_cloud_is_named(project: Path):
    (project / "pcc-deploy.toml").write_text('agent_name = "pizza"\n')
    assert "public/pizza/start" in first_files(look_at(project))[SUITE]


def test_what_exists_is_kept(project: Path):
    (project / SCENARIO).parent.mkdir(parents=True)
    (project / SCENARIO).write_text("mine")
    assert f"kept    {SCENARIO}" in initialised(project)
    assert (project / SCENARIO).read_text() == "mine"
    assert "nothing to do" in initialised(project)


@pytest.mark.parametrize("garbage", [b"\xff\xfe\x00", b"(" * 10_000, b"x = 1\n" * 300_000])
def test_files_that_are_no_python_are_no_bot(tmp_path: Path, garbage: bytes):
    (tmp_path / "bot.py").write_bytes(garbage)
    for name in (".python-version", "pcc-deploy.toml"):
        (tmp_path / name).write_bytes(garbage)
    assert "no bot found" in initialised(tmp_path)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path):
    done = CliRunner().invoke(init, [str(tmp_path / "nowhere")])
    assert (done.exit_code, "no such folder" in done.output) == (2, True)
