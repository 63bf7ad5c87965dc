"""What is encrypted, and the key that it is encrypted with."""

import os
import stat
import threading
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger
from pydantic import SecretStr

from runner.errors import UsageError
from runner.records.secrets import KEY_FILE, Vault, open_vault
from runner.settings import ServerSettings

KEY = "YSBrZXkgb2YgdGhpcnR5LXR3byBieXRlcywgZml4ZWQ="


def settings(folder: Path, key: str | None = None) -> ServerSettings:
    return ServerSettings(data_dir=folder, secret_key=None if key is None else SecretStr(key))


@given(st.text())
def test_what_is_sealed_is_opened_again(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    vault = Vault(KEY)
    sealed = vault.seal(text)
    assert vault.open(sealed) == text
    assert vault.seal(text) != sealed


def test_the_key_is_made_once_and_kept(tmp_path: Path) -> None:
    sealed = open_vault(settings(tmp_path)).seal("token")
    assert open_vault(settings(tmp_path)).open(sealed) == "token"
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


def test_the_key_file_is_for_this_user_alone(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        open_vault(settings(tmp_path / "new" / "data"))
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new" / "data" / KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new" / "data").stat().st_mode) == 0o700


def test_a_key_file_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    open_vault(settings(tmp_path))
    (tmp_path / KEY_FILE).chmod(0o644)
    logged: list[str] = []
    sink = logger.add(logged.append)
    open_vault(settings(tmp_path))
    logger.remove(sink)
    assert "chmod 600" in "".join(logged)
    assert (tmp_path / KEY_FILE).read_text() not in "".join(logged)


def test_those_who_start_at_once_have_the_same_key(tmp_path: Path) -> None:
    vaults: list[Vault] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        vaults.append(open_vault(settings(tmp_path)))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sealed = vaults[0].seal("token")
    assert [vault.open(sealed) for vault in vaults] == ["token"] * 8


def test_the_key_of_the_settings_comes_first(tmp_path: Path) -> None:
    sealed = open_vault(settings(tmp_path, KEY)).seal("token")
    assert Vault(KEY).open(sealed) == "token"
    assert not list(tmp_path.iterdir())


def test_another_key_is_one_clear_error(tmp_path: Path) -> None:
    sealed = open_vault(settings(tmp_path, KEY)).seal("token")
    with pytest.raises(UsageError, match=r"^server.secret_key: does not open what the record holds") as refusal:
        open_vault(settings(tmp_path, Fernet.generate_key().decode())).open(sealed)
    with pytest.raises(UsageError, match=KEY_FILE):
        open_vault(settings(tmp_path)).open(sealed)
    assert refusal.value.__cause__ is None


def test_what_was_changed_is_not_opened() -> None:
    vault = Vault(KEY)
    sealed = bytearray(vault.seal("token"))
    sealed[20] ^= 1
    with pytest.raises(UsageError):
        vault.open(bytes(sealed))


@pytest.mark.parametrize("key", ["", "short", "x" * 45, KEY[:-2], "é" * 44])
def test_what_is_no_key_is_one_error_that_does_not_quote_it(tmp_path: Path, key: str) -> None:
    with pytest.raises(UsageError, match=r"^server.secret_key: must be 32 bytes in urlsafe base64$"):
        open_vault(settings(tmp_path, key))
    (tmp_path / KEY_FILE).write_text(key)
    with pytest.raises(UsageError, match=r"secret.key: must be 32 bytes in urlsafe base64$"):
        open_vault(settings(tmp_path))


def test_a_key_is_in_no_representation(tmp_path: Path) -> None:
    vault = open_vault(settings(tmp_path, KEY))
    assert KEY not in repr(vault) + str(vault)


def test_a_folder_that_can_not_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="can't be made"):
        open_vault(settings(tmp_path / "file"))
