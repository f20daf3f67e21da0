"""Checks the published vectors with joserfc, and signs their claims with it.

Usage: verify.py VECTORS_DIRECTORY < invalid-signatures
Prints one JSON line per envelope that it signed: {"name", "key", "compact"}.
Reads compact forms whose signature is wrong from standard input, one a line.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey

# Half of the order of P-256: ECDSA libraries return either S, the format allows the lower one.
HALF_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551 >> 1
REGISTRY = jws.JWSRegistry(algorithms=["ES256", "EdDSA"], strict_check_header=False)


def canonical(value):
    """RFC 8785 for what occurs in claims: strings, integers, booleans, ASCII member names."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64url(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def sign(header, claims, key):
    """Signs until S is low, which takes two attempts on average."""
    while True:
        compact = jws.serialize_compact(header, canonical(claims), key, registry=REGISTRY)
        head, _, signature = compact.split(".")
        assert unb64url(head) == canonical(header), "joserfc writes the header in the same form"
        s = int.from_bytes(unb64url(signature)[32:], "big")
        if header["alg"] == "EdDSA" or s <= HALF_ORDER:
            return compact


def main():
    directory = Path(sys.argv[1])
    keys_file = json.loads((directory / "keys.json").read_text())
    keys = {name: ECKey.import_key(i["jwk"]) for name, i in keys_file["identities"].items()}
    keys["delegate"] = OKPKey.import_key(keys_file["delegate"])

    for identity in keys_file["identities"].values():
        der = base64.b64decode(identity["certificate"])
        assert hashlib.sha256(der).hexdigest() == identity["kid"], "kid is the leaf's SHA-256"

    vectors = json.loads((directory / "valid.json").read_text())["vectors"]
    assert len(vectors) >= 10, "the vectors are there"
    for vector in vectors:
        compact, key = vector["compact"], keys[vector["key"]]
        token = jws.deserialize_compact(compact, key, registry=REGISTRY)
        assert token.headers() == vector["header"], vector["name"]
        assert json.loads(token.payload) == vector["claims"], vector["name"]
        assert token.payload == canonical(vector["claims"]), vector["name"]
        digest = hashlib.sha256(compact.encode("ascii")).digest()
        assert b64url(digest) == vector["sae_hash"], vector["name"]
        signed = sign(vector["header"], vector["claims"], key)
        print(json.dumps({"name": vector["name"], "key": vector["key"], "compact": signed}))

    wrong = sys.stdin.read().split()
    assert wrong, "wrong signatures were given"
    for compact in wrong:
        try:
            jws.deserialize_compact(compact, keys["agent"], registry=REGISTRY)
        except (JoseError, ValueError):
            continue
        raise AssertionError("accepted a wrong signature: " + compact)


main()
