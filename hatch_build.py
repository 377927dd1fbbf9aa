"""Metadata of a distribution that depends on where its repository is: project links, and the README
as a package index shows it.

The environment variable ``ENTREPOT_REPOSITORY`` names the address of the repository on its forge,
such as ``https://forge.example/owner/entrepot``. Pictures and links of the README become absolute
with it. Without it, as in an installation from a clone, the README has neither, so that an index
shows nothing broken, and there are no project links.

Read by Python versions that Entrepot does not run on: pip asks for the metadata first.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

VARIABLE = "ENTREPOT_REPOSITORY"

_PICTURE = re.compile(r"!\[(?P<text>[^\]]*)\]\((?P<path>(?!https?://)[^)\s]+)\)\n*")
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<path>(?!https?://)[^)\s]+)\)")


def index_readme(text: str, repository: str) -> str:
    """*text* with absolute pictures and links, or without them where *repository* is empty."""
    if not repository:
        return _LINK.sub(r"\g<text>", _PICTURE.sub("", text))
    # The last line break of a picture belongs to its match.
    text = _PICTURE.sub(lambda match: _at(match, f"{repository}/raw/HEAD/"), text)
    return _LINK.sub(lambda match: _at(match, f"{repository}/blob/HEAD/"), text)


def _at(match: re.Match[str], base: str) -> str:
    """A picture or link whose path is below *base*; one within the page stays."""
    path = match["path"]
    return match[0] if path.startswith("#") else match[0].replace(f"]({path})", f"]({base}{path})")


class ProjectLinks(MetadataHookInterface):
    """Hatchling's hook. Its table ``urls`` in ``pyproject.toml`` has the links by their labels."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in ``readme`` and ``urls``."""
        repository = os.environ.get(VARIABLE, "").rstrip("/")
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": index_readme(readme, repository),
        }
        metadata["urls"] = {
            label: url.replace("{repository}", repository)
            for label, url in self.config["urls"].items()
            if repository
        }
