"""``CONTRIBUTING.md`` names folders, files and fakes that exist."""

from __future__ import annotations

import re

from tests import fakes
from tests.documents import CHECKOUT

PAGE = (CHECKOUT / "CONTRIBUTING.md").read_text()


def test_each_folder_and_file_that_it_names_exists() -> None:
    names = re.findall(r"`([\w./]+/[\w./*-]*|\w+\.(?:py|toml|md))`", PAGE)
    assert len(names) > 15
    assert [name for name in names if not list(CHECKOUT.glob(name.rstrip("/")))] == []


def test_each_fake_that_it_recommends_exists() -> None:
    names = re.findall(r"`((?:Fake|Http|Socks)\w+)`", PAGE)
    assert len(names) == 3
    assert set(names) <= set(fakes.__all__)
