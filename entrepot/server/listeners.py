"""The sockets of the registry: its own, and those of its mirrors.

One server accepts on all of them, so that their connections and requests together have the bounds
of one registry.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from entrepot.api.models import MirrorSnapshot
from entrepot.config.mirror_settings import Mirror
from entrepot.config.network_access import check_network_access
from entrepot.config.settings import Settings, parse_listen
from entrepot.config.tls_settings import TlsFiles
from entrepot.core.hosts import is_loopback
from entrepot.engine.endpoints import Endpoints
from entrepot.errors import EngineError
from entrepot.httpd.asgi import Application
from entrepot.httpd.server import HttpServer, bind_tcp
from entrepot.server.host_check import LocalHosts
from entrepot.server.mirror_namespace import FixedNamespace, NamespaceOfHost
from entrepot.server.tls import TlsCertificates

_OF_REGISTRY = "choose another with --listen HOST:PORT or in settings.toml."
_OF_MIRROR = "choose another below [[mirrors]] in settings.toml."


@dataclass(frozen=True, slots=True)
class BoundListener:
    """A bound socket of the registry; *mirror* is None for the registry's own."""

    socket: socket.socket
    host: str
    tls: TlsFiles | None
    mirror: Mirror | None = None

    @property
    def address(self) -> str:
        """Host and port, also where the system chose the port."""
        return bound_address(self.host, self.socket)


class RegistryListeners:
    """The bound sockets of the registry, which `bound` creates."""

    def __init__(self, settings: Settings, listeners: list[BoundListener]) -> None:
        self._settings = settings
        self._listeners = listeners

    @classmethod
    @contextmanager
    def bound(cls, settings: Settings) -> Iterator[RegistryListeners]:
        """The sockets of all addresses that *settings* name; closed at the end of the context.

        Raises `EngineError` where one can't be bound, and where other machines could reach more
        than the settings say.
        """
        check_network_access(settings)
        with ExitStack() as stack:
            host, port = parse_listen(settings.listen)
            own = stack.enter_context(bind_listener(host, port))
            listeners = [BoundListener(own, host, settings.tls)]
            for mirror in settings.mirrors:
                if mirror.listen is None:
                    continue
                host, port = parse_listen(mirror.listen)
                what = f"The mirror of {mirror.namespace}"
                bound = stack.enter_context(bind_listener(host, port, what=what, choose=_OF_MIRROR))
                listeners.append(BoundListener(bound, host, mirror.tls, mirror))
            yield cls(settings, listeners)

    def describe(self, endpoints: Endpoints) -> None:
        """Write the addresses into *endpoints*."""
        registry = self._listeners[0]
        _, _, port = registry.address.rpartition(":")
        addresses = {id(each.mirror): each.address for each in self._listeners}
        endpoints.registry = registry.address
        endpoints.has_tls = registry.tls is not None
        endpoints.mirrors = tuple(
            MirrorSnapshot(
                namespace=mirror.namespace,
                address=f"{mirror.host}:{port}"
                if mirror.host is not None
                else addresses[id(mirror)],
                has_tls=(registry.tls if mirror.host is not None else mirror.tls) is not None,
            )
            for mirror in self._settings.mirrors
        )

    async def listen(
        self, server: HttpServer, app: Application, certificates: TlsCertificates
    ) -> None:
        """Let *server* answer on the sockets with *app*.

        The namespace of a mirror is in the scope of its requests. Raises `SettingsInvalid` where a
        certificate can't be used.
        """
        for listener in self._listeners:
            contexts = None
            if listener.tls is not None:
                # The registry's own is first: only its address has the hosts.
                by_host = self._certificates_of_hosts() if listener.mirror is None else {}
                tls = await certificates.add(listener.tls, by_host)
                contexts = tls.context_with_hosts if by_host else tls.context
            await server.listen(listener.socket, tls=contexts, app=self._app_of(listener, app))

    def _certificates_of_hosts(self) -> dict[str, TlsFiles]:
        """The files of mirror hosts that have their own certificate.

        Whether clients must send certificates is a matter of the address; which ones are accepted,
        of the context of the host (OpenSSL's SSL_set_SSL_CTX), which needs the same authorities.
        """
        return {
            mirror.host: mirror.tls.with_authorities_of(self._settings.tls)
            for mirror in self._settings.mirrors
            if mirror.host is not None and mirror.tls is not None
        }

    def _app_of(self, listener: BoundListener, app: Application) -> Application:
        hosts = {
            mirror.host: mirror.namespace
            for mirror in self._settings.mirrors
            if mirror.host is not None
        }
        if listener.mirror is not None:
            app = FixedNamespace(app, listener.mirror.namespace)
        elif hosts:
            app = NamespaceOfHost(app, hosts)
        if is_loopback(listener.host):
            # Web pages of other hosts must not read what is offered on this machine alone.
            app = LocalHosts(app, {listener.host, *self._settings.hosts, *hosts})
        return app


def bind_listener(
    host: str, port: int, *, what: str = "The registry", choose: str = _OF_REGISTRY
) -> socket.socket:
    """A socket that is bound to an address.

    Raises `EngineError`, whose message begins with *what*; *choose* says where another address is
    set.
    """
    try:
        return bind_tcp(host, port)
    except socket.gaierror as error:
        raise EngineError(
            f"{host} is not an address of this machine: {error.strerror}.",
            "Give another with --listen HOST:PORT, or in settings.toml.",
        ) from error
    except OSError as error:
        raise EngineError(
            f"{what} can't listen on {host}:{port}: {error.strerror}.", _listen_hint(error, choose)
        ) from error


def bound_address(host: str, listener: socket.socket) -> str:
    """Host and port of a bound socket."""
    return f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def check_listen(settings: Settings) -> None:
    """Raise `EngineError` where the registry can't listen on its addresses."""
    with RegistryListeners.bound(settings):
        pass


def _listen_hint(error: OSError, choose: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"Stop what listens there, or {choose}"
        case errno.EACCES | errno.EPERM:
            return f"Low ports are for root and for services with CAP_NET_BIND_SERVICE: {choose}"
        case errno.EADDRNOTAVAIL:
            return f"No network interface of this machine has that address: {choose}"
    return choose[:1].upper() + choose[1:]
