"""The files that pages load: styles, scripts, the font. All are part of the package; nothing comes from elsewhere."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from runner.reports.html.render import ASSETS as REPORT

_HERE = Path(__file__).parent
_OWN, _VENDOR = _HERE / "assets", _HERE / "vendor"

_SCRIPT, _STYLE = "text/javascript; charset=utf-8", "text/css; charset=utf-8"

_FILES = {
    "common.js": (REPORT / "common.js", _SCRIPT),
    "run.js": (REPORT / "run.js", _SCRIPT),
    "suite.js": (REPORT / "suite.js", _SCRIPT),
    "report.css": (REPORT / "report.css", _STYLE),
    "inter.woff2": (REPORT / "inter.woff2", "font/woff2"),
    "page.js": (_OWN / "page.js", _SCRIPT),
    "listen.js": (_OWN / "listen.js", _SCRIPT),
    "shared.js": (_OWN / "shared.js", _SCRIPT),
    "docs.css": (_OWN / "docs.css", _STYLE),
    "docs.js": (_OWN / "docs.js", _SCRIPT),
    "page.css": (_OWN / "page.css", _STYLE),
    "icon.svg": (_OWN / "icon.svg", "image/svg+xml"),
    "htmx.js": (_VENDOR / "htmx-2.0.11.min.js", _SCRIPT),
    "sse.js": (_VENDOR / "htmx-ext-sse-2.2.4.min.js", _SCRIPT),
    "swagger-ui.js": (_VENDOR / "swagger-ui-5.35.0.js", _SCRIPT),
    "swagger-ui.css": (_VENDOR / "swagger-ui-5.35.0.css", _STYLE),
}
_EMBEDDED_FONT = b"data:font/woff2;base64,FONT"


@dataclass(frozen=True)
class _File:
    content: bytes
    kind: str


@cache
def _files() -> dict[str, _File]:
    files = {name: _File(path.read_bytes(), kind) for name, (path, kind) in _FILES.items()}
    # In a report the font lies within the style; here it is a file beside it.
    style = files["report.css"]
    files["report.css"] = _File(style.content.replace(_EMBEDDED_FONT, b"inter.woff2"), style.kind)
    return files


@cache
def version() -> str:
    """Return what changes whenever a file does: part of every address, so that browsers may keep the files."""
    digest = hashlib.sha256()
    for name, file in sorted(_files().items()):
        digest.update(name.encode() + file.content)
    return digest.hexdigest()[:16]


def address(name: str) -> str:
    """Return the address of a file.

    Raises:
        KeyError: There is none of that name.
    """
    if name not in _FILES:
        raise KeyError(name)
    return f"/static/{version()}/{name}"


async def give_out(request: Request) -> Response:
    """Answer with a file."""
    file = _files().get(request.path_params["name"])
    if file is None:
        return Response("There is no such file.", 404, media_type="text/plain")
    is_this_version = request.path_params["version"] == version()
    keep = "public, max-age=31536000, immutable" if is_this_version else "no-cache"
    headers = {"Cache-Control": keep, "X-Content-Type-Options": "nosniff"}
    return Response(file.content, media_type=file.kind, headers=headers)
