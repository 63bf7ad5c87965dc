"""Projects."""

from runner.api.schemas.common import Name, ResponseBody, Timestamp, WrittenBody


class ProjectBody(WrittenBody):
    """A new project."""

    name: Name


class Project(ResponseBody):
    """What keys are scoped to."""

    id: int
    name: str
    created_at: Timestamp


ProjectBody.READ_ONLY = frozenset(Project.model_fields)
