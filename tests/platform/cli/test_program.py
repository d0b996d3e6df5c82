"""The operator's program: whatever is wrong becomes one message and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tritium.errors import ValidationError
from tritium_platform.cli.client import ServerClient


def tritiumd(*arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITIUM_")}
    return subprocess.run(
        [sys.executable, "-m", "tritium_platform.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, **variables},
    )


@pytest.mark.parametrize("url", ["http://host:port", "http://[::1", "ftp://host", "127.0.0.1:8000", ""])
def test_what_is_no_address_is_said_so(url):
    with pytest.raises(ValidationError, match="is not an address"):
        ServerClient(url, key="k")


@pytest.mark.parametrize("key", ["one\ntwo", "schlüssel", "a\x00b"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_repeated(key):
    with pytest.raises(ValidationError, match="copy it again") as caught:
        ServerClient("http://127.0.0.1:1", key=key)
    assert key not in str(caught.value)


def test_a_data_directory_that_cannot_be_made_is_a_message_and_no_traceback():
    done = tritiumd("up", "--data-dir", "/proc/nowhere", "--port", "0")
    assert done.returncode in {1, 2}
    assert done.stderr.startswith("Error: ")
    assert "/proc/nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_names_limits_and_prices_that_the_start_would_refuse(tmp_path):
    path = tmp_path / "tritium.toml"
    path.write_text("[tiers.team]\nmonthly_qota = 3\n[price_list.prices.team]\ninput_tokens = 'cheap'\n")
    done = tritiumd("config", "check", "--config", path, "--data-dir", tmp_path / "data", TRITIUM_PROT="1")
    assert done.returncode == 2
    assert "'monthly_qota' is not a limit" in done.stdout
    assert "'cheap' is not a price" in done.stdout
    assert "TRITIUM_PROT" in done.stderr
    assert not (tmp_path / "data").exists()
