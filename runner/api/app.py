"""The application: routes, and what stands around them."""

import functools
import importlib.metadata
from typing import Any, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from runner.api import descriptions, errors
from runner.api.auth import Keys
from runner.api.details import Details
from runner.api.limits import RateLimit
from runner.api.live_sound import LiveSounds
from runner.api.logs import RequestLog
from runner.api.metrics import Metrics
from runner.api.routes import (
    agents,
    cron_jobs,
    events,
    health,
    launch,
    personalities,
    projects,
    results,
    runs,
    scenarios,
    test_profiles,
    tracer,
    webhooks,
    worker,
)
from runner.api.routing import PlainPaths
from runner.api.services import Services
from runner.records.sharing import Sharing

_ROUTES = (
    *(health, projects, agents, personalities, test_profiles, launch, scenarios, results, events, runs, cron_jobs),
    *(webhooks, tracer, worker),
)
"""In the order in which they are tried and described."""

_TITLE = "Scenario Runner"
_SUMMARY = "Calls voice agents built on Pipecat, and tells whether they still work. Compatible with Cekura."
_VERSION = importlib.metadata.version("pipecat-scenario-runner")


def create_app(services: Services) -> FastAPI:
    """Return the API."""
    app = FastAPI(
        title=_TITLE,
        summary=_SUMMARY,
        version=_VERSION,
        redirect_slashes=False,
        # The page shows the description: the framework's would load its parts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = services
    app.state.metrics = Metrics()
    app.state.sharing = Sharing()
    app.state.details = Details(services.database)
    dispatcher = services.dispatcher
    app.state.live_timelines = timelines = events.LiveTimelines(dispatcher.wake)
    app.state.live_sounds = sounds = LiveSounds(dispatcher.wake)
    dispatcher.is_watched, dispatcher.is_listened_to = timelines.is_watched, sounds.is_listened_to
    errors.install(app)
    for routes in _ROUTES:
        # As they are: including a router builds each of its routes anew, which takes a third of a second for all.
        app.router.routes.extend(routes.router.routes)
    server = services.settings.server
    # The last one is the first that sees a request.
    app.add_middleware(PlainPaths)
    app.add_middleware(RateLimit, keys=Keys(services.database), per_minute=server.requests_per_minute)
    app.add_middleware(cast(Any, ProxyHeadersMiddleware), trusted_hosts=server.trusted_proxies)
    app.add_middleware(RequestLog, metrics=app.state.metrics)
    app.openapi = _description
    return app


@functools.cache
def _description() -> dict[str, Any]:
    """Return the OpenAPI document: the same of every server, and it takes a second to make.

    What the framework says of every route and no route does is left out: here wrong fields are a 400.
    """
    document = get_openapi(
        title=_TITLE,
        summary=_SUMMARY,
        version=_VERSION,
        routes=[route for routes in _ROUTES for route in routes.router.routes],
    )
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    descriptions.describe(document)
    return document
