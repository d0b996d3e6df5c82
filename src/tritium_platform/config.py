"""The platform's configuration: flag > environment `TRITIUM_...` > TOML file > default."""

from __future__ import annotations

import json
import os
import tomllib
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from tritium.errors import ValidationError
from tritium_platform.secret_files import check_secret, read_or_create_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

DATABASE_SCHEMES = ("sqlite+aiosqlite", "postgresql+psycopg")
PREFIX = "TRITIUM_"
# Variables of this name that are no settings: of this file, the kernels, and the commands that call a server.
_OTHER_VARIABLES = {"TRITIUM_CONFIG", "TRITIUM_ISA", "TRITIUM_URL", "TRITIUM_API_KEY", "TRITIUM_ADMIN_KEY"}
_REASONS = {"extra_forbidden": "there is no such setting"}
_toml_values: ContextVar[Mapping[str, Any]] = ContextVar("_toml_values", default={})  # noqa: B039 - never changed


class PriceListConfig(BaseModel):
    """Prices by tier and meter, such as `0.15 per 1000000` in the currency's major unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str = "USD"
    valid_from: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    prices: dict[str, dict[str, str]] = {}
    included: dict[str, dict[str, int]] = {}


class SellerConfig(BaseModel):
    """Who issues invoices, as EN 16931 asks for it; without a name they name nobody."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    street: tuple[str, ...] = ()
    post_code: str = ""
    city: str = ""
    country: str = ""
    email: str = ""
    vat_id: str = ""
    tax_number: str = ""
    registration_id: str = ""
    iban: str = ""
    bic: str = ""
    exemption_reason: str = ""


class PlatformConfig(BaseSettings):
    """Everything an operator can set; immutable once read. Sizes are bytes, times are seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    data_dir: Path = Path("tritium-data")
    """Where the platform keeps its files."""
    database_url: str | None = None
    """`postgresql+psycopg://...`; None: SQLite in the data directory."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    """The port to listen on; 0 takes a free one."""
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    """Peers whose X-Forwarded-For is believed."""
    model_roots: tuple[Path, ...] = ()
    """Directories below which tenants may name checkpoints."""
    max_upload_bytes: Annotated[int, Field(gt=0)] = 20_000_000_000
    """The largest checkpoint archive that is taken."""
    max_file_bytes: Annotated[int, Field(gt=0)] = 200_000_000
    """The largest input file of a batch that is taken."""
    max_request_bytes: Annotated[int, Field(gt=0)] = 4_000_000
    """The largest body of any other request."""
    threads_per_engine: Annotated[int, Field(ge=0)] = 0
    """Threads of an engine process; 0: one per processor core, divided among a deployment's replicas."""
    engine_memory_bytes: Annotated[int, Field(ge=0)] = 0
    """Address space of an engine process; 0 derives it from the model."""
    engine_max_running: Annotated[int, Field(ge=1)] = 32
    """Requests that share a step of an engine."""
    engine_max_batched_tokens: Annotated[int, Field(ge=1)] = 512
    """Tokens of a step, over all its requests."""
    engine_kv_cache_bytes: Annotated[int, Field(ge=1)] = 512 * 2**20
    """Memory of an engine's key-value cache."""
    engine_latency_seconds: Annotated[float, Field(gt=0)] | None = None
    """The longest that a step, and with it the time between two tokens, should take."""
    engine_tuning: Literal["off", "advise", "apply"] = "advise"
    """What follows when steps take longer: nothing, a line in the log, or other limits within these."""
    engine_cpu_shares: bool = False
    """Whether engines that want the same cores get them by their tenants' tiers (Linux)."""
    engine_traces: bool = False
    """Whether engines write down what they do, without texts, for recommendations."""
    models_memory_bytes: Annotated[int, Field(ge=0)] = 0
    """Memory of all engines together: models that nobody uses leave for those asked for; 0 sets no limit."""
    model_load_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How long a request waits for a model that is not in memory."""
    model_idle_seconds: Annotated[float, Field(ge=0)] = 0.0
    """When a model that nobody uses leaves memory, unless it is pinned; 0 keeps it."""
    worker_memory_bytes: Annotated[int, Field(ge=0)] = 0
    """Address space of the quantization worker; 0 sets no limit."""
    pepper_file: Path | None = None
    """32 secret bytes under which API keys are hashed; None: made in the data directory."""
    signing_key_file: Path | None = None
    """32 secret bytes that sign the audit log; None: made in the data directory."""
    audit_origin: str = "tritium.localhost/audit"
    """The audit log's name in its signed checkpoints."""
    authentication_cache_seconds: Annotated[float, Field(ge=0, le=30)] = 30.0
    """How long a checked API key is remembered."""
    revocation_poll_seconds: Annotated[float, Field(ge=0, le=0.9)] = 0.5
    """How often changes of keys by other processes are looked for."""
    reservation_seconds: Annotated[float, Field(gt=0)] = 900.0
    """When a request that never ended gives back its quota."""
    idempotency_seconds: Annotated[float, Field(ge=60, le=7 * 86_400)] = 86_400.0
    """How long an answer under an Idempotency-Key is kept, encrypted, to be given again."""
    event_spool_bytes: Annotated[int, Field(ge=0)] = 2**30
    """How much of reported events may wait on this machine while the database is away; 0 takes none in."""
    max_idempotency_keys: Annotated[int, Field(gt=0)] = 10_000
    """How many such answers one tenant may have at a time; more are refused."""
    drain_seconds: Annotated[float, Field(ge=0)] = 30.0
    """How long running requests may take to finish at the end."""
    fair_use: Annotated[str, Field(pattern="^(off|dry_run|enforce)$")] = "dry_run"
    """What follows when a tenant uses far more than its share: off, dry_run (it is noted) or enforce."""
    tiers: dict[str, dict[str, int]] = {}
    """Limits that differ from a tier's own, by tier and name."""
    price_list: PriceListConfig = PriceListConfig()
    """Currency, start, prices and included amounts by tier and meter; no prices: the built-in list."""
    invoice_grace_days: Annotated[int, Field(ge=0, le=365)] | None = None
    """Days after a month at which its drafts are finalized by themselves; None: the operator finalizes."""
    seller: SellerConfig = SellerConfig()
    """Who issues invoices: name, street, post_code, city, country, email, vat_id, tax_number,
    registration_id, iban, bic, exemption_reason."""
    invoice_fonts: Path | None = None
    """A directory of fonts for names in scripts that the built-in ones lack, such as Chinese."""
    stripe_secret_key: SecretStr | None = None
    """The secret or restricted key of a Stripe account; None: tenants pay by bank transfer only."""
    stripe_webhook_secret: SecretStr | None = None
    """What signs the notices that Stripe sends to /webhooks/stripe; None: none are taken."""
    stripe_api_base: str | None = None
    """Where Stripe's API is reached, if not at Stripe itself."""
    dunning_end: Annotated[str, Field(pattern="^(nothing|uncollectible|suspend)$")] = "nothing"
    """What follows when a tenant's card has been tried in vain: nothing, uncollectible or suspend."""
    canary: bool = False
    """Whether a synthetic customer with a known answer is billed every hour; a wrong bill is an alarm."""
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    """debug, info, warning or error."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the sources in their order of precedence."""
        return init_settings, env_settings, _TomlSource(settings_cls)

    @property
    def resolved_database_url(self) -> str:
        """The database: the one that is set, else SQLite in the data directory."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir.absolute() / 'tritium.sqlite3'}"

    @property
    def audit_dir(self) -> Path:
        """Where the audit log's tiles lie."""
        return self.data_dir / "audit"

    @property
    def traces_dir(self) -> Path:
        """Where engines write down what they do."""
        return self.data_dir / "traces"

    @property
    def models_dir(self) -> Path:
        """Where tenants' models lie."""
        return self.data_dir / "models"

    @property
    def jobs_dir(self) -> Path:
        """Where the unfinished layers of quantization jobs lie."""
        return self.data_dir / "jobs"

    @property
    def jobs_database_url(self) -> str:
        """Where DBOS notes which steps of jobs are done: a file of its own beside SQLite, else PostgreSQL."""
        if self.resolved_database_url.startswith("sqlite"):
            return f"sqlite:///{self.data_dir.absolute() / 'jobs.sqlite3'}"
        return self.resolved_database_url.replace("postgresql+psycopg://", "postgresql://", 1)

    @property
    def uploads_dir(self) -> Path:
        """Where uploads lie until they are models."""
        return self.data_dir / "uploads"

    @property
    def files_dir(self) -> Path:
        """Where the input and output files of batches lie."""
        return self.data_dir / "files"

    @property
    def spool_dir(self) -> Path:
        """Where settlements, and events taken in while it was away, lie until they are in the database."""
        return self.data_dir / "spool"

    @property
    def admin_key_file(self) -> Path:
        """The file of the operator's key."""
        return self.data_dir / "secrets" / "admin_key"

    @property
    def limits_dir(self) -> Path:
        """Where the gateways of a machine share rates and running requests."""
        return self.data_dir / "limits"

    def json_with_secrets(self) -> str:
        """Return it as JSON with its secrets in the clear, for a process of our own that needs them.

        `model_validate_json` reads it. `model_dump_json` masks secrets, and what reads that has the masks.
        """
        secrets = {name: value.get_secret_value() for name, value in self if isinstance(value, SecretStr)}
        return json.dumps(self.model_dump(mode="json") | secrets)

    def pepper(self) -> bytes:
        """Return the secret under which API keys are hashed, 32 bytes; made on first use."""
        return read_or_create_secret(self.pepper_file or self.data_dir / "secrets" / "pepper")

    def signing_key_seed(self) -> bytes:
        """Return the Ed25519 seed that signs the audit log, 32 bytes; made on first use."""
        return read_or_create_secret(self.signing_key_file or self.data_dir / "secrets" / "signing_key")

    def check(self) -> list[str]:
        """Return what would stop the platform from starting, one sentence each; empty if nothing would."""
        problems = [*_check_data_dir(self.data_dir), *_check_database_url(self.resolved_database_url)]
        problems += [
            f"model_roots: {root} is not a directory." for root in self.model_roots if not root.is_dir()
        ]
        if self.invoice_fonts is not None and not self.invoice_fonts.is_dir():
            problems.append(f"invoice_fonts: {self.invoice_fonts} is not a directory.")
        for path in (self.pepper_file, self.signing_key_file):
            if path is not None and not path.is_file():
                problems.append(f"{path} does not exist.")
        for path in (
            self.pepper_file or self.data_dir / "secrets" / "pepper",
            self.signing_key_file or self.data_dir / "secrets" / "signing_key",
        ):
            problems += check_secret(path)
        return problems


class _TomlSource(PydanticBaseSettingsSource):
    """The values of the TOML file that `load_config` has read."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return _toml_values.get().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(_toml_values.get())


def load_config(*, toml_file: Path | None = None, flags: Mapping[str, Any] | None = None) -> PlatformConfig:
    """Read the configuration.

    Args:
        toml_file: a TOML file; None means the one named by `TRITIUM_CONFIG`, else none.
        flags: values given on the command line, by field name; None values are left out.

    Raises:
        ValidationError: names every wrong value and where it stands.
    """
    named = os.environ.get("TRITIUM_CONFIG")
    path = toml_file or (Path(named) if named else None)
    token = _toml_values.set(_read_toml(path) if path else {})
    try:
        return PlatformConfig(**{name: value for name, value in (flags or {}).items() if value is not None})
    except pydantic.ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in each['loc'])}: {_REASONS.get(each['type'], each['msg'])}"
            for each in error.errors()
        )
        raise ValidationError(f"The configuration is wrong: {wrong}.") from None
    except SettingsError as error:
        # Only lists and tables are parsed; pydantic's own words say neither that nor how to write one.
        raise ValidationError(
            f"The configuration is wrong: {error}. In the environment a list or a table is written as JSON."
        ) from None
    finally:
        _toml_values.reset(token)


def unknown_variables() -> list[str]:
    """Return the environment's variables that look like settings and are none: misspelt, or another's."""
    known = {name.upper() for name in PlatformConfig.model_fields}
    names = [name for name in os.environ if name.startswith(PREFIX) and name not in _OTHER_VARIABLES]
    return sorted(name for name in names if name.removeprefix(PREFIX).split("__")[0].upper() not in known)


def _check_data_dir(path: Path) -> list[str]:
    nearest = path.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        return [f"data_dir: {nearest} is not a directory."]
    if not os.access(nearest, os.W_OK | os.X_OK):
        return [f"data_dir: {nearest} cannot be written."]
    return []


def _check_database_url(url: str) -> list[str]:
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        scheme = ""
    if scheme not in DATABASE_SCHEMES:
        return [f"database_url: it must begin with {' or '.join(f'{each}://' for each in DATABASE_SCHEMES)}."]
    return []


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValidationError(
            f"The configuration file {path} cannot be read: {error.strerror}.", file=str(path)
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValidationError(f"{path} is not a TOML file: {error}.", file=str(path)) from error
