"""Nothing can be pushed to a cache, and a client that tries gets the reason."""

from __future__ import annotations

from tests.e2e.clients.container_clients import Skopeo
from tests.e2e.clients.entrepot import Entrepot
from tests.e2e.clients.source_registry import DockerRegistry
from tests.fakes.images import FakeImage


def test_a_push_is_refused_with_the_reason_and_changes_nothing(
    skopeo: Skopeo, entrepot: Entrepot, source: DockerRegistry, app: FakeImage
) -> None:
    refused = skopeo.copy(
        f"docker://{source.address}/library/app:1", f"docker://{entrepot.address}/library/pushed:1"
    )
    assert refused.status != 0
    assert "Entrepot is a cache: nothing can be pushed to it" in refused.output
    assert "Push to the source registry" in refused.output
    assert (entrepot.cached_blobs(), entrepot.ask("repository", "list")) == (set(), [])


def test_a_delete_is_refused_with_the_reason_and_the_image_stays(
    skopeo: Skopeo, entrepot: Entrepot, app: FakeImage
) -> None:
    reference = f"{entrepot.address}/library/app:1"
    skopeo.pull(reference)
    refused = skopeo.delete(reference)
    assert refused.status != 0
    assert "entrepot repository delete" in refused.output
    skopeo.pull(reference)
    skopeo.assert_holds(reference, app)
