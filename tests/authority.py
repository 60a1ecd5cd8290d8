"""An authority for time stamps (RFC 3161), as the program `openssl` makes one, behind HTTP on this machine."""

import shutil
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

CONFIG = """
[tsa]
default_tsa = here
[here]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
ess_cert_id_alg = sha256
"""


def openssl(*words, **options):
    if shutil.which("openssl") is None:
        pytest.skip("the program openssl is not on this machine")
    return subprocess.run(["openssl", *map(str, words)], capture_output=True, **{"check": True, **options})


class Authority:
    """A root certificate, and one below it that stamps. answers: what the next askers get in the place of a stamp, (status, bytes)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificates = folder / "ca.pem"
        self.asked = 0
        self.answers = []
        self.url = ""
        folder.mkdir()
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout"]
        openssl("req", "-x509", *key, folder / "ca.key", "-out", self.certificates, "-subj", "/CN=root", "-days", "365")
        openssl("req", *key, folder / "tsa.key", "-out", folder / "tsa.csr", "-subj", "/CN=stamps")
        (folder / "uses").write_text("extendedKeyUsage = critical,timeStamping\n")
        signer = ["-CA", self.certificates, "-CAkey", folder / "ca.key", "-CAcreateserial", "-days", "365"]
        openssl(
            "x509", "-req", "-in", folder / "tsa.csr", *signer, "-out", folder / "tsa.pem", "-extfile", folder / "uses"
        )
        (folder / "config").write_text(CONFIG.format(folder=folder))
        (folder / "serial").write_text("01\n")

    def stamp(self, query: bytes) -> bytes:
        """Answer a query as an authority does."""
        (self.folder / "query").write_bytes(query)
        openssl("ts", "-reply", "-config", self.folder / "config", "-queryfile", self.folder / "query", "-out", self.folder / "answer")  # fmt: skip
        return (self.folder / "answer").read_bytes()

    @contextmanager
    def serving(self):
        """Serve it at `url` meanwhile."""
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                assert self.headers["Content-Type"] == "application/timestamp-query"
                query = self.rfile.read(int(self.headers["Content-Length"]))
                authority.asked += 1
                status, content = authority.answers.pop(0) if authority.answers else (200, authority.stamp(query))
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_address[1]}/tsa"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
