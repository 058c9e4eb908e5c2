"""The operations on webhooks and callbacks."""

from typing import Any

from actors.deliverer import DELIVERY_HEADER, EVENT_HEADER, CallbackBody
from actors.web.signatures import SIGNATURE_HEADER
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

_SIGNED = "t=…,v1=…: the Unix time, and hex(HMAC-SHA256(secret, t + '.' + body))."
_HEADERS = (
    (EVENT_HEADER, "What happened, as in the body.", True),
    (DELIVERY_HEADER, "The delivery_id of the body: the same in all attempts.", True),
    (SIGNATURE_HEADER, _SIGNED, False),
)
#: What receivers get and are to answer, as the OpenAPI document has it.
SENT: dict[str, Any] = {
    "taskEnded": {
        "post": {
            "operationId": "task_ended",
            "tags": ["webhooks"],
            "summary": "What a callback_url and webhooks are sent when a task ends",
            "description": "Sent up to 8 times, with growing pauses, until the answer is 2xx or 410.",
            "parameters": [
                {
                    "name": name,
                    "in": "header",
                    "required": required,
                    "description": words,
                    "schema": {"type": "string"},
                }
                for name, words, required in _HEADERS
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": f"#/components/schemas/{CallbackBody.__name__}"}}
                },
            },
            "responses": {
                "2XX": {"description": "It arrived."},
                "410": {"description": "Nobody wants to hear of it any more."},
            },
        }
    }
}

EXAMPLES: dict[Any, dict[str, Any]] = {
    WebhookRequest: {
        "url": "https://hooks.example/callbacks",
        "events": ["completed", "failed"],
        "filter": {"task_type": "document_processing"},
    },
}
