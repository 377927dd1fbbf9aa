"""The registry itself in ARM's shapes, as az and the SDKs look for it before anything else.

Every subscription, resource group and registry name is this engine. Where a list has to name one,
it has the names that Entrepot's own commands use: ``az acr cache list --registry entrepot`` then
needs no ``--resource-group``. Only what is read; the engine is set up in its settings.toml.
"""

from __future__ import annotations

import re
from typing import Any, Final

PROVIDER: Final = "Microsoft.ContainerRegistry"

NAME: Final = "entrepot"
"""The registry's name in lists."""

RESOURCE_GROUP: Final = "local"
"""Its resource group in lists."""

LOCATION: Final = "local"

METADATA_PATHS: Final = ("/metadata/endpoints", "//metadata/endpoints")
"""Where az asks for the endpoints of a cloud before it has a token.

It puts the path behind the address that it is given, which may end with a slash."""

_TYPE = f"{PROVIDER}/registries"
_RESOURCE_TYPE = re.compile(r"\bresourceType\s{1,8}eq\s{1,8}'([^']{0,200})'", re.IGNORECASE)
_FILTERED_NAME = re.compile(r"\bname\s{1,8}eq\s{1,8}'([A-Za-z0-9]{5,50})'", re.IGNORECASE)


def resource_document(
    subscription: str, group: str = RESOURCE_GROUP, name: str = NAME
) -> dict[str, Any]:
    """What every ARM resource has, of a registry."""
    registry = f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{_TYPE}/{name}"
    return {
        "id": registry,
        "name": name,
        "type": _TYPE,
        "location": LOCATION,
        "tags": {},
        # Cache rules are in all tiers; the largest has no limit that the engine does not have.
        "sku": {"name": "Premium", "tier": "Premium"},
    }


def registry_document(
    subscription: str, group: str, name: str, *, login_server: str
) -> dict[str, Any]:
    """A registry with its properties; *login_server* is where container clients find it."""
    properties = {
        "loginServer": login_server,
        "provisioningState": "Succeeded",
        "adminUserEnabled": False,
        "anonymousPullEnabled": True,
        "dataEndpointEnabled": False,
        "publicNetworkAccess": "Enabled",
        "zoneRedundancy": "Disabled",
    }
    return {**resource_document(subscription, group, name), "properties": properties}


def matching_resources(subscription: str, odata_filter: str) -> list[dict[str, Any]]:
    """The resources of a subscription, as far as *odata_filter* lets them pass.

    Of a filter only the type and the name are understood, which is what az sends.
    """
    resource_type = _RESOURCE_TYPE.search(odata_filter)
    if resource_type is not None and resource_type[1].lower() != _TYPE.lower():
        return []
    name = _FILTERED_NAME.search(odata_filter)
    return [resource_document(subscription, name=NAME if name is None else name[1])]


def metadata_document(address: str) -> dict[str, Any]:
    """The endpoints of a cloud that is this engine alone; *address* begins with the scheme.

    They lead nowhere else: no sign-in that is meant for the engine reaches Microsoft, or the other
    way round.
    """
    return {
        "name": "Entrepot",
        "portal": address,
        "gallery": address,
        "graph": address,
        "graphAudience": address,
        "batch": address,
        "media": address,
        "activeDirectoryDataLake": address,
        "sqlManagement": address,
        "vmImageAliasDoc": address,
        "resourceManager": address,
        "authentication": {
            "loginEndpoint": address,
            "audiences": [address],
            "tenant": "common",
            "identityProvider": "AAD",
        },
        # az adds a dot before each; no name ends with one of these.
        "suffixes": {
            "acrLoginServer": "entrepot.invalid",
            "azureDataLakeAnalyticsCatalogAndJob": "entrepot.invalid",
            "azureDataLakeStoreFileSystem": "entrepot.invalid",
            "keyVaultDns": "entrepot.invalid",
            "sqlServerHostname": "entrepot.invalid",
            "storage": "entrepot.invalid",
        },
    }
