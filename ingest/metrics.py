"""Metrics of the requests."""

import time

from aiohttp import web
from prometheus_client import Counter, Gauge, Histogram

from ingest.problems import Handler

REQUESTS = Counter("facestream_http_requests_total", "Requests by route and status", ["route", "status"])
SECONDS = Histogram(
    "facestream_http_request_seconds",
    "Time until the answer, including the wait for the stream",
    ["route"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
IN_FLIGHT = Gauge("facestream_http_requests_in_flight", "Requests that are not answered yet")
UPLOADED = Counter("facestream_uploaded_bytes_total", "Bytes of accepted images", ["purpose"])


@web.middleware
async def measure_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Counts each request under the pattern of its route, so that ids do not multiply the series."""
    resource = request.match_info.route.resource
    route = f"{request.method} {resource.canonical}" if resource else "none"
    began = time.monotonic()
    status = 499  # the caller has disconnected
    with IN_FLIGHT.track_inprogress():
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            REQUESTS.labels(route, status).inc()
            SECONDS.labels(route).observe(time.monotonic() - began)
