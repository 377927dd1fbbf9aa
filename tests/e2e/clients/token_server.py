"""A token server as the CNCF's registry wants one ("Token Authentication Implementation"), in a
thread of the tests."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SERVICE = "registry.example.com"
ISSUER = "tests"
LIFETIME = 300
"""Seconds."""


class TokenServer:
    """It gives tokens for what a user may do; *anonymous* is the beginning of repository names that
    everyone may pull. *users* are passwords by user name."""

    def __init__(self, root: Path, *, users: dict[str, str], anonymous: str) -> None:
        self._users = users
        self._anonymous = anonymous
        self._key = ec.generate_private_key(ec.SECP256R1())
        root.mkdir(parents=True, exist_ok=True)
        self._certificate = root / "certificate.pem"
        self._certificate.write_bytes(self._certify())
        self.refused = 0
        """Sign-ins with wrong credentials."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="token server", daemon=True
        )

    @property
    def auth(self) -> dict[str, Any]:
        """The section ``auth`` of a registry's configuration that accepts these tokens."""
        realm = f"http://127.0.0.1:{self._server.server_address[1]}/token"
        return {
            "token": {
                "realm": realm,
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(self._certificate),
            }
        }

    def token(
        self, query: dict[str, list[str]], authorization: str | None
    ) -> dict[str, Any] | None:
        """What a request gets; None for wrong credentials."""
        user = None
        if authorization is not None:
            kind, _, encoded = authorization.partition(" ")
            user, _, password = base64.b64decode(encoded).decode().partition(":")
            if kind.lower() != "basic" or self._users.get(user) != password:
                self.refused += 1
                return None
        access = []
        for scope in " ".join(query.get("scope", [])).split():
            kind, name, actions = scope.split(":")
            allowed = (
                actions.split(",")
                if user is not None
                else [
                    each
                    for each in actions.split(",")
                    if each == "pull" and name.startswith(self._anonymous)
                ]
            )
            access.append({"type": kind, "name": name, "actions": allowed})
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": user or "",
            "aud": query["service"][0],
            "iat": now,
            "nbf": now - 10,
            "exp": now + LIFETIME,
            "jti": uuid.uuid4().hex,
            "access": access,
        }
        token = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id()})
        return {
            "token": token,
            "expires_in": LIFETIME,
            "issued_at": datetime.fromtimestamp(now, UTC).isoformat(),
        }

    def _key_id(self) -> str:
        """As libtrust has it: the first 240 bits of the key's SHA-256, in base 32, in groups of
        four."""
        public = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        text = base64.b32encode(hashlib.sha256(public).digest()[:30]).decode()
        return ":".join(text[at : at + 4] for at in range(0, len(text), 4))

    def _certify(self) -> bytes:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = tokens.token(
                    parse_qs(urlsplit(self.path).query), self.headers.get("Authorization")
                )
                body = json.dumps(answer or {"details": "incorrect username or password"}).encode()
                self.send_response(200 if answer else 401)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def __enter__(self) -> TokenServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
