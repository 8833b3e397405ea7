"""What a request is refused with: a status of HTTP and a plain message."""

from __future__ import annotations

from collections.abc import Sequence

from data_utils.problems import DataError, Problem

REQUEST = "request"  # where a row stands, in messages


class RefusedError(Exception):
    """A request that is not scored.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def refused_rows(problems: Sequence[Problem], status: int = 422) -> RefusedError:
    """The refusal of a request whose rows have these problems."""
    return RefusedError(status, str(DataError(problems)).replace("in the data:", "in the request:", 1))


def row_problem(row: int, name: str, value: str, remedy: str) -> Problem:
    """One problem of a row of a request."""
    return Problem(REQUEST, row, name, value, remedy)
