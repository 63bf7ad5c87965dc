"""Signing in with a key, and out again; and opening a link to one result."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from runner.api.auth import Keys
from runner.records.keys import KeyKind
from runner.records.page_sessions import begin_session, end_session
from runner.records.results import shared_result
from runner.web.answers import HEADERS, answer
from runner.web.visits import SESSION_COOKIE, SHARE_COOKIE, Visit, own_path, set_cookie

_UNKNOWN = "This key is unknown, or was revoked."
_OF_WORKER = "This is a worker's key: it can only report. Sign in with a user's key."
MAX_LINK_CHARACTERS = 200


async def sign_in_form(visit: Visit) -> Response:
    """Ask for a key."""
    where = own_path(visit.request.query_params.get("next"))
    return visit.show("sign_in.html", where=where, problem="")


async def sign_in(visit: Visit) -> Response:
    """Begin a session with the key that was given."""
    form = await visit.form()
    where, presented = own_path(str(form.get("next", ""))), str(form.get("key", "")).strip()
    key = await _keys(visit.request, visit).identify(presented) if presented else None
    problem = _UNKNOWN if key is None else (_OF_WORKER if key.kind is not KeyKind.USER else "")
    if key is None or problem:
        return visit.show("sign_in.html", 403, where=where, problem=problem)
    async with visit.services.database.session() as session:
        token = await begin_session(session, key)
    response = RedirectResponse(where, 303, headers=HEADERS)
    set_cookie(response, visit.request, SESSION_COOKIE, token)
    return response


async def sign_out(visit: Visit) -> Response:
    """End the session."""
    await visit.form()
    async with visit.services.database.session() as session:
        await end_session(session, visit.request.cookies.get(SESSION_COOKIE, ""))
    response = RedirectResponse("/sign-in", 303, headers=HEADERS)
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    return response


def wants_page(request: Request) -> bool:
    """Return whether a page is asked for, as browsers do, and not data."""
    kinds = [part.partition(";")[0].strip() for part in request.headers.get("Accept", "").split(",")]
    return "text/html" in kinds


async def open_link(visit: Visit) -> Response:
    """Show what takes the token from a link's address: browsers keep what stands behind # to themselves."""
    return answer("open_link.html", visit=visit, number=visit.number, problem="")


async def take_link(visit: Visit) -> Response:
    """Let a browser see the result whose link it has."""
    form = await visit.form()
    token = str(form.get("link", "")).strip().rpartition("#")[2]
    async with visit.services.database.reading() as session:
        shared = await shared_result(session, token) if 0 < len(token) <= MAX_LINK_CHARACTERS else None
    if shared is None:
        problem = "The link is unknown or has expired."
        return answer("open_link.html", 403, visit=visit, number=visit.number, problem=problem)
    response = RedirectResponse(f"/results/{shared[1]}", 303, headers=HEADERS)
    set_cookie(response, visit.request, SHARE_COOKIE, token)
    return response


def _keys(request: Request, visit: Visit) -> Keys:
    """Return what knows whose keys those are: one for all who sign in, so that guesses are looked up together."""
    if not hasattr(request.app.state, "page_keys"):
        request.app.state.page_keys = Keys(visit.services.database)
    found: Keys = request.app.state.page_keys
    return found
