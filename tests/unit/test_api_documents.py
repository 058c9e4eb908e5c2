"""Knowledge bases and documents over HTTP, on a library that only remembers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import TestClient

from pipelines.documents.values import Source
from tasks.settings import Settings
from tests.support.api import Shelf, ShelfKit, api_on

BASES = "/api/v1/knowledge-bases"
DOCUMENTS = f"{BASES}/kb_123/documents"


@pytest.fixture
def kit(tmp_path: Path) -> ShelfKit:
    return ShelfKit(Settings(data_dir=tmp_path, upload_limit=1_000))


@pytest.fixture
def shelf(kit: ShelfKit) -> Shelf:
    return kit.library


@pytest.fixture
def client(kit: ShelfKit) -> Iterator[TestClient]:
    with api_on(kit) as client:
        client.simulate_post(BASES, json={"kb_id": "kb_123"})
        yield client


def form(*parts: tuple[str, bytes]) -> dict[str, Any]:
    """A multipart body; a part is what follows form-data in its disposition, and its content."""
    body = b"".join(
        b"--B\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + content + b"\r\n"
        for head, content in parts
    )
    return {"body": body + b"--B--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=B"}}


def test_a_knowledge_base_is_created_under_its_callers_id_and_found_again(client: TestClient) -> None:
    made = client.simulate_post(BASES, json={"kb_id": "manuals", "name": "Handbücher"})

    assert (made.status_code, made.headers["location"]) == (201, f"{BASES}/manuals")
    assert client.simulate_get(f"{BASES}/manuals").json["name"] == "Handbücher"


def test_a_second_one_of_the_same_id_is_a_conflict(client: TestClient) -> None:
    again = client.simulate_post(BASES, json={"kb_id": "kb_123"})

    assert (again.status_code, again.json["code"]) == (409, "conflict")


def test_a_knowledge_base_needs_an_id_or_a_name(client: TestClient) -> None:
    assert client.simulate_post(BASES, json={}).json["errors"][0]["field"] == "name"
    assert client.simulate_post(BASES, json={"name": "x"}).status_code == 201


def test_knowledge_bases_are_listed_part_by_part(client: TestClient) -> None:
    client.simulate_post(BASES, json={"kb_id": "kb_456"})

    first = client.simulate_get(BASES, params={"limit": 1}).json
    second = client.simulate_get(BASES, params={"limit": 1, "cursor": first["next_cursor"]}).json

    assert [kb["kb_id"] for kb in first["knowledge_bases"] + second["knowledge_bases"]] == [
        "kb_123",
        "kb_456",
    ]
    assert (second["total"], second["total_is_exact"], second["next_cursor"]) == (2, True, None)


def test_a_deleted_knowledge_base_is_gone(client: TestClient) -> None:
    assert client.simulate_delete(f"{BASES}/kb_123").status_code == 204
    assert client.simulate_get(f"{BASES}/kb_123").status_code == 404


def test_a_text_is_taken_in_and_its_task_is_where_location_says(client: TestClient, shelf: Shelf) -> None:
    answer = client.simulate_post(
        DOCUMENTS, json={"name": "a.md", "text": "hello", "chunk_size": 50, "chunk_overlap": 5}
    )

    added = shelf.added[0]
    assert answer.status_code == 202
    assert answer.json == {"document_id": str(added.document_id), "task_id": str(added.task_id)}
    assert answer.headers["location"] == f"/api/v1/tasks/{added.task_id}"
    assert (added.content, added.source.chunk_size, added.source.chunk_overlap) == (b"hello", 50, 5)


def test_a_file_that_the_server_can_read_is_taken_in(client: TestClient, shelf: Shelf) -> None:
    assert client.simulate_post(DOCUMENTS, json={"file_path": "/srv/a.pdf"}).status_code == 202
    assert shelf.added[0].source.file_path == "/srv/a.pdf"


def test_what_is_at_a_url_is_taken_in_with_all_that_is_said_of_it(client: TestClient, shelf: Shelf) -> None:
    said = {"name": "a.md", "chunk_size": 50, "chunk_overlap": 5, "chunk_unit": "tokens"}
    body = {"url": "https://example.com/a", **said, "metadata": {"author": "Ann"}}
    assert client.simulate_post(DOCUMENTS, json=body).status_code == 202
    assert shelf.added[0].source == Source(**body)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": "x"}, "name"),
        ({"name": "a", "text": ""}, "text"),
        ({"name": "a", "text": "x", "file_path": "/a"}, "file_path"),
        ({"url": "https://example.com/a", "file_path": "/a"}, "url"),
        ({"url": ""}, "url"),
        ({"url": 7}, "url"),
        ({"name": "a", "text": "x", "chunk_size": 100, "chunk_overlap": 100}, "chunk_overlap"),
        ({"name": "a", "text": "x", "pages": 3}, "pages"),
    ],
)
def test_a_document_that_cannot_be_meant_is_refused(
    client: TestClient, body: dict[str, Any], field: str
) -> None:
    refused = client.simulate_post(DOCUMENTS, json=body)

    assert (refused.status_code, refused.json["errors"][0]["field"]) == (422, field)


def test_an_upload_is_taken_in_with_the_fields_of_its_form(
    client: TestClient, shelf: Shelf, tmp_path: Path
) -> None:
    file = ('name="file"; filename="C:\\\\docs\\\\报告.txt"', b"content")
    answer = client.simulate_post(DOCUMENTS, **form(('name="chunk_size"', b"300"), file))

    assert answer.status_code == 202
    added = shelf.added[0]
    assert (added.name, added.content, added.source.chunk_size) == ("报告.txt", b"content", 300)
    # Then nothing is left of it in the folder for uploads.
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("parts", "status", "field"),
    [
        ([('name="name"', b"a")], 422, "file"),
        ([('name="f"; filename="a"', b"a"), ('name="g"; filename="b"', b"b")], 422, "g"),
        ([('name="f"; filename="a"', b"a"), ('name="pages"', b"3")], 422, "pages"),
        ([('name="f"; filename="a"', b"a"), ('name="chunk_size"', b"x")], 422, "chunk_size"),
        ([('name="f"; filename="a"', b"a"), ('name="name"', b"\xff")], 422, "name"),
        ([('name="f"; filename=""', b"a")], 422, "file"),
        ([('name="f"; filename="a"', b"x" * 1_001)], 413, None),
        ([('name="f"; filename="a"', b"a"), ('name="name"', b"x" * 10_000)], 400, None),
    ],
)
def test_a_form_that_cannot_be_meant_is_refused_and_leaves_nothing(
    client: TestClient,
    shelf: Shelf,
    tmp_path: Path,
    parts: list[tuple[str, bytes]],
    status: int,
    field: str | None,
) -> None:
    refused = client.simulate_post(DOCUMENTS, **form(*parts))

    assert refused.status_code == status
    assert [one["field"] for one in refused.json["errors"]] == ([field] if field else [])
    assert shelf.added == []
    assert list((tmp_path / "uploads").iterdir()) == []


def test_an_upload_to_a_knowledge_base_that_is_not_there_is_not_even_read(
    client: TestClient, tmp_path: Path
) -> None:
    refused = client.simulate_post(f"{BASES}/nix/documents", **form(('name="f"; filename="a"', b"a")))

    assert refused.status_code == 404
    assert not (tmp_path / "uploads").exists()


def test_documents_are_listed_read_and_removed(client: TestClient) -> None:
    added = client.simulate_post(DOCUMENTS, json={"name": "a", "text": "x"}).json
    one = f"{DOCUMENTS}/{added['document_id']}"

    assert client.simulate_get(DOCUMENTS).json["total"] == 1
    assert client.simulate_get(one).json["name"] == "a"
    assert client.simulate_delete(one).status_code == 204
    assert client.simulate_get(one).status_code == 404
    assert client.simulate_get(f"{DOCUMENTS}/nonsense").status_code == 404


def test_a_search_asks_the_library(client: TestClient) -> None:
    asked = {"q": "贷款", "mode": "text", "limit": 3, "weight": 0.2, "highlight": 1}
    answer = client.simulate_get(f"{BASES}/kb_123/search", params=asked | {"metadata.tag": ["a", "b"]})

    assert answer.json["hits"] == [
        {
            "text": "贷款",
            "limit": 3,
            "mode": "text",
            "explain": False,
            "filter": {"documents": [], "metadata": {"tag": ["a", "b"]}},
            "weight": 0.2,
            "highlight": True,
        }
    ]


@pytest.mark.parametrize("query", ["", "q=", "q=a&mode=fuzzy", "q=a&limit=0", "q=a&k=3", "q=%00", "q=a&q=b"])
def test_a_search_that_cannot_be_meant_is_refused(client: TestClient, query: str) -> None:
    assert client.simulate_get(f"{BASES}/kb_123/search", query_string=query).status_code == 422
