"""How the tests ask: over HTTP, at the URL in DASHBOARD_URL, and in no other way."""

import http.client
import json
import os
from urllib.parse import urlsplit

import pytest

URL = os.environ.get("DASHBOARD_URL", "http://127.0.0.1:8000")


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.content_type = response.headers.get_content_type()
        self.body = response.read()

    def json(self):
        return json.loads(self.body)


@pytest.fixture
def ask():
    """Sends one request: ask("GET", "/healthz").status"""

    def send(method, path):
        connection = http.client.HTTPConnection(urlsplit(URL).netloc, timeout=5)
        try:
            connection.request(method, path)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    return send
