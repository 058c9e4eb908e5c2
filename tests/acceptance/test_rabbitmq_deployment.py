"""Callboard on a real RabbitMQ and Postgres: documents complete whatever happens to a worker."""

from tests.support.deployment import Deployment
from tests.support.processes import message_count
from tests.support.servers import RabbitNode
from tests.support.waiting import eventually

DOCUMENTS = 100


def test_100_documents_complete_although_a_worker_is_killed_in_the_middle(
    on_rabbitmq: Deployment, rabbit_node: RabbitNode
) -> None:
    # Given 100 documents on their way
    http = on_rabbitmq.http
    http.post("/api/v1/knowledge-bases", json={"kb_id": "many", "name": "Many"})
    for number in range(DOCUMENTS):
        text = f"# Report {number}\n\nStation {number} measured {number * 7} millimetres of rain.\n"
        http.post(
            "/api/v1/knowledge-bases/many/documents", json={"name": f"report-{number}.md", "text": text}
        ).raise_for_status()

    def completed() -> int:
        params = {"kb_id": "many", "status": "completed", "limit": 1}
        total: int = http.get("/api/v1/tasks", params=params).json()["total"]
        return total

    # When one of the two workers is killed in the middle
    eventually(lambda: completed() >= 10, 60)
    victim = on_rabbitmq.workers()[0]
    victim.kill()
    # Then all complete, each once, and another worker takes the place of the dead one
    eventually(lambda: completed() == DOCUMENTS, 90)
    kb = http.get("/api/v1/knowledge-bases/many").json()
    assert (kb["documents"], kb["chunks"]) == (DOCUMENTS, DOCUMENTS)
    assert len(eventually(lambda: len(on_rabbitmq.workers()) == 2 and on_rabbitmq.workers())) == 2
    hits = http.get("/api/v1/knowledge-bases/many/search", params={"q": "station 42 rain", "limit": 1}).json()
    assert hits["hits"][0]["name"] == "report-42.md"
    # And what had travelled through RabbitMQ is gone from it
    eventually(lambda: message_count(rabbit_node.url, "documents") == 0)


def test_every_queue_exists_with_its_dead_letters(on_rabbitmq: Deployment, rabbit_node: RabbitNode) -> None:
    for queue in ("default", "documents", "convert", "embed"):
        assert message_count(rabbit_node.url, queue) >= 0
        assert message_count(rabbit_node.url, f"{queue}.XQ") == 0


def test_tasks_travel_through_rabbitmq(on_rabbitmq: Deployment, rabbit_node: RabbitNode) -> None:
    # Given more long tasks than there are threads
    ids = [
        on_rabbitmq.http.post(
            "/api/v1/tasks", json={"task_type": "sleep", "payload": {"seconds": 20}}
        ).json()["task_id"]
        for _ in range(80)
    ]
    # Then those that wait are seen in RabbitMQ's own count
    eventually(lambda: message_count(rabbit_node.url, "default") > 0)
    for task_id in ids:
        on_rabbitmq.http.post(f"/api/v1/tasks/{task_id}/cancel").raise_for_status()
    for task_id in ids:
        assert on_rabbitmq.wait_for_task(task_id)["status"] == "cancelled"
