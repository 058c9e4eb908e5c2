"""The dashboard's WSGI application, on our interface instead of Redis."""

from typing import Any

import jinja2
from dramatiq.common import q_name
from dramatiq_dashboard.application import DashboardApp
from dramatiq_dashboard.csrf import csrf_protect
from dramatiq_dashboard.http import HTTP_405, HTTP_410, handler, redirect

from api.dashboard.interface import Interface


class _NoRedis:
    """What the dashboard makes scripts on when it begins; ours needs none."""

    namespace = ""

    @property
    def client(self) -> "_NoRedis":
        return self

    def register_script(self, script: bytes) -> None:
        """Nothing is registered."""


#: What the page of a failed job has before its other button.
BUTTONS = '    {% call column() %}\n      {{ action("Delete"'
REQUEUE = """
    {% if queue_for_tab.endswith(".XQ") %}
    {% call column() %}
      {{ action("Requeue", make_uri("requeue-message"), {"id": job.message_id, "queue": queue_for_tab},
        classes="button--secondary") }}
    {% endcall %}
    {% endif %}
"""


class _Templates(jinja2.PackageLoader):
    """The dashboard's own templates, in our words, and a button to requeue on the page of a failed job."""

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Any]:
        source, *rest = super().get_source(environment, template)
        source = source.replace("Redis id", "Job id")
        if template == "job.html":
            source = source.replace(BUTTONS, REQUEUE + BUTTONS)
        return source, *rest  # type: ignore[return-value]


class Dashboard(DashboardApp):  # type: ignore[misc]
    """Dramatiq's dashboard; ``prefix`` is where it is mounted."""

    def __init__(self, interface: Interface, prefix: str) -> None:
        super().__init__(_NoRedis(), prefix)
        self.iface = interface
        self.templates.loader = _Templates("dramatiq_dashboard", "templates")

    # The original deletes a message before it enqueues the copy: who dies in between loses it.
    @handler  # type: ignore[untyped-decorator]
    @csrf_protect  # type: ignore[untyped-decorator]
    def requeue_message(self, req: Any) -> Any:
        """Replay a failed job, and show what is left of the failed ones."""
        if req.method != "POST":
            return HTTP_405, "Expected a POST request."
        queue, message_id = req.post_data["queue"], req.post_data["id"]
        if not self.iface.requeue(queue, message_id):
            return HTTP_410, "The requested message no longer exists."
        return redirect(self.make_uri("queues", q_name(queue), "failed"))
