"""Platforms of images: their names, and which image runs where.

The rules are those of containerd (github.com/containerd/platforms: ``Parse``, ``Normalize`` and
``Only``, which docker uses as well), so that a pull into the cache takes the image that a client on
that machine takes. No Python library has them. Docstrings name the differences.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import unquote

from entrepot.errors import Refusal
from entrepot.formatting import printable

T = TypeVar("T")

PLATFORM_LENGTH = 255
"""The longest name of a platform, in characters."""

OS_FEATURES_LIMIT = 32
"""The most features of an operating system that one platform may name."""

EXAMPLES = "linux/amd64, linux/arm64, linux/arm/v7, windows/amd64"

# fmt: off
_OPERATING_SYSTEMS = frozenset({
    "aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux",
    "nacl", "netbsd", "openbsd", "plan9", "solaris", "wasi", "wasip1", "windows", "zos",
})
# fmt: on
"""Those of Go (``go tool dist list``), and ``wasi``, which docker pulls as ``wasi/wasm``."""

# fmt: off
_ARCHITECTURES = frozenset({
    "386", "amd64", "amd64p32", "arm", "armbe", "arm64", "arm64be", "loong64", "mips", "mipsle",
    "mips64", "mips64le", "mips64p32", "mips64p32le", "ppc", "ppc64", "ppc64le", "riscv",
    "riscv64", "s390", "s390x", "sparc", "sparc64", "wasm",
})
# fmt: on

_ALIASES = {
    "i386": ("386", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    # Beyond containerd: names of uname(1) and of the repositories of Docker's official images.
    "x64": ("amd64", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86": ("386", ""),
    "arm64v8": ("arm64", ""),
    "armv8l": ("arm", "v8"),
    "armv7": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "arm32v7": ("arm", "v7"),
    "armv6": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
    "arm32v6": ("arm", "v6"),
    "arm32v5": ("arm", "v5"),
    "loongarch64": ("loong64", ""),
}
"""Other names of architectures, each with the variant that the name implies."""

_ARM64_VERSIONS = {
    "v8": ((8, 0),),
    **{f"v8.{minor}": ((8, minor),) for minor in range(1, 10)},
    "v9": ((9, 0), (8, 5)),
    **{f"v9.{minor}": ((9, minor), (8, min(9, minor + 5))) for minor in range(1, 8)},
}
"""The newest version of each generation that a variant of arm64 runs."""

_WINDOWS_LTSC = (20348, 26100)
"""Builds of server releases whose containers run on the next release, oldest first."""

_PART = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_OPERATING_SYSTEM = re.compile(
    r"(?P<os>[A-Za-z0-9_-]{1,64})"
    r"(?:\((?P<version>[A-Za-z0-9_.%-]{0,64})(?P<features>(?:\+[A-Za-z0-9_.%-]{1,64}){0,32})\))?"
)
_OPTION = re.compile(r"[A-Za-z0-9_.=+ -]{1,64}")
_VERSION = re.compile(r"v?([0-9]{1,3})")


class PlatformInvalid(Refusal):
    """A text does not name a platform."""

    code = "PlatformInvalid"


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and an architecture, as an index or a person names them."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, *, machine: Platform | None = None) -> Platform:
        """Read a name: ``linux/arm64/v8``, ``arm64`` or ``windows(10.0.17763)/amd64``.

        An architecture alone means Linux; an operating system alone has the architecture of
        *machine* (by default linux/amd64). Unlike in containerd, ``arm/v7`` means Linux too, and an
        operating system must be one that Go knows. Raises `PlatformInvalid`.
        """
        machine = machine or Platform("linux", "amd64")
        os_part, *parts = text.strip().split("/")
        parsed = _OPERATING_SYSTEM.fullmatch(os_part)
        well_formed = all(_PART.fullmatch(part) for part in parts)
        if len(text) > PLATFORM_LENGTH or parsed is None or not well_formed or len(parts) > 2:
            raise _invalid(text)
        os = _normal_os(parsed["os"])
        if os not in _OPERATING_SYSTEMS:
            architecture, _ = normal_architecture(parsed["os"])
            if parsed["version"] is not None or len(parts) > 1:
                raise _invalid(text)
            if architecture not in _ARCHITECTURES:
                raise _invalid(text)
            return cls("linux", *normal_architecture(parsed["os"], *parts))
        version, *features = (
            unquote(option)
            for option in ((parsed["version"] or "") + (parsed["features"] or "")).split("+")
        )
        if not all(_OPTION.fullmatch(option) for option in (version, *features) if option):
            raise _invalid(text)
        names = parts or [machine.architecture, machine.variant]
        architecture, variant = normal_architecture(*names)
        return cls(os, architecture, variant, version, tuple(sorted(set(features))))

    @classmethod
    def of_descriptor(
        cls, os: str, architecture: str, variant: str, os_version: Any, os_features: Any
    ) -> Platform:
        """The platform that a descriptor or an image config states.

        Odd options are left out.
        """
        features = os_features[:OS_FEATURES_LIMIT] if isinstance(os_features, list) else ()
        return cls(
            os,
            architecture,
            variant,
            _option(os_version),
            tuple(filter(None, map(_option, features))),
        )

    def normalized(self) -> Platform:
        """The platform with normal names: ``linux/aarch64/v8`` is ``linux/arm64``.

        Without an operating system it is Linux.
        """
        architecture, variant = normal_architecture(self.architecture, self.variant)
        return Platform(
            _normal_os(self.os) or "linux",
            architecture,
            variant,
            self.os_version,
            tuple(sorted(set(self.os_features))),
        )

    @property
    def name(self) -> str:
        """``os/architecture[/variant]``, as docker, podman and the catalog write it."""
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def __str__(self) -> str:
        """The name with version and features: ``windows(10.0.17763+win32k)/amd64``."""
        options = "+".join((self.os_version, *self.os_features))
        os = f"{self.os}({options})" if options else self.os
        return "/".join(part for part in (os, self.architecture, self.variant) if part)


def normal_architecture(architecture: str, variant: str = "") -> tuple[str, str]:
    """Architecture and variant as in Go and image indexes: ``aarch64`` is ``arm64``.

    The usual variant of an architecture is empty: v8 of arm64, v1 of amd64; that of arm is v7.
    """
    architecture, variant = architecture.lower(), variant.lower()
    architecture, implied = _ALIASES.get(architecture, (architecture, ""))
    variant = implied or variant
    match architecture:
        case "386":
            return "386", ""
        case "amd64":
            return "amd64", "" if variant == "v1" else variant
        case "arm64":
            usual = {"8": "", "v8": "", "v8.0": "", "9": "v9", "9.0": "v9", "v9.0": "v9"}
            return "arm64", usual.get(variant, variant)
        case "arm":
            usual = {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}
            return "arm", usual.get(variant, variant)
    return architecture, variant


def best_match(
    machine: Platform, offered: Iterable[T], platform: Callable[[T], Platform | None]
) -> T | None:
    """The one of *offered* that runs best on *machine*; None if none runs there.

    A machine runs what older variants of its architecture run (containerd's ``Only``). Of one
    variant, the image with most features of the operating system is best, then the nearest version
    of Windows, then the first.
    """
    machine = machine.normalized()
    order = list(_runs(machine))
    best: tuple[tuple[Any, ...], T] | None = None
    for candidate in offered:
        stated = platform(candidate)
        if stated is None:
            continue
        stated = stated.normalized()
        bare = replace(stated, os_version="", os_features=())
        if bare not in order or not _fits_os(machine, stated):
            continue
        features = sum(1 for feature in stated.os_features if feature in machine.os_features)
        rank = (order.index(bare), -features, _distance(machine, stated))
        if best is None or rank < best[0]:
            best = rank, candidate
    return best[1] if best is not None else None


def _runs(machine: Platform) -> Iterator[Platform]:
    """The platforms whose images run on a machine, best first.

    Without versions and features.
    """
    bare = replace(machine, os_version="", os_features=())
    number = _VERSION.fullmatch(bare.variant)
    version = min(int(number[1]), 100) if number is not None else 0
    if bare.architecture == "amd64":
        yield bare
        yield from (_normal(bare, f"v{older}") for older in range(version - 1, 0, -1))
        yield Platform(bare.os, "386")
    elif bare.architecture == "arm":
        yield bare
        yield from (_normal(bare, f"v{older}") for older in range(version - 1, 4, -1))
    elif bare.architecture == "arm64" and (bare.variant or "v8") in _ARM64_VERSIONS:
        for major, newest in _ARM64_VERSIONS[bare.variant or "v8"]:
            for minor in range(newest, -1, -1):
                yield _normal(bare, f"v{major}.{minor}" if minor else f"v{major}")
        # 64-bit processors of these generations run programs for 32-bit arm.
        yield from _runs(Platform(bare.os, "arm", "v8"))
    else:
        yield bare


def _normal(platform: Platform, variant: str) -> Platform:
    return Platform(platform.os, *normal_architecture(platform.architecture, variant))


def _fits_os(machine: Platform, stated: Platform) -> bool:
    """Whether a machine has the version and features of an image's operating system."""
    needed = set(stated.os_features) - set(machine.os_features)
    if machine.os != "windows":
        return not needed
    if needed - {"win32k"}:
        return False
    host, image = _windows_version(machine.os_version), _windows_version(stated.os_version)
    if host is None or not stated.os_version:
        return True
    if image is None or host[:2] != image[:2]:
        return False
    if host[2] < _WINDOWS_LTSC[0]:
        return host[2] == image[2]
    older = [build for build in _WINDOWS_LTSC if build < host[2]]
    return (older[-1] if older else _WINDOWS_LTSC[0]) <= image[2] <= host[2]


def _distance(machine: Platform, stated: Platform) -> tuple[int, int]:
    """How far the version of Windows of an image is from that of the machine."""
    host, image = _windows_version(machine.os_version), _windows_version(stated.os_version)
    if machine.os != "windows" or host is None or image is None:
        return 0, 0
    return abs(host[2] - image[2]), int(stated.os_version != machine.os_version)


def _windows_version(text: str) -> tuple[int, int, int] | None:
    """Major, minor and build of ``10.0.17763.6532``."""
    parts = text.split(".")[:3]
    if len(parts) < 3 or not all(part.isascii() and part.isdigit() for part in parts):
        return None
    major, minor, build = (int(part[:6]) for part in parts)
    return major, minor, build


def _normal_os(os: str) -> str:
    os = os.lower()
    return "darwin" if os == "macos" else os


def _option(text: Any) -> str:
    return text if isinstance(text, str) and _OPTION.fullmatch(text) else ""


def _invalid(text: str) -> PlatformInvalid:
    return PlatformInvalid(
        f'"{printable(text, 80)}" is not a platform.',
        f"A platform is an operating system and an architecture, such as {EXAMPLES}.",
        field="platform",
    )
