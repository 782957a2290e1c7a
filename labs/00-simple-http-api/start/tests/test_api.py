"""What the API promises. These tests know a URL and nothing else, so they judge a server in any language."""


def test_healthz_says_ok(ask):
    answer = ask("GET", "/healthz")
    assert answer.status == 200
    # TODO 5: a page of HTML may come with a 200 too. Ask for the content type, and for the status within the JSON.


# TODO 6: a path that nobody serves is a 404, in JSON.
# TODO 7: POST /healthz is refused with 404 or 405, in JSON.
# TODO 8: HEAD /healthz is 200, and has no body.
