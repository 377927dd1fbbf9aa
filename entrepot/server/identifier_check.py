"""The check of secret identifiers in requests to the management API (S13).

It decides which identifiers may be written or tried through one listener of the API.
"""

from __future__ import annotations

import asyncio

from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.permitted_identifiers import PermittedIdentifiers, SecretKindNotAllowed
from entrepot.core.secret_identifiers import SecretIdentifier, SecretIdentifierInvalid
from entrepot.engine.credentials import CredentialService
from entrepot.errors import Refusal


class IdentifierCheck:
    """Judges the identifiers of drafts; *permitted* says which may be new."""

    def __init__(self, credential_sets: CredentialService, permitted: PermittedIdentifiers) -> None:
        self.permitted = permitted
        self._credential_sets = credential_sets

    async def refusals(self, draft: CredentialSetDraft) -> list[Refusal]:
        """What is not permitted of a draft.

        What a set for the same login server has already is nothing new; what is no identifier is
        judged elsewhere.
        """
        login_server = (draft.login_server or "").strip().lower()
        same_server = [
            credential_set
            for credential_set in self._credential_sets.book
            if credential_set.login_server == login_server
        ]
        refusals: list[Refusal] = []
        for text, in_use, field in (
            (
                draft.username_id,
                {credential_set.username for credential_set in same_server},
                "usernameSecretIdentifier",
            ),
            (
                draft.password_id,
                {credential_set.password for credential_set in same_server},
                "passwordSecretIdentifier",
            ),
        ):
            try:
                identifier = SecretIdentifier.parse(text or "", field=field)
                if identifier not in in_use:
                    await asyncio.to_thread(self.permitted.check, identifier, field=field)
            except SecretKindNotAllowed as refusal:
                refusals.append(refusal)
            except SecretIdentifierInvalid:
                continue
        return refusals

    async def require(self, draft: CredentialSetDraft) -> None:
        """Raise the first refusal of a draft."""
        for refusal in await self.refusals(draft):
            raise refusal
