"""Lines to copy into other terminals."""

from __future__ import annotations

import shlex

import pytest

from tui.presentation.copies import copy_lines, image_name, pull_command

DIGEST = "sha256:" + "a" * 64


def test_each_client_gets_the_options_with_which_it_takes_plain_http() -> None:
    assert [
        (each.tool, each.line)
        for each in copy_lines("cache:5000", "library/nginx", "1.27", digest=DIGEST)
    ] == [
        ("docker", "docker pull cache:5000/library/nginx:1.27"),
        ("podman", "podman pull --tls-verify=false cache:5000/library/nginx:1.27"),
        (
            "skopeo",
            "skopeo copy --src-tls-verify=false docker://cache:5000/library/nginx:1.27 oci:nginx:1.27",
        ),
        ("containerd", "ctr images pull --plain-http cache:5000/library/nginx:1.27"),
        ("nerdctl", "nerdctl pull --insecure-registry cache:5000/library/nginx:1.27"),
        ("the name", "cache:5000/library/nginx:1.27"),
        ("by digest", f"cache:5000/library/nginx@{DIGEST}"),
    ]


def test_a_platform_is_asked_for_in_the_words_of_each_client() -> None:
    assert [
        each.line for each in copy_lines("cache:5000", "library/nginx", "1.27", "linux/arm/v7")
    ][:5] == [
        "docker pull --platform linux/arm/v7 cache:5000/library/nginx:1.27",
        "podman pull --tls-verify=false --platform linux/arm/v7 cache:5000/library/nginx:1.27",
        "skopeo --override-os linux --override-arch arm --override-variant v7 "
        "copy --src-tls-verify=false docker://cache:5000/library/nginx:1.27 oci:nginx:1.27",
        "ctr images pull --plain-http --platform linux/arm/v7 cache:5000/library/nginx:1.27",
        "nerdctl pull --insecure-registry --platform linux/arm/v7 cache:5000/library/nginx:1.27",
    ]


def test_a_digest_is_pulled_with_an_at_sign() -> None:
    assert (
        pull_command("cache:5000", "library/nginx", "1.27")
        == "docker pull cache:5000/library/nginx:1.27"
    )
    assert (
        pull_command("cache:5000", "library/nginx", DIGEST)
        == f"docker pull cache:5000/library/nginx@{DIGEST}"
    )
    assert image_name("cache:5000", "library/nginx", DIGEST) == f"cache:5000/library/nginx@{DIGEST}"
    assert copy_lines("cache:5000", "library/nginx", DIGEST)[2].line.endswith(
        f"docker://cache:5000/library/nginx@{DIGEST} oci:nginx"
    )


def test_what_docker_needs_for_another_machine_is_told_and_for_this_one_nothing() -> None:
    assert (
        'insecure-registries": ["cache:5000"]'
        in copy_lines("cache:5000", "library/nginx", "1.27")[0].needs
    )
    for address in ("127.0.0.1:5000", "localhost:5000", "[::1]:5000"):
        assert copy_lines(address, "library/nginx", "1.27")[0].needs == ""


HOSTILE = "linux/amd64/v1$(touch${IFS}here);`id`\n'\"&|>x"


@pytest.mark.parametrize("platform", [HOSTILE, "linux/$(id)/v1", "$(id)/amd64", "li nux/amd64"])
def test_every_part_of_a_line_for_a_shell_is_one_word_of_it(platform: str) -> None:
    """S03: whatever a platform, an address, a repository or a tag is, a shell sees no command in
    it."""
    for line in copy_lines("cache:5000", "x/$(id)", "1;id", platform, "sha256:`id`"):
        words = shlex.split(line.line)
        assert line.line == shlex.join(words)
        assert (
            f"cache:5000/x/$(id){'@sha256:`id`' if line.tool == 'by digest' else ':1;id'}"
            in " ".join(words)
        )
        if line.tool in {"docker", "podman", "containerd", "nerdctl"}:
            assert platform in words
    assert shlex.split(pull_command("cache:5000", "x/$(id)", "1")) == [
        "docker",
        "pull",
        "cache:5000/x/$(id):1",
    ]
