"""Who may ask the server, and what browsers may do with its answers.

A page of another site that a user has open can send requests to servers on his machine, and by a name that it makes
point there (DNS rebinding) read the answers. So the name that was asked for must be one of this server, what a browser
says of the page that asks must be this one, and every browser has a session that a page cannot read or guess.
"""

import hmac
import ipaddress
import secrets
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
LEAST_TOKEN = 16
"""Characters of a token."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self' data:; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Cache-Control": "no-store",
}
PAGE = "/"
API = "/api/"


@dataclass(frozen=True, kw_only=True)
class Access:
    """By which names and with which token a server is reached.

    Attributes:
        hosts: Names in lower case; those of this machine by default.
        any_address: Any IP address is a name, too; there is no pointing a name of one's own to an address.
        token: What a user must know; None for whoever is on this machine.
        cookie: Name of the cookie with the session: cookies know hosts, not ports.
    """

    hosts: frozenset[str] = LOOPBACK
    any_address: bool = False
    token: str | None = field(default=None, repr=False)
    cookie: str = "transnext"

    @classmethod
    def of(cls, host: str, port: int, token: str | None = None) -> "Access":
        """The access to a server that listens at an address.

        Args:
            host: Name or address that it listens at; all of the machine for `0.0.0.0` and `::`.
            port: Where it listens.
            token: What a user must know.

        Raises:
            ValueError: Others than this machine could come without a token, or the token is too short.
        """
        if token is None and host not in LOOPBACK:
            raise ValueError(
                f"others could ask the models at {host}: give a token, for example --token {secrets.token_urlsafe(18)}"
            )
        if token is not None and (len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable()):
            raise ValueError(f"the token must have at least {LEAST_TOKEN} plain characters, not {len(token)}")
        everywhere = host in ("0.0.0.0", "::")
        hosts = LOOPBACK if everywhere or host in LOOPBACK else LOOPBACK | {host.lower()}
        return cls(hosts=hosts, any_address=everywhere, token=token, cookie=f"transnext-{port}")

    def knows(self, host: str) -> bool:
        """True if `host`, as a request names it, is one of this server; ports may be those of a tunnel."""
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        if name is None or any(c in host for c in "/?#@\\"):
            return False
        return name in self.hosts or (self.any_address and _is_address(name))


class Guard:
    """Lets requests through that may ask; they get their session as `scope["state"]["session"]`.

    Args:
        app: What answers.
        access: By which names and with which token.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access
        self._secret = secrets.token_bytes(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets
            raise ValueError(f"{scope['type']} is not answered")

        scope.setdefault("state", {})
        refusal = self._refusal(scope) or self._entrance(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if "new_session" in scope["state"]:
                    headers.append("Set-Cookie", self._cookie(scope["state"]["new_session"]))
            await send(message)

        await (refusal or self.app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """What is said to a request that comes from elsewhere."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.access.knows(hosts[0]):
            return _refused(421, "this server is not reached by that name")
        origins = headers.getlist("origin")
        if any(not _same(origin, hosts[0]) for origin in origins):
            return _refused(403, "another site asked")
        site = headers.get("sec-fetch-site", "none")
        opens_page = scope["path"] == PAGE and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("same-origin", "none") and not opens_page:
            return _refused(403, "another site asked")
        return None

    def _entrance(self, scope: Scope) -> Response | None:
        """Sets the session of a request, gives it one if it opens the page, or says why it may not come in."""
        state, token = scope["state"], self.access.token
        state["session"] = self._session(Headers(scope=scope).get("cookie", ""))
        opens_page = scope["path"] == PAGE and scope["method"] in ("GET", "HEAD")
        given = QueryParams(scope["query_string"]).get("token") if opens_page and token is not None else None
        if given is not None and token is not None:
            if not hmac.compare_digest(token.encode(), given.encode(errors="replace")):
                return _refused(401, "the token is another one")
            if state["session"] is None:
                state["new_session"] = secrets.token_urlsafe(16)
            return RedirectResponse(PAGE, 303)  # the token is not to stay in the address
        if state["session"] is not None:
            return None
        if opens_page and token is None:
            state["session"] = state["new_session"] = secrets.token_urlsafe(16)
            return None
        if token is not None and opens_page:
            return _refused(401, "open the address with its token: ?token=...")
        if token is not None or scope["path"].startswith(API):
            return _refused(401, "the session is not known: open the address of the server again")
        return None

    def _cookie(self, session: str) -> str:
        # Lax: with Strict, a link from another site would come without it, after the redirect too.
        return f"{self.access.cookie}={session}.{self._sign(session)}; HttpOnly; Path=/; SameSite=Lax"

    def _session(self, cookies: str) -> str | None:
        """The name of the session, if this server gave it."""
        try:
            morsel = SimpleCookie(cookies).get(self.access.cookie)
        except CookieError:
            return None
        name, _, signature = ("" if morsel is None else morsel.value).partition(".")
        return name if hmac.compare_digest(self._sign(name).encode(), signature.encode()) else None

    def _sign(self, name: str) -> str:
        return hmac.new(self._secret, name.encode(), "sha256").hexdigest()


def _refused(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status)


def _same(origin: str, host: str) -> bool:
    """True if a page of `origin` is one of `host`; a proxy in front may speak TLS."""
    scheme, separator, netloc = origin.partition("://")
    return separator != "" and scheme in ("http", "https") and netloc.lower() == host.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
