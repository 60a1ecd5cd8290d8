"""A deployment that waits for a person: it survives restarts while it waits, and deploys once.

python examples/approval.py STORE          asks, and waits a moment; run it again whenever you like
everlog --store STORE ps                    shows who waits for what
everlog --store STORE signal deploy approval '{"ok": true, "by": "ann"}'
python examples/approval.py STORE          goes on
"""

from __future__ import annotations

import sys

import everlog
from everlog.errors import WaitingError


def deploy(version: str, effect_key: str) -> str:
    """Hand the key to whatever deploys, so that it does so once, however often it is asked."""
    print(f"deploying {version} ({effect_key[:9]}…)")
    return f"{version} is live"


def main(store_path: str, patience: float = 0.2) -> None:
    """Ask, wait, deploy."""
    with everlog.open(store_path) as store:
        store.get_or_create("deploy", title="Deploy version 7")
        with store.wake("deploy", holder="deployer", ttl=10, timeout=20) as woken:
            try:
                with woken.run() as run:
                    version = run.step("build", lambda: "version 7")
                    said = run.wait("approval", timeout="2d", patience=patience)
                    if not said["ok"]:
                        print(f"{said['by']} said no")
                    else:
                        print(run.step("deploy", deploy, version, policy="retry"))
            except WaitingError as waiting:
                print(f"waits: {waiting.message}")


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
