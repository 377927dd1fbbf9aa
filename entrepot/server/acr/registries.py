"""The registry itself in ARM's shapes, as az and the SDKs look it up first.

Every subscription, resource group and registry name is this engine. Where a list has to name one,
it has the names that Entrepot's own commands use: ``az acr cache list --registry entrepot`` then
needs no ``--resource-group``. These routes only read; the engine is set up in its settings.toml.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from entrepot.engine.endpoints import Endpoints
from entrepot.formatting import printable
from entrepot.server.responses import json_response

PROVIDER: Final = "Microsoft.ContainerRegistry"

NAME: Final = "entrepot"
"""The registry's name in lists."""

RESOURCE_GROUP: Final = "local"
"""Its resource group in lists."""

LOCATION: Final = "local"

METADATA_PATHS: Final = ("/metadata/endpoints", "//metadata/endpoints")
"""Where az asks for the endpoints of a cloud before it has a token.

It puts the path behind the address that it is given, which may end with a slash."""

_SUBSCRIPTION = "/subscriptions/{s}"
_REGISTRIES = f"{_SUBSCRIPTION}/resourceGroups/{{g}}/providers/{PROVIDER}/registries"

REGISTRY_PATH: Final = f"{_REGISTRIES}/{{r}}"
"""A registry, below which its cache rules and credential sets are: with names for subscription,
resource group and registry."""

_TYPE = f"{PROVIDER}/registries"
_RESOURCE_TYPE = re.compile(r"\bresourceType\s{1,8}eq\s{1,8}'([^']{0,200})'", re.IGNORECASE)
_FILTERED_NAME = re.compile(r"\bname\s{1,8}eq\s{1,8}'([A-Za-z0-9]{5,50})'", re.IGNORECASE)


class RegistryResources:
    """This engine as a registry of ARM.

    *endpoints* says where container clients find it.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    def routes(self) -> Sequence[BaseRoute]:
        """The routes of the registry itself."""
        return [
            *(Route(path, self.metadata) for path in METADATA_PATHS),
            Route(f"{_SUBSCRIPTION}/resources", self.list_resources),
            Route(f"{_SUBSCRIPTION}/providers/{PROVIDER}/registries", self.list_registries),
            Route(_REGISTRIES, self.list_registries),
            Route(REGISTRY_PATH, self.get_registry),
        ]

    async def metadata(self, request: Request) -> Response:
        """The endpoints of the cloud, at the address of this request."""
        # Starlette fails to make a URL of an odd Host.
        host = printable(request.headers.get("host", ""), 255)
        address = f"{request.scope['scheme']}://{host}"
        return json_response(metadata_document(address), headers={"Cache-Control": "no-store"})

    async def list_resources(self, request: Request) -> Response:
        """The resources of a subscription."""
        odata_filter = request.query_params.get("$filter", "")
        return json_response({"value": matching_resources(request.path_params["s"], odata_filter)})

    async def list_registries(self, request: Request) -> Response:
        """The registries of a subscription or of a resource group."""
        names = request.path_params
        registry = registry_document(
            names["s"],
            names.get("g", RESOURCE_GROUP),
            NAME,
            login_server=self._endpoints.registry,
        )
        return json_response({"value": [registry]})

    async def get_registry(self, request: Request) -> Response:
        """The registry, under whatever name it is asked for."""
        names = request.path_params
        return json_response(
            registry_document(
                names["s"], names["g"], names["r"], login_server=self._endpoints.registry
            )
        )


def registry_id(subscription: str, group: str, name: str) -> str:
    """The resource id of a registry."""
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{_TYPE}/{name}"


def resource_document(
    subscription: str, group: str = RESOURCE_GROUP, name: str = NAME
) -> dict[str, Any]:
    """What every ARM resource has, of a registry."""
    return {
        "id": registry_id(subscription, group, name),
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
    """A registry with its properties.

    *login_server* is where container clients find it.
    """
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
    """The endpoints of a cloud that is this engine alone.

    *address* begins with the scheme. The endpoints lead nowhere else: no sign-in that is meant for
    the engine reaches Microsoft, or the other way round.
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
