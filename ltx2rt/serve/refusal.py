"""Answers that say no: what the client gets, in the form in which OpenAI's clients read errors."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """A request that is not done.

    Args:
        param: the field that it is about; None: no single one.
        message: what is wrong, the value seen, what to do.
        status: of HTTP.
        code: for programs.
        more: further JSON values of the error, such as the plan of what does not fit.
    """

    def __init__(
        self,
        param: str | None,
        message: str,
        status: int = 400,
        code: str = "invalid_value",
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.message = message
        self.status = status
        self.code = code
        self.more = more or {}

    def as_dict(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code, **self.more},
        }
