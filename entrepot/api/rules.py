"""Cache rules of a running engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias
from urllib.parse import quote

import msgspec

from entrepot.api.models import CheckedRule, DeletionPlan, ImportPlan, RuleMatch, RuleSnapshot
from entrepot.api.session import ApiSession, path_segment, resource_path

_Rules: TypeAlias = list[RuleSnapshot]


class RulesClient:
    """``client.rules``: cache rules, and imports of rules and credential sets."""

    def __init__(self, session: ApiSession) -> None:
        self._session = session

    async def list(self) -> _Rules:
        """All cache rules, by name; the very same list as long as nothing has changed."""
        return await self._session.listing("/entrepot/v1/rules", _Rules)

    async def get(self, name: str) -> RuleSnapshot:
        """One cache rule, its name without regard to case."""
        return await self._session.get_named(
            _path(name),
            RuleSnapshot,
            name,
            resource=resource_path("cacheRules", name),
            listing=self.list,
        )

    async def create(
        self,
        name: str,
        source_repository: str,
        target_repository: str,
        credential_set: str | None = None,
        freshness: str | None = None,
        *,
        readers: Sequence[str] = (),
        anonymous: bool | None = None,
    ) -> None:
        """Create a cache rule; refused when there is one of that name.

        *freshness* is ``always``, ``never`` or a time such as ``10 min``; None: the settings say.
        *readers* are the names of those who may read what it caches, and of groups with ``@``;
        *anonymous* says whether others may who do not sign in.
        """
        if readers or anonymous is not None:
            # ACR's shape has no place for readers, and no moment may pass without them.
            body = {
                "name": name,
                "sourceRepository": source_repository,
                "targetRepository": target_repository,
                "credentialSet": credential_set,
                "freshness": freshness,
                "readers": tuple(readers),
                "anonymous": anonymous,
            }
            await self._session.change("POST", "/entrepot/v1/rules", body)
            return
        properties: dict[str, Any] = {
            "sourceRepository": source_repository,
            "targetRepository": target_repository,
        }
        if credential_set is not None:
            properties["credentialSetResourceId"] = resource_path("credentialSets", credential_set)
        if freshness is not None:
            properties["freshness"] = freshness
        await self._session.change(
            "PUT", resource_path("cacheRules", name), {"properties": properties}, must_be_new=True
        )

    async def update(
        self,
        name: str,
        credential_set: str | msgspec.UnsetType | None = msgspec.UNSET,
        *,
        freshness: str | msgspec.UnsetType | None = msgspec.UNSET,
        readers: Sequence[str] | msgspec.UnsetType = msgspec.UNSET,
        anonymous: bool | msgspec.UnsetType | None = msgspec.UNSET,
    ) -> None:
        """Change the credential set, the tag lifetime or the readers of a cache rule.

        What is not named stays. None removes the credential set, or has the settings say the tag
        lifetime, or whether anonymous readers may read.
        """
        if readers is not msgspec.UNSET or anonymous is not msgspec.UNSET:
            changes: dict[str, Any] = {
                "credentialSet": credential_set,
                "freshness": freshness,
                "readers": tuple(readers) if readers is not msgspec.UNSET else readers,
                "anonymous": anonymous,
            }
            body = {key: value for key, value in changes.items() if value is not msgspec.UNSET}
            await self._session.change("PATCH", _path(name), body)
            return
        properties: dict[str, Any] = {}
        if credential_set is not msgspec.UNSET:
            properties["credentialSetResourceId"] = (
                resource_path("credentialSets", credential_set)
                if credential_set is not None
                else None
            )
        if freshness is not msgspec.UNSET:
            properties["freshness"] = freshness
        await self._session.change(
            "PATCH", resource_path("cacheRules", name), {"properties": properties}
        )

    async def delete(self, name: str) -> None:
        """Delete a cache rule; what it cached stays."""
        if not await self._session.delete_resource(resource_path("cacheRules", name)):
            # The refusal says which names there are.
            await self.get(name)

    async def validate(
        self,
        name: str | None = None,
        source_repository: str | None = None,
        target_repository: str | None = None,
        credential_set: str | None = None,
        freshness: str | None = None,
        readers: Sequence[str] = (),
    ) -> CheckedRule:
        """What is wrong with a cache rule that does not exist yet.

        Fields that are None are not judged; an empty credential set stands for none.
        """
        draft: dict[str, Any] = {
            "name": name,
            "sourceRepository": source_repository,
            "targetRepository": target_repository,
            "credentialSet": credential_set,
            "freshness": freshness,
        }
        if readers:
            draft["readers"] = tuple(readers)
        return await self._session.send("POST", "/entrepot/v1/checks/cacheRule", CheckedRule, draft)

    async def preview_delete(self, name: str) -> DeletionPlan:
        """What would go and what would stay if a cache rule were deleted."""
        return await self._session.get(f"{_path(name)}/plan", DeletionPlan)

    async def match(self, image: str) -> RuleMatch:
        """The rule that answers for an image.

        *image* is ``library/nginx:1.27``, also with the engine's address in front, or a source such
        as ``docker.io/library/nginx``.
        """
        return await self._session.get(
            f"/entrepot/v1/match?image={quote(image, safe='')}", RuleMatch
        )

    async def preview_import(self, text: str) -> ImportPlan:
        """What would become of the rules and credential sets of a TOML text."""
        return await self._session.send(
            "POST", "/entrepot/v1/checks/import", ImportPlan, {"text": text}
        )

    async def apply_import(self, text: str) -> ImportPlan:
        """Create the rules and credential sets of a TOML text, all of them or none.

        Refused (``ImportRefused``) when one of them can't be created.
        """
        return await self._session.send("POST", "/entrepot/v1/imports", ImportPlan, {"text": text})


def _path(name: str) -> str:
    return f"/entrepot/v1/rules/{path_segment(name)}"
