"""Read certificate authorities from a PEM file of openssl or an editor (F87)."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from entrepot.encoding import NotUtf8, decode_text

if TYPE_CHECKING:
    import ssl

MAX_FILE_SIZE: Final = 16 * 1024 * 1024
"""The largest file that is read, in bytes; Mozilla's authorities take about 0.25 MB."""

_BLOCK = re.compile(
    rb"-----BEGIN ((?:X509 )?)CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END \1CERTIFICATE-----",
)
_BEGIN = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----")


class CertificatesInvalid(OSError):
    """A file has no certificates.

    The text is part of a sentence about the file; ``hint`` says what to do.
    """

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


def trust_certificates(context: ssl.SSLContext, file: Path) -> None:
    """Add the certificates in *file* to those that *context* trusts.

    Raises as `read_certificates`. They may be issuers below another authority, which Python trusts
    without it from 3.13 on.
    """
    import ssl

    context.load_verify_locations(cadata=read_certificates(file))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def read_certificates(file: Path) -> str:
    """The certificates in *file*, in PEM format and without anything between them.

    That may be a byte order mark, the text that openssl prints about each certificate in any
    language and encoding, or other kinds of blocks. Blocks; raises `OSError`, and
    `CertificatesInvalid` for a file that can be read.
    """
    import ssl

    with file.open("rb") as opened:
        content = opened.read(MAX_FILE_SIZE + 1)
    if len(content) > MAX_FILE_SIZE:
        raise CertificatesInvalid(
            f"is longer than {MAX_FILE_SIZE:,} bytes", "Leave nothing but certificates in it."
        )
    blocks = list(_BLOCK.finditer(content))
    if not blocks and not _BEGIN.search(content):
        raise _no_certificates(content, file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certificates = []
    ends = {block.start() for block in blocks}
    for begin in _BEGIN.finditer(content):
        if begin.start() not in ends:
            raise _damaged(
                content, begin.start(), "is cut off, or holds other characters than base64 has"
            )
    for block in blocks:
        lines = (line.strip() for line in block[2].decode("ascii").splitlines())
        certificate = "\n".join(
            ("-----BEGIN CERTIFICATE-----", *filter(None, lines), "-----END CERTIFICATE-----", "")
        )
        try:
            context.load_verify_locations(cadata=certificate)
        except (ssl.SSLError, ValueError):
            raise _damaged(content, block.start(), "can't be read") from None
        certificates.append(certificate)
    return "".join(certificates)


def foreign_format(file: Path) -> str:
    """What to do with a file that should be in PEM format and is in another one.

    Empty for PEM, and if the file can't be read. Blocks.
    """
    import ssl

    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_SIZE)
    except OSError:
        return ""
    # OpenSSL 3 ignores the mark.
    if content.startswith(codecs.BOM_UTF8) and ssl.OPENSSL_VERSION_INFO < (3,):
        return f"{file} begins with a byte order mark: save it as UTF-8 without one."
    if (encoding := _other_encoding(content)) is not None:
        return f"{file} is {encoding} text: save it as UTF-8."
    return f"{file} is in DER format: convert it to PEM with openssl." if _is_der(content) else ""


def _other_encoding(content: bytes) -> str | None:
    try:
        decode_text(content)
    except NotUtf8 as error:
        return error.encoding
    return None


def _is_der(content: bytes) -> bool:
    """Whether it is a certificate or a key in DER format.

    Each is an ASN.1 sequence, whose length takes one to three bytes here (X.690, 8.1.3).
    """
    return content[:1] == b"\x30" and content[1:2] in {b"\x81", b"\x82", b"\x83"}


def _damaged(content: bytes, position: int, what: str) -> CertificatesInvalid:
    line = content.count(b"\n", 0, position) + 1
    return CertificatesInvalid(
        f"holds a certificate that {what}, in line {line}",
        "Put the whole certificate there again, or take it out.",
    )


def _no_certificates(content: bytes, file: Path) -> CertificatesInvalid:
    pem = (
        "Put one certificate or more there in PEM format, each between -----BEGIN CERTIFICATE----- "
        "and -----END CERTIFICATE-----."
    )
    if not content.strip():
        return CertificatesInvalid("is empty and holds no certificates that can be read", pem)
    if (encoding := _other_encoding(content)) is not None:
        return CertificatesInvalid(
            f"is {encoding} text, and so holds no certificates that can be read",
            "Save it as UTF-8.",
        )
    if _is_der(content):
        return CertificatesInvalid(
            "is in DER format, and so holds no certificates that can be read",
            f"Convert it to PEM: openssl x509 -inform DER -in {file} -out {file.stem}.pem",
        )
    if b"-----BEGIN TRUSTED CERTIFICATE-----" in content:
        return CertificatesInvalid(
            "has openssl's own format of trusted certificates, and so holds no certificates that "
            "can be read",
            f"Convert it: openssl x509 -in {file} -out {file.stem}.crt",
        )
    return CertificatesInvalid("holds no certificates that can be read", pem)
