"""Verifies a file against a receipt of filepull with a JOSE library of another language.

Usage: verify_receipt.py FILE RECEIPT [SHA256:fingerprint]
Needs: joserfc and blake3 (PyPI). Exit codes: 0 the file is what was signed; 1 it is not.
"""

import hashlib
import json
import sys

from blake3 import blake3
from joserfc import jws
from joserfc.jwk import OKPKey


def fail(reason):
    print(f"not valid: {reason}")
    sys.exit(1)


def main():
    file, receipt, *pinned = sys.argv[1:]
    with open(receipt, encoding="utf-8") as text:
        compact = text.read().strip()
    try:
        header = jws.extract_compact(compact.encode()).headers()
        key = OKPKey.import_key(header["jwk"])
        payload = jws.deserialize_compact(compact, key, algorithms=["EdDSA"]).payload
        claims = json.loads(payload)
    except Exception as error:  # a library has many kinds of errors, and each means the same here
        fail(f"the receipt: {type(error).__name__}")
    # The fingerprint is SHA-256 over the public key in DER (SubjectPublicKeyInfo).
    fingerprint = "SHA256:" + hashlib.sha256(key.as_der(private=False)).hexdigest()
    if header.get("kid") != fingerprint:
        fail("the key in the header is not the key that it names")
    if pinned and pinned[0] != fingerprint:
        fail(f"signed by {fingerprint}, not by {pinned[0]}")
    with open(file, "rb") as data:
        content = data.read()
    if len(content) != claims["size"]:
        fail("the receipt is about another size")
    if blake3(content).hexdigest() != claims["digests"]["blake3"]:
        fail("the receipt is about another digest")
    print(f"valid: {claims['iss']} signed {claims['size']} bytes with {fingerprint}")


main()
