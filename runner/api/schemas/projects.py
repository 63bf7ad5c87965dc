"""Projects."""

from runner.api.schemas.common import Timestamp
from runner.api.schemas.webhooks import Toggles, WebhookConfiguration, WebhookFields
from runner.records.written import Name, Unset, WrittenBody


class ProjectBody(WrittenBody):
    """A new project."""

    name: Name


class ProjectPatch(WebhookFields, Toggles):
    """What of a project is to be changed: its name, where its webhooks go, and which events are told."""

    name: Name = Unset


class Project(WebhookConfiguration):
    """What keys are scoped to."""

    id: int
    name: str
    created_at: Timestamp
    notify_pre_run_webhook: bool
    notify_result_webhook_success: bool
    notify_result_webhook_failed: bool
    notify_result_webhook_error: bool
    notify_cronjob_webhook_success: bool
    notify_cronjob_webhook_failed: bool
    notify_cronjob_webhook_error: bool


for _body in (ProjectBody, ProjectPatch):
    _body.READ_ONLY = frozenset(Project.model_fields)
