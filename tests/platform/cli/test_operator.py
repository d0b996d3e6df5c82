"""Whose key an operator's command shows: the one given, or that of this machine to this machine only."""

from __future__ import annotations

import pytest

from tritium.errors import ValidationError
from tritium_platform.cli.operator import operator_client
from tritium_platform.secret_files import admin_key

HERE = "http://127.0.0.1:8000"


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRITIUM_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def test_the_key_in_the_data_directory_serves_on_this_machine(data_dir):
    key = admin_key(data_dir / "secrets" / "admin_key")
    for url in (HERE, "http://localhost:8000", "http://[::1]:8000"):
        assert operator_client(url, key=None)._key == key


def test_a_key_that_is_given_goes_first(data_dir):
    admin_key(data_dir / "secrets" / "admin_key")
    assert operator_client(HERE, key="btn_admin_another")._key == "btn_admin_another"


@pytest.mark.parametrize(
    "url", ["https://tritium.example", "http://127.0.0.1.example:8000", "http://10.0.0.1"]
)
def test_another_machine_is_not_shown_the_key_of_this_one(data_dir, url):
    key = admin_key(data_dir / "secrets" / "admin_key")
    with pytest.raises(ValidationError, match="another machine") as caught:
        operator_client(url, key=None)
    assert key not in str(caught.value)


def test_without_a_data_directory_it_says_how_to_give_a_key_and_makes_none(data_dir):
    with pytest.raises(ValidationError, match="TRITIUM_ADMIN_KEY"):
        operator_client(HERE, key=None)
    assert not data_dir.exists()
