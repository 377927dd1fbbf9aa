"""The tree of errors."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import entrepot
from entrepot import errors
from entrepot.causes import Cause, CauseCode
from entrepot.errors import EngineError, EntrepotError, Refusal
from entrepot.source import errors as source_errors


def subclasses(error: type[EntrepotError]) -> Iterator[type[EntrepotError]]:
    for subclass in error.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def test_the_docstrings_name_every_error_of_the_engine() -> None:
    for module in pkgutil.walk_packages(entrepot.__path__, "entrepot."):
        if module.name != "entrepot.__main__":
            importlib.import_module(module.name)
    names = set(re.findall(r"\w+", f"{errors.__doc__} {source_errors.__doc__}"))
    public_errors = {
        error.__name__
        for error in subclasses(EntrepotError)
        if error.__module__.startswith("entrepot.") and not error.__name__.startswith("_")
    }
    assert public_errors - names == set()


def test_a_message_has_the_hint_behind_what_happened() -> None:
    assert Refusal("The name is taken.", "Choose another.").message == (
        "The name is taken. Choose another."
    )
    assert str(Refusal("The name is taken.")) == "The name is taken."


def test_an_error_of_a_cause_has_its_sentence_and_its_code() -> None:
    cause = Cause(CauseCode.MEMORY, "No memory is left.", "Quit programs.")
    error = EngineError.of_cause(cause)
    assert (error.message, error.cause) == (cause.message, CauseCode.MEMORY)
