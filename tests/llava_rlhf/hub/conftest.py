"""The hub of these tests."""

from tests.support.hub_fetching import fetch, hub  # noqa: F401
