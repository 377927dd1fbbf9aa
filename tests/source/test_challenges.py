"""WWW-Authenticate headers as registries write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.core.reference import Repository
from entrepot.source.challenges import Challenge, parse_challenges

NGINX = Repository("library/nginx")
REALM = "https://auth.example.com/token"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            [
                'Bearer realm="https://auth.example.com/token",service="registry",'
                'scope="repository:a/b:pull,push"'
            ],
            [
                (
                    "bearer",
                    {"realm": REALM, "service": "registry", "scope": "repository:a/b:pull,push"},
                )
            ],
        ),
        (
            ['Basic realm="x"', f'Bearer realm="{REALM}"'],
            [("basic", {"realm": "x"}), ("bearer", {"realm": REALM})],
        ),
        (
            [f'Basic realm="x, y", Bearer realm="{REALM}", service=reg'],
            [("basic", {"realm": "x, y"}), ("bearer", {"realm": REALM, "service": "reg"})],
        ),
        (
            [f'BEARER  Realm = "{REALM}" ,  SERVICE="s"'],
            [("bearer", {"realm": REALM, "service": "s"})],
        ),
        (
            [f'Bearer realm="{REALM}" service="s" scope="a b"'],
            [("bearer", {"realm": REALM, "service": "s", "scope": "a b"})],
        ),
        (
            [f"Bearer realm={REALM},service=s,scope=repository:a:pull,push,error=x"],
            [
                (
                    "bearer",
                    {
                        "realm": REALM,
                        "service": "s",
                        "scope": "repository:a:pull,push",
                        "error": "x",
                    },
                )
            ],
        ),
        ([f"Bearer realm='{REALM}',service='s'"], [("bearer", {"realm": REALM, "service": "s"})]),
        (
            [r'Bearer realm="a\"b",service="c\\d"'],
            [("bearer", {"realm": 'a"b', "service": r"c\d"})],
        ),
        (
            [f'Bearer realm="{REALM}",,, service="s",'],
            [("bearer", {"realm": REALM, "service": "s"})],
        ),
        (
            [f'Bearer realm="{REALM}", service="never closed'],
            [("bearer", {"realm": REALM, "service": "never closed"})],
        ),
        (["Negotiate, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (["Basic"], [("basic", {})]),
        # The last one counts, as in Go (distribution and containerd, parseValueAndParams).
        (['Bearer realm="one",realm="two"'], [("bearer", {"realm": "two"})]),
        (
            [f'Basic realm="x",Bearer realm="{REALM}",service="s",Basic realm="y"'],
            [
                ("basic", {"realm": "x"}),
                ("bearer", {"realm": REALM, "service": "s"}),
                ("basic", {"realm": "y"}),
            ],
        ),
        (
            [f"\tbearer realm = {REALM}\t,\tservice = s"],
            [("bearer", {"realm": REALM, "service": "s"})],
        ),
        (["", "   ", ",,"], []),
        ([], []),
    ],
)
def test_challenges_are_read_however_registries_write_them(
    values: list[str], expected: list[tuple[str, dict[str, str]]]
) -> None:
    assert parse_challenges(values) == [
        Challenge(scheme, parameters) for scheme, parameters in expected
    ]


@given(
    st.lists(st.text(alphabet=st.sampled_from("abBearerc =,\"\\'\t:/.-é"), max_size=60), max_size=3)
)
def test_no_header_makes_the_reader_of_challenges_fail(values: list[str]) -> None:
    parse_challenges(values)


@given(
    st.dictionaries(
        st.sampled_from(["realm", "service", "scope", "error"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
        min_size=1,
    )
)
def test_a_well_formed_challenge_is_read_as_it_was_meant(parameters: dict[str, str]) -> None:
    written = ", ".join(
        '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"'))
        for name, value in parameters.items()
    )
    assert parse_challenges([f"Bearer {written}"]) == [Challenge("bearer", parameters)]
