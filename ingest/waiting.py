"""How long a caller waits for an answer (RFC 7240)."""

from aiohttp import web

from schemas.errors import InvalidRequest

DEFAULT_WAIT_S, LONGEST_WAIT_S = 30.0, 300.0


def requested_wait_s(request: web.Request) -> float:
    """Seconds that the caller waits (RFC 7240): `Prefer: wait=N`, 0 for `Prefer: respond-async`."""
    wait_s = DEFAULT_WAIT_S
    for preference in ",".join(request.headers.getall("Prefer", [])).replace(";", ",").split(","):
        name, _, value = preference.strip().partition("=")
        if name.lower() == "respond-async":
            return 0.0
        if name.lower() == "wait":
            try:
                wait_s = min(float(value.strip('" ')), LONGEST_WAIT_S)
            except ValueError:
                raise InvalidRequest("Prefer: wait=N takes a number of seconds") from None
            if not wait_s >= 0:
                raise InvalidRequest("Prefer: wait=N takes a number of seconds, 0 or more")
    return wait_s
