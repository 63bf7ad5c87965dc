"""Projects."""

from runner.api.schemas.common import Timestamp, shows
from runner.api.schemas.webhooks import WebhookConfiguration, WebhookFields
from runner.records.fields import Toggles
from runner.records.written import Name, Unset, WrittenBody


class ProjectBody(WrittenBody):
    """A new project."""

    name: Name


class ProjectPatch(WebhookFields, Toggles):
    """What of a project is to be changed: its name, where its webhooks go, and which events are told."""

    name: Name = Unset


@shows(Toggles)
class Project(WebhookConfiguration):
    """What keys are scoped to."""

    id: int
    name: str
    created_at: Timestamp


for _body in (ProjectBody, ProjectPatch):
    _body.READ_ONLY = frozenset(Project.model_fields)
