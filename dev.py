#!/usr/bin/env python3
"""Everything a developer types, with nothing but Python 3.11 and pip: setup, demo, test, check, bench, interop,
oldest, fuzz, docs, lock.

    python3 dev.py demo          see the main job at work, in an environment of its own: .venv-demo
    python3 dev.py test          set up, and pass the tests; more words go to pytest: dev.py test -k merkle
    python3 dev.py check         format, lint, types, layers, sizes, docs
    python3 dev.py bench         measure; more words go to the benchmark: dev.py bench --quick
    python3 dev.py bench --peers measure beside other libraries, which it installs in .venv-peers
    python3 dev.py interop       ask libraries of others about our proofs, seals and time stamps; in .venv-interop
    python3 dev.py oldest        pass the tests of the integrations with the oldest frameworks they are for; in .venv-oldest
    python3 dev.py fuzz          feed bytes to every parser of what others send; more words: --seconds 60, names of parsers
    python3 dev.py docs          make docs/reference/ anew from the code
    python3 dev.py lock          make requirements.lock and requirements-base.lock anew from pyproject.toml

It makes .venv beside this file from requirements.lock, checked by hash. A second run finds it ready. The demo has only what Everlog itself
needs, from requirements-base.lock.
"""

from __future__ import print_function

import ast
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time

PYTHON_MIN = (3, 11)
ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "ready")
LOCK = os.path.join(ROOT, "requirements.lock")
BASE_LOCK = os.path.join(
    ROOT, "requirements-base.lock"
)  # of that what Everlog itself needs, with nothing for tests or for frameworks
DEMO_VENV = os.path.join(ROOT, ".venv-demo")
PEERS_VENV = os.path.join(ROOT, ".venv-peers")
PEERS = os.path.join(ROOT, "bench", "peers.txt")
INTEROP_VENV = os.path.join(ROOT, ".venv-interop")
INTEROP = os.path.join(ROOT, "tests", "interop")
OLDEST_VENV = os.path.join(ROOT, ".venv-oldest")
OLDEST = os.path.join(ROOT, "tests", "integrations", "oldest.txt")
GO_PACKAGE = "/usr/share/gocode/src/golang.org/x/mod"  # where Debian has it
FUZZ = os.path.join(ROOT, ".venv-fuzz")
ATHERIS = os.path.join(ROOT, "tests", "fuzz", "atheris.txt")
MEASURED = ("core", "contract", "stores")  # folders of tests whose coverage is measured
MODULE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70


class Trouble(Exception):
    """What went wrong and what to do, for a person."""


def say(text):
    print(text, file=sys.stderr)
    sys.stderr.flush()


def in_venv(name):
    return os.path.join(VENV, "bin", name)


# --- setup ---------------------------------------------------------------------------------------
def setup():
    wanted = fingerprint()
    if read(STAMP) == wanted:
        return
    if os.path.exists(VENV):
        say("the environment is not the one that is wanted: making it anew")
        shutil.rmtree(VENV)
    make_venv(VENV)
    say("installing what requirements.lock names (a minute or two)")
    install_lock()
    say("installing everlog itself")
    pip("--no-deps", "--no-build-isolation", "--editable", ROOT)
    with open(STAMP, "w") as file:
        file.write(wanted)
    say("ready")


def make_venv(path):
    say("making %s (Python %s)" % (os.path.basename(path), sys.version.split()[0]))
    base = getattr(sys, "_base_executable", sys.executable)  # whoever ran this with the old environment just lost it
    result = subprocess.run([base, "-m", "venv", "--clear", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if result.returncode:
        raise Trouble(
            "python -m venv failed:\n%s\nDo: install Python's venv module (on Debian: apt-get install python3-venv), or make "
            "this folder writable" % tail(result.stdout)
        )


def install_lock():
    """Install by uv, which takes a sixth of pip's time; where uv reaches no index, by pip, whose settings it does not know."""
    only_uv = os.path.join(VENV, "uv.txt")
    with open(only_uv, "w", encoding="utf-8") as file:
        file.write(re.search(r"^uv==.*?(?=^\S|\Z)", read(LOCK), re.MULTILINE | re.DOTALL).group())
    pip("--require-hashes", "--no-deps", "-r", only_uv)
    exactly = ["--require-hashes", "--no-deps", "-r", LOCK]
    # Compiled once: else each of many processes that start together would compile what it imports.
    command = [in_venv("uv"), "pip", "install", *exactly, "--compile-bytecode", "--python", in_venv("python")]
    if subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).returncode:
        pip(*exactly)


def pip(*words):
    result = subprocess.run(pip_of(VENV) + list(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if result.returncode:
        raise Trouble(
            "pip install failed:\n%s\nDo: see that a package index can be reached (pip's own settings are used), then run this again; "
            "what was made so far is made anew" % tail(result.stdout)
        )


def fingerprint():
    digest = hashlib.sha256(sys.version.encode() + ROOT.encode())
    for name in (LOCK, os.path.join(ROOT, "pyproject.toml")):
        digest.update(read(name).encode())
    return digest.hexdigest()


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def tail(output):
    return "\n".join(output.decode("utf-8", "replace").strip().splitlines()[-12:])


# --- commands ------------------------------------------------------------------------------------
def run(*command):
    try:
        return subprocess.run(list(command), cwd=ROOT).returncode
    except KeyboardInterrupt:
        return 130


def demo(words):
    if not setup_apart(DEMO_VENV, BASE_LOCK):
        raise Trouble(
            ".venv-demo could not be made\nDo: see that a package index can be reached (pip's own settings are used), then run this again"
        )
    os.environ["PYTHONPATH"] = os.path.join(ROOT, "src")
    return run(os.path.join(DEMO_VENV, "bin", "python"), "-m", "everlog", "demo", *words)


def test(words):
    if words:
        return run(in_venv("python"), "-m", "pytest", *words)
    # Coverage is measured by the tests that are about rules and stores: to trace the others would double their time.
    # Tests wait for disks, servers and killed processes a quarter of their time: two of them share a processor.
    cores = os.cpu_count() or 1
    workers = str(min(2 * cores, max(cores, 8)))
    every = [in_venv("python"), "-m", "pytest", "-q", "-n", workers, "--dist", "worksteal"]
    measured = ["tests/" + name for name in MEASURED]
    others = sorted("tests/" + name for name in os.listdir(os.path.join(ROOT, "tests")))
    others = [each for each in others if each not in measured and glob.glob(os.path.join(ROOT, each, "test_*.py"))]
    return run(*every, *measured, "--cov", "--cov-report", "term") or run(*every, *others)


def bench(words):
    if "--peers" not in words:
        return run(in_venv("python"), "-m", "bench", *words)
    words = [word for word in words if word != "--peers"]
    if not {"-h", "--help"} & set(words) and words[:2] != ["--only", "frameworks"]:  # those are in .venv
        setup_peers()
    return run(in_venv("python"), "-m", "bench.peers", "--python", os.path.join(PEERS_VENV, "bin", "python"), *words)


def setup_peers():
    """Make .venv-peers from bench/peers.txt. A peer that cannot be installed is a row of the table that says so."""
    setup_loosely(PEERS_VENV, PEERS)


def setup_apart(venv, listed):
    """Make an environment beside .venv from a list of libraries; tell whether it has all of them."""
    wanted = hashlib.sha256((sys.version + ROOT + read(listed)).encode()).hexdigest()
    stamp = os.path.join(venv, "ready")
    if read(stamp) == wanted:
        return True
    make_venv(venv)
    say("installing what %s names" % os.path.relpath(listed, ROOT))
    result = subprocess.run(pip_of(venv) + ["-r", listed], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if result.returncode:
        say(tail(result.stdout))
        return False
    with open(stamp, "w") as file:
        file.write(wanted)
    return True


def setup_loosely(venv, listed):
    """Make such an environment; what cannot be installed is told, and left out."""
    if setup_apart(venv, listed):
        return
    say("not all together; one by one")
    for line in read(listed).splitlines():
        if "==" in line and subprocess.run(pip_of(venv) + [line.strip()]).returncode:
            say("%s cannot be installed; the others are run" % line.strip())


def pip_of(venv):
    python = os.path.join(venv, "bin", "python")
    return [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-q"]


def interop(words):
    """Ask libraries of others about what we prove. What cannot be installed is told here, and by pytest as skipped."""
    setup_loosely(INTEROP_VENV, os.path.join(INTEROP, "python.txt"))
    setup_npm()
    setup_go()
    os.environ["EVERLOG_INTEROP"] = "1"
    return run(in_venv("python"), "-m", "pytest", "-q", "-rsP", "tests/interop", *words)


def oldest(words):
    """Run the tests of the integrations with the oldest versions of the frameworks that these are for."""
    project = os.path.join(ROOT, "pyproject.toml")
    wanted = hashlib.sha256((sys.version + ROOT + read(project) + read(OLDEST)).encode()).hexdigest()
    stamp = os.path.join(OLDEST_VENV, "ready")
    python = os.path.join(OLDEST_VENV, "bin", "python")
    if read(stamp) != wanted:
        say("making .venv-oldest of what tests/integrations/oldest.txt names (a minute or two)")
        uv = in_venv("uv")
        install = [
            uv,
            "pip",
            "install",
            "--quiet",
            "--python",
            python,
            "-r",
            project,
            "--extra",
            "postgres",
            "-r",
            OLDEST,
        ]
        if run(uv, "venv", "--quiet", "--clear", "--python", in_venv("python"), OLDEST_VENV) or run(*install):
            raise Trouble(
                ".venv-oldest could not be made\nDo: see that a package index can be reached, then run this again"
            )
        with open(stamp, "w") as file:
            file.write(wanted)
    os.environ["PYTHONPATH"] = os.path.join(ROOT, "src")
    return run(python, "-m", "pytest", "-q", *(words or ["tests/integrations"]))


def setup_npm():
    folder = os.path.join(INTEROP_VENV, "npm")
    if os.path.isdir(os.path.join(folder, "node_modules")):
        return
    if shutil.which("npm") is None:
        say("npm is not on this machine: its library is not asked")
        return
    packages = read(os.path.join(INTEROP, "npm.txt")).split()
    command = ["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
    if subprocess.run(command + packages).returncode:
        say("npm could not install %s: it is not asked" % " ".join(packages))


def setup_go():
    if shutil.which("go") is not None and os.path.isdir(GO_PACKAGE):
        return
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"] + read(
        os.path.join(INTEROP, "apt.txt")
    ).split()
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        say("Go's x/mod is not asked; on Debian, as root: %s" % " ".join(command))
    elif subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        say("Go's x/mod could not be installed, and is not asked; apt-get update, then: %s" % " ".join(command))


def fuzz(words):
    """Run tests/fuzz under atheris, which lies in a folder of its own and uses the libraries of .venv."""
    wanted = hashlib.sha256((sys.version + ROOT + read(ATHERIS)).encode()).hexdigest()
    stamp = os.path.join(FUZZ, "ready")
    if read(stamp) != wanted:
        say("installing atheris in .venv-fuzz")
        pip("--upgrade", "--target", os.path.join(FUZZ, "site"), "-r", ATHERIS)
        with open(stamp, "w") as file:
            file.write(wanted)
    os.environ["PYTHONPATH"] = os.pathsep.join([os.path.join(ROOT, "src"), os.path.join(FUZZ, "site")])
    return run(in_venv("python"), "tests/fuzz/run.py", "--folder", FUZZ, *words)


def docs(words):
    """Write the pages of the reference that are made from the code."""
    return run(in_venv("python"), "docs/generate.py", *words)


def lock(words):
    """Make both locks anew: what Everlog itself needs is pinned in the one as in the other."""
    compile_lock = [
        in_venv("uv"), "pip", "compile", "pyproject.toml", "--universal", "--generate-hashes", "--quiet", "--no-header",
        "--no-annotate", "--no-emit-index-url", "--no-emit-find-links",
    ]  # fmt: skip
    code = run(*compile_lock, "--extra", "dev", "-o", LOCK, *words)
    code = code or run(*compile_lock, "--constraint", LOCK, "-o", BASE_LOCK)
    if "://" in read(LOCK) + read(BASE_LOCK):
        raise Trouble("a lock holds an address; see what uv wrote, and do not commit it")
    return code


def check(words):
    steps = [
        ("format", lambda: run(in_venv("ruff"), "format", "--check", "--quiet", ".")),
        ("lint", lambda: run(in_venv("ruff"), "check", "--quiet", ".")),
        ("types", lambda: run(in_venv("pyright"), "--warnings")),
        ("layers", lambda: run(in_venv("lint-imports"), "--no-cache")),
        ("sizes", check_sizes),
        ("links", check_links),
        ("locks", check_locks),
        ("privacy", check_privacy),
    ]
    chosen = [step for step in steps if not words or step[0] in words]
    failed = []
    for name, step in chosen:
        started = time.monotonic()
        code = step()
        say("%-14s %-6s %5.1f s" % (name, "failed" if code else "good", time.monotonic() - started))
        if code:
            failed.append(name)
    if failed:
        say("failed: " + ", ".join(failed))
    return 1 if failed else 0


def check_sizes():
    """Modules stop at 600 lines, functions at 70 without their docstring."""
    found = []
    for path in tracked(".py"):
        text = read(os.path.join(ROOT, path))
        lines = text.count("\n")
        if path.startswith("src/") and lines > MODULE_LINES_MAX:
            found.append("%s: %d lines (at most %d)" % (path, lines, MODULE_LINES_MAX))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                size = node.end_lineno - node.lineno + 1
                doc = ast.get_docstring(node, clean=False)
                size -= doc.count("\n") + 1 if doc else 0
                if size > FUNCTION_LINES_MAX:
                    found.append(
                        "%s:%d %s: %d lines (at most %d)" % (path, node.lineno, node.name, size, FUNCTION_LINES_MAX)
                    )
    return report(found)


def check_links():
    """Relative links in Markdown lead somewhere."""
    found = []
    for path in tracked(".md"):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(os.path.join(ROOT, path))):
            there = os.path.exists(os.path.join(ROOT, os.path.dirname(path), target))
            if not there and "://" not in target and not target.startswith("mailto:"):
                found.append("%s: %s leads nowhere" % (path, target))
    return report(found)


def check_locks():
    """What Everlog itself needs is pinned as it is tested."""
    tested, base = ({pin_of(line) for line in read(lock).splitlines()} for lock in (LOCK, BASE_LOCK))
    return report(["requirements-base.lock: %s stands not in requirements.lock" % pin for pin in sorted(base - tested)])


def pin_of(line):
    """Give a lock's line without where it is for: what else is installed there widens that."""
    return line.rstrip("\\ ").partition(" ;")[0]


def check_privacy():
    """No registry's address and no path of the machine that a change was made on."""
    registries = r"://[\w.-]*(?:py" + r"pi|np" + r"mjs|deb" + r"ian)\b"
    pattern = re.compile(registries + "|" + re.escape(os.path.dirname(ROOT) + os.sep))
    found = []
    for path in tracked(""):
        for number, line in enumerate(read_loosely(os.path.join(ROOT, path)).splitlines(), 1):
            if pattern.search(line):
                found.append("%s:%d: %s" % (path, number, line.strip()[:100]))
    return report(found)


def read_loosely(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def tracked(ending):
    output = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, stdout=subprocess.PIPE
    ).stdout.decode()
    paths = [path for path in output.splitlines() if path.endswith(ending)]
    return [path for path in paths if os.path.isfile(os.path.join(ROOT, path))]


def report(found):
    for line in found:
        say("  " + line)
    return 1 if found else 0


COMMANDS = {
    "demo": demo,
    "test": test,
    "check": check,
    "bench": bench,
    "interop": interop,
    "oldest": oldest,
    "fuzz": fuzz,
    "docs": docs,
    "lock": lock,
}


def main():
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help") or words[0] not in set(COMMANDS) | {"setup"}:
        print(__doc__)
        return 0 if words and words[0] in ("-h", "--help", "help") else 2
    if sys.version_info[:2] < PYTHON_MIN:
        raise Trouble(
            "this is Python %s, and Everlog needs %d.%d or newer\nDo: run dev.py with a newer one, as in python3.12 dev.py %s"
            % (sys.version.split()[0], PYTHON_MIN[0], PYTHON_MIN[1], " ".join(words))
        )
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or hundreds of processes that tests start compile all of it each
    try:
        if words[0] != "demo":
            setup()
    except OSError as error:
        raise Trouble("%s\nDo: make this folder writable, or clone the project elsewhere" % error)
    return 0 if words[0] == "setup" else COMMANDS[words[0]](words[1:])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Trouble as trouble:
        say("dev.py: %s" % trouble)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
