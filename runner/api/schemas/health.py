"""Whether the server works."""

from typing import Literal

from runner.api.schemas.common import ResponseBody


class Health(ResponseBody):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(ResponseBody):
    """Whether launches can be taken.

    Attributes:
        status: ``ready`` if all of it is.
        database: Whether the record can be reached, and its tables are of this version.
        queue: Whether runs that wait are looked at: launches are kept, but none begins while they are not.
    """

    status: Literal["ready", "not ready"]
    database: bool
    queue: bool
