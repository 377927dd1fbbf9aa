"""The command ``entrepot``. Its options are named as ``az acr cache`` and ``az acr credential-set``
name them.

What a script reads goes to standard output, what a person reads besides to standard error. Exit
status: 0 done, 1 refused or failed, 2 wrong usage, 3 no engine answers.
"""

import sys

# httpx imports its own command line, and pygments and rich with it: a third of what a command of
# ours takes to start. It does without where there is none.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

from entrepot.cli.main import main  # noqa: E402

__all__ = ["main"]
