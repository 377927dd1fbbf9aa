"""The container clients of users, each with directories of its own below a temporary one: skopeo,
podman, containerd, docker."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tests.e2e.clients.layouts import skopeo_environment
from tests.e2e.clients.processes import Finished, Process, bare_environment, run
from tests.fakes.images import FakeImage
from tests.programs import require_program, require_root

AMD64 = "linux/amd64"
ARM64 = "linux/arm64"


class PullFailed(Exception):
    """A client could not pull; with its message to the user."""


class ContainerClient(Protocol):
    """What the tests ask of a client."""

    def pull(self, reference: str, platform: str = AMD64) -> None:
        """Pull ``127.0.0.1:5000/library/app:1``; raises `PullFailed`."""

    def assert_holds(self, reference: str, image: FakeImage, platform: str = AMD64) -> None:
        """It has the image that was published, to the last byte that it keeps."""

    def forget(self) -> None:
        """Drop every image, so that the next pull has to ask for all of it."""


def _checked(finished: Finished) -> str:
    if finished.status != 0:
        raise PullFailed(finished.output)
    return finished.output


def _no_credentials(root: Path) -> Path:
    """A file for what a client signs in with, of its own."""
    root.mkdir(parents=True, exist_ok=True)
    file = root / "auth.json"
    file.write_text("{}")
    return file


def _unpacked_layers(image: FakeImage, platform: str) -> list[str]:
    config = json.loads(image.platforms[platform].config.content)
    return list(config["rootfs"]["diff_ids"])


def _trust(home: Path, address: str, authority: Path) -> None:
    directory = home / ".config/containers/certs.d" / address
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "ca.crt").write_bytes(authority.read_bytes())


class Skopeo:
    """``skopeo copy`` into a directory, which keeps every byte as it came."""

    def __init__(self, root: Path) -> None:
        self._program = require_program("skopeo")
        self._root = root
        self._environment = skopeo_environment(root / "home")
        self._registries = root / "registries.conf"
        self._environment["REGISTRY_AUTH_FILE"] = str(_no_credentials(root))

    def copy(self, source: str, target: str, *options: str) -> Finished:
        """Run ``skopeo copy``."""
        arguments: list[str | Path] = [
            self._program,
            "--insecure-policy",
            *options,
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
        ]
        return run([*arguments, source, target], environment=self._environment)

    def convert(self, source: str, target: str, form: str) -> Finished:
        """Copy from one registry to another with a manifest of another form (``v2s1``)."""
        options = ("--format", form, "--src-tls-verify=false", "--dest-tls-verify=false")
        return run(
            [self._program, "--insecure-policy", "copy", *options, source, target],
            environment=self._environment,
        )

    def pull(self, reference: str, platform: str = AMD64) -> None:
        self.forget()
        system, architecture = platform.split("/")
        _checked(
            self.copy(
                f"docker://{reference}",
                f"dir:{self._root / 'image'}",
                "--override-os",
                system,
                "--override-arch",
                architecture,
            )
        )

    def use_registries(self, text: str) -> None:
        """Have what is configured of registries (containers-registries.conf(5))."""
        self._registries.write_text(f"unqualified-search-registries = []\n{text}")

    def trust(self, address: str, authority: Path) -> None:
        """Trust a certificate authority for a registry (containers-certs.d(5))."""
        _trust(self._root / "home", address, authority)

    def pull_by_name(self, reference: str) -> None:
        """Pull with what `use_registries` configures."""
        self.forget()
        arguments: list[str | Path] = [
            *(self._program, "--insecure-policy", "--registries-conf", self._registries),
            *("--override-os", "linux", "--override-arch", "amd64", "copy"),
            *(f"docker://{reference}", f"dir:{self._root / 'image'}"),
        ]
        _checked(run(arguments, environment=self._environment))

    def login(self, address: str, name: str, password: str) -> Finished:
        """Run ``skopeo login``."""
        options = ("--tls-verify=false", "--username", name, "--password", password)
        return run([self._program, "login", *options, address], environment=self._environment)

    def delete(self, reference: str) -> Finished:
        """Run ``skopeo delete``."""
        return run(
            [
                self._program,
                "--insecure-policy",
                "delete",
                "--tls-verify=false",
                f"docker://{reference}",
            ],
            environment=self._environment,
        )

    def pull_all_platforms(self, reference: str) -> dict[str, bytes]:
        """Pull an index with all its images; every file by its digest."""
        self.forget()
        arguments: list[str | Path] = [
            self._program,
            "--insecure-policy",
            "copy",
            "--all",
            "--src-tls-verify=false",
        ]
        _checked(
            run(
                [*arguments, f"docker://{reference}", f"dir:{self._root / 'image'}"],
                environment=self._environment,
            )
        )
        contents = [each.read_bytes() for each in (self._root / "image").iterdir()]
        return {f"sha256:{hashlib.sha256(each).hexdigest()}": each for each in contents}

    def assert_holds(self, reference: str, image: FakeImage, platform: str = AMD64) -> None:
        published = image.platforms[platform]
        directory = self._root / "image"
        assert (directory / "manifest.json").read_bytes() == published.manifest.content
        for blob in published.blobs:
            assert (directory / blob.digest.hex).read_bytes() == blob.content
        assert {each.name for each in directory.iterdir()} == {
            "manifest.json",
            "version",
            *(each.digest.hex for each in published.blobs),
        }

    def forget(self) -> None:
        shutil.rmtree(self._root / "image", ignore_errors=True)


class Podman:
    """``podman pull`` into storage of the kind vfs, which works everywhere."""

    def __init__(self, root: Path) -> None:
        self._program = require_program("podman")
        require_root("podman's storage of the kind vfs")
        self._root = root
        self._environment = skopeo_environment(root / "home") | {"TMPDIR": str(root / "tmp")}
        (root / "tmp").mkdir()
        files = {
            "CONTAINERS_CONF": f'[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\ntmp_dir = "{root}/libpod"\n',
            "CONTAINERS_STORAGE_CONF": f'[storage]\ndriver = "vfs"\ngraphroot = "{root}/root"\nrunroot = "{root}/runroot"\n',
            "CONTAINERS_REGISTRIES_CONF": "unqualified-search-registries = []\n",
        }
        for variable, content in files.items():
            path = root / variable.lower()
            path.write_text(content)
            self._environment[variable] = str(path)
        self._environment["REGISTRY_AUTH_FILE"] = str(_no_credentials(root))
        self._registries = root / "containers_registries_conf"
        self._policy = root / "policy.json"
        self._policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')

    def run(self, *arguments: str | Path) -> Finished:
        return run(
            [
                self._program,
                "--root",
                self._root / "root",
                "--runroot",
                self._root / "runroot",
                *arguments,
            ],
            environment=self._environment,
        )

    def pull(self, reference: str, platform: str = AMD64) -> None:
        _checked(
            self.run(
                "pull",
                "--tls-verify=false",
                "--signature-policy",
                self._policy,
                "--platform",
                platform,
                reference,
            )
        )

    def login(self, address: str, name: str, password: str) -> Finished:
        """Run ``podman login``."""
        options = ("--tls-verify=false", "--username", name, "--password", password)
        return self.run("login", *options, address)

    def pull_by_name(self, reference: str) -> None:
        """Pull with what `use_registries` configures."""
        options = ("--signature-policy", self._policy, "--platform", AMD64)
        _checked(self.run("pull", *options, reference))

    def use_registries(self, text: str) -> None:
        """Have what is configured of registries (containers-registries.conf(5))."""
        self._registries.write_text(f"unqualified-search-registries = []\n{text}")

    def trust(self, address: str, authority: Path) -> None:
        """Trust a certificate authority for a registry (containers-certs.d(5))."""
        _trust(self._root / "home", address, authority)

    def assert_holds(self, reference: str, image: FakeImage, platform: str = AMD64) -> None:
        [details] = json.loads(_checked(self.run("image", "inspect", reference)))
        published = image.platforms[platform]
        assert details["Id"] == published.config.digest.hex
        assert {each.rpartition("@")[2] for each in details["RepoDigests"]} == {
            str(image.digest),
            str(published.digest),
        }
        assert details["RootFS"]["Layers"] == _unpacked_layers(image, platform)

    def forget(self) -> None:
        _checked(self.run("image", "rm", "--all", "--force"))


class Buildah:
    """``buildah pull`` into storage of the kind vfs."""

    def __init__(self, root: Path) -> None:
        self._program = require_program("buildah")
        require_root("buildah's storage of the kind vfs")
        self._root = root
        self._environment = skopeo_environment(root / "home") | {"TMPDIR": str(root / "tmp")}
        (root / "tmp").mkdir()
        self._registries = root / "registries.conf"
        self._policy = root / "policy.json"
        self._policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')

    def run(self, *arguments: str | Path) -> Finished:
        options: list[str | Path] = [
            *("--root", self._root / "root", "--runroot", self._root / "runroot"),
            *("--storage-driver", "vfs", "--registries-conf", self._registries),
        ]
        return run([self._program, *options, *arguments], environment=self._environment)

    def use_registries(self, text: str) -> None:
        """Have what is configured of registries (containers-registries.conf(5))."""
        self._registries.write_text(f"unqualified-search-registries = []\n{text}")

    def trust(self, address: str, authority: Path) -> None:
        """Trust a certificate authority for a registry (containers-certs.d(5))."""
        _trust(self._root / "home", address, authority)

    def pull_by_name(self, reference: str) -> None:
        """Pull with what `use_registries` configures."""
        options = ("--signature-policy", self._policy, "--os", "linux", "--arch", "amd64")
        _checked(self.run("pull", *options, reference))

    def assert_holds(self, reference: str, image: FakeImage, platform: str = AMD64) -> None:
        details = json.loads(_checked(self.run("inspect", "--type", "image", reference)))
        published = image.platforms[platform]
        assert details["FromImageID"] == published.config.digest.hex
        assert details["OCIv1"]["rootfs"]["diff_ids"] == _unpacked_layers(image, platform)

    def forget(self) -> None:
        _checked(self.run("rmi", "--all", "--force"))


class Containerd:
    """``ctr images pull`` with a containerd of its own; each time in a namespace of its own, which
    shares no content with the others."""

    def __init__(self, root: Path) -> None:
        self._ctr = require_program("ctr")
        require_root("containerd")
        root.mkdir(parents=True, exist_ok=True)
        self._socket = root / "socket"
        self._hosts = root / "hosts"
        self._hosts.mkdir()
        self._environment = bare_environment(root / "home")
        self._namespaces = (f"test-{number}" for number in itertools.count())
        self._namespace = next(self._namespaces)
        disabled = [
            "io.containerd.grpc.v1.cri",
            "io.containerd.internal.v1.opt",
            *(
                f"io.containerd.snapshotter.v1.{each}"
                for each in ("aufs", "btrfs", "devmapper", "overlayfs", "zfs")
            ),
        ]
        (root / "config.toml").write_text(
            f'version = 2\nroot = "{root}/root"\nstate = "{root}/state"\ndisabled_plugins = {json.dumps(disabled)}\n'
            f'[grpc]\naddress = "{self._socket}"\n[ttrpc]\naddress = "{root}/ttrpc"\n'
            '[plugins."io.containerd.metadata.v1.bolt"]\ncontent_sharing_policy = "isolated"\n'
        )
        arguments: list[str | Path] = [
            require_program("containerd"),
            "--config",
            root / "config.toml",
        ]
        self._daemon, _ = Process.until(
            "containerd successfully booted", arguments, environment=self._environment
        )

    def run(self, *arguments: str) -> Finished:
        return run(
            [self._ctr, "--address", self._socket, "--namespace", self._namespace, *arguments],
            environment=self._environment,
        )

    def pull(self, reference: str, platform: str = AMD64) -> None:
        _checked(
            self.run(
                "images",
                "pull",
                "--plain-http",
                "--snapshotter",
                "native",
                "--platform",
                platform,
                reference,
            )
        )

    def use_hosts(self, texts: Mapping[str, str]) -> None:
        """Have these ``hosts.toml`` by login server, and no others (containerd, docs/hosts.md)."""
        shutil.rmtree(self._hosts)
        for login_server, text in texts.items():
            (self._hosts / login_server).mkdir(parents=True)
            (self._hosts / login_server / "hosts.toml").write_text(text)

    def pull_by_name(self, reference: str) -> None:
        """Pull with what `use_hosts` configures."""
        _checked(
            self.run(
                "images",
                "pull",
                "--hosts-dir",
                str(self._hosts),
                "--snapshotter",
                "native",
                "--platform",
                AMD64,
                reference,
            )
        )

    def assert_holds(self, reference: str, image: FakeImage, platform: str = AMD64) -> None:
        published = image.platforms[platform]
        listed = {
            line.split()[0]: line.split()[2]
            for line in self.run("images", "list").output.splitlines()[1:]
        }
        assert listed[reference] == str(image.digest)
        expected = {image.manifest, published.manifest, *published.blobs}
        assert set(self.run("content", "list", "--quiet").output.split()) == {
            str(each.digest) for each in expected
        }
        root = (
            self._socket.parent / "root" / "io.containerd.content.v1.content" / "blobs" / "sha256"
        )
        for blob in expected:
            assert (root / blob.digest.hex).read_bytes() == blob.content

    def forget(self) -> None:
        self._namespace = next(self._namespaces)

    def close(self) -> None:
        self._daemon.stop()


class Docker:
    """``docker pull`` with a dockerd of its own, without networks; in a mount namespace of its own,
    because it writes to fixed places in /run and /opt. It trusts *authority*."""

    def __init__(self, root: Path, authority: Path) -> None:
        self._docker = require_program("docker")
        dockerd = require_program("dockerd")
        require_root("dockerd")
        root.mkdir(parents=True, exist_ok=True)
        self._socket = root / "socket"
        self._environment = bare_environment(root / "home") | {
            "DOCKER_HOST": f"unix://{self._socket}"
        }
        self._configuration = root / "daemon.json"
        self._key = root / "key.json"
        self._configure()
        self._daemon, _ = Process.until(
            "API listen on",
            [
                *(require_program("unshare"), "--mount", "--propagation", "private"),
                *(
                    "sh",
                    "-c",
                    'mount -n -t tmpfs tmpfs /run && mount -n -t tmpfs tmpfs /opt && exec "$@"',
                    "sh",
                ),
                *(
                    dockerd,
                    "--config-file",
                    self._configuration,
                    "--host",
                    f"unix://{self._socket}",
                ),
                *(
                    "--data-root",
                    root / "data",
                    "--exec-root",
                    root / "exec",
                    "--pidfile",
                    root / "pid",
                ),
                *(
                    "--storage-driver",
                    "vfs",
                    "--iptables=false",
                    "--ip6tables=false",
                    "--bridge=none",
                ),
            ],
            environment=bare_environment(root / "home") | {"SSL_CERT_FILE": str(authority)},
        )

    def run(self, *arguments: str) -> Finished:
        return run([self._docker, *arguments], environment=self._environment)

    @property
    def client_configuration(self) -> Path:
        """What ``docker`` sends to registries."""
        return Path(self._environment["HOME"]) / ".docker" / "config.json"

    def login(self, address: str, name: str, password: str) -> Finished:
        """Run ``docker login``."""
        return self.run("login", "--username", name, "--password", password, address)

    def _configure(self, **settings: object) -> None:
        self._configuration.write_text(
            json.dumps({"deprecated-key-path": str(self._key)} | settings)
        )

    def use_settings(self, settings: Mapping[str, object]) -> None:
        """Have further settings in ``daemon.json``, and reload it."""
        self._configure(**settings)
        before = self._daemon.mark()
        self._daemon.send(signal.SIGHUP)
        self._daemon.wait_for_line("Reloaded configuration", since=before)

    def pull(self, reference: str, platform: str = AMD64) -> None:
        _checked(self.run("pull", "--platform", platform, reference))

    def pull_by_name(self, reference: str) -> None:
        """Pull with what `use_settings` configures."""
        self.pull(reference)

    def assert_holds(self, reference: str, image: FakeImage, platform: str = AMD64) -> None:
        [details] = json.loads(_checked(self.run("image", "inspect", reference)))
        assert details["Id"] == str(image.platforms[platform].config.digest)
        assert details["RepoDigests"] == [f"{reference.rpartition(':')[0]}@{image.digest}"]
        assert details["RootFS"]["Layers"] == _unpacked_layers(image, platform)

    def forget(self) -> None:
        _checked(self.run("system", "prune", "--all", "--force"))

    def close(self) -> None:
        self._daemon.stop()
