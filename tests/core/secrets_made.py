"""True and near-miss secrets of every rule, put together here, so that none stands in a file."""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable

ALNUM = string.ascii_letters + string.digits
URL = ALNUM + "-_"
BASE64 = ALNUM + "+/"
HEX = "0123456789abcdef"
UPPER32 = string.ascii_uppercase + "234567"
SEEDS = 6

Draw = Callable[[str, int], str]
# Text around, with {} where the secret stands.
CONTEXTS = (
    "{}",
    "use {} for it, please",
    'KEY="{}"\n',
    "first line\\n{}\\nlast line",
    "url?key=%3D{}&next=1",
    '{{\\"content\\": \\"{}\\"}}',
)


def drawn(seed: int) -> Draw:
    rng = random.Random(seed)
    return lambda alphabet, size: "".join(rng.choice(alphabet) for _ in range(size))


def _unpadded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _jwt(draw: Draw) -> str:
    head, claims = json.dumps({"alg": "HS256", "typ": "JWT"}), json.dumps({"sub": draw(ALNUM, 12), "iat": 1700000000})
    return f"{_unpadded(head)}.{_unpadded(claims)}.{draw(URL, 43)}"


def _pem(draw: Draw, kind: str = "RSA ", lines: int = 6, newline: str = "\n", end: bool = True) -> str:
    body = newline.join(draw(BASE64, 64) for _ in range(lines))
    close = f"{newline}-----" + f"END {kind}PRIVATE KEY-----" if end else ""
    return "-----" + f"BEGIN {kind}PRIVATE KEY-----{newline}{body}{close}"


# What of each rule is one secret, whatever stands around it.
TOKENS: dict[str, Callable[[Draw], str]] = {
    "private-key": _pem,
    "jwt": _jwt,
    "aws-access-key-id": lambda d: "AK" + "IA" + d(UPPER32, 16),
    "github-token": lambda d: "gh" + d("pousr", 1) + "_" + d(ALNUM, 36),
    "github-fine-grained-token": lambda d: "github" + "_pat_" + d(ALNUM, 22) + "_" + d(ALNUM, 59),
    "gitlab-token": lambda d: "gl" + "pat-" + d(URL, 20) + "a",
    "slack-token": lambda d: "xo" + "xb-" + d("123456789", 12) + "-" + d("123456789", 13) + "-" + d(ALNUM, 24),
    "slack-webhook": lambda d: "T" + d(UPPER32, 8) + "/B" + d(UPPER32, 8) + "/" + d(ALNUM, 24),
    "stripe-key": lambda d: d("sr", 1) + "k_" + "live_" + d(ALNUM, 24),
    "anthropic-key": lambda d: "sk-" + "ant-api03-" + d(URL, 93) + "AA",
    "openai-key": lambda d: "sk-" + "proj-" + d(URL, 74) + "T3Blbk" + "FJ" + d(ALNUM, 20),
    "google-api-key": lambda d: "AI" + "za" + d(URL, 34) + "9",
    "google-oauth-secret": lambda d: "GOC" + "SPX-" + d(URL, 27) + "9",
    "google-oauth-token": lambda d: "ya" + "29." + d(URL, 80) + "9",
    "azure-client-secret": lambda d: d(ALNUM, 3) + "8" + "Q~" + d(ALNUM, 34),
    "npm-token": lambda d: "np" + "m_" + d(ALNUM, 36),
    "pypi-token": lambda d: "py" + "pi-AgEIcHlwaS5vcmc" + d(URL, 80) + "a",
    "huggingface-token": lambda d: "h" + "f_" + d(ALNUM, 34),
    "sendgrid-key": lambda d: "S" + "G." + d(URL, 22) + "." + d(URL, 42) + "a",
    "twilio-key": lambda d: "S" + "K" + d(HEX, 32),
    "telegram-token": lambda d: d("123456789", 10) + ":A" + "A" + d(URL, 32) + "a",
    "discord-token": lambda d: _unpadded(d("123456789", 18)) + "." + d(ALNUM, 6) + "." + d(ALNUM, 38),
    "discord-webhook": lambda d: d(URL, 67) + "a",
    "digitalocean-token": lambda d: "do" + "p_v1_" + d(HEX, 64),
    "vault-token": lambda d: "hv" + "s." + d(URL, 90) + "a",
    "provider-token": lambda d: "gs" + "k_" + d(ALNUM, 52),
    "aws-secret-access-key": lambda d: d(BASE64, 38) + "+9",
    "azure-storage-key": lambda d: d(BASE64, 86) + "==",
    "azure-sas": lambda d: d(BASE64, 43) + "%3D",
    "dsn-password": lambda d: d(ALNUM, 12) + "!3x",
    "bearer-token": lambda d: d(ALNUM, 31) + "7",
    "basic-credentials": lambda d: base64.b64encode(f"user:{d(ALNUM, 12)}".encode()).decode(),
    "password": lambda d: d(string.ascii_lowercase, 5) + "-" + d(string.ascii_uppercase, 4) + d("0123456789", 3),
    "named-secret": lambda d: d(ALNUM, 30) + "4",
}

# How a secret is known that nothing in itself tells: what stands around it.
AROUND: dict[str, tuple[str, ...]] = {
    "slack-webhook": ("https://hooks.slack.com/services/{}", "curl -X POST 'https://hooks.slack.com/services/{}'"),
    "discord-webhook": (
        "https://discord.com/api/webhooks/123456789012345678/{}",
        "POST https://discordapp.com/api/webhooks/987654321098765432/{} 204",
    ),
    "aws-secret-access-key": (
        "aws_secret_access_key = {}\n",
        "export AWS_SECRET_ACCESS_KEY={}",
        '{{"SecretAccessKey": "{}"}}',
        '{{\\"SecretAccessKey\\": \\"{}\\"}}',
        "AK" + "IAQ3EGSIJ5MZ7TWX2B,{}\n",
    ),
    "azure-storage-key": (
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey={};EndpointSuffix=core.windows.net",
    ),
    "azure-sas": ("https://a.blob.core.windows.net/c?sv=2022-11-02&se=2026-01-01&sig={}", "sr=b&sp=r&sig={}&x=1"),
    "dsn-password": (
        "postgresql://app:{}@db.internal:5432/app",
        "redis://:{}@cache:6379/0",
        "clone https://me:{}@git.host/x.git now",
        'DATABASE_URL="mysql+pymysql://root:{}@127.0.0.1/db"',
    ),
    "bearer-token": (
        "Authorization: Bearer {}",
        "curl -H 'authorization: bearer {}' https://x",
        '{{"Authorization": "Bearer {}"}}',
        '\\"Authorization\\": \\"Bearer {}\\"',
    ),
    "basic-credentials": ("Authorization: Basic {}", "-H 'authorization: basic {}'", '{{"Authorization": "Basic {}"}}'),
    "password": (
        "password={}",
        "DB_PASSWORD: {}\n",
        'password = "{}"',
        '{{\\"password\\": \\"{}\\"}}',
        "mysql --password {} -u root",
        "<password>{}</password>",
    ),
    "named-secret": (
        "SECRET_KEY='{}'",
        "api_key: {}",
        'const token = "{}";',
        '{{\\"access_token\\":\\"{}\\"}}',
        "tool --api-key {} run",
        "export MY_SERVICE_TOKEN={}",
    ),
}

# What looks like a secret of the rule at first sight.
NEAR: dict[str, Callable[[Draw], tuple[str, ...]]] = {
    "private-key": lambda d: (
        _pem(d).replace("PRIVATE", "PUBLIC"),
        "-----" + "BEGIN CERTIFICATE-----\n" + d(BASE64, 64) + "\n-----END CERTIFICATE-----",
        'if text.startswith("-----' + 'BEGIN PRIVATE KEY-----"): raise ValueError("a key")',
        "-----" + "BEGIN PRIVATE KEY-----\n...\n-----" + "END PRIVATE KEY-----",
        "grep -r '-----" + "BEGIN RSA PRIVATE KEY-----' . | wc -l\n0 files, which is good to know for whoever reads it",
    ),
    "jwt": lambda d: (
        _jwt(d).rpartition(".")[0],
        "eyJ" + d(URL, 30) + "." + "eyJ" + d(URL, 30) + "." + d(URL, 30),
        _unpadded('{"a": 1, "bcd": 2}') + ".eyJ" + d(ALNUM, 20) + "." + d(ALNUM, 43),
        "eyJhbGciOiJIUzI1NiJ9",
        "eyJ.eyJ.sig",
    ),
    "aws-access-key-id": lambda d: (
        "AK" + "IAIOSFODNN7EXAMPLE",
        "AK" + "IA" + d(UPPER32, 15),
        "AK" + "IA" + "X" * 16,
        "MAK" + "IA" + d(UPPER32, 16),
        "AK" + "IA" + d(UPPER32, 10) + "018" + d(UPPER32, 3),
    ),
    "github-token": lambda d: (
        "ghp_" + d(ALNUM, 30),
        "ghp_" + "x" * 36,
        "ghx_" + d(ALNUM, 36),
        "aghp_" + d(ALNUM, 36),
        "ghp_" + d(ALNUM, 20) + "-" + d(ALNUM, 15),
    ),
    "github-fine-grained-token": lambda d: (
        "github_pat_" + d(ALNUM, 22) + "_" + d(ALNUM, 40),
        "github_pat_" + "x" * 22 + "_" + "x" * 59,
        "github_pat_" + d(ALNUM, 82),
        "mygithub_pat_" + d(ALNUM, 22) + "_" + d(ALNUM, 59),
        "github_pat_name_of_a_variable",
    ),
    "gitlab-token": lambda d: (
        "glpat-" + d(ALNUM, 12),
        "glpat-" + "x" * 20,
        "glxat-" + d(ALNUM, 20),
        "aglpat-" + d(ALNUM, 20),
        "glpat-<your token>",
    ),
    "slack-token": lambda d: (
        "xoxb-" + d("123", 8),
        "xoxb-" + "x" * 24,
        "xoxz-" + d(ALNUM, 24),
        "axoxb-" + d(ALNUM, 24),
        "xoxb-your-token-here-please",
    ),
    "slack-webhook": lambda d: (
        "https://hooks.slack.com/services/T000/B000",
        "https://hooks.slack.com/services/T" + "X" * 8 + "/B" + "X" * 8 + "/" + "X" * 24,
        "https://slack.com/services/" + d(ALNUM, 40),
        "https://hooks.slack.com/docs/" + d(ALNUM, 40),
        "https://hooks.slack.com/services/<your>/<own>/<path-of-the-webhook-here>",
    ),
    "stripe-key": lambda d: (
        "pk_" + "live_" + d(ALNUM, 24),
        "sk_live_" + d(ALNUM, 8),
        "sk_test_" + "x" * 24,
        "task_live_" + d(ALNUM, 24),
        "sk_beta_" + d(ALNUM, 24),
    ),
    "anthropic-key": lambda d: (
        "sk-ant-" + "api03-short",
        "sk-ant-api03-" + "x" * 95,
        "sk-ant-" + d(ALNUM, 20),
        "risk-ant-api03-" + d(ALNUM, 30),
        "sk-ant-api03-...",
    ),
    "openai-key": lambda d: (
        "sk-" + d(ALNUM, 20),
        "sk-proj-" + "x" * 48,
        "task-" + d(ALNUM, 40),
        "sk-learn-is-a-library-for-python-people",
        "sk-..." + d(ALNUM, 4),
    ),
    "google-api-key": lambda d: (
        "AIza" + d(ALNUM, 30),
        "AIza" + d(ALNUM, 40),
        "AIza" + "x" * 35,
        "BIza" + d(ALNUM, 35),
        "xAIza" + d(ALNUM, 35),
    ),
    "google-oauth-secret": lambda d: (
        "GOCSPX-" + d(ALNUM, 20),
        "GOCSPX-" + d(ALNUM, 33),
        "GOCSPX-" + "x" * 28,
        "GOCSP-" + d(ALNUM, 28),
        "aGOCSPX-" + d(ALNUM, 28),
    ),
    "google-oauth-token": lambda d: (
        "ya29." + d(ALNUM, 10),
        "ya29." + "x" * 60,
        "ya28." + d(ALNUM, 60),
        "maya29." + d(ALNUM, 60),
        "1//0" + d(ALNUM, 12),
    ),
    "azure-storage-key": lambda d: (
        "AccountKey=" + d(BASE64, 40) + "==",
        "AccountKey=" + "x" * 86 + "==",
        "AccountName=" + d(ALNUM, 88),
        "AccountKey=<key>",
        "AccountKey=${AZURE_KEY}",
    ),
    "azure-sas": lambda d: (
        "?sig=" + d(ALNUM, 12),
        "?sig=" + "x" * 43,
        "design=" + d(ALNUM, 43),
        "?sig=<signature>",
        "sig " + d(ALNUM, 43),
    ),
    "azure-client-secret": lambda d: (
        d(ALNUM, 3) + "8Q~" + d(ALNUM, 20),
        d(ALNUM, 3) + "8Q~" + d(ALNUM, 50),
        d(ALNUM, 3) + "aQ~" + d(ALNUM, 34),
        "xxx8Q~" + "x" * 34,
        d(ALNUM, 3) + "8q~" + d(ALNUM, 34),
    ),
    "npm-token": lambda d: (
        "npm_" + d(ALNUM, 20),
        "npm_" + "x" * 36,
        "npm_config_registry_of_all_the_packages_here",
        "anpm_" + d(ALNUM, 36),
        "npm_" + d(ALNUM, 40),
    ),
    "pypi-token": lambda d: (
        "pypi-" + d(ALNUM, 60),
        "pypi-AgE" + d(ALNUM, 20),
        "pypi-AgE" + "x" * 60,
        "mypypi-AgE" + d(ALNUM, 60),
        "pypi-AgEI...",
    ),
    "huggingface-token": lambda d: (
        "hf_" + d(ALNUM, 20),
        "hf_" + "x" * 34,
        "shf_" + d(ALNUM, 34),
        "hf_hub_download_with_a_very_long_name_indeed",
        "hf-" + d(ALNUM, 34),
    ),
    "sendgrid-key": lambda d: (
        "SG." + d(ALNUM, 22),
        "SG." + d(ALNUM, 22) + "." + d(ALNUM, 30),
        "SG." + "x" * 22 + "." + "x" * 43,
        "MSG." + d(ALNUM, 22) + "." + d(ALNUM, 43),
        "SG." + d(ALNUM, 10) + "." + d(ALNUM, 43),
    ),
    "twilio-key": lambda d: (
        "SK" + d(HEX, 20),
        "SK" + d(HEX, 40),
        "AC" + d(HEX, 32),
        "SK" + "0" * 32,
        "TASK" + d(HEX, 32),
    ),
    "telegram-token": lambda d: (
        "1234:AA" + d(ALNUM, 33),
        d("123456789", 10) + ":AB" + d(ALNUM, 33),
        d("123456789", 10) + ":AA" + d(ALNUM, 10),
        d("123456789", 10) + ":AA" + "x" * 33,
        d("123456789", 10) + ":AA" + d(ALNUM, 50),
    ),
    "discord-token": lambda d: (
        "M" + d(ALNUM, 23) + "." + d(ALNUM, 6) + "." + d(ALNUM, 20),
        "M" + "zzzz" * 6 + "." + d(ALNUM, 6) + "." + d(ALNUM, 30),
        "module" + d(ALNUM, 20) + "." + d(ALNUM, 6) + "." + d(ALNUM, 30),
        _unpadded(d("123456789", 18)) + "." + d(ALNUM, 6),
        "Na" + "xx" * 11 + ".method.another_name_of_something_long",
    ),
    "discord-webhook": lambda d: (
        "https://discord.com/api/webhooks/12345/" + d(ALNUM, 68),
        "https://discord.com/api/webhooks/123456789012345678/" + d(ALNUM, 20),
        "https://discord.com/api/channels/123456789012345678/" + d(ALNUM, 68),
        "https://discord.com/api/webhooks/123456789012345678/" + "x" * 68,
        "https://discord.com/api/webhooks/123456789012345678/<token>",
    ),
    "digitalocean-token": lambda d: (
        "dop_v1_" + d(HEX, 40),
        "dop_v1_" + "0" * 64,
        "dop_v2_" + d(HEX, 64),
        "adop_v1_" + d(HEX, 64),
        "dop_v1_" + d(HEX, 70),
    ),
    "vault-token": lambda d: (
        "hvs." + d(ALNUM, 10),
        "hvs." + "x" * 90,
        "hvx." + d(ALNUM, 90),
        "ahvs." + d(ALNUM, 90),
        "hvs.client.read_of_something",
    ),
    "provider-token": lambda d: (
        "gsk_" + d(ALNUM, 20),
        "gsk_" + "x" * 52,
        "r8_" + d(ALNUM, 20),
        "dapi" + d(HEX, 20),
        "monkey-" + d(HEX, 32),
    ),
    "aws-secret-access-key": lambda d: (
        "aws_secret_access_key = " + d(BASE64, 30),
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "aws_secret_access_key = " + d(HEX, 40),
        "AWS secret names: src/everlog/stores/postgres/migration1",
        d(BASE64, 40),
    ),
    "dsn-password": lambda d: (
        "postgresql://user:password@host/db",
        "postgresql://user:${DB_PASSWORD}@host/db",
        "https://host:8080/path@2x.png",
        "postgresql://user@host:5432/db",
        "git://<user>:<password>@host/x",
        "postgresql://{user}:{password}@host/db",
        'f"http://{host}:{port}" then mail me@here.org',
    ),
    "bearer-token": lambda d: (
        "Authorization: Bearer $TOKEN",
        "Authorization: Bearer <your token here>",
        "the bearer authentication-scheme-of-RFC is old",
        "Bearer " + d(ALNUM, 8),
        "forbearer " + "x" * 30,
    ),
    "basic-credentials": lambda d: (
        "Authorization: Basic realm",
        "Authorization: Basic " + base64.b64encode(b"no colon in here at all").decode(),
        "basic " + base64.b64encode(b"user:pass-word").decode(),
        "Authorization: Basic <credentials>",
        "authorization is a basic requirement12",
    ),
    "password": lambda d: (
        "password=os.environ['DB_PASSWORD']",
        "password: str | None = None",
        "password = getpass.getpass()",
        "password=********",
        "password=${DB_PASSWORD}",
        "passwords are hashed, see password_hashing",
        'password: "correct"',
        "password_file=/run/secrets/db_password_2",
        "password=user_password_2",
    ),
    "named-secret": lambda d: (
        "max_tokens=4096, input_tokens: 1234567890123456789",
        "token = self.tokenizer.next_token2(text)",
        "secret_name: projects/a/secrets/b/versions/12",
        "api_key=os.getenv('API_KEY_NUMBER_2')",
        "token: 123e4567-e89b-12d3-a456-426614174000",
        "access_key = AccessKeyProvider2",
        "api_key = your-api-key-goes-here-42",
        "secrets: sha256:" + d(HEX, 64),
    ),
}
