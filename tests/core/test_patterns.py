from __future__ import annotations

import pytest

from entrepot.core.patterns import NameRange, SourceRepository, TargetRepository, WildcardInvalid
from entrepot.core.registries import DeclaredRegistry, SourceRegistries
from entrepot.core.states import SignIn
from entrepot.errors import RepositoryNameInvalid

REGISTRIES = SourceRegistries(
    [DeclaredRegistry("localhost:5001", sign_in=SignIn.NONE, endpoint="http://localhost:5001")]
)


@pytest.mark.parametrize(
    ("typed", "written", "login_server", "path", "wildcard"),
    [
        ("docker.io/nginx", "docker.io/library/nginx", "docker.io", "library/nginx", False),
        ("docker.io/library/nginx", "docker.io/library/nginx", "docker.io", "library/nginx", False),
        ("docker.io/grafana/loki", "docker.io/grafana/loki", "docker.io", "grafana/loki", False),
        ("index.docker.io/nginx", "docker.io/library/nginx", "docker.io", "library/nginx", False),
        ("registry-1.docker.io/library/*", "docker.io/library/*", "docker.io", "library", True),
        ("docker.io/grafana/*", "docker.io/grafana/*", "docker.io", "grafana", True),
        ("docker.io/*", "docker.io/*", "docker.io", "", True),
        ("  GHCR.io/acme/api ", "ghcr.io/acme/api", "ghcr.io", "acme/api", False),
        ("acme.azurecr.io/a/b", "acme.azurecr.io/a/b", "acme.azurecr.io", "a/b", False),
        ("localhost:5001/nginx", "localhost:5001/nginx", "localhost:5001", "nginx", False),
    ],
)
def test_a_source_is_read_in_its_normal_form(
    typed: str, written: str, login_server: str, path: str, wildcard: bool
) -> None:
    source = SourceRepository.parse(typed, REGISTRIES)
    assert (str(source), source.login_server, source.path, source.wildcard) == (
        written,
        login_server,
        path,
        wildcard,
    )
    assert SourceRepository.parse(str(source), REGISTRIES) == source


@pytest.mark.parametrize(
    ("typed", "path", "wildcard"),
    [
        ("nginx", "nginx", False),
        (" library/nginx ", "library/nginx", False),
        ("*", "", True),
        ("library/*", "library", True),
        ("docker.io/*", "docker.io", True),
    ],
)
def test_a_target_is_read(typed: str, path: str, wildcard: bool) -> None:
    target = TargetRepository.parse(typed)
    assert (target.path, target.wildcard, str(target)) == (path, wildcard, typed.strip())


@pytest.mark.parametrize(
    ("target", "repository", "covers"),
    [
        ("library/*", "library/x", True),
        ("library/*", "library/x/y", True),
        ("library/*", "library", False),
        ("library/*", "library2/x", False),
        ("*", "x", True),
        ("x", "x", True),
        ("x", "x/y", False),
    ],
)
def test_a_target_covers_what_lies_below_its_wildcard(
    target: str, repository: str, covers: bool
) -> None:
    assert TargetRepository.parse(target).covers(repository) is covers
    assert list(TargetRepository.parse(target).covered([repository])) == (
        [repository] if covers else []
    )


class SortedNames:
    """Looks names up as the catalog does."""

    def __init__(self, names: list[str]) -> None:
        self._names = sorted(names)

    def find_within(self, names: NameRange, limit: int) -> tuple[list[str], int]:
        within = [name for name in self._names if names.first <= name < names.before]
        return within[:limit], len(within)


@pytest.mark.parametrize("target", ["*", "acme/*", "acme", "acme/api", "none", "none/*"])
def test_a_lookup_finds_what_a_list_of_names_does(target: str) -> None:
    names = ["acme", "acme-x", "acme-x/api", "acme.x", "acme/api", "acme/api/v1", "acme0", "x"]
    parsed = TargetRepository.parse(target)
    covered = sorted(parsed.covered(names))
    for repositories in (names, SortedNames(names)):
        assert parsed.find_covered(repositories, 2) == (covered[:2], len(covered))


def test_what_can_not_be_read_is_refused_for_its_side() -> None:
    with pytest.raises(RepositoryNameInvalid) as caught:
        SourceRepository.parse("docker.io/nginx:1", REGISTRIES)
    assert caught.value.field == "sourceRepository"
    with pytest.raises(WildcardInvalid) as wrong:
        TargetRepository.parse("a*")
    assert wrong.value.field == "targetRepository"
