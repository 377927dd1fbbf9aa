"""Credential sets of a running engine."""

from __future__ import annotations

import time
from typing import Final, TypeAlias

from entrepot.api.models import (
    CheckedCredentialSet,
    CredentialSetSnapshot,
    DeletionPlan,
    TriedSignIn,
)
from entrepot.api.session import ApiSession, path_segment, resource_path

SIGN_IN_TIMEOUT: Final = 300.0
"""Seconds that a sign-in may take: the store of the secrets and the source registry may both be
slow, and each is asked again."""

FIRST_SIGN_IN_TIMEOUT: Final = 10.0
"""Seconds to wait for the first sign-in of a new credential set. A source registry may be silent
for longer: then its health is unknown."""

POLL_INTERVAL: Final = 0.25
"""Seconds between two requests for the health of a credential set."""

_CredentialSets: TypeAlias = list[CredentialSetSnapshot]


class CredentialSetsClient:
    """``client.credential_sets``: how to sign in to source registries."""

    def __init__(self, session: ApiSession) -> None:
        self._session = session

    async def list(self) -> _CredentialSets:
        """All credential sets, by name; the very same list as long as nothing has changed."""
        return await self._session.listing("/entrepot/v1/credentialSets", _CredentialSets)

    async def get(self, name: str) -> CredentialSetSnapshot:
        """One credential set, its name without regard to case."""
        return await self._session.get_named(
            _path(name),
            CredentialSetSnapshot,
            name,
            resource=resource_path("credentialSets", name),
            listing=self.list,
        )

    async def wait_for_sign_in(
        self, name: str, *, max_wait: float = FIRST_SIGN_IN_TIMEOUT
    ) -> CredentialSetSnapshot:
        """A new or changed credential set, once its first sign-in has ended.

        After *max_wait* seconds it is returned as it is then.
        """
        import asyncio

        deadline = time.monotonic() + max_wait
        while True:
            credential_set = await self.get(name)
            if credential_set.checked is not None or time.monotonic() >= deadline:
                return credential_set
            await asyncio.sleep(POLL_INTERVAL)

    async def create(
        self, name: str, login_server: str, username_id: str, password_id: str
    ) -> None:
        """Create a credential set; refused when there is one of that name."""
        body = {
            "properties": {
                "loginServer": login_server,
                "authCredentials": [_auth_credential(username_id, password_id)],
            }
        }
        await self._session.change(
            "PUT", resource_path("credentialSets", name), body, must_be_new=True
        )

    async def update(
        self, name: str, username_id: str | None = None, password_id: str | None = None
    ) -> None:
        """Change where the secrets of a credential set are kept; None leaves one as it is."""
        await self._session.change(
            "PATCH",
            resource_path("credentialSets", name),
            {"properties": {"authCredentials": [_auth_credential(username_id, password_id)]}},
        )

    async def delete(self, name: str) -> None:
        """Delete a credential set that no rule uses."""
        if not await self._session.delete_resource(resource_path("credentialSets", name)):
            # The refusal says which names there are.
            await self.get(name)

    async def validate(
        self,
        name: str | None = None,
        login_server: str | None = None,
        username_id: str | None = None,
        password_id: str | None = None,
    ) -> CheckedCredentialSet:
        """What is wrong with a credential set that does not exist yet.

        Fields that are None are not judged.
        """
        return await self._session.send(
            "POST",
            "/entrepot/v1/checks/credentialSet",
            CheckedCredentialSet,
            _draft(name, login_server, username_id, password_id),
        )

    async def preview_delete(self, name: str) -> DeletionPlan:
        """What prevents the deletion of a credential set, if anything."""
        return await self._session.get(f"{_path(name)}/plan", DeletionPlan)

    async def test_sign_in(
        self, name: str, login_server: str, username_id: str, password_id: str
    ) -> TriedSignIn:
        """Sign in with the values of an unsaved credential set; nothing is stored."""
        return await self._session.send(
            "POST",
            "/entrepot/v1/signIn",
            TriedSignIn,
            _draft(name, login_server, username_id, password_id),
            read_timeout=SIGN_IN_TIMEOUT,
        )

    async def sign_in(self, name: str) -> CredentialSetSnapshot:
        """Sign in with a credential set; the outcome becomes its health."""
        return await self._session.send(
            "POST", f"{_path(name)}/check", CredentialSetSnapshot, read_timeout=SIGN_IN_TIMEOUT
        )


def _path(name: str) -> str:
    return f"/entrepot/v1/credentialSets/{path_segment(name)}"


def _draft(
    name: str | None, login_server: str | None, username_id: str | None, password_id: str | None
) -> dict[str, str | None]:
    return {
        "name": name,
        "loginServer": login_server,
        "usernameId": username_id,
        "passwordId": password_id,
    }


def _auth_credential(username_id: str | None, password_id: str | None) -> dict[str, str]:
    fields = {
        "name": "Credential1",
        "usernameSecretIdentifier": username_id,
        "passwordSecretIdentifier": password_id,
    }
    return {name: value for name, value in fields.items() if value is not None}
