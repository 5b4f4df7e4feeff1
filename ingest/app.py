"""The aiohttp application."""

from aiohttp import web

from ingest import browse, docs, erase, images
from ingest.metrics import measure_request
from ingest.problems import answer_errors
from ingest.service import SERVICE, Service, authenticate
from ingest.waiting import notice_leaving
from stream.health_routes import health_routes


def create_app(service: Service) -> web.Application:
    """An application that uses `service`. The caller, who opened the service, has to close it. Its runner needs
    `handler_cancellation`, so that a request ends when its caller has left.
    """
    # The size of an upload is checked while it is read, not by aiohttp.
    middlewares = [measure_request, notice_leaving, answer_errors, authenticate]
    app = web.Application(middlewares=middlewares, client_max_size=0)
    app[SERVICE] = service
    app.add_routes(images.routes)
    app.add_routes(browse.routes)
    app.add_routes(erase.routes)
    app.add_routes(docs.routes)
    app.add_routes(health_routes(service.checks, service.flow.degraded))
    return app
