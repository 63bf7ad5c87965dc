"""Words of others, made fit to be shown."""

import re
from urllib.parse import urlsplit

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def one_line(text: str) -> str:
    """Return a text without line ends, and without what a terminal would obey."""
    return _CONTROL_CHARACTERS.sub(" ", text)


UNSENDABLE = "holds a line end, another control character, white space at an end, or letters that are not ASCII"
"""Why a text fits into no header."""


def fits_header(text: str) -> bool:
    """Return whether a text can be sent in an HTTP header, as a bearer token is."""
    return text.isascii() and text.isprintable() and text == text.strip()


def public_url(url: str) -> str:
    """Return an address without credentials and query, for logs and facts."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    port = f":{parts.port}" if parts.port is not None else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


def count(number: int, what: str) -> str:
    """Return a number of things; the word gets an s where it is not one."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")
