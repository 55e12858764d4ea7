"""Images are thrown away and taken back over REST, and found by their stars."""

from pathlib import Path

import pytest

from tests.support import Room, jpeg, tree
from tests.web.serving import Served


def test_an_image_is_thrown_away_and_taken_back(served: Served, room: Room) -> None:
    photo = jpeg()
    room.put("a.jpg", photo)
    room.drain()
    gone = served.http.delete("/api/images/1")
    assert gone.status_code == 200
    data = gone.json()["data"]
    assert (data["status"], data["library_path"]) == ("rejected", None)
    assert data["removed_at"] is not None
    assert tree(room.config.folders.trash) == {"library/2024/05/a.jpg": photo}
    assert served.http.get("/api/images").json()["data"] == []
    [listed] = served.http.get("/api/images?status=rejected").json()["data"]
    assert listed["image_id"] == 1
    assert served.http.get("/api/stats").json()["data"]["rejected"] == 1
    assert served.http.get("/api/images/1/thumbnails/small").status_code == 200
    again = served.http.delete("/api/images/1")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
    back = served.http.post("/api/images/1/restore")
    assert back.json()["data"]["library_path"] == "2024/05/a.jpg"
    assert served.http.post("/api/images/1/restore").status_code == 409
    assert served.http.delete("/api/images/7").status_code == 404
    assert 'darkroom_images{status="rejected"} 0.0' in served.http.get("/metrics").text


def test_stars_and_labels(served: Served, room: Room) -> None:
    for number in range(4):
        room.put(f"{number}.jpg", jpeg(seed=number))
        room.drain()
        if number:
            body = {"rating": number, "label": "Red", "title": f"T{number}"}
            answer = served.http.patch(f"/api/images/{number + 1}", json=body)
            assert {key: answer.json()["data"][key] for key in body} == body

    def found(query: str) -> list[int]:
        return sorted(image["image_id"] for image in served.http.get(f"/api/images?rating={query}").json()["data"])

    assert (found("2"), found("2.."), found("5..")) == ([3], [3, 4], [])
    assert served.http.get("/api/images?rating=many").status_code == 400
    assert served.http.patch("/api/images/2", json={"rating": 6}).status_code == 400
    assert served.http.patch("/api/images/2", json={"rating": None}).json()["data"]["rating"] is None


@pytest.mark.parametrize("how", ["edited", "moved"])
def test_the_original_of_a_photo_that_its_owner_had_in_hand(served: Served, room: Room, how: str) -> None:
    content = jpeg()
    room.put("a.jpg", content)
    room.drain()
    path: Path = room.library / "2024/05/a.jpg"
    if how == "edited":
        content = jpeg((90, 70))
        path.write_bytes(content)
    else:
        path.rename(room.library / "elsewhere.jpg")
    answer = served.http.get("/api/images/1/original")
    assert (answer.status_code, answer.content) == (200, content)
    assert room.columns(1)["status"] == "done"
