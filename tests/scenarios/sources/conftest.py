"""Failure stories of source registries as their client alone meets them, without an engine."""

from tests.source.conftest import (  # noqa: F401 - pytest finds fixtures by their names here
    client,
    clock,
    credential_set,
    each_transport,
    new_transport,
    opened,
    pauses,
    source,
    sources,
)
