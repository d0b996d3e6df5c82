"""The configuration: precedence, problems in plain words, secrets that stay secret."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from tritium_platform.adapters.worker_process import CONFIGURATION, WorkerProcess
from tritium_platform.config import PlatformConfig, load_config, unknown_variables
from tritium_platform.errors import ValidationError
from tritium_platform.secret_files import read_or_create_secret

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def without_tritium_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("TRITIUM_"):
            monkeypatch.delenv(name)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "tritium.toml"
    path.write_text(
        """
        port = 1111
        host = "0.0.0.0"
        max_upload_bytes = 5
        [tiers.developer]
        monthly_quota = 7
        [price_list]
        currency = "EUR"
        valid_from = 2026-02-01T00:00:00Z
        [price_list.prices.developer]
        input_tokens = "1.00 per 1000"
        """
    )
    return path


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_config().port == 8000
    assert load_config(toml_file=toml).port == 1111
    monkeypatch.setenv("TRITIUM_PORT", "2222")
    assert load_config(toml_file=toml).port == 2222
    assert load_config(toml_file=toml, flags={"port": 3333, "host": None}).port == 3333
    assert load_config(toml_file=toml, flags={"host": None}).host == "0.0.0.0"


def test_nested_values_come_from_the_file_and_from_the_environment(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITIUM_CONFIG", str(toml))
    monkeypatch.setenv("TRITIUM_PRICE_LIST__CURRENCY", "JPY")
    monkeypatch.setenv("TRITIUM_TIERS", '{"team": {"monthly_quota": 9}}')
    config = load_config()
    assert config.price_list.currency == "JPY"
    assert config.price_list.prices == {"developer": {"input_tokens": "1.00 per 1000"}}
    assert config.tiers == {"developer": {"monthly_quota": 7}, "team": {"monthly_quota": 9}}


def test_other_variables_of_this_name_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITIUM_ISA", "scalar")
    assert load_config().port == 8000


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"port": 70_000}, "port"),
        ({"port": "many"}, "port"),
        ({"max_upload_bytes": 0}, "max_upload_bytes"),
        ({"revocation_poll_seconds": 5}, "revocation_poll_seconds"),
        ({"log_level": "loud"}, "log_level"),
        ({"tiers": {"developer": {"monthly_quota": "lots"}}}, "tiers.developer.monthly_quota"),
        ({"prot": 1}, "prot"),
    ],
)
def test_a_wrong_value_is_named(flags: dict[str, object], name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        load_config(flags=flags)


def test_a_wrong_value_is_not_repeated_because_it_may_be_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITIUM_PORT", "hunter2")
    with pytest.raises(ValidationError) as caught:
        load_config()
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("TRITIUM_PORT", "1")
    monkeypatch.setenv("TRITIUM_TIERS", "{hunter2")
    with pytest.raises(ValidationError) as caught:
        load_config()
    assert "hunter2" not in str(caught.value)


def test_a_broken_or_missing_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"port = \xff")
    for path in (broken, tmp_path / "missing.toml"):
        with pytest.raises(ValidationError, match=path.name):
            load_config(toml_file=path)


def test_an_unknown_name_in_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tritium.toml"
    path.write_text("prot = 1")
    with pytest.raises(ValidationError, match="prot: there is no such setting"):
        load_config(toml_file=path)


def test_check_says_what_would_stop_the_platform(tmp_path: Path) -> None:
    good = PlatformConfig(data_dir=tmp_path / "data", model_roots=(tmp_path,))
    assert good.check() == []
    (tmp_path / "file").touch()
    open_secret = tmp_path / "pepper"
    open_secret.write_bytes(bytes(32))
    open_secret.chmod(0o644)
    bad = PlatformConfig(
        data_dir=tmp_path / "file" / "data",
        database_url="mysql://root:secret@host/db",
        model_roots=(tmp_path / "nowhere",),
        pepper_file=open_secret,
        signing_key_file=tmp_path / "no-key",
    )
    problems = "\n".join(bad.check())
    for word in ("data_dir", "database_url", "model_roots", "chmod 600", "no-key"):
        assert word in problems
    assert "secret@" not in problems


def test_a_secret_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    config = PlatformConfig(data_dir=tmp_path)
    pepper, seed = config.pepper(), config.signing_key_seed()
    assert len(pepper) == len(seed) == 32
    assert pepper != seed
    assert (config.pepper(), config.signing_key_seed()) == (pepper, seed)
    for path in (tmp_path / "secrets").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


def test_a_secret_that_others_can_read_or_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pepper"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(ValidationError, match="32"):
        read_or_create_secret(path)
    path.write_bytes(bytes(32))
    path.chmod(0o640)
    with pytest.raises(ValidationError, match="chmod 600"):
        read_or_create_secret(path)


def test_a_secret_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValidationError, match="cannot be used"):
        read_or_create_secret(tmp_path / "file" / "pepper")


def test_processes_that_start_together_agree_on_the_secret(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from tritium_platform.secret_files import read_or_create_secret;"
        "print(read_or_create_secret(pathlib.Path(sys.argv[1])).hex())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "secrets" / "pepper")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    assert len({process.communicate()[0] for process in processes}) == 1
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == ["pepper"]


def test_variables_that_look_like_settings_and_are_none_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRITIUM_PROT", "TRITIUM_PORT", "TRITIUM_TIERS__team__monthly_quota", "TRITIUM_URL"):
        monkeypatch.setenv(name, "1")
    assert unknown_variables() == ["TRITIUM_PROT"]


def test_a_list_in_the_environment_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITIUM_MODEL_ROOTS", "/srv/models")
    with pytest.raises(ValidationError, match=r"model_roots.*written as JSON"):
        load_config()


async def test_the_worker_has_the_secrets_it_charges_with_and_nobody_else_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PlatformConfig(
        data_dir=tmp_path,
        stripe_secret_key=SecretStr("sk_test_not_a_key"),
        stripe_webhook_secret=SecretStr("whsec_not_a_secret"),
    )
    assert "not_a" not in config.model_dump_json() + repr(config)
    handed: list[str] = []

    async def start(*_: object, env: dict[str, str], **__: object) -> None:
        handed.append(env[CONFIGURATION])

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    await WorkerProcess(config)._spawn()
    assert PlatformConfig.model_validate_json(handed[0]) == config
