"""The pages of the console behind the operator's key: an overview that refreshes itself, and reports."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs
from uuid import UUID  # noqa: TC003 - FastAPI reads the annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from tritium_platform.console.session import COOKIE, LIFETIME
from tritium_platform.errors import BitNetServiceError, InvalidTokenError, NotFoundError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from tritium_platform.console.model import CustomerPage, CustomerRow, Overview, SpendPage
    from tritium_platform.console.session import ConsoleSessions
    from tritium_platform.values import Clock

# No inline script or style, nothing from elsewhere, no framing: what a template lets slip cannot run.
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# A report is a page of its own that brings its style with it; whatever it says, nothing of it can run.
REPORT_HEADERS: Mapping[str, str] = {
    **HEADERS,
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'none'; sandbox"
    ),
}
STATIC: Mapping[str, str] = {"console.css": "text/css", "console.js": "text/javascript"}
LARGEST_FORM = 4096
THOUSAND = 1000
LOGIN_PATH = "/console/login"


class OverviewSource(Protocol):
    """Reads what the overview shows."""

    async def read(self) -> Overview:
        """Return the state of the platform at this moment."""
        ...


class CustomerSource(Protocol):
    """Reads what the pages about customers show."""

    async def customers(self) -> Sequence[CustomerRow]:
        """Return the tenants by their health, the worst first."""
        ...

    async def customer(self, tenant_id: UUID) -> CustomerPage:
        """Return what there is to see of a tenant; NotFoundError if there is none."""
        ...


class SpendSource(Protocol):
    """Reads what the page about spend caps shows."""

    async def spending(self) -> SpendPage:
        """Return every cap and its month, what is nearest to its cap first."""
        ...


class ReportSource(Protocol):
    """Draws what the quantization of a model measured."""

    async def read(self, tenant_id: UUID, model_id: UUID) -> str:
        """Return an HTML page; NotFoundError where there is no such model or it was not quantized here."""
        ...


def build_console(
    source: OverviewSource,
    *,
    customers: CustomerSource,
    spending: SpendSource,
    reports: ReportSource,
    sessions: ConsoleSessions,
    clock: Clock,
) -> APIRouter:
    """Return the routes under /console."""
    console = _Console(
        source, customers=customers, spending=spending, reports=reports, sessions=sessions, clock=clock
    )
    router = APIRouter(prefix="/console", include_in_schema=False)
    router.add_api_route("", console.overview, methods=["GET"])
    router.add_api_route("/live", console.live, methods=["GET"])
    router.add_api_route("/customers", console.customers, methods=["GET"])
    router.add_api_route("/customers/{tenant_id}", console.customer, methods=["GET"])
    router.add_api_route("/spending", console.spending, methods=["GET"])
    router.add_api_route("/reports/{tenant_id}/{model_id}", console.report, methods=["GET"])
    router.add_api_route("/login", console.login_form, methods=["GET"])
    router.add_api_route("/login", console.log_in, methods=["POST"])
    router.add_api_route("/logout", console.log_out, methods=["POST"])
    router.add_api_route("/static/{name}", _static_file, methods=["GET"])
    return router


class _Console:
    def __init__(
        self,
        source: OverviewSource,
        *,
        customers: CustomerSource,
        spending: SpendSource,
        reports: ReportSource,
        sessions: ConsoleSessions,
        clock: Clock,
    ) -> None:
        self._source = source
        self._customers = customers
        self._spending = spending
        self._reports = reports
        self._sessions = sessions
        self._clock = clock
        self._templates = Environment(
            loader=PackageLoader("tritium_platform.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(size=format_size, number=format_number, growth=format_growth)

    async def overview(self, request: Request) -> Response:
        if not self._is_operator(request):
            return RedirectResponse(LOGIN_PATH, status_code=303, headers=dict(HEADERS))
        return await self._draw("overview.html", overview=self._source.read)

    async def customers(self, request: Request) -> Response:
        if not self._is_operator(request):
            return RedirectResponse(LOGIN_PATH, status_code=303, headers=dict(HEADERS))
        return await self._draw("customers.html", customers=self._customers.customers)

    async def customer(self, request: Request, tenant_id: UUID) -> Response:
        if not self._is_operator(request):
            return RedirectResponse(LOGIN_PATH, status_code=303, headers=dict(HEADERS))
        return await self._draw("customer.html", page=lambda: self._customers.customer(tenant_id))

    async def spending(self, request: Request) -> Response:
        if not self._is_operator(request):
            return RedirectResponse(LOGIN_PATH, status_code=303, headers=dict(HEADERS))
        return await self._draw("spending.html", page=self._spending.spending)

    async def live(self, request: Request) -> Response:
        """Return the part of the overview that changes, for the script to put in place."""
        if not self._is_operator(request):
            return Response(status_code=401, headers=dict(HEADERS))
        return await self._draw("live.html", overview=self._source.read)

    async def report(self, request: Request, tenant_id: UUID, model_id: UUID) -> Response:
        """Return the report of a model as a page of its own."""
        if not self._is_operator(request):
            return RedirectResponse(LOGIN_PATH, status_code=303, headers=dict(HEADERS))
        try:
            page = await self._reports.read(tenant_id, model_id)
        except NotFoundError as error:
            return self._page("problem.html", {"problem": error.message}, status=404)
        except BitNetServiceError as error:
            return self._page("problem.html", {"problem": error.message}, status=503)
        return HTMLResponse(page, headers=dict(REPORT_HEADERS))

    async def login_form(self) -> Response:
        return self._page("login.html", {"problem": None})

    async def log_in(self, request: Request) -> Response:
        key = await _read_key(request)
        cookie = self._sessions.log_in(key, now=self._clock.now())
        if cookie is None:
            request.state.refusal = InvalidTokenError()  # for the layer that judges refusals
            return self._page("login.html", {"problem": "This is not the operator's key."}, status=401)
        response = RedirectResponse("/console", status_code=303, headers=dict(HEADERS))
        response.set_cookie(
            COOKIE,
            cookie,
            max_age=int(LIFETIME.total_seconds()),
            path="/console",
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    async def log_out(self) -> Response:
        response = RedirectResponse(LOGIN_PATH, status_code=303, headers=dict(HEADERS))
        response.delete_cookie(COOKIE, path="/console", httponly=True, samesite="strict")
        return response

    def _is_operator(self, request: Request) -> bool:
        return self._sessions.is_valid(request.cookies.get(COOKIE), now=self._clock.now())

    async def _draw(self, template: str, **reads: Callable[[], Awaitable[object]]) -> Response:
        try:
            values = {name: await read() for name, read in reads.items()}
        except NotFoundError as error:
            return self._page("problem.html", {"problem": error.message}, status=404)
        except BitNetServiceError as error:
            return self._page("problem.html", {"problem": error.message}, status=503)
        return self._page(template, values)

    def _page(self, template: str, values: Mapping[str, object], *, status: int = 200) -> HTMLResponse:
        text = self._templates.get_template(template).render(values)
        return HTMLResponse(text, status_code=status, headers=dict(HEADERS))


async def _static_file(name: str) -> Response:
    if name not in STATIC:
        raise NotFoundError("There is nothing at this address.")
    content = (files("tritium_platform.console") / "static" / name).read_bytes()
    return Response(content, media_type=STATIC[name], headers={**HEADERS, "Cache-Control": "no-cache"})


async def _read_key(request: Request) -> str:
    """Return the form's one field; ValidationError for a form that is none or too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_FORM:
            raise ValidationError("The form is too large.")
    try:
        fields = parse_qs(body.decode("ascii"), strict_parsing=True, max_num_fields=1)
    except ValueError:
        return ""
    return fields.get("key", [""])[0].strip()


def format_size(size: int) -> str:
    """Write a number of bytes with a decimal unit, three digits."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= THOUSAND and len(units) > 1:
        value /= THOUSAND
        units.pop(0)
    return f"{value:.3g} {units[0]}" if units[0] != "B" else f"{size} B"


def format_growth(parts_per_million: int | None) -> str:
    """Write how much something grew since the week before."""
    if parts_per_million is None:
        return "nothing the week before"
    return f"{parts_per_million / 10_000:+.1f} % on the week before"


def format_number(number: int) -> str:
    """Write a whole number with narrow spaces between thousands."""
    return f"{number:,}".replace(",", "\u202f")
