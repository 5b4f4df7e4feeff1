"""What every role shows of itself: health, readiness and metrics, for those who watch it."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, disable_created_metrics, generate_latest

from schemas.http_bodies import HealthBody, ReadinessBody

Checks = Mapping[str, Callable[[], Awaitable[None]]]


def watch_routes(checks: Checks) -> list[web.RouteDef]:
    """checks: what readiness depends on, by name; each raises when it does not hold."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # when a series began is of no use here, and doubles their number

    async def healthz(request: web.Request) -> web.Response:
        """The process answers."""
        return web.json_response(HealthBody(status="OK").members())

    async def readyz(request: web.Request) -> web.Response:
        """Models loaded, groups joined, stores reachable: 200, or 503 saying what is not."""
        states = {}
        for name, check in checks.items():
            try:
                await check()
                states[name] = "OK"
            except Exception as error:
                states[name] = str(error)
        well = all(state == "OK" for state in states.values())
        body = ReadinessBody(status="OK" if well else "not ready", checks=states)
        return web.json_response(body.members(), status=200 if well else 503)

    async def metrics(request: web.Request) -> web.Response:
        """In the text format of Prometheus."""
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)]


def watch_app(checks: Checks) -> web.Application:
    app = web.Application()
    app.add_routes(watch_routes(checks))
    return app
