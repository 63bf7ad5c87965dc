"""The API's description, for a person: from files of this package, so that it works without a network."""

from starlette.responses import Response

from runner.web.visits import Visit


async def show_docs(visit: Visit) -> Response:
    """Show the description of the API."""
    return visit.show("docs.html")
