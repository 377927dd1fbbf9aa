"""How engines know their own requests (RFC 9110, 7.6.3)."""

from __future__ import annotations

import re

from entrepot.source.loop_detection import MAX_ENGINES, Via, came_through


def sent_by(via: Via) -> bytes:
    return via.headers["Via"].encode()


def test_an_engine_knows_what_it_sent_itself_and_no_other() -> None:
    one, other = Via(), Via()
    assert one.leads_here(sent_by(one))
    assert not one.leads_here(sent_by(other))


def test_the_engines_on_the_way_are_passed_on_and_nobody_else() -> None:
    """The proxies of a company are none of a registry's business."""
    one, other = Via(), Via()
    came = b"1.1 proxy.corp.example (squid/5.7), " + sent_by(one)
    with came_through(came):
        sent = sent_by(other)
    assert re.fullmatch(rb"1\.1 entrepot-[0-9a-f]{20}, 1\.1 entrepot-[0-9a-f]{20}", sent)
    assert one.leads_here(sent)
    assert other.leads_here(sent)
    assert not one.leads_here(sent_by(other))


def test_a_way_without_an_end_is_a_ring() -> None:
    engines = [sent_by(Via()) for _ in range(MAX_ENGINES)]
    assert not Via().leads_here(b", ".join(engines))
    assert Via().leads_here(b", ".join([*engines, sent_by(Via())]))


def test_what_a_client_sends_makes_no_long_header() -> None:
    with came_through(sent_by(Via()) * 10_000 + b", \xff" * 10_000):
        assert len(sent_by(Via())) < 100
    with came_through(b", ".join([sent_by(Via())] * 10_000)):
        assert len(sent_by(Via())) < 1000
