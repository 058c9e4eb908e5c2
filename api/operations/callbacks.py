"""The operations on webhooks and callbacks."""

from typing import Any

from api.operations.model import Operation, listing
from api.schemas.callbacks import NewlyMadeWebhook, WebhookRequest
from api.schemas.common import Paged
from tasks.callbacks import Delivery, Webhook

OPERATIONS = (
    Operation("GET /webhooks", "list_webhooks", {200: listing("webhooks", Webhook)}, query=Paged),
    Operation(
        "POST /webhooks",
        "create_webhook",
        {201: NewlyMadeWebhook},
        body=WebhookRequest,
        refuses=(409,),
        has_location=True,
    ),
    Operation("GET /webhooks/{webhook_id}", "get_webhook", {200: Webhook}),
    Operation("DELETE /webhooks/{webhook_id}", "delete_webhook", {204: None}),
    Operation(
        "GET /tasks/{task_id}/callbacks",
        "list_task_callbacks",
        {200: listing("callbacks", Delivery)},
        query=Paged,
    ),
    Operation(
        "POST /tasks/{task_id}/callbacks/{delivery_id}/redeliver", "redeliver_callback", {202: Delivery}
    ),
)

EXAMPLES: dict[Any, dict[str, Any]] = {
    WebhookRequest: {
        "url": "https://hooks.example/callbacks",
        "events": ["completed", "failed"],
        "filter": {"task_type": "document_processing"},
    },
}
