"""What ``entrepot doctor`` says about readers."""

from __future__ import annotations

from entrepot.core.states import Outcome
from entrepot.engine.engine import Engine
from entrepot.engine.reader_checks import check_readers


async def test_who_may_pull_is_said_and_who_can_not_is_warned_of(engine: Engine) -> None:
    def finding() -> tuple[Outcome, str]:
        found = check_readers(engine.documents, engine.readers)
        return found.outcome, found.what

    assert finding() == (Outcome.OK, "everyone who reaches the registry may pull")
    await engine.rules.update("example-library", readers=["ci", "@ops"])
    assert finding() == (
        Outcome.WARNING,
        "Nobody can pull through example-library: its readers can't sign in.",
    )
    await engine.readers.create_token("ci")
    assert finding() == (
        Outcome.WARNING,
        "Cache rules name readers who can't sign in: @ops.",
    )
    await engine.readers.create_token("alice", groups=["ops"])
    assert finding() == (Outcome.OK, "1 cache rule for readers who sign in, 0 for everyone")
    [examined] = [
        each for each in (await engine.doctor().examine()).findings if each.check == "readers"
    ]
    assert examined.outcome is Outcome.OK
