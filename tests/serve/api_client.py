"""A client that shows answers as they come."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

JSON = {"content-type": "application/json"}


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


class Client:
    """Asks a server on this machine."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            if isinstance(body, (dict, list)):
                body, headers = json.dumps(body), {**JSON, **(headers or {})}
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def create(self, **fields: Any) -> Any:
        answer = self.ask("POST", "/v1/videos", {"prompt": "a red circle", **fields})
        assert answer.status == 200, answer.body
        return answer.json

    def get(self, job_id: str) -> Any:
        return self.ask("GET", f"/v1/videos/{job_id}").json
