import pytest

pytestmark = pytest.mark.skip

"""What the API promises. These tests know a URL and nothing else, so they judge a server in any language."""


def is_json(answer):
    # Errors of some servers are application/problem+json.
    return answer.content_type == "application/json" or answer.content_type.endswith("+json")


def test_healthz_says_ok(ask):
    answer = ask("GET", "/healthz")
    assert answer.status == 200
    assert is_json(answer)
    assert answer.json()["status"] == "ok"


def test_a_path_that_nobody_serves_is_404(ask):
    answer = ask("GET", "/no-such-path")
    assert answer.status == 404
    assert is_json(answer)


def test_healthz_cannot_be_posted_to(ask):
    answer = ask("POST", "/healthz")
    assert answer.status in (404, 405)
    assert is_json(answer)


def test_head_has_no_body(ask):
    answer = ask("HEAD", "/healthz")
    assert answer.status == 200
    assert answer.body == b""
