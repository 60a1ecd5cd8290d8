r"""The rules by which a secret is known: what it looks like, and what only looks so.

1. A pattern is RE2's, so a text of any length takes time in proportion to it. Its first group is the secret; without one, all of it.
2. The more special rule stands first: where two find the same place, its name is on the mark.
3. Where a provider's prefix makes a secret sure, only placeholders are let go: a mark too many costs little. Where a name beside it
   is all there is (`password=…`), the value must look drawn at random.
4. What checks a find takes time in proportion to it too: Python's own patterns here leave nothing to try in two ways.
5. A token may follow `\n` written as two characters, as JSON inside of a string has it, a colour of the terminal or a `%3D`: no word begins there.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

_PEM_BYTES_MIN: Final = 48  # of a private key: Ed25519's has 48 bytes in PKCS #8, which are 64 characters
_PLACEHOLDERS: Final = re.compile(
    r"x{4,}|\*{3,}|\.{3}|_{4,}|<[^<>]*>|\{[\w. :!-]*\}|^\$|\$\{|\$\(|%[sdr](?![0-9a-f])|%\("
    r"|example|placeholder|redacted|changeme|your[-_]|dummy|12345678|abcdefgh",
    re.IGNORECASE,
)
_WORDS: Final = re.compile(r"[A-Z]?[a-z]*(?:[-_./:][A-Z]?[a-z]*)*\d{0,2}")
# Names as programs write them: a.b, a::b, snake_case, UPPER_CASE, camelCase, CamelCase.
_CODE: Final = re.compile(
    r"[A-Za-z_]\w*(?:(?:\.|::|->)[A-Za-z_]\w*)+|_*[a-z][a-z0-9]*(?:_[a-z0-9]+)+|_*[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+"
    r"|[a-z]+(?:[A-Z][a-z]+)+\d?|(?:[A-Z][a-z]{2,}\d?|[A-Z]\d){2,}"
)
_DIGEST: Final = re.compile(r"sha\d+[-:].*|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_DSN_WORDS: Final = frozenset(
    (
        "password",
        "passwd",
        "pass",
        "pw",
        "pwd",
        "secret",
        "token",
        "pswd",
        "mypassword",
        "yourpassword",
        "hostname",
        "port",
    )
)


class SecretRule(msgspec.Struct, frozen=True):
    """What one kind of secret looks like.

    id: `[a-z][a-z0-9-]*`, at most 64 characters; it stands on the marks and in the log. pattern: RE2's; its first group is the secret,
    without one all of it. check: is given what was found, and tells whether it is a secret. named: it is known by a name beside it,
    which may also be the name of the member that the string is.
    """

    id: str
    pattern: str
    check: Callable[[str], bool] | None = None
    named: bool = False


def entropy(text: str) -> float:
    """Give the Shannon entropy of a text's characters, bits each."""
    size = len(text)
    return -sum(count / size * math.log2(count / size) for count in Counter(text).values()) if size else 0.0


def drawn(bits: float) -> Callable[[str], bool]:
    """Give a check that refuses placeholders, and what repeats itself."""
    return lambda text: entropy(text) >= bits and _PLACEHOLDERS.search(text) is None


def _is_aws_id(text: str) -> bool:
    return entropy(text[4:]) >= 2.5 and "EXAMPLE" not in text


def _is_aws_secret(text: str) -> bool:
    return (
        entropy(text) >= 4.2
        and "EXAMPLE" not in text
        and any(each.islower() for each in text)
        and any(each.isupper() for each in text)
        and any(not each.isalpha() for each in text)
        and text.count("/") <= 5
    )


def _is_jwt(text: str) -> bool:
    head = _unbased(text.partition(".")[0])
    try:
        value = json.loads(head)
    except ValueError:
        return False
    return isinstance(value, dict) and "alg" in value


def _is_basic(text: str) -> bool:
    user, colon, password = _unbased(text).partition(b":")
    return bool(colon and password) and user.isascii() and _PLACEHOLDERS.search(text) is None


def _is_discord(text: str) -> bool:
    return _unbased(text.partition(".")[0]).isdigit()


def _unbased(text: str) -> bytes:
    """Decode base64 of either alphabet; nothing where it is none."""
    try:
        return base64.urlsafe_b64decode(text.replace("+", "-").replace("/", "_") + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""


def _is_private_key(text: str) -> bool:
    inside = re.sub(r"-----[A-Z0-9 ]+-----|\\[nrt]|\b[A-Z][A-Za-z-]{1,20}: [\w,-]{1,60}", "", text)
    dense = re.sub(r"[^A-Za-z0-9+/=]", "", inside)
    return len(dense) >= _PEM_BYTES_MIN * 4 // 3 and entropy(dense) >= 4.0 and len(dense) >= 0.6 * len(inside)


def _is_dsn_password(text: str) -> bool:
    return text.casefold() not in _DSN_WORDS and not text.isdigit() and _PLACEHOLDERS.search(text) is None


def _is_password(text: str) -> bool:
    """Tell a password from a word, a path or a piece of code: letters with digits or signs in between, and no telling shape."""
    kinds = sum(any(test(each) for each in text) for test in (str.islower, str.isupper, str.isdigit, _is_sign))
    return kinds >= 2 and (kinds >= 3 or any(map(str.isdigit, text))) and entropy(text) >= 2.7 and not _is_telling(text)


def _is_token(text: str) -> bool:
    """As for a password, and as long and as mixed as what a program draws."""
    return (
        len(text) >= 16
        and any(map(str.isdigit, text))
        and any(map(str.isalpha, text))
        and entropy(text) >= 3.2
        and not _is_telling(text)
    )


def _is_sign(character: str) -> bool:
    return not character.isalnum()


def _is_telling(text: str) -> bool:
    return any(
        (
            _PLACEHOLDERS.search(text) is not None,
            _WORDS.fullmatch(text) is not None,
            _CODE.fullmatch(text) is not None,
            _DIGEST.fullmatch(text) is not None,
            text.startswith(("/", "./", "../", "~", "--", "http:", "https:", "[")),
            text.count("/") > 3,
            text.endswith("*"),
        )
    )


_B: Final = r"(?:\b|\\[nrt]|%[0-9A-Fa-f]{2}|\[[0-9;]*m)"  # where a token may begin
_E: Final = r"(?:[^A-Za-z0-9_-]|$)"  # where one ends that may hold - and _
# Between a name and its value: quotes and escapes, a sign; or the end of the name where it is that of a member (written as NUL).
_IS: Final = r"(?:[\\\"'`\])]{0,6}[ \t]{0,8}(?::=|=>|={1,2}|:|>)[ \t]{0,8}[\\\"'`(]{0,6}|\x00)"
_VALUE: Final = r"([^\s\"'`\\,;&<>(){}\[\]$|\x00]{%s,}(?:[$&;,][^\s\"'`\\,;&<>(){}\[\]$|\x00]{2,})*)"
_PEM: Final = r"-----(?:BEGIN|BEGIN ENCRYPTED|BEGIN [A-Z0-9]{2,12}) PRIVATE KEY(?: BLOCK)?-----"

RULES: Final[tuple[SecretRule, ...]] = (
    SecretRule(
        "private-key",
        rf"({_PEM}(?:[^-]*(?:-{{1,4}}[^-]+)*-----END [A-Z0-9 ]{{0,24}}PRIVATE KEY(?: BLOCK)?-----"
        r"|(?:[^A-Za-z0-9/+-]{1,12}(?:n|r|t|[0-9]{1,6}[^A-Za-z0-9/+-]{1,4})?[A-Za-z0-9+/]{32,}={0,2})+))",
        _is_private_key,
    ),
    SecretRule("jwt", rf"{_B}(eyJ[A-Za-z0-9_-]{{10,}}\.eyJ[A-Za-z0-9_-]{{10,}}\.[A-Za-z0-9_-]{{16,}})", _is_jwt),
    SecretRule("aws-access-key-id", rf"{_B}((?:AKIA|ASIA)[A-Z2-7]{{16}})\b", _is_aws_id),
    SecretRule(
        "aws-secret-access-key",
        rf"(?i:aws.{{0,20}}(?:secret|private)|secret_?access_?key).{{0,20}}?{_IS}([A-Za-z0-9/+]{{40}})(?:[^A-Za-z0-9/+=]|$)"
        r"|(?:AKIA|ASIA)[A-Z2-7]{16}[^A-Za-z0-9/+](?s:.{0,80}?)\b([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)",
        _is_aws_secret,
        named=True,
    ),
    SecretRule("github-token", rf"{_B}(gh[pousr]_[A-Za-z0-9]{{36,}})\b", drawn(3.0)),
    SecretRule("github-fine-grained-token", rf"{_B}(github_pat_[A-Za-z0-9]{{22}}_[A-Za-z0-9]{{59}})\b", drawn(3.0)),
    SecretRule(
        "gitlab-token", rf"{_B}(gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat|ffct|oas)-[A-Za-z0-9_-]{{20,}})", drawn(3.0)
    ),
    SecretRule("slack-token", rf"{_B}(xox[abeoprs]-[A-Za-z0-9-]{{20,}}|xapp-[0-9]-[A-Za-z0-9-]{{20,}})", drawn(3.0)),
    SecretRule("slack-webhook", r"hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9+/_]{30,})", drawn(3.0)),
    SecretRule(
        "stripe-key",
        rf"{_B}((?:sk|rk)_(?:live|test)_[A-Za-z0-9]{{16,}}|whsec_[A-Za-z0-9+/]{{24,}}={{0,2}})",
        drawn(3.0),
    ),
    SecretRule("anthropic-key", rf"{_B}(sk-ant-[a-z]{{2,8}}[0-9]{{2}}-[A-Za-z0-9_-]{{24,}})", drawn(3.0)),
    SecretRule(
        "openai-key",
        rf"{_B}(sk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{{20,}}|sk-or-v1-[0-9a-f]{{64}}|sk-[A-Za-z0-9]{{32,}})",
        drawn(3.0),
    ),
    SecretRule("google-api-key", rf"{_B}(AIza[A-Za-z0-9_-]{{35}}){_E}", drawn(3.0)),
    SecretRule("google-oauth-secret", rf"{_B}(GOCSPX-[A-Za-z0-9_-]{{28}}){_E}", drawn(3.0)),
    SecretRule("google-oauth-token", rf"{_B}(ya29\.[A-Za-z0-9_-]{{30,}}|1//0[A-Za-z0-9_-]{{40,}})", drawn(3.0)),
    SecretRule(
        "azure-storage-key", r"(?i:Account|SharedAccess)Key=([A-Za-z0-9+/]{86}==|[A-Za-z0-9+/]{43}=)", drawn(3.5)
    ),
    SecretRule("azure-sas", r"[?&;]sig=([A-Za-z0-9+/%]{43,}(?:=|%3[dD])?)", drawn(3.5)),
    SecretRule(
        "azure-client-secret",
        rf"{_B}([A-Za-z0-9_~.-]{{3}}[0-9]Q~[A-Za-z0-9_~.-]{{31,34}})(?:[^A-Za-z0-9_~.-]|$)",
        drawn(3.5),
    ),
    SecretRule("npm-token", rf"{_B}(npm_[A-Za-z0-9]{{36}})\b", drawn(3.0)),
    SecretRule("pypi-token", rf"{_B}(pypi-AgE[A-Za-z0-9_-]{{50,}})", drawn(3.0)),
    SecretRule("huggingface-token", rf"{_B}(hf_[A-Za-z0-9]{{34,}}|api_org_[A-Za-z0-9]{{34}})\b", drawn(3.0)),
    SecretRule("sendgrid-key", rf"{_B}(SG\.[A-Za-z0-9_-]{{22}}\.[A-Za-z0-9_-]{{43}}){_E}", drawn(3.0)),
    SecretRule("twilio-key", rf"{_B}(SK[0-9a-f]{{32}})\b", drawn(2.8)),
    SecretRule("telegram-token", rf"{_B}([0-9]{{8,10}}:AA[A-Za-z0-9_-]{{33}}){_E}", drawn(3.0)),
    SecretRule(
        "discord-token",
        rf"{_B}([MNO][A-Za-z0-9_-]{{23,27}}\.[A-Za-z0-9_-]{{6}}\.[A-Za-z0-9_-]{{27,45}}){_E}",
        _is_discord,
    ),
    SecretRule("discord-webhook", r"discord(?:app)?\.com/api/webhooks/[0-9]{15,22}/([A-Za-z0-9_-]{60,})", drawn(3.5)),
    SecretRule("digitalocean-token", rf"{_B}(do[por]_v1_[0-9a-f]{{64}})\b", drawn(2.8)),
    SecretRule("vault-token", rf"{_B}(hv[sbr]\.[A-Za-z0-9_-]{{24,}})", drawn(3.0)),
    SecretRule(
        "provider-token",  # those of many others, who also begin theirs with a word of their own
        rf"{_B}(gsk_[A-Za-z0-9]{{48,}}|xai-[A-Za-z0-9]{{70,}}|pplx-[A-Za-z0-9]{{40,}}|r8_[A-Za-z0-9]{{37}}|lsv2_(?:pt|sk)_[0-9a-f_]{{40,}}"
        r"|dckr_(?:pat|oat)_[A-Za-z0-9_-]{27,}|glsa_[A-Za-z0-9_]{40,}|sntrys_[A-Za-z0-9+/=_]{60,}|ATATT3[A-Za-z0-9_=-]{60,}"
        r"|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|dapi[0-9a-f]{32}|lin_api_[A-Za-z0-9]{40}|ntn_[A-Za-z0-9]{40,}|sbp_[0-9a-f]{40}"
        r"|PMAK-[0-9a-f]{24}-[0-9a-f]{34}|NRAK-[A-Z0-9]{27}|rubygems_[0-9a-f]{48}|pul-[0-9a-f]{40}|dp\.(?:pt|st|ct|sa)\.[A-Za-z0-9]{40,}"
        r"|AGE-SECRET-KEY-1[A-Z0-9]{58}|fm[12][rs]?_[A-Za-z0-9+/=_]{40,}|sq0csp-[A-Za-z0-9_-]{43}|key-[0-9a-f]{32})",
        drawn(2.8),
    ),
    SecretRule(
        "dsn-password", r"[A-Za-z0-9]://[^\s:/?#@\"'<>\x00]*:([^\s/@\"'<>\x00]+)@[A-Za-z0-9\[_%$-]", _is_dsn_password
    ),
    SecretRule(
        "bearer-token",
        r"(?i:\bbearer|authorization[\"']?[:=][ \t]*[\"']?token)(?:[ \t]+|%20)[\\\"']{0,2}([A-Za-z0-9._~+/-]{20,}=*)",
        _is_token,
    ),
    SecretRule(
        "basic-credentials",
        rf"(?i:authorization)(?:{_IS})?[ \t]*(?i:basic)[ \t]+([A-Za-z0-9+/_-]{{8,}}={{0,2}})",
        _is_basic,
        named=True,
    ),
    SecretRule(
        "password",
        rf"(?i:passw(?:or)?d|passwd|passphrase|\bpwd|_pwd|_pass|pgpassword)[A-Za-z0-9_-]{{0,16}}{_IS}{_VALUE % 8}"
        rf"|--?(?i:password|passwd|passphrase)[ \t]+[\"']?{_VALUE % 8}",
        _is_password,
        named=True,
    ),
    SecretRule(
        "named-secret",
        rf"(?i:secret|token|api[_-]?key|access[_-]?key|auth[_-]?key|private[_-]?key|encryption[_-]?key|credential)[A-Za-z0-9_-]{{0,16}}{_IS}{_VALUE % 16}"
        rf"|--?(?i:token|secret|api-key|access-token|auth-token)[ \t]+[\"']?{_VALUE % 16}",
        _is_token,
        named=True,
    ),
)
