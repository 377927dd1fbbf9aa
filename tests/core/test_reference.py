from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.core.reference import (
    REPOSITORY_LENGTH,
    Digest,
    ImageReference,
    parse_reference,
    parse_repository,
    parse_tag,
    quoted,
)
from entrepot.errors import DigestInvalid, ReferenceInvalid, RepositoryNameInvalid

HEX = "a" * 64

# The regular expressions of the OCI distribution specification 1.1, "Pulling manifests", word by
# word.
SPECIFIED_NAME = re.compile(
    r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
)
SPECIFIED_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


@pytest.mark.parametrize(
    "name",
    [
        "nginx",
        "library/nginx",
        "a/b/c/d/e",
        "a.b_c-d",
        "a__b",
        "a---b",
        "0",
        "docker.io/grafana/loki",
    ],
)
def test_a_repository_name_of_the_specification_is_taken_as_it_is(name: str) -> None:
    assert parse_repository(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/nginx",
        "nginx/",
        "a//b",
        "Nginx",
        "a..b",
        "a___b",
        "-a",
        "a-",
        ".a",
        "a._b",
        "a b",
        "nginx:1",
        "nginx@sha256:aa",
        "*",
        "a/*",
        "ä",
        "a\n",
        "../etc",
    ],
)
def test_any_other_repository_name_is_refused_for_the_field_that_asked(name: str) -> None:
    with pytest.raises(RepositoryNameInvalid) as caught:
        parse_repository(name, field="targetRepository")
    assert caught.value.code == "GenericRepositoryNameInvalid"
    assert caught.value.oci_code == "NAME_INVALID"
    assert caught.value.field == "targetRepository"


def test_a_repository_name_ends_at_255_characters() -> None:
    assert parse_repository("a" * REPOSITORY_LENGTH)
    with pytest.raises(RepositoryNameInvalid, match="at most 255"):
        parse_repository("a" * (REPOSITORY_LENGTH + 1))


@given(st.text(alphabet="ab0._-/A:", max_size=20))
def test_repository_names_agree_with_the_specification(text: str) -> None:
    try:
        accepted = parse_repository(text) == text
    except RepositoryNameInvalid:
        accepted = False
    assert accepted == bool(SPECIFIED_NAME.fullmatch(text))


def test_a_name_made_to_keep_a_pattern_busy_is_refused_at_once() -> None:
    with pytest.raises(RepositoryNameInvalid):
        parse_repository("a-" * 127)


@given(st.text(alphabet="aZ0._-/: ", max_size=20))
def test_tags_agree_with_the_specification(text: str) -> None:
    try:
        accepted = parse_tag(text) == text
    except ReferenceInvalid:
        accepted = False
    assert accepted == bool(SPECIFIED_TAG.fullmatch(text))


def test_a_tag_ends_at_128_characters() -> None:
    assert parse_tag("a" * 128)
    with pytest.raises(ReferenceInvalid):
        parse_tag("a" * 129)


@given(st.binary(max_size=100), st.sampled_from(["sha256", "sha512"]))
def test_the_digest_of_content_reads_back_and_matches_that_content_only(
    content: bytes, algorithm: str
) -> None:
    digest = Digest.of(content, algorithm)
    assert digest.hex == hashlib.new(algorithm, content).hexdigest()
    assert Digest.parse(str(digest)) == digest
    assert digest.matches(content)
    assert not digest.matches(content + b"x")
    hasher = digest.hasher()
    hasher.update(content)
    assert hasher.hexdigest() == digest.hex


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        HEX,
        f"sha256:{HEX[1:]}",
        f"sha256:{HEX}a",
        f"sha256:{HEX.upper()}",
        f"sha512:{HEX}",
        f"md5:{'a' * 32}",
        f"SHA256:{HEX}",
        f"sha256:{HEX}\n",
        "sha256:" + "g" * 64,
    ],
)
def test_what_is_not_a_digest_is_refused(text: str) -> None:
    with pytest.raises(DigestInvalid) as caught:
        Digest.parse(text)
    assert caught.value.oci_code == "DIGEST_INVALID"


def test_a_digest_is_shown_short_as_docker_shows_it() -> None:
    assert Digest.parse(f"sha256:{HEX}").short == "a" * 12


def test_a_reference_with_a_colon_is_a_digest_and_any_other_is_a_tag() -> None:
    assert parse_reference("1.27") == "1.27"
    assert parse_reference(f"sha256:{HEX}") == Digest("sha256", HEX)
    with pytest.raises(DigestInvalid):
        parse_reference("latest:1")


@pytest.mark.parametrize(
    ("text", "repository", "tag", "digest"),
    [
        ("nginx", "nginx", "latest", None),
        ("library/nginx:1.27", "library/nginx", "1.27", None),
        (f"nginx@sha256:{HEX}", "nginx", None, f"sha256:{HEX}"),
        (f"a/b:c@sha256:{HEX}", "a/b", "c", f"sha256:{HEX}"),
    ],
)
def test_an_image_reference_is_read_as_docker_reads_it(
    text: str, repository: str, tag: str | None, digest: str | None
) -> None:
    image = ImageReference.parse(text)
    assert (image.repository, image.tag, str(image.digest) if image.digest else None) == (
        repository,
        tag,
        digest,
    )
    assert str(image) == (text if tag != "latest" else f"{text}:latest")
    assert ImageReference.parse(str(image)) == image


def test_the_digest_of_an_image_reference_counts_more_than_its_tag() -> None:
    assert ImageReference.parse(f"a:b@sha256:{HEX}").manifest == Digest("sha256", HEX)
    assert ImageReference.parse("a:b").manifest == "b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "nginx:",
        "nginx@",
        "nginx:1:2",
        "localhost:5000/nginx",
        "nginx@sha256:aa",
        f"nginx@sha256:{HEX}@sha256:{HEX}",
        "Nginx:1",
    ],
)
def test_what_is_not_an_image_reference_is_refused(text: str) -> None:
    with pytest.raises((RepositoryNameInvalid, ReferenceInvalid)):
        ImageReference.parse(text)


def test_a_long_text_is_quoted_short_and_without_control_characters() -> None:
    assert quoted("a\n") == "'a\\n'"
    assert len(quoted("x" * 10_000)) == 82
