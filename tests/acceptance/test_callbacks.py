"""Callbacks as users have them: a whole Callboard, a receiver, and what the receiver gets."""

from collections.abc import Iterator

import pytest

from actors.web.signatures import verify
from tests.support.callbacks import CALLBACK_SECRET
from tests.support.deployment import Deployment
from tests.support.waiting import eventually
from tests.support.web import Site, answer, site


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as running:
        running.answers["/done?token=hidden"] = answer(200)
        yield running


def test_a_task_calls_back_when_it_is_done_and_again_on_demand(embedded: Deployment, web: Site) -> None:
    # Given a task that is to call back
    body = {
        "task_type": "test",
        "payload": {"message": "hello"},
        "callback_url": f"http://{web.address}/done?token=hidden",
    }
    task_id = embedded.http.post("/api/v1/tasks", json=body).json()["task_id"]
    # When it is done, then the receiver is told within a moment
    eventually(lambda: web.posted, 20)
    (posted,) = web.posted
    assert verify(CALLBACK_SECRET, posted.headers["X-Callboard-Signature"], posted.body)
    # and the log says so
    path = f"/api/v1/tasks/{task_id}/callbacks"
    (delivery,) = eventually(
        lambda: [one for one in embedded.http.get(path).json()["callbacks"] if one["status"] == "delivered"]
    )
    assert [one["status_code"] for one in delivery["attempts"]] == [200]
    assert "hidden" not in embedded.http.get(path).text
    # When it is asked for again, then the same delivery comes once more
    again = embedded.http.post(f"{path}/{delivery['delivery_id']}/redeliver")
    assert again.status_code == 202
    eventually(lambda: len(web.posted) == 2)
    assert web.posted[1].body == posted.body
    # and no secret is in any log
    log = embedded.log.read_text()
    assert "hidden" not in log
    assert CALLBACK_SECRET not in log
