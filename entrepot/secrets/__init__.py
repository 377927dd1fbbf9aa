"""Secret identifiers, and the secrets they lead to.

Only the identifier of a secret is ever kept, shown or logged. The secret itself is read when a
source registry asks for it, each time anew, so that a rotated one is picked up without a restart;
it is held in a `Secret`, which does not show it, and forgotten as soon as the sign-in is over.
"""

from entrepot.core.secret_identifiers import SecretIdentifier, SecretIdentifierInvalid
from entrepot.secrets.reading import read_credential, read_secret
from entrepot.secrets.secret import (
    SECRET_LENGTH,
    Credential,
    Secret,
    SecretForbidden,
    SecretUnavailable,
)

__all__ = [
    "SECRET_LENGTH",
    "Credential",
    "Secret",
    "SecretForbidden",
    "SecretIdentifier",
    "SecretIdentifierInvalid",
    "SecretUnavailable",
    "read_credential",
    "read_secret",
]
