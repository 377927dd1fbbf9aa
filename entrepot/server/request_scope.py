"""Keys of the ASGI scope by which the layers of the registry tell each other about a request."""

from __future__ import annotations

from typing import Final

NAMESPACE: Final = "entrepot.namespace"
"""The source registry that every image of this request belongs to: a login server in its normal
form. Set at a mirror; elsewhere it is absent."""

READER: Final = "entrepot.reader"
"""Who reads: a reader of `entrepot.core`. Set where the client's sign-in was checked."""
