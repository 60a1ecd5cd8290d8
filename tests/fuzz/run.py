"""Feed bytes to parsers under atheris, one process a parser: `python3 dev.py fuzz [--seconds N] [PARSER …]`.

What is found lies in FOLDER/findings/PARSER, what was tried with a gain in FOLDER/corpus/PARSER: the next run begins with it.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
BYTES_MAX = 60_000  # the largest seed is a bundle of some 40 kB
SECONDS_MAX = 20  # that one input may take
MEGABYTES_MAX = 2_048


def feed(name, words):
    """Feed one parser, in this process, until libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["everlog"]):
        from fuzz.parsers import PARSERS

    def once(raw):
        PARSERS[name](raw)

    atheris.Setup([sys.argv[0], *words], once)
    atheris.Fuzz()


def run(name, folder, seconds):
    """Feed one parser in a process of its own; tell how many inputs there were, and whether one of them was a finding."""
    from fuzz.parsers import seeds

    corpus, findings, scratch = folder / "corpus" / name, folder / "findings" / name, folder / "scratch"
    for each in (corpus, findings, scratch):
        each.mkdir(parents=True, exist_ok=True)
    for seed in seeds(name):
        (corpus / sha256(seed).hexdigest()[:16]).write_bytes(seed)
    words = [
        f"-max_total_time={seconds}", f"-timeout={SECONDS_MAX}", f"-rss_limit_mb={MEGABYTES_MAX}", f"-max_len={BYTES_MAX}",
        "-print_final_stats=1", f"-artifact_prefix={findings}/", str(corpus),
    ]  # fmt: skip
    before = set(findings.iterdir())
    ran = subprocess.run(
        [sys.executable, __file__, "--folder", str(folder), "--feed", name, *words],
        capture_output=True,
        check=False,
        env=os.environ | {"TMPDIR": str(scratch)},  # libFuzzer ends a process without cleaning up after it
    )
    shutil.rmtree(scratch)
    said = (ran.stdout + ran.stderr).decode("utf-8", "replace")
    count = re.search(r"number_of_executed_units: (\d+)", said)
    found = sorted(set(findings.iterdir()) - before)
    covered = re.findall(r"cov: (\d+)", said)
    print(
        f"{name:<13} {int(count[1]) if count else 0:>10} inputs  {covered[-1] if covered else '?':>6} places reached  "
        + (f"found {', '.join(map(str, found))}" if found else "nothing found" if ran.returncode == 0 else "stopped"),
        flush=True,
    )
    if ran.returncode:
        print(said[-4_000:], flush=True)
    return ran.returncode == 0 and not found


def main():
    parser = argparse.ArgumentParser(description="Feed bytes to the parsers of what others send.")
    parser.add_argument("--folder", type=Path, required=True, help="where corpora and findings are")
    parser.add_argument("--seconds", type=int, default=60, help="for each parser")
    parser.add_argument("--feed", metavar="PARSER", help="feed this one here, with libFuzzer's words")
    parser.add_argument("parsers", nargs="*", metavar="PARSER", help="all by default")
    given, words = parser.parse_known_args()
    if given.feed:
        feed(given.feed, [*words, *given.parsers])
        return 0
    from fuzz.parsers import PARSERS

    unknown = sorted(set(given.parsers) - set(PARSERS))
    if unknown:
        parser.error(f"there is no parser {', '.join(unknown)}; there are {', '.join(PARSERS)}")
    good = [run(name, given.folder.resolve(), given.seconds) for name in given.parsers or PARSERS]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
