"""Turn results of the core, the cache and the store into the models of the API."""

from __future__ import annotations

from entrepot.api.models import LayerSnapshot, PullSnapshot
from entrepot.cache.pull import PullProgress


def pull_snapshot(progress: PullProgress) -> PullSnapshot:
    """The API's model of a pull's progress."""
    return PullSnapshot(
        id=progress.id,
        repository=progress.repository,
        tag=progress.tag,
        digest=progress.digest,
        platform=progress.platform,
        rule=progress.rule,
        login_server=progress.login_server,
        source_repository=progress.source_repository,
        state=progress.state,
        started=progress.started,
        ended=progress.ended,
        layers=tuple(
            LayerSnapshot(
                digest=layer.digest,
                media_type=layer.media_type,
                size=layer.size,
                received=layer.received,
                state=layer.state,
                waiting_clients=layer.waiting_clients,
                resumed_at=layer.resumed_at,
            )
            for layer in progress.layers
        ),
        size=progress.size,
        received=progress.received,
        speed=progress.speed,
        time_left=progress.time_left,
        from_source=progress.from_source,
        to_clients=progress.to_clients,
        waiting_clients=progress.waiting_clients,
        layer_count=progress.layer_count,
        asked_by=progress.asked_by,
        error_code=progress.error_code,
        error_message=progress.error_message,
        error_cause=progress.error_cause,
    )
