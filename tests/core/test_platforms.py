"""The names of platforms, and which image runs where (F74): containerd's own cases, and what people
and tools write."""

from __future__ import annotations

import pytest

from entrepot.core.platforms import PLATFORM_LENGTH, Platform, PlatformInvalid, best_match


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        # containerd/platforms, platforms_test.go and its table of normalizations.
        ("linux/arm64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("arm", "linux/arm/v7"),
        ("armel", "linux/arm/v6"),
        ("armhf", "linux/arm/v7"),
        ("Aarch64", "linux/arm64"),
        ("x86_64", "linux/amd64"),
        ("x86-64", "linux/amd64"),
        ("Linux/x86_64", "linux/amd64"),
        ("LINUX/AMD64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v2", "linux/amd64/v2"),
        ("i386", "linux/386"),
        ("linux", "linux/s390x"),
        ("s390x", "linux/s390x"),
        ("linux/s390x", "linux/s390x"),
        ("macOS", "darwin/s390x"),
        ("macos/arm64", "darwin/arm64"),
        ("windows", "windows/s390x"),
        ("windows()", "windows/s390x"),
        ("windows(10.0.17763)", "windows(10.0.17763)/s390x"),
        ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ("windows(10.0.17763+win32k)/amd64", "windows(10.0.17763+win32k)/amd64"),
        ("linux(+simd+gpu)/amd64", "linux(+gpu+simd)/amd64"),
        ("windows(10.0.17763%2Bbuild.42)/amd64", "windows(10.0.17763+build.42)/amd64"),
        ("linux/riscv128", "linux/riscv128"),
        # Beyond it.
        ("wasi/wasm", "wasi/wasm"),
        ("arm/v7", "linux/arm/v7"),
        ("arm64/v8", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("i686", "linux/386"),
        ("loongarch64", "linux/loong64"),
        ("arm64v8", "linux/arm64"),
        (" linux/amd64\n", "linux/amd64"),
    ],
)
def test_a_name_is_read_as_containerd_reads_it(text: str, platform: str) -> None:
    machine = Platform("linux", "s390x")
    assert str(Platform.parse(text, machine=machine).normalized()) == platform


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "linux/*",
        "*/arm64",
        "/linux/arm",
        "linux/arm/",
        "linux /arm",
        "linux/&arm",
        "linux/arm/foo/bar",
        "library/nginx",
        "library/nginx:1.27",
        "nginx",
        "linux,amd64",
        "arm64/v8/x",
        "amd64(1.2)",
        "linux/\x1b]0;x\x07",
        "windows(%1B]0;x)/amd64",
        "windows(%1b)/amd64",
        "windows(10.0.17763/amd64",
        "linux/" + "a" * 65,
        "linux(" + "+f" * 200 + ")/amd64",
        "x" * (PLATFORM_LENGTH + 1),
        "unknown/unknown",
    ],
)
def test_what_names_no_platform_is_refused_with_examples(text: str) -> None:
    with pytest.raises(PlatformInvalid) as refused:
        Platform.parse(text)
    assert refused.value.field == "platform"
    assert refused.value.status == 400
    assert "such as linux/amd64, linux/arm64, linux/arm/v7" in refused.value.message
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 300


def stated(text: str) -> Platform:
    """A platform as an index may state it, without normalization."""
    os, _, rest = text.partition("/")
    os, _, options = os.rstrip(")").partition("(")
    version, *features = options.split("+")
    architecture, _, variant = rest.partition("/")
    return Platform(os, architecture, variant, version, tuple(features))


def chosen(wanted: str, *offered: str) -> str | None:
    return best_match(Platform.parse(wanted), offered, stated)


@pytest.mark.parametrize(
    ("wanted", "runs", "not_there"),
    [
        # containerd/platforms, compare_test.go, TestOnly.
        (
            "linux/amd64",
            "linux/amd64 linux/386",
            "linux/amd64/v2 linux/arm/v7 linux/arm64 windows/amd64",
        ),
        (
            "linux/amd64/v2",
            "linux/amd64/v2 linux/amd64/v1 linux/amd64 linux/386",
            "linux/amd64/v3 linux/amd64/v4 linux/arm/v7 linux/arm64 windows/amd64",
        ),
        ("linux/386", "linux/386", "linux/amd64 linux/arm/v7 windows/amd64"),
        (
            "windows/amd64",
            "windows/amd64 windows(10.0.17763)/amd64",
            "linux/amd64 linux/arm/v7 windows/arm",
        ),
        (
            "linux/arm/v8",
            "linux/arm/v8 linux/arm/v7 linux/arm linux/arm/v6 linux/arm/v5",
            "linux/amd64 linux/arm/v4 linux/arm64 windows/arm",
        ),
        (
            "linux/arm/v7",
            "linux/arm/v7 linux/arm linux/arm/v6 linux/arm/v5",
            "linux/arm/v4 linux/arm/v8 linux/arm64",
        ),
        ("linux/arm/v6", "linux/arm/v6 linux/arm/v5", "linux/arm/v7 linux/arm linux/arm/v8"),
        ("linux/arm/v5", "linux/arm/v5", "linux/arm/v6 linux/arm"),
        ("linux/arm/v4", "linux/arm/v4", "linux/arm/v5 linux/arm"),
        (
            "linux/arm64",
            "linux/arm64 linux/arm64/v8 linux/arm/v8 linux/arm/v7 linux/arm linux/arm/v6 linux/arm/v5",
            "linux/arm64/v8.1 linux/arm64/v9 linux/amd64 windows/arm64",
        ),
        (
            "linux/arm64/v9.3",
            "linux/arm64/v9.3 linux/arm64/v9.2 linux/arm64/v9 linux/arm64/v8.8 linux/arm64/v8.7 linux/arm64/v8 linux/arm/v8 linux/arm/v5",
            "linux/arm64/v9.4 linux/arm64/v8.9 linux/amd64",
        ),
        ("linux/arm64/v9.7", "linux/arm64/v9.7 linux/arm64/v8.9 linux/arm64", "linux/arm64/v9.8"),
        ("linux/s390x", "linux/s390x", "linux/ppc64le"),
    ],
)
def test_the_best_that_runs_is_chosen_wherever_it_stands(
    wanted: str, runs: str, not_there: str
) -> None:
    best_first = runs.split()
    others = not_there.split()
    for position in range(len(best_first)):
        # "linux/arm" and "linux/arm/v7" are one: the first that is listed.
        best = stated(best_first[position]).normalized().name
        equal = [each for each in best_first[position:] if stated(each).normalized().name == best]
        offered = [*others, *reversed(best_first[position:])]
        assert chosen(wanted, *offered) == next(each for each in offered if each in equal)
    assert chosen(wanted, *others) is None


def test_a_null_operating_system_is_linux_and_an_unknown_one_is_nobodys() -> None:
    assert chosen("linux/amd64", "unknown/unknown", "/amd64") == "/amd64"
    assert chosen("linux/amd64", "unknown/unknown", "linux/", "/") is None


def test_an_index_in_upper_case_or_with_aliases_matches() -> None:
    assert chosen("linux/amd64", "LINUX/X86_64") == "LINUX/X86_64"
    assert chosen("linux/arm/v6", "linux/armhf", "linux/armel") == "linux/armel"


LTSC = ("windows(10.0.26100.1)/amd64", "windows(10.0.20348.2)/amd64", "windows(10.0.17763.3)/amd64")


@pytest.mark.parametrize(
    ("version", "match"),
    [
        ("", LTSC[0]),
        ("(10.0.17763)", LTSC[2]),
        ("(10.0.17763.999)", LTSC[2]),
        ("(10.0.20348)", LTSC[1]),
        ("(10.0.26100)", LTSC[0]),
        ("(10.0.22621)", LTSC[1]),
        ("(10.0.14393)", None),
        ("(6.3.9600)", None),
    ],
)
def test_a_version_of_windows_chooses_the_nearest_that_it_runs(
    version: str, match: str | None
) -> None:
    assert chosen(f"windows{version}/amd64", *LTSC) == match


def test_a_later_release_of_windows_runs_the_one_before() -> None:
    assert chosen("windows(10.0.26100)/amd64", LTSC[1], LTSC[2]) == LTSC[1]


def test_features_of_the_operating_system_must_be_there_and_the_most_are_best() -> None:
    offered = ("linux(+gpu+npu)/amd64", "linux/amd64", "linux(+gpu)/amd64")
    assert chosen("linux/amd64", *offered) == "linux/amd64"
    assert chosen("linux(+gpu)/amd64", *offered) == "linux(+gpu)/amd64"
    assert chosen("linux(+gpu+npu)/amd64", *offered) == "linux(+gpu+npu)/amd64"
    assert chosen("linux/amd64", "linux(+gpu)/amd64") is None
    assert chosen("windows/amd64", "windows(10.0.17763.3+win32k)/amd64") is not None
