"""Every bound of the log in one place, with its unit in its name and its reason beside it."""

from __future__ import annotations

# --- one event -----------------------------------------------------------------------------------
BODY_BYTES_MAX = 8 * 1024 * 1024  # default, settable by store; one page of a read must hold at least one body
BODY_BYTES_CEILING = 256 * 1024 * 1024  # what the setting may reach: engines' blobs end near 1 GiB
BODY_DEPTH_MAX = 64  # nesting that every JSON library can load and dump (FORMAT §2)
INTEGER_BOUND = 2**64  # an integer's magnitude stays below: beyond, libraries turn it into a float silently
TYPE_CHARACTERS_MAX = 128
ACTOR_CHARACTERS_MAX = 128
KEY_BYTES_MAX = 512
RATIONALE_BYTES_MAX = 1024 * 1024
HEADER_BYTES_MAX = 4096  # FORMAT §2
SAFE_INTEGER_MAX = 2**53 - 1  # the largest integer that every JSON library keeps (RFC 8785)
ATTACHMENTS_MAX = 16  # the header holds 17 commitments: the body's and these
ATTACHMENT_BYTES_MAX = 64 * 1024 * 1024
ATTACHMENT_NAME_BYTES_MAX = 255
SUMMARY_RANGES_MAX = 16  # FORMAT §2, member `g`

# --- one append ----------------------------------------------------------------------------------
APPEND_EVENTS_MAX = 10_000
APPEND_BYTES_MAX = 256 * 1024 * 1024  # bodies and attachments of one atomic append
CONFLICT_EVENTS_MAX = 100  # events that a refused append hands back (law 4)
CONFLICT_BYTES_MAX = 1024 * 1024

# --- states --------------------------------------------------------------------------------------
STATE_DEPTH_MAX = 2 * BODY_DEPTH_MAX  # a value of the deepest body, set at the deepest pointer
STATE_BYTES_MAX = 48 * 1024 * 1024  # in a snapshot: base and state together fit the window of every zstd decoder
POINTER_TOKENS_MAX = BODY_DEPTH_MAX

# --- one session ---------------------------------------------------------------------------------
SESSION_ID_CHARACTERS_MAX = 256
TITLE_CHARACTERS_MAX = 1024
LABELS_MAX = 64
LABEL_NAME_CHARACTERS_MAX = 128
LABEL_VALUE_CHARACTERS_MAX = 256
METADATA_BYTES_MAX = 64 * 1024
REASON_CHARACTERS_MAX = 4096
CHECKPOINT_NAME_CHARACTERS_MAX = 128

# --- retention -----------------------------------------------------------------------------------
POLICIES_MAX = 200  # each erasure asks all that hold
POLICY_REASON_CHARACTERS_MAX = 1_024  # it is part of the reason of each erasure
RETENTION_LISTED_MAX = 100  # sessions that a plan names; the others are counted
AUDIT_LISTED_MAX = 1_000  # of each kind that an audit lists; all are counted
PLAN_LISTED_MAX = 100  # events, and others of a kind, that the plan of an erasure names

# --- redaction -----------------------------------------------------------------------------------
RULES_MAX = 200  # of one's own, for secrets: all stand in one automaton
RULE_CHARACTERS_MAX = 2_048  # of a pattern
RULES_BYTES_MAX = 256 * 1024  # of a file of rules

# --- reading -------------------------------------------------------------------------------------
PAGE_EVENTS_MAX = 1_000  # law 13
PAGE_BYTES_MAX = 8 * 1024 * 1024  # law 13; a single larger event still makes a page
SCAN_EVENTS_MAX = 10_000  # positions that one read transaction may look at for a filter
SESSIONS_PAGE_MAX = 1_000
QUERY_CHARACTERS_MAX = 4_096
QUERY_TERMS_MAX = 64

# --- proofs --------------------------------------------------------------------------------------
KEY_NAME_CHARACTERS_MAX = 255  # of a log or a witness: what a cosignature may name
NOTE_BYTES_MAX = 256 * 1024  # 16 signatures, which must be read, of the largest kind
NOTE_SIGNATURES_MAX = 100
PATH_DIGESTS_MAX = 63  # of a proof in a tree of at most 2^63 leaves
PROOF_BYTES_MAX = 64 * 1024 * 1024  # of a file: 1,000 headers, and bodies as a page holds them, in JSON within JSON
PROOF_EVENTS_MAX = PAGE_EVENTS_MAX  # that a proof of a range holds

# --- searching -----------------------------------------------------------------------------------
SEARCH_LOOKED_EVENTS_MAX = 20_000  # candidates that one call reads; it then says where to go on
SEARCH_LOOKED_BYTES_MAX = 64 * 1024 * 1024  # and bytes of their bodies
SEARCH_RANKED_MAX = 1_000  # of the newest that meet a query, which are put in order together
SEARCH_SESSIONS_MAX = 1_000  # that terms on sessions are resolved to; of more, each event's session is looked at
SEARCH_TEXT_CHARACTERS_MAX = 1_000_000  # of one event in the index; a longer one is read whenever words are looked for
SEARCH_TRIGRAMS_MAX = 16  # of one word or phrase that the index is asked for: more would not narrow it further
SNIPPET_CHARACTERS = 200  # of what an event says: two lines of a terminal

# --- waiting -------------------------------------------------------------------------------------
LOCK_SECONDS_MAX = 10.0  # how long a writer waits for its turn before BusyError
STEP_NAME_CHARACTERS_MAX = 128
STEP_INPUT_BYTES_MAX = 64 * 1024  # of a step's arguments as they are recorded; of larger ones the hash
LEASE_SECONDS_MIN = 0.1  # shorter, and a slow disk alone would end it
LEASE_SECONDS_MAX = 24 * 3600.0  # how long a session may wait for a holder that died
QUEUE_REQUESTS_MAX = 10_000  # appends waiting in one process; the next one waits, then BusyError
GROUP_BYTES_MAX = 64 * 1024 * 1024  # bodies that one group commit takes at most

# --- bundles -------------------------------------------------------------------------------------
CLOCK_AHEAD_MICROS_MAX = 5 * 60 * 1_000_000  # an imported event may lie this far in the future (FORMAT §6)
