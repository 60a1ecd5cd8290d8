"""Every Python snippet in the README and the docs runs; every public name is documented; every command line parses."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import everlog
from everlog import errors
from everlog.cli.commands import everlog as command

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ everlog (.*?)(?:\s+#.*)?$", re.MULTILINE)


def snippets(page):
    return SNIPPET.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)], ids=lambda page: page.name)
def test_the_snippets_of_a_page_run_one_after_another(page, tmp_path):
    program = "\n".join(snippets(page))
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "EVERLOG_STORE": str(tmp_path / "default.db")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_that_a_page_shows_exist_with_their_options(page):
    for line in COMMAND.findall(page.read_text(encoding="utf-8")):
        words = shlex.split(line.split("&&")[0])
        if words[0].startswith("-"):
            continue
        assert words[0] in command.commands, line
        named = command.commands[words[0]]
        if isinstance(named, click.Group) and len(words) > 1:
            assert words[1] in named.commands, line
            named = named.commands[words[1]]
        known = {option for parameter in named.params for option in parameter.opts}
        for word in words[1:]:
            if re.match(r"-{1,2}[a-z]", word):
                assert word in known | {"--help"}, line


def test_the_generated_pages_of_the_reference_are_current():
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]()
    for name, text in made.items():
        page = ROOT / "docs" / "reference" / name
        assert page.read_text(encoding="utf-8") == text, f"{name} is not what the code says: python3 dev.py docs"
        assert f"reference/{name}" in (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


def test_every_public_name_is_documented():
    reference = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    missing = [name for name in everlog.__all__ if f"`{name}" not in reference]
    assert missing == []


def test_what_modules_call_of_each_other_is_not_in_the_reference():
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    reference = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    given = {kind.__name__: kind for kind in made["_GIVEN"]}
    for name in made["INTERNAL"]:
        kind, _, member = name.partition(".")
        assert hasattr(given.get(kind) or getattr(everlog, kind), member), name
        assert f"{name}(" not in reference, name
    for name in ("Claim.answer(", "## `StepForm`", "## `PendingStep`"):
        assert name in reference


def test_every_limit_is_documented_with_its_value():
    rows = (ROOT / "docs" / "reference" / "limits.md").read_text(encoding="utf-8").splitlines()
    values = [row.split("|")[2].strip(" `") for row in rows if row.startswith("| `")]
    assert len(values) > 40
    assert [value for value in values if not re.fullmatch(r"[0-9A-Z_*+. -]+", value)] == []


def test_every_error_is_documented_with_its_code():
    reference = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.EverlogError)]
    kinds = [kind for kind in kinds if not kind.__name__.startswith("_")]
    assert "_StepError" not in reference
    assert [
        kind.__name__ for kind in kinds if f"`{kind.__name__}`" not in reference or kind.code not in reference
    ] == []


def test_every_public_method_has_a_docstring():
    for kind in (everlog.Store, everlog.Session, everlog.Branch, everlog.Event, everlog.Feed):
        for name, member in vars(kind).items():
            if not name.startswith("_") and callable(member):
                assert member.__doc__, f"{kind.__name__}.{name}"


def test_the_library_is_quick_to_import_and_loads_no_face():
    program = "import sys, everlog; print(*(n for n in ('asyncio', 'click', 'rich', 'apsw') if n in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_every_law_and_must_of_the_specification_names_a_test_that_exists():
    text = (ROOT / "SPEC.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py|src/everlog/testing/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) >= 30
    for file, test in named:
        assert (ROOT / file).is_file(), file
        assert not test or f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"
