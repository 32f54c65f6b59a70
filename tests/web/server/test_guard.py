"""Nobody gets in who has no business here."""

from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from tests.web.server.conftest import file_of, picture
from transnext.web.server.app import create_app
from transnext.web.server.guard import HEADERS, Access
from transnext.web.server.models import Model

HERE = "127.0.0.1:8321"
TOKEN = "a-token-of-24-characters"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8321", "localhost:9000", "LOCALHOST", "[::1]:8321"])
def test_the_server_is_reached_by_names_of_this_machine(client: TestClient, host: str) -> None:
    assert client.get("/main.js", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8321", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.1.7:8321",
        "evil.example@127.0.0.1", "127.0.0.1@evil.example", "127.0.0.1#.evil.example", "127.0.0.1/evil", "", "[::1",
        "0.0.0.0", "127.0.0.1\\.evil.example",
    ],
)  # fmt: skip
def test_other_names_are_refused(client: TestClient, host: str) -> None:
    answer = client.get("/", headers={"host": host})
    assert (answer.status_code, answer.json()) == (421, {"error": "this server is not reached by that name"})
    assert "set-cookie" not in answer.headers


def test_two_hosts_are_refused(client: TestClient) -> None:
    headers = [("host", HERE), ("host", "evil.example")]
    assert client.get("/", headers=headers).status_code == 421


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://127.0.0.1:9999", "http://localhost:8321", "null", "", "file://", f"ftp://{HERE}"],
)
@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/api/images"), ("GET", "/api/models"), ("DELETE", "/api/images/x")]
)
def test_pages_of_others_are_refused(client: TestClient, origin: str, method: str, path: str) -> None:
    answer = client.request(method, path, headers={"origin": origin})
    assert (answer.status_code, answer.json()) == (403, {"error": "another site asked"})


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_other_pages_embed_is_refused(client: TestClient, site: str) -> None:
    for path in ("/api/models", "/main.js", "/"):
        assert client.get(path, headers={"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}).status_code == 403
    # A link is followed, and gives no more than the page.
    assert client.get("/", headers={"sec-fetch-site": site, "sec-fetch-mode": "navigate"}).status_code == 200
    navigated = client.get("/api/models", headers={"sec-fetch-site": site, "sec-fetch-mode": "navigate"})
    assert navigated.status_code == 403


def test_the_page_itself_may_ask(client: TestClient) -> None:
    headers = {"origin": f"http://{HERE}", "sec-fetch-site": "same-origin"}
    assert client.put("/api/images", content=file_of(picture()), headers=headers).status_code == 200


def test_every_answer_says_what_browsers_may_do(client: TestClient) -> None:
    answers = [
        client.get("/"),
        client.get("/style.css"),
        client.get("/api/models"),
        client.get("/api/nothing"),
        client.put("/api/images", content=b"no image"),
        client.get("/", headers={"host": "evil.example"}),
        client.post("/"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 422, 421, 405]
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.headers[name] == value or name == "Cache-Control"
        assert answer.headers["Cache-Control"] in ("no-store", "no-cache")
        assert "access-control-allow-origin" not in answer.headers
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["frame-ancestors"] == "'self'"


def test_mistakes_of_the_server_carry_the_headers_too(
    models: dict[str, Model], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __len__(self) -> int:
            return 0

        def get(self, *_: Any) -> None:
            raise RuntimeError("secret")

    app = create_app(models, Access(), store=Broken())  # type: ignore[arg-type]
    with TestClient(app, base_url=f"http://{HERE}", raise_server_exceptions=False) as client:
        client.get("/")
        answer = client.get("/api/images/x/shown")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "secret" in caplog.text
    assert answer.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]


def test_the_cookie_is_for_this_server_alone(client: TestClient) -> None:
    client.cookies.clear()
    cookie = client.get("/").headers["set-cookie"]
    assert cookie.startswith("transnext=")
    assert {"HttpOnly", "Path=/", "SameSite=Lax"} == {part.strip() for part in cookie.split(";")[1:]}
    assert "set-cookie" not in client.get("/").headers  # it is kept
    assert Access.of("127.0.0.1", 1234).cookie == "transnext-1234"


def test_the_api_wants_a_session(client: TestClient) -> None:
    client.cookies.clear()
    assert client.get("/main.js").status_code == 200
    for cookie in (None, "transnext=", "transnext=abc", "transnext=abc.def", "transnext=.", "transnext=é.é", "\x01=;;"):
        headers = {} if cookie is None else {"cookie": cookie.encode()}
        for method, path in (("GET", "/api/models"), ("PUT", "/api/images"), ("GET", "/api/images/x/shown")):
            assert client.request(method, path, headers=headers).status_code == 401, cookie


def test_sessions_of_another_run_are_unknown(client: TestClient, models: dict[str, Model]) -> None:
    value = client.cookies["transnext"]
    with TestClient(create_app(models, Access()), base_url=f"http://{HERE}") as other:
        assert other.get("/api/models", headers={"cookie": f"transnext={value}"}).status_code == 401


def _with_token(models: dict[str, Model]) -> TestClient:
    access = Access.of("0.0.0.0", 8321, TOKEN)
    return TestClient(create_app(models, access), base_url="http://192.168.1.7:8321", follow_redirects=False)


def test_others_need_the_token(models: dict[str, Model]) -> None:
    with _with_token(models) as client:
        for path in ("/", "/main.js", "/api/models", "/?token=", "/?token=wrong", f"/?token={TOKEN}x", "/?token=%ff",
                     f"/main.js?token={TOKEN}", f"/api/models?token={TOKEN}"):  # fmt: skip
            answer = client.get(path)
            assert answer.status_code == 401, path
            assert "set-cookie" not in answer.headers
        entered = client.get(f"/?token={TOKEN}")
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        assert [client.get(path).status_code for path in ("/", "/main.js", "/api/models")] == [200] * 3
        assert client.put("/api/images", content=file_of(picture())).status_code == 200
        first = client.cookies["transnext-8321"]
        client.get(f"/?token={TOKEN}")  # again: the session stays
        assert client.cookies["transnext-8321"] == first


def test_every_address_of_the_machine_is_a_name_where_it_listens_at_all(models: dict[str, Model]) -> None:
    with _with_token(models) as client:
        for host, status in (("10.0.0.1", 401), ("[fe80::1]:8321", 401), ("localhost", 401), ("evil.example", 421)):
            assert client.get("/", headers={"host": host}).status_code == status, host


def test_one_name_is_one_name() -> None:
    access = Access.of("box.example", 8321, TOKEN)
    assert access.knows("BOX.example:8321")
    assert access.knows("localhost")
    assert not access.knows("10.0.0.1")
    assert not access.knows("other.example")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "box.example"])
def test_no_host_but_this_machine_without_a_token(host: str) -> None:
    with pytest.raises(
        ValueError, match=f"could ask the models at {host}: give a token, for example --token \\S{{24}}"
    ):
        Access.of(host, 8321)


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "ä" * 20, "with\na line break in it"])
def test_tokens_that_are_none(token: str) -> None:
    with pytest.raises(ValueError, match="the token must have at least 16 plain characters"):
        Access.of("0.0.0.0", 8321, token)


def test_the_token_is_not_shown() -> None:
    assert TOKEN not in repr(Access.of("0.0.0.0", 8321, TOKEN))


@pytest.mark.parametrize(
    "path",
    ["/%2e%2e/secrets", "/page.html", "/page/main.js", "/provider-ort.js", "/start-ort.js",
     "//etc/passwd", "/examples/%2e%2e/main.js", "/examples/7.png", "/examples/%2fetc%2fpasswd",
     "/api/images/%2e%2e/models"],
)  # fmt: skip
def test_no_path_of_a_request_is_opened(client: TestClient, path: str) -> None:
    url = httpx2.URL(scheme="http", host="127.0.0.1", port=8321, raw_path=path.encode())
    assert client.get(url).status_code in (404, 405)
