"""What `sigstore` and `pymerkle` say of cases: proofs of inclusion, signed checkpoints; roots. It runs in .venv-interop, without Everlog.

python opinions.py CASES
"""

import json
import sys
from base64 import b64decode, b64encode
from pathlib import Path
from types import SimpleNamespace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pymerkle import InmemoryTree
from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore._internal.rekor.checkpoint import verify_checkpoint
from sigstore._internal.trust import Keyring
from sigstore.errors import VerificationError
from sigstore_models.common.v1 import PublicKey, PublicKeyDetails


def entry(proof, *, body=b"", key_id=b""):
    """Give the parts of an entry of a transparency log that are looked at."""
    inner = SimpleNamespace(inclusion_proof=proof, canonicalized_body=body, log_id=SimpleNamespace(key_id=key_id))
    return SimpleNamespace(_inner=inner)


def holds(check, *given):
    try:
        check(*given)
    except (VerificationError, ValueError):
        return False
    return True


def included(each):
    proof = SimpleNamespace(
        log_index=each["index"],
        tree_size=each["size"],
        hashes=[b64decode(step) for step in each["path"]],
        root_hash=b64decode(each["root"]),
    )
    return holds(verify_merkle_inclusion, entry(proof, body=b64decode(each["leaf"])))


def opened(each):
    """Check a checkpoint under the first key: the others are witnesses', which this library does not know."""
    _, key_id, encoded = each["keys"][0].split("+", 2)
    raw = Ed25519PublicKey.from_public_bytes(b64decode(encoded)[1:]).public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    keyring = Keyring([PublicKey(raw_bytes=b64encode(raw), key_details=PublicKeyDetails.PKIX_ED25519)])
    root = each["note"].split("\n")[2]
    proof = SimpleNamespace(checkpoint=SimpleNamespace(envelope=each["note"]), root_hash=b64decode(root))
    return holds(verify_checkpoint, keyring, entry(proof, key_id=bytes.fromhex(key_id)))


def root_of(leaves):
    tree = InmemoryTree(algorithm="sha256")
    for leaf in leaves:
        tree.append_entry(b64decode(leaf))
    return tree.get_state()


def main():
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    said = {
        "inclusion": [included(each) for each in given["inclusion"]],
        "notes": [opened(each) for each in given["notes"]],
        "roots": [root_of(each["leaves"]) == b64decode(each["root"]) for each in given["roots"]],
    }
    sys.stdout.write(json.dumps(said))


main()
