"""Who visits a page: signed in with a key, or with a link to one result. Forms are taken from our own pages alone."""

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from runner.api.auth import Reading, services_of
from runner.api.errors import ApiError, BadRequest, Forbidden, NotFound
from runner.api.limits import limited
from runner.api.services import Services
from runner.records.keys import KeyIdentity
from runner.records.page_sessions import SESSION_LASTS, find_session
from runner.records.results import shared_result
from runner.web.answers import HEADERS, answer

SESSION_COOKIE = "scenario_runner_session"
SHARE_COOKIE = "scenario_runner_share"
TOKEN_FIELD = "form_token"  # noqa: S105 - the name of a field
MAX_FIELDS = 2_000
_FORM_TYPE = "application/x-www-form-urlencoded"


class Access(Enum):
    """Who may see a page."""

    ANYONE = "anyone"
    READER = "reader"
    """Whoever signed in, or has a link to the result that is shown."""
    OWNER = "owner"
    """Whoever signed in."""


class SignInNeeded(Exception):
    """Nobody is signed in."""


@dataclass(frozen=True)
class Visit:
    """A request for a page.

    Attributes:
        reader: What may be seen; None where nobody is signed in.
        key: The key that was signed in with; None for whoever has a link.
        form_token: What forms of this visitor carry.
    """

    request: Request
    services: Services
    reader: Reading | None
    key: KeyIdentity | None
    form_token: str

    @property
    def reading(self) -> Reading:
        """What may be seen.

        Raises:
            SignInNeeded: Nobody is signed in.
        """
        if self.reader is None:
            raise SignInNeeded
        return self.reader

    @property
    def project(self) -> int:
        """The project of whoever signed in."""
        return self.reading.project_id

    @property
    def owner(self) -> KeyIdentity:
        """The key that was signed in with.

        Raises:
            SignInNeeded: There is none.
        """
        if self.key is None:
            raise SignInNeeded
        return self.key

    @property
    def number(self) -> int:
        """The id in the path."""
        number: int = self.request.path_params["id"]
        if number >= 1 << 63:
            raise NotFound
        return number

    @property
    def is_by_htmx(self) -> bool:
        """Whether a script asks for a part of a page."""
        return self.request.headers.get("HX-Request") == "true"

    async def form(self) -> FormData:
        """Return what a form sent. What it sent was checked before: it comes from one of our own pages.

        Raises:
            Forbidden: It lacks the token that our forms carry.
            BadRequest: It is no form, or holds characters that can't be stored.
            HTTPException: It is too large (413).
        """
        if self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != _FORM_TYPE:
            raise BadRequest({"detail": "Expected a form."})
        scope = self.request.scope
        most = self.services.settings.server.max_body_bytes
        form = await Request(scope, limited(scope, self.request.receive, most)).form(max_fields=MAX_FIELDS)
        if self.key is not None and not hmac.compare_digest(str(form.get(TOKEN_FIELD, "")), self.form_token):
            raise Forbidden("The form is out of date. Go back, load the page again, and send it once more.")
        if any("\0" in name or "\0" in str(value) for name, value in form.multi_items()):
            raise BadRequest({"detail": "The form holds a NUL character."})
        return form

    def digest(self, form: FormData, action: str) -> str:
        """Return by what a form is known again that is sent twice, as by a second click."""
        told = [action, self.owner.id, [[name, str(value)] for name, value in form.multi_items()]]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def show(self, template: str, status: int = 200, **values: Any) -> Response:
        """Return a page."""
        return answer(template, status, visit=self, **values)


Work = Callable[[Visit], Awaitable[Response]]


def page(work: Work, access: Access = Access.OWNER) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers requests for a page."""

    async def endpoint(request: Request) -> Response:
        visit = Visit(request, services_of(request), None, None, "")
        try:
            if request.method == "POST":
                _check_origin(request, visit.services)
            visit, *others = await _visits(request, visit.services)
            if access is not Access.ANYONE:
                _ = visit.reading
            if access is Access.OWNER:
                _ = visit.owner
            try:
                return await work(visit)
            except NotFound:
                if access is not Access.READER or not others:
                    raise
            # What the key's project does not have a link may show.
            visit = others[0]
            return await work(visit)
        except SignInNeeded:
            return _to_sign_in(visit)
        except ApiError as error:
            return _refusal(visit, error.status, error.body)
        except HTTPException as error:
            return _refusal(visit, error.status_code, {"detail": error.detail})

    return endpoint


async def _visits(request: Request, services: Services) -> list[Visit]:
    """Return as whom somebody visits: who signed in, who has a link, or both; a stranger where it is neither."""
    token, share = request.cookies.get(SESSION_COOKIE), request.cookies.get(SHARE_COOKIE)
    found: list[Visit] = []
    if token or share:
        async with services.database.reading() as session:
            key = await find_session(session, token) if token else None
            shared = await shared_result(session, share) if share else None
        if token and key is not None and key.project_id is not None:
            found.append(Visit(request, services, Reading(key.project_id), key, _form_token(token)))
        if shared is not None:
            found.append(Visit(request, services, Reading(*shared), None, ""))
    return found or [Visit(request, services, None, None, "")]


def _form_token(session_token: str) -> str:
    return hashlib.sha256(f"form {session_token}".encode()).hexdigest()


def _check_origin(request: Request, services: Services) -> None:
    """Refuse what a page of somebody else sends.

    Raises:
        Forbidden: It does, or the browser does not say whose page it is.
    """
    origin = request.headers.get("Origin")
    if origin is None:
        is_own = request.headers.get("Sec-Fetch-Site") == "same-origin"
    else:
        ours = {request.headers.get("Host", ""), urlsplit(services.settings.server.public_url or "").netloc}
        is_own = urlsplit(origin).netloc in ours - {""}
    if not is_own:
        raise Forbidden("This was not sent by a page of this server.")


def _to_sign_in(visit: Visit) -> Response:
    request = visit.request
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if request.headers.get("Sec-Fetch-Site") == "cross-site" and request.method == "GET":
        # The browser keeps the cookie back from whoever follows a link elsewhere; asked from here it sends it.
        return answer("again.html", 401, visit=visit)
    where = f"/sign-in?next={quote(path, safe='')}" if request.method == "GET" else "/sign-in"
    if visit.is_by_htmx:
        return Response(status_code=401, headers={**HEADERS, "HX-Redirect": where})
    return RedirectResponse(where, 303, headers=HEADERS)


def _refusal(visit: Visit, status: int, body: object) -> Response:
    detail = body.get("detail") if isinstance(body, dict) else None
    titles = {404: "There is no such page.", 403: "This was refused.", 413: "This is too large."}
    title = titles.get(status, "This did not work.")
    text = detail if isinstance(detail, str) and detail != "Not found." else ""
    return answer("refused.html", status, visit=visit, title=title, text=text)


def set_cookie(response: Response, request: Request, name: str, value: str) -> None:
    """Let a browser keep a secret that no script can read and no other site's page makes it send."""
    response.set_cookie(
        name,
        value,
        max_age=int(SESSION_LASTS.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def own_path(text: str | None) -> str:
    """Return a path of this server that somebody is to be sent to; the first page where it is none."""
    if text and text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable():
        return text
    return "/"


async def holds(visit: Visit) -> bool:
    """Return whether a visitor may still see what is shown: meanwhile keys are revoked, and links expire."""
    return any(other.reader == visit.reader for other in await _visits(visit.request, visit.services))
