"""The command ``entrepot``; its options are named like those of ``az acr cache``.

Standard output is for scripts, standard error for notes to people. Exit status: 0 done, 1 refused
or failed, 2 wrong usage, 3 no engine answers.
"""

import sys

# httpx imports its own command line, with pygments and rich: a third of the time that a command
# takes to start. It works without.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

from entrepot.cli.main import main  # noqa: E402

__all__ = ["main"]
