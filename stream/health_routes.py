"""The routes that every role serves for monitoring: /healthz, /readyz and /metrics."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, disable_created_metrics, generate_latest

from schemas.http_bodies import HealthBody, ReadinessBody

Checks = Mapping[str, Callable[[], Awaitable[None]]]
Degraded = Callable[[], dict[str, str]]


def health_routes(checks: Checks, degraded: Degraded | None = None) -> list[web.RouteDef]:
    """checks: the conditions of readiness, by name; each raises if it is not met. degraded: what else is wrong, by
    topic, which another process has to mend.
    """
    # The creation time of each series is not needed, and would double the number of series.
    disable_created_metrics()  # type: ignore[no-untyped-call]

    async def healthz(request: web.Request) -> web.Response:
        """Answers 200 as long as the process can answer at all."""
        return web.json_response(HealthBody(status="OK").members())

    async def readyz(request: web.Request) -> web.Response:
        """Answers 200 if this process can do its work: the models are loaded, the stores reachable, and its polls and
        commits succeed; else 503 with the failed checks.
        """
        states = {}
        for name, check in checks.items():
            try:
                await check()
                states[name] = "OK"
            except Exception as error:
                states[name] = str(error)
        well = all(state == "OK" for state in states.values())
        body = ReadinessBody(status="OK" if well else "not ready", checks=states)
        if degraded is not None and (topics := degraded()):
            body = body.model_copy(update={"degraded": topics})
        return web.json_response(body.members(), status=200 if well else 503)

    async def metrics(request: web.Request) -> web.Response:
        """The metrics in the text format of Prometheus."""
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)]


def health_app(checks: Checks, degraded: Degraded | None = None) -> web.Application:
    """An app with these routes alone."""
    app = web.Application()
    app.add_routes(health_routes(checks, degraded))
    return app
