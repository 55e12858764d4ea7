"""The routes as a table, and the app made of them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from web import security
from web.api import Api
from web.envelope import HANDLERS
from web.events import Events
from web.files import Files
from web.health import Checks
from web.metrics import Metrics
from web.openapi import Document
from web.pages import Pages
from web.site import Access, Site
from web.uploads import Receiver

Methods = dict[str, Callable[[Request], Awaitable[Response]]]


@dataclass(frozen=True)
class Handlers:
    """The objects whose methods answer."""

    api: Api
    receiver: Receiver
    files: Files
    events: Events
    checks: Checks
    metrics: Metrics
    document: Document
    pages: Pages


def table(to: Handlers) -> dict[str, Methods]:
    """List every path with its methods and what answers them."""
    return {
        "/api/images": {"GET": to.api.list, "POST": to.receiver.post, "PUT": to.receiver.post},
        # Not `{image_id:int}`: what is put may have any name, and Starlette fails at an id of 4,301 digits.
        "/api/images/{image_id}": {"GET": to.api.image, "PATCH": to.api.edit, "PUT": to.receiver.put},
        "/api/images/{image_id}/thumbnails/{size}": {"GET": to.files.thumbnail},
        "/api/images/{image_id}/original": {"GET": to.files.original},
        "/api/images/{image_id}/retry": {"POST": to.api.retry},
        "/api/images/{image_id}/caption": {"POST": to.api.caption},
        "/api/stats": {"GET": to.api.stats},
        "/api/events": {"GET": to.events.stream},
        "/healthz": {"GET": to.checks.healthz},
        "/metrics": {"GET": to.metrics.page},
        "/openapi.json": {"GET": to.document.serve},
        "/docs": {"GET": to.pages.docs},
        "/sign-in": {"GET": to.pages.sign_in_page, "POST": to.pages.sign_in},
        "/static/{name}": {"GET": to.pages.asset},
        "/": {"GET": to.pages.home},
    }


def _route(path: str, methods: Methods) -> Route:
    """Join the methods of a path in one route, so that a 405 names them all."""

    async def dispatch(request: Request) -> Response:
        return await methods["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, dispatch, methods=list(methods))


class App:
    """The ASGI app. `stop` ends its event streams, and soon the uploads that are still arriving."""

    def __init__(self, site: Site, access: Access) -> None:
        api = Api(site)
        self._handlers = Handlers(
            api=api,
            receiver=Receiver(site),
            files=Files(site),
            events=Events(site, api.counts),
            checks=Checks(site),
            metrics=Metrics(site),
            document=Document(),
            pages=Pages(access),
        )
        self.table = table(self._handlers)
        routes = [_route(path, methods) for path, methods in self.table.items()]
        app = Starlette(routes=routes, exception_handlers=HANDLERS)
        self._asgi = security.wrap(app, access, CORSMiddleware)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._asgi(scope, receive, send)

    def stop(self) -> None:
        """End what would hold up the end of the server; on the event loop's thread."""
        self._handlers.events.stop()
        self._handlers.receiver.stop()
