import json
import os
import urllib.error
import urllib.request

import pytest

URL = os.environ["DASHBOARD_URL"]


@pytest.mark.parametrize(
    ("method", "path", "codes"),
    [("GET", "/healthz", {200}), ("HEAD", "/healthz", {200}), ("POST", "/healthz", {404, 405}), ("GET", "/x", {404})],
)
def test_table(method, path, codes):
    try:
        answer = urllib.request.urlopen(urllib.request.Request(URL + path, method=method))
    except urllib.error.HTTPError as refused:
        answer = refused
    with answer:
        assert answer.status in codes
        if method != "HEAD":
            document = json.load(answer)
            assert "json" in answer.headers["Content-Type"]
            assert answer.status != 200 or document["status"] == "ok"
