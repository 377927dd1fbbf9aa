"""Read secrets from an Azure Key Vault, with Azure's SDK (the extra ``azure``).

The engine signs in as the identity that it has where it runs (`DefaultAzureCredential`: a managed
identity, a workload identity, environment variables, or the login of ``az``), which needs the right
to get secrets: the role Key Vault Secrets User, or an access policy.
"""

from __future__ import annotations

import asyncio
import importlib
from contextlib import AsyncExitStack
from typing import Any

from entrepot.causes import Cause, CauseCode
from entrepot.secrets.secret import (
    SecretForbidden,
    SecretUnavailable,
    VaultIdentityUnknown,
    unreadable,
)

VAULT_TIMEOUT = 30.0
"""How long vault and sign-in may take together with all retries, in seconds.

Where there is no managed identity, the SDK takes a while to notice.
"""

AUTHORITIES = {
    "vault.azure.net": "login.microsoftonline.com",
    "vault.azure.cn": "login.chinacloudapi.cn",
    "vault.usgovcloudapi.net": "login.microsoftonline.us",
}
"""Where the identities of each cloud of Azure sign in, by the domain of its vaults."""

_NOT_INSTALLED = Cause(
    CauseCode.EXTRA_MISSING,
    "What reads an Azure Key Vault is not installed here: the extra azure.",
    "Install it where the engine is, and start the engine again: pip install 'entrepot[azure]'",
)
_SIGN_IN = (
    "Give the engine an identity: a managed identity where it runs in Azure, else AZURE_TENANT_ID, "
    "AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or az login."
)
_RIGHT = (
    "Give the engine's identity the role Key Vault Secrets User there, or an access policy that "
    "may get secrets."
)


def credential_of_engine(authority: str) -> Any:
    """The identity of the engine, signed in at *authority*."""
    from azure.identity.aio import DefaultAzureCredential

    return DefaultAzureCredential(authority=authority)


def transport_to_vault() -> Any:
    """The transport of the SDK; None for its own."""
    return None


async def read_vault(vault: str, name: str, identifier: object) -> str:
    """The newest version of a secret in *vault*, a host: ``contoso.vault.azure.net``.

    Raises `SecretUnavailable`, or `SecretForbidden` as ACR does.
    """
    try:
        # Half a second of imports, which must not hold up the loop.
        core = await asyncio.to_thread(importlib.import_module, "azure.core.exceptions")
        await asyncio.to_thread(importlib.import_module, "azure.identity.aio")
        secrets = await asyncio.to_thread(importlib.import_module, "azure.keyvault.secrets.aio")
    except ImportError:
        raise unreadable(identifier, _NOT_INSTALLED) from None
    try:
        async with asyncio.timeout(VAULT_TIMEOUT), AsyncExitStack() as stack:
            credential = await stack.enter_async_context(
                credential_of_engine(AUTHORITIES[vault.partition(".")[2]])
            )
            transport = transport_to_vault()
            options = {} if transport is None else {"transport": transport}
            client = await stack.enter_async_context(
                secrets.SecretClient(
                    f"https://{vault}", credential, retry_total=2, retry_backoff_max=5, **options
                )
            )
            value = (await client.get_secret(name)).value
    except TimeoutError:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {vault}, or the sign-in there, has not "
            f"answered for {VAULT_TIMEOUT:.0f} s.",
            "Check the network, and try again.",
        ) from None
    except core.ClientAuthenticationError as error:
        raise _not_signed_in(error, vault, identifier) from None
    except core.ResourceNotFoundError:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {vault} has no secret {name}.",
            "Check its name, or create it there.",
        ) from None
    except core.HttpResponseError as error:
        raise _refusal(error, vault, identifier) from None
    except core.AzureError:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {vault} can't be reached, or is not a Key "
            "Vault.",
            "Check the name of the vault, and the network.",
        ) from None
    if not value:
        raise SecretUnavailable(
            f"The secret {identifier} can't be used: it is empty.", f"Set it in {vault}."
        )
    return str(value)


def _not_signed_in(error: Any, vault: str, identifier: object) -> SecretUnavailable:
    kind = VaultIdentityUnknown if "AADSTS700016" in str(error) else SecretUnavailable
    return kind(
        f"The secret {identifier} can't be read: the engine has no identity with which it could "
        f"sign in at {vault}.",
        _SIGN_IN,
    )


def _refusal(error: Any, vault: str, identifier: object) -> SecretUnavailable:
    if error.status_code == 403:
        inner = getattr(getattr(error, "error", None), "innererror", None) or {}
        if inner.get("code") == "SecretDisabled":
            return SecretForbidden(
                f"The secret {identifier} can't be read: it is disabled, expired or not valid yet.",
                f"Look at it in {vault}.",
            )
        if inner.get("code") in {"ForbiddenByFirewall", "ForbiddenByConnection"}:
            return SecretForbidden(
                f"The secret {identifier} can't be read: the firewall of {vault} keeps the engine "
                "out.",
                "Let this machine's network in.",
            )
        return SecretForbidden(
            f"The secret {identifier} can't be read: {vault} does not let the engine get secrets.",
            _RIGHT,
        )
    if error.status_code == 429:
        return SecretUnavailable(
            f"The secret {identifier} can't be read now: {vault} was asked too often.",
            "It is tried again at the next sign-in.",
        )
    return SecretUnavailable(
        f"The secret {identifier} can't be read: {vault} fails with status {error.status_code}.",
        "Try again later.",
    )
