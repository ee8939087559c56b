"""A provider of OpenID Connect on this machine, at which anybody may say who they are."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

PEOPLE: dict[str, dict[str, Any]] = {
    "alice": {"email": "Alice@example.org", "email_verified": True},
    "bob": {"email": "bob@example.org", "email_verified": "true"},
    "root": {"email": "root@example.org", "email_verified": True},
    "mallory": {"email": "alice@example.org"},
    "eve": {"email": "root@example.org", "email_verified": False},
}
"""What the provider says of each: Mallory and Eve claim addresses that it has not checked."""


class _Answer(BaseHTTPRequestHandler):
    server: "_Server"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/.well-known/openid-configuration":
            self._json(
                {
                    "issuer": self.server.url,
                    "authorization_endpoint": f"{self.server.url}/authorize",
                    "token_endpoint": f"{self.server.url}/token",
                    "jwks_uri": f"{self.server.url}/keys",
                    "response_types_supported": ["code"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["RS256"],
                }
            )
        elif parts.path == "/keys":
            self._json({"keys": [self.server.key.as_dict(private=False)]})
        elif parts.path == "/authorize":
            links = "".join(f'<p><a href="/as?{urlencode(query | {"who": name})}">{name}</a></p>' for name in PEOPLE)
            self._send(f"<h1>Who are you?</h1>{links}".encode(), "text/html")
        elif parts.path == "/as":
            code = f"{query['who']} {query.get('nonce', '')} {query['client_id']}"
            self.send_response(302)
            self.send_header(
                "Location", f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"
            )
            self.end_headers()
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        who, nonce, client = body["code"][0].split(" ")
        now = int(time.time())
        claims = {"iss": self.server.url, "aud": client, "sub": f"id-of-{who}", "iat": now, "exp": now + 3600}
        token = jwt.encode({"alg": "RS256"}, claims | {"nonce": nonce} | PEOPLE[who], self.server.key)
        self._json({"access_token": "none", "token_type": "Bearer", "expires_in": 3600, "id_token": token})

    def _json(self, data: dict[str, Any]) -> None:
        self._send(json.dumps(data).encode(), "application/json")

    def _send(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.key = RSAKey.generate_key(2048, {"alg": "RS256", "use": "sig"}, auto_kid=True)


@contextmanager
def provider() -> Iterator[str]:
    """The provider's address, while it runs."""
    server = _Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.url
    finally:
        server.shutdown()
        server.server_close()
