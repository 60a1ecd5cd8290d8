"""An audit as one page of HTML: a single file without scripts or anything fetched, which prints well.

Everything on it comes from the log and may be hostile: each text is made visible, as on a terminal, and then escaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from everlog.auditing import Audit
from everlog.cli.audit_tables import Table, tables
from everlog.cli.output import visible

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 75em; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.15em; margin: 2em 0 .3em; border-bottom: 1px solid #999; }
p { margin: .3em 0 .6em; color: #444; }
table { border-collapse: collapse; width: 100%; font-size: .88em; }
th, td { text-align: left; vertical-align: top; padding: .25em .7em .25em 0; border-bottom: 1px solid #ddd; overflow-wrap: anywhere; }
th { font-weight: 600; } thead { display: table-header-group; } tr { break-inside: avoid; }
@media print { body { margin: 0; max-width: none; font-size: 9pt; } h2 { break-after: avoid; } }
@page { margin: 15mm; }
""".strip()


def audit_page(audit: Audit) -> str:
    """Give the page."""
    return "\n".join(_lines(audit)) + "\n"


def _lines(audit: Audit) -> Iterator[str]:
    title = _text(f"Audit of {audit.session}")
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    yield f"<title>{title}</title>"
    yield f"<style>\n{_STYLE}\n</style></head><body>"
    yield f"<h1>{title}</h1>"
    for table in tables(audit):
        yield from _part(table)
    yield "</body></html>"


def _part(table: Table) -> Iterator[str]:
    yield f"<h2>{_text(table.title)}</h2>"
    if table.note:
        yield f"<p>{_text(table.note)}</p>"
    if table.rows:
        yield "<table>"
        if any(table.columns):
            yield f"<thead><tr>{''.join(f'<th>{_text(name)}</th>' for name in table.columns)}</tr></thead>"
        yield "<tbody>"
        for row in table.rows:
            yield f"<tr>{''.join(f'<td>{_text(text)}</td>' for text in row)}</tr>"
        yield "</tbody></table>"
    if table.hidden:
        yield f"<p>{table.hidden} more, which are older or fewer, are counted above and not listed.</p>"


def _text(text: str) -> str:
    return escape(visible(text))
