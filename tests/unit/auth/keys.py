"""Key material for JSON web tokens, made once."""

from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


@cache
def private_key(kind: str, which: int = 0) -> Any:
    """A key of a kind; `which` tells several of the same kind apart."""
    del which
    curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    if kind in curves:
        return ec.generate_private_key(curves[kind])
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "Ed448":
        return ed448.Ed448PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048)


def write_private(directory: Path, key: Any, name: str = "key") -> str:
    """Writes it in PEM, and returns the path."""
    path = directory / name
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(path)


def write_public(directory: Path, key: Any, name: str = "pub") -> str:
    """Writes its public half in PEM, and returns the path."""
    path = directory / name
    path.write_bytes(public_pem(key))
    return str(path)


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem
