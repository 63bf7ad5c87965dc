"""The commands that make and list projects."""

from typing import TYPE_CHECKING

import click

from runner.cli.running import on_record
from runner.text import one_line

if TYPE_CHECKING:
    from runner.records.database import Database


@click.group()
def projects() -> None:
    """Make and list projects. Keys are of one each, and see nothing of the others."""


@projects.command("create")
@click.argument("name")
@on_record
async def create_project(database: "Database", _: object, name: str) -> None:
    """Make a project called NAME, and print its id: `keys create --project ID` lets somebody in."""
    from runner.records.projects import create_project as create

    async with database.session() as session:
        project = await create(session, name)
    click.echo(project.id)


@projects.command("list")
@on_record
async def list_projects(database: "Database", _: object) -> None:
    """Print every project: id, when it was made, name."""
    from runner.records.projects import list_projects as list_all

    async with database.reading() as session:
        for project in await list_all(session):
            click.echo(f"{project.id:>4}  {project.created_at:%Y-%m-%d %H:%M}  {one_line(project.name)}")
