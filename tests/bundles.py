"""Taking bundles apart and putting them together again, as somebody would who changes them on purpose."""

import io
import tarfile
from hashlib import sha256


def members(path):
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar.getmembers()]


def rebuild(path, content, *, digested=True):
    if digested:
        digest = sha256()
        content = [(name, data) for name, data in content if name != "sha256"]
        for name, data in content:
            digest.update(f"{len(name)}:{name}{len(data)}:".encode() + data)
        content = [*content, ("sha256", digest.hexdigest().encode() + b"\n")]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in content:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o600
            tar.addfile(member, io.BytesIO(data))
