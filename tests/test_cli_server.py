"""The commands that look after the record."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runner.cli import main

PASSWORD = "s3cr3t-p4ss"


@pytest.fixture(autouse=True)
def folder(bare_folder: Path) -> Path:
    return bare_folder


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def done(*arguments: str) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def refused(*arguments: str) -> str:
    """Return the one line that a wrong command comes to."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert PASSWORD not in result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "our own error" not in line
    return line


def test_help_lists_them_and_loads_no_database() -> None:
    code = """
import sys
from runner.cli import main
within = ["keys create", "keys list", "keys revoke", "projects create", "projects list"]
within += ["schedules", "schedules list", "schedules history", "schedules run-now"]
for command in ([], ["migrate"], ["keys"], ["projects"], *map(str.split, within)):
    main([*command, "--help"], standalone_mode=False)
heavy = {"sqlalchemy", "alembic", "cryptography", "obstore", "dbos", "pipecat"}
print(*sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert shown.stderr.strip() == ""
    assert "keys " in shown.stdout
    assert "migrate " in shown.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["keys", "create", "--name", "ci"],
        pytest.param(["serve", "--no-worker", "--port", "0"], marks=pytest.mark.slow),
    ],
)
def test_a_reader_that_has_enough_is_no_error_to_tell_of(command: list[str]) -> None:
    done("migrate")
    reader, writer = os.pipe()
    os.close(reader)
    whole = [sys.executable, "-m", "runner.cli", *command]
    ended = subprocess.run(whole, check=False, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert ended.returncode == 2 and "our own error" not in ended.stderr


def test_a_key_is_made_listed_and_revoked(folder: Path) -> None:
    assert "is up to date" in done("migrate")
    assert "is up to date" in done("migrate")
    key = done("keys", "create", "--name", "ci")
    assert key.startswith("psr_")
    assert done("keys", "create", "--kind", "worker").startswith("psw_")
    listed = done("keys", "list").splitlines()
    assert len(listed) == 2
    assert key[:12] in listed[0]
    assert "ci" in listed[0]
    assert "project 1" in listed[0]
    assert key not in "".join(listed)
    assert done("keys", "revoke", key[:12]) == "revoked"
    first, second = done("keys", "list").splitlines()
    assert "revoked" in first
    assert "revoked" not in second
    assert (folder / "data" / "record.sqlite").is_file()


def test_options_say_which_record(folder: Path) -> None:
    done("migrate", "--data-dir", "one")
    done("migrate", "--database-url", "sqlite:///two.sqlite")
    (folder / "my.toml").write_text('[server]\ndata_dir = "three"\n')
    done("migrate", "--config", "my.toml")
    assert {"one", "two.sqlite", "three"} <= {path.name for path in folder.iterdir()}
    assert done("keys", "list", "--data-dir", "one") == ""


def test_postgresql_is_a_record_too(postgres_url: str) -> None:
    done("migrate", "--database-url", postgres_url)
    done("keys", "create", "--database-url", postgres_url)
    assert "psr_" in done("keys", "list", "--database-url", postgres_url)


def test_a_project_is_made_and_let_in_with_a_key_of_its_own() -> None:
    done("migrate")
    assert done("projects", "create", "Billing") == "2"
    assert [line.split() for line in done("projects", "list").splitlines()][1][::3] == ["2", "Billing"]
    done("keys", "create", "--project", "2")
    assert "project 2" in done("keys", "list")


def test_another_secret_key_is_taken_where_that_is_asked_for(folder: Path) -> None:
    done("migrate")
    assert not (folder / "data" / "secret.key").exists()
    assert "is its secret key; it opens all there is" in done("migrate", "--new-secret-key")
    assert (folder / "data" / "secret.key").exists()


@pytest.mark.parametrize("command", [("create",), ("list",), ("revoke", "1")])
def test_keys_of_a_record_that_is_not_there_make_none(folder: Path, command: tuple[str, ...]) -> None:
    assert "run `scenario-runner migrate` first" in refused("keys", *command)
    assert not list(folder.iterdir())


def test_what_is_wrong_is_one_line(folder: Path) -> None:
    done("migrate")
    assert "there is no key 7" in refused("keys", "revoke", "7")
    for nobodys in ("7", str(10**20)):
        said = refused("keys", "create", "--project", nobodys)
        assert f"there is no project {nobodys}; `scenario-runner projects list`" in said
    assert "has this name already" in refused("projects", "create", "default")
    assert "needs a name" in refused("projects", "create", " ")
    assert "of none" in refused("keys", "create", "--kind", "worker", "--project", "1")
    assert "database URL" in refused("migrate", "--database-url", f"mysql://u:{PASSWORD}@h/n")
    assert "can't be opened" in refused("migrate", "--database-url", f"postgresql://u:{PASSWORD}@127.0.0.1:1/n")
    assert "no such settings file" in refused("migrate", "--config", "nowhere.toml")


def test_a_whole_key_that_is_unknown_is_not_repeated() -> None:
    done("migrate")
    key = "psr_" + "A" * 54
    assert key not in refused("keys", "revoke", key)
