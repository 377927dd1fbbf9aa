"""A network of our own, in which the names of the world are ours too."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.programs import require_program, require_root

NETWORK = "198.18.0"
"""Of the addresses: a range for tests that no network routes (RFC 2544). It lies on the namespace's
loopback device, so nothing leaves the machine."""

T = TypeVar("T")


class Namespace:
    """A network namespace with names. Programs started with `prefix` run in it and find the
    addresses of *hosts*; there is no way out of it.

    ``ip netns exec`` mounts ``/etc/netns/NAME/hosts`` in place of ``/etc/hosts`` (ip-netns(8)).
    """

    def __init__(self, hosts: Mapping[str, str]) -> None:
        self._ip = require_program("ip")
        require_root("a network namespace")
        self.name = f"entrepot-registries-{os.getpid()}"
        self._hosts = hosts
        self._directory = Path("/etc/netns") / self.name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
        self._entered = threading.Event()

    @property
    def prefix(self) -> list[str | Path]:
        """What stands in front of a command that is to run in it."""
        return [self._ip, "netns", "exec", self.name]

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 30.0) -> T:
        """Run a coroutine in it, on the event loop of a thread that never leaves it, for *timeout*
        seconds at most."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in it that may block."""
        return self.run(asyncio.to_thread(function))

    def __enter__(self) -> Namespace:
        completed = subprocess.run(
            [self._ip, "netns", "add", self.name], capture_output=True, text=True, check=False
        )
        if completed.returncode:
            pytest.skip(f"no network can be made here: {completed.stderr.strip()}")
        try:
            self._command("link", "set", "lo", "up")
            self._command("addr", "add", f"{NETWORK}.0/24", "dev", "lo")
            self._directory.mkdir(parents=True)
            lines = [
                "127.0.0.1 localhost",
                *(f"{address} {host}" for host, address in self._hosts.items()),
            ]
            (self._directory / "hosts").write_text("\n".join(lines) + "\n")
            self._thread.start()
            assert self._entered.wait(10), "the thread does not get into the namespace"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
        (self._directory / "hosts").unlink(missing_ok=True)
        for directory in (self._directory, self._directory.parent):
            # The parent may hold what is another's.
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()
        subprocess.run([self._ip, "netns", "del", self.name], capture_output=True, check=False)

    def _command(self, *arguments: str) -> None:
        subprocess.run([self._ip, "-n", self.name, *arguments], check=True, capture_output=True)

    def _work(self) -> None:
        with Path(f"/var/run/netns/{self.name}").open() as namespace:
            library = ctypes.CDLL(None, use_errno=True)
            # CLONE_NEWNET (setns(2)): for this thread, and those that it starts.
            if library.setns(namespace.fileno(), 0x40000000):
                return
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._entered.set)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
