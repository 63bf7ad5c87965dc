"""The commands that make and list projects."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.options import record_options
from runner.cli.record import run_on_record
from runner.text import one_line

if TYPE_CHECKING:
    from runner.records.database import Database


@click.group()
def projects() -> None:
    """Make and list projects. Keys are of one each, and see nothing of the others."""


@projects.command("create")
@click.argument("name")
@record_options
def create_project(name: str, data_dir: Path | None, database_url: str | None, config: Path | None) -> None:
    """Make a project called NAME, and print its id: `keys create --project ID` lets somebody in."""

    async def work(database: "Database") -> int:
        from runner.records.projects import create_project as create

        async with database.session() as session:
            project = await create(session, name)
        click.echo(project.id)
        return 0

    run_on_record(work, data_dir, database_url, config)


@projects.command("list")
@record_options
def list_projects(data_dir: Path | None, database_url: str | None, config: Path | None) -> None:
    """Print every project: id, when it was made, name."""

    async def work(database: "Database") -> int:
        from runner.records.projects import list_projects as list_all

        async with database.reading() as session:
            for project in await list_all(session):
                click.echo(f"{project.id:>4}  {project.created_at:%Y-%m-%d %H:%M}  {one_line(project.name)}")
        return 0

    run_on_record(work, data_dir, database_url, config)
