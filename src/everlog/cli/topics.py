"""`everlog help TOPIC`, a page on what every command shares, and completion for shells."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from everlog.cli.main import EXIT_CODES, everlog
from everlog.cli.output import say

ADDRESSES = """
ADDRESSES name a session, one of its branches, and a place in it:

  SESSION[~BRANCH][@PLACE]

  run-42                  the session, on its current branch
  run-42@17               position 17: with show the event there, elsewhere the cut before it
  run-42@-1               counted from the end
  run-42@tests-green      a checkpoint's name: with show its event, elsewhere the cut just after it
  run-42@-2h              two hours ago (s m h d w); the cut before the first event since then
  run-42@2026-11-23T10:00 a time; UTC where it has no zone
  run-42@ev_…_17          an event's id, as `show` and --json print it
  run-42~b1@-3            on branch b1; `tree` lists branches. Or at least 8 hex digits of a branch's id

In a session's name write %25 for %, %40 for @, %7E for ~ and %20 for a space.
"""

PLACES = """
PLACES are what stands behind the @ of an address. There are two kinds of use:

  A cut is the gap before a position: cut 17 keeps events 0 to 16. fork, rewind and log take cuts:
    log run-42@17         what came before position 17
    fork run-42@17        a session that shares [0, 17)
    rewind run-42@start   before everything; `end` is the other end
  An event is what stands at a position. show and erase take events:
    show run-42@17        the event at position 17

  17 -1            a position, from the start or from the end        cut before it, or the event
  tests-green      a checkpoint's name; the last of that name        cut just after it, or its event
  -90m -2h -3d     a time ago, always with a unit: s m h d w         cut only
  2026-11-23T10:00Z   a time; UTC where it has no zone               cut only
  ev_…_17          an event's id                                     cut before it, or the event
  start end        the two ends                                      cut only
"""

QUERIES = """
QUERIES are words and key:value pairs, all of which must hold. ls, log, search and erase --matching take them.

  timeout "file not found"     words and phrases in what an event says; in any case, anywhere in a word
  type:agent.tool_*            * is any run of characters
  type:user.message,note       a comma is "or"; quote it to mean a comma: data.text:"a,b"
  -outcome:ok                  a leading - is "not"
  outcome:error                ok error denied cancelled timeout unknown, or none
  actor:planner                who
  since:2h  until:2026-11-23   when it was recorded; also occurred:2026-11-01..2026-11-30
  position:10..20              10 up to, not including, 20
  data.input.cmd:*pytest*      a member of the data, at any depth
  meta.model:claude-*          a member of the metadata
  rationale:*slow*             the reason given, as a whole
  key:write:*                  idempotency keys
  has:rationale                what there is: rationale metadata attachments outcome actor key caused_by occurred_at
                               data state erased withheld
  branch:1f0c22ab              recorded on this branch (hex digits of its id)
  session:run-* label.user:u7  in ls and search: the session

search puts what fits the words best first; --order newest, --session ADDRESS for one line, --after to go on.

An unknown word before a colon is an error; quote it to look for it as text: '"note: this"'.
Quote queries for the shell: everlog log run-42 'type:agent.* "exit code 1"'.
"""

STATES = """
STATES are what the events before a place come to. state, why, bisect and diff take -r NAME:

  document     a JSON value that state.set and state.patch build
  messages     the conversation; state --as anthropic, openai-chat or openai-responses gives it as that API takes it
  usage        calls, tokens, cost and errors, by model and by tool
  NAME         one of yours: --reducers FILE.py loads a file with functions under @everlog.reducer("NAME", 1)

  everlog state run-42@17              at any place
  everlog state run-42 --pointer /plan/next
  everlog why run-42 /plan/next        which events gave it its value, and why
  everlog diff run-42@17 run-42@42     or two branches, two forks, two unrelated sessions
  everlog bisect run-42 'state.tests.failed:1..'    the first event after which it holds
  everlog merge run-42 other-way       bring a fork's document back; --event copies events too

A POINTER names a member: /plan/next, /items/0; ~1 is a slash in a name, ~0 a tilde; '' is the whole.
Snapshots make states quick to get at; everlog snapshots lists, drops and rebuilds them. No answer depends on one.
"""

WAKING = """
WAKING is going on with a session whose worker stopped or died: `everlog help wake` and, in Python, store.wake(…).

  everlog ps                           who works on what, and what is in flight; --all looks at every session
  everlog wake run-42                  what was in flight, why work last stopped, and what to type about it
  everlog wake run-42 --repair         give open tool uses a result `unknown`, so that every provider takes the conversation

A LEASE is the sole right to append. While one lives everybody else appends user.*, system.message, signal and note only.

  everlog lease run-42                 who holds it
  everlog lease run-42 --hold          keep every agent off until Ctrl-C; you cannot append from another shell either

A RUN is work in steps, session.run(): each is recorded once, and given again when the program is run again. What is in flight:

  step         started and not finished: it may have taken effect. policy='retry' runs it again, 'fail' never does,
               'ask' waits for one of
                 everlog signal run-42 step:pay '"retry"'
                 everlog signal run-42 step:pay '"fail"'
                 everlog signal run-42 step:pay '{"decision": "finished", "result": 7}'
  wait         open until a signal of its name: everlog signal run-42 approval '{"ok": true}'
  signal       sent, and taken by no wait yet
  unknown      recorded as unknown, under policy='fail', and nobody decided since
"""

FORMATS = """
FORMATS that `everlog import FORMAT [PATH…]` takes. A PATH is a file or a folder.

  claude-code   Claude Code's transcripts; without PATH all of yours (~/.claude/projects, or $CLAUDE_CONFIG_DIR).
                A session keeps its id; sub-agents become sessions SESSION/agent-ID, made for the tool use.
  codex         Codex's rollouts; without PATH all of yours (~/.codex/sessions, or $CODEX_HOME).
  swe-agent     SWE-agent's .traj files: thought becomes rationale, action a tool use, state a state.set.
  openai        messages of chat completions or items of the Responses API, as JSON or JSON lines; a line that is an
                object with "messages" becomes a session of its own, FILE/LINE.
  langgraph     a database of LangGraph's SqliteSaver: each thread becomes the session that EverlogSaver keeps for it.
  jsonl         Everlog's own event shape: {"type": "note", "data": {"content": "…"}} and what log --json prints.
  FILE.everlog  a bundle, as `everlog export` writes it: every hash unchanged.

Importing again adds only what is new, also while a file grows; --follow goes on as it does. What cannot be read is kept
as an opaque event (x.FORMAT.*), and reported with file and line. The source's own item stands in metadata.native.
"""

ENVIRONMENT = """
ENVIRONMENT

  EVERLOG_STORE       the store's file, where --store is not given
  EVERLOG_REDACT      redact, reject or off: what is done about secrets in what is appended
  EVERLOG_REDACT_RULES  a TOML or JSON file of more rules for secrets
  EVERLOG_ENCRYPT     file:PATH, env:NAME or command:PROGRAM ARGUMENTS: the key that bodies are encrypted with
  NO_COLOR            print without colour
  CLAUDE_CONFIG_DIR   where Claude Code keeps its files, for import claude-code
  CODEX_HOME          where Codex keeps its files, for import codex
"""


def _exit_codes() -> str:
    rows = "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES)
    return (
        f"\nEXIT CODES\n\n{rows}\n\n"
        'With --json an error is one line of JSON on standard error: {"error": CODE, "message": TEXT}. The codes are those\n'
        "of the Python errors, see docs/reference.md.\n"
    )


SEALING = """
SEALS are signed statements of all that a store holds at one time.

  everlog keys new            make a key, outside the store; prints its verifier key NAME+ID+KEY
  everlog seal                sign the head of the ledger; with --every 1s again and again
  everlog prove RUN@17 --sealed --to 17.tlog-proof
                              a file that proves an event to whoever has the verifier key
  everlog check-proof 17.tlog-proof --key KEY
  everlog verify --key KEY    the store against its ledger, and the ledger against its seals
  everlog verify --since -1d  only what came after the last seal of that time: for every day

What a seal is worth depends on where copies of it are. Whoever has both the store and its key can write both anew, and
whoever has the store alone can put back an older one with its older seals. So have copies where they cannot be changed:

  seals.txt                   beside the key: every seal, appended. Check it with verify --seals
  --to FILE                   another file, on another disk
  --to https://…              posted there, as text
  --to s3://bucket/prefix     an object each; gs:// and az:// too
  everlog tiles FOLDER        the whole ledger as files for a web server; check-tiles checks such a copy
  --timestamp URL             an authority (RFC 3161) says when it was there; kept in timestamps, beside seals.txt. Check it with
                              verify --seals FILE --tsa-ca CERTIFICATES
  --witness KEY@URL           a witness (everlog witness, or any that speaks C2SP tlog-witness) that remembers, and cosigns
                              only what extends what it saw

A key that gives way to another signs it (keys rotate). After a theft or a loss the ledger goes on under another origin
(keys revoke). Formats: C2SP signed-note, tlog-checkpoint, tlog-proof, tlog-cosignature, tlog-tiles; trees are those of RFC 6962.
"""

TOPICS = {
    "addresses": ADDRESSES,
    "places": PLACES,
    "queries": QUERIES,
    "states": STATES,
    "waking": WAKING,
    "sealing": SEALING,
    "formats": FORMATS,
    "environment": ENVIRONMENT,
    "exit-codes": _exit_codes(),
}
_SINGULAR = {"address": "addresses", "place": "places", "query": "queries", "format": "formats", "exit": "exit-codes"}


def _complete_topic(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in (*TOPICS, *everlog.commands) if name.startswith(incomplete)]


@everlog.command("help", epilog="Examples:  everlog help queries   |   everlog help log")
@click.argument("topic", required=False, shell_complete=_complete_topic)
@click.pass_context
def help_(ctx: click.Context, topic: str | None) -> None:
    """Explain addresses, places, queries, states, formats, environment, exit-codes, or a command."""
    root = ctx.find_root()
    if topic is None:
        say(everlog.get_help(root))
        return
    name = _SINGULAR.get(topic, topic)
    if name in TOPICS:
        say(TOPICS[name].strip("\n"))
        return
    command = everlog.get_command(root, topic)
    if command is None:
        raise click.UsageError(f"there is no topic or command {topic!r}; topics are {', '.join(TOPICS)}")
    with click.Context(command, info_name=topic, parent=root) as inner:
        say(command.get_help(inner))


@everlog.command(
    epilog='Examples:  eval "$(everlog completion bash)"   |   everlog completion fish > ~/.config/fish/completions/everlog.fish'
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes commands, options, topics and the names of sessions.

    \b
    bash: put  eval "$(everlog completion bash)"  into ~/.bashrc
    zsh:  put  eval "$(everlog completion zsh)"   into ~/.zshrc
    fish: everlog completion fish > ~/.config/fish/completions/everlog.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click knows these three"
    say(kind(everlog, {}, "everlog", "_EVERLOG_COMPLETE").source())
