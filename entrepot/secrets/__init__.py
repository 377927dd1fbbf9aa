"""Read the secrets to which secret identifiers lead.

Only the identifier of a secret (`entrepot.core.secret_identifiers`) is ever stored, shown or
logged. The secret itself is read again for each sign-in, so that a rotated one is picked up without
a restart. A `Secret` holds it and does not show it; after the sign-in it is dropped.
"""

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
    "SecretUnavailable",
    "read_credential",
    "read_secret",
]
