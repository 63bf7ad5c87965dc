"""Projects."""

from runner.api.schemas.common import ResponseBody, Timestamp


class Project(ResponseBody):
    """What keys are scoped to."""

    id: int
    name: str
    created_at: Timestamp
