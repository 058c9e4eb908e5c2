"""What callers send about webhooks."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from actors.requests import CallbackUrl, Id, Tag
from tasks.callbacks import EVENTS, Webhook

# "$" also matches before a last line break, hence the look-ahead.
Secret = Annotated[
    str,
    Meta(
        min_length=16,
        max_length=200,
        pattern=r"^[!-~]+$(?!\n)",
        extra={"must": "consist of visible ASCII characters, without spaces"},
    ),
]
EventNames = Annotated[
    tuple[Literal["cancelled", "completed", "failed"], ...], Meta(min_length=1, max_length=10)
]


class WebhookFilterRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tasks a webhook hears of: those to which all of this applies. Of stages only with ``stages``."""

    task_type: Id | None = None
    queue_name: Id | None = None
    user_id: Id | None = None
    kb_id: Id | None = None
    project_id: Id | None = None
    tag: Tag | None = None
    stages: bool = False


class WebhookRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST /webhooks``: who is told when tasks end, and when which of them do how.

    ``secret`` signs what is sent; if it is left out, one is made.
    """

    url: CallbackUrl
    events: EventNames = EVENTS  # type: ignore[assignment]
    filter: WebhookFilterRequest = WebhookFilterRequest()
    secret: Secret | None = None


class NewlyMadeWebhook(Webhook, frozen=True, kw_only=True):
    """A webhook that was just made, with its secret, which is shown this once."""

    secret: str
