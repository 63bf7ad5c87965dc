"""Puts the page onto the API's application."""

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from runner.api.auth import SHARE_HEADER, presented_key
from runner.api.errors import NotFound
from runner.web import (
    compare,
    docs,
    files,
    launches,
    live,
    results,
    runs,
    scenarios,
    schedules,
    signing_in,
    trends,
    workers,
)
from runner.web.visits import Access, Visit, Work, page

SHARED_RESULT = "/test_framework/v1/results/{id:id}"


class _PageRoute(Route):
    """A page. Logs and counts know it by its path."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        scope["route"] = self
        await super().handle(scope, receive, send)


class _LinkForPeople(_PageRoute):
    """A link to a result, opened by a person: whoever has a key, or wants no page, is answered by the API."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether this route answers a request."""
        if scope["type"] != "http" or scope["method"] != "GET" or presented_key(scope):
            return Match.NONE, {}
        request = Request(scope)
        if SHARE_HEADER in request.headers or not signing_in.wants_page(request):
            return Match.NONE, {}
        return super().matches(scope)


class _NoSuchPage(_PageRoute):
    """What browsers ask for and nothing answers; programs are told by the API."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether this route answers a request."""
        if scope["type"] != "http" or not signing_in.wants_page(Request(scope)):
            return Match.NONE, {}
        return super().matches(scope)


async def _no_such_page(_: Visit) -> Response:
    raise NotFound


def add_pages(app: FastAPI) -> None:
    """Let an application answer with pages, besides what it does already."""
    link = _LinkForPeople(SHARED_RESULT, page(signing_in.open_link, Access.ANYONE), methods=["GET"])
    app.router.routes.insert(0, link)
    app.router.routes.append(_PageRoute("/static/{version}/{name}", files.give_out, methods=["GET"]))
    for path, work, access in _GET:
        app.router.routes.append(_PageRoute(path, page(work, access), methods=["GET"]))
    for path, work, access in _POST:
        app.router.routes.append(_PageRoute(path, page(work, access), methods=["POST"]))
    app.router.routes.append(_NoSuchPage("/{path:path}", page(_no_such_page, Access.ANYONE), methods=["GET"]))


_GET: tuple[tuple[str, Work, Access], ...] = (
    ("/", results.list_results, Access.OWNER),
    ("/results/{id:id}", results.show_result, Access.READER),
    ("/compare", compare.show_comparison, Access.OWNER),
    ("/runs", runs.list_runs, Access.OWNER),
    ("/runs/{id:id}", runs.show_run, Access.READER),
    ("/runs/{id:id}/follow", live.follow_run, Access.READER),
    ("/runs/{id:id}/listen", live.listen_in, Access.READER),
    ("/runs/{id:id}/{name}", runs.give_file, Access.READER),
    ("/live", live.show_live, Access.OWNER),
    ("/live/follow", live.follow_live, Access.OWNER),
    ("/trends", trends.show_trends, Access.OWNER),
    ("/schedules", schedules.list_schedules, Access.OWNER),
    ("/schedules/new", schedules.new_schedule, Access.OWNER),
    ("/schedules/{id:id}", schedules.show_schedule, Access.OWNER),
    ("/schedules/{id:id}/edit", schedules.edit_schedule, Access.OWNER),
    ("/scenarios", scenarios.list_scenarios, Access.OWNER),
    ("/scenarios/new", scenarios.new_scenario, Access.OWNER),
    ("/scenarios/{id:id}", scenarios.show_scenario, Access.OWNER),
    ("/workers", workers.show_workers, Access.OWNER),
    ("/launch", launches.launch_form, Access.OWNER),
    ("/sign-in", signing_in.sign_in_form, Access.ANYONE),
    ("/docs", docs.show_docs, Access.ANYONE),
)
_POST: tuple[tuple[str, Work, Access], ...] = (
    ("/results/{id:id}/again", results.run_again, Access.OWNER),
    ("/results/{id:id}/end-calls", results.end_calls, Access.OWNER),
    ("/results/{id:id}/share", results.share_result, Access.OWNER),
    ("/runs/{id:id}/end-call", runs.end_call, Access.OWNER),
    ("/schedules/new", schedules.make_schedule, Access.OWNER),
    ("/schedules/{id:id}/edit", schedules.save_schedule, Access.OWNER),
    ("/schedules/{id:id}/delete", schedules.delete_schedule, Access.OWNER),
    ("/schedules/{id:id}/run", schedules.run_schedule, Access.OWNER),
    ("/schedules/{id:id}/switch", schedules.switch_schedule, Access.OWNER),
    ("/scenarios/new", scenarios.make_scenario, Access.OWNER),
    ("/scenarios/{id:id}", scenarios.save_scenario, Access.OWNER),
    ("/launch", launches.launch, Access.OWNER),
    ("/sign-in", signing_in.sign_in, Access.ANYONE),
    ("/sign-out", signing_in.sign_out, Access.OWNER),
    ("/shared/{id:id}", signing_in.take_link, Access.ANYONE),
)
