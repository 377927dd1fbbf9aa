"""The command ``entrepot``. Its options are named as ``az acr cache`` and ``az acr credential-set`` name them.

What a script reads goes to standard output, what a person reads besides to standard error. Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no engine
answers.
"""

from entrepot.cli.main import main

__all__ = ["main"]
