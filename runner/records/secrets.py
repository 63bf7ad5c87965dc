"""What must not stand in the record in clear: encrypted, with a key that is kept elsewhere."""

import os
import tempfile
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from loguru import logger

from runner.errors import UsageError
from runner.files import private_folder
from runner.settings import ServerSettings

KEY_FILE = "secret.key"
_FORM = "must be 32 bytes in urlsafe base64"


class Vault:
    """Encrypts texts, and decrypts them again.

    Args:
        key: 32 bytes in urlsafe base64.
        source: Where it comes from, for errors.

    Raises:
        UsageError: It is no such key.
    """

    def __init__(self, key: str | bytes, source: str = "key"):
        try:
            self._fernet = Fernet(key)
        except ValueError:
            raise UsageError(f"{source}: {_FORM}") from None
        self.source = source
        """Where the key comes from."""

    def seal(self, text: str) -> bytes:
        """Return a text encrypted: each time another one."""
        return self._fernet.encrypt(text.encode())

    def open(self, sealed: bytes) -> str:
        """Return the text again.

        Raises:
            UsageError: It was encrypted with another key, or changed since.
        """
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken:
            raise UsageError(
                f"{self.source}: does not open what the record holds; use the key that it was encrypted with"
            ) from None


def open_vault(settings: ServerSettings) -> Vault:
    """Return the vault with the key of the settings, or else with the one in the data folder, made if there is none.

    Raises:
        UsageError: It is no such key, or its file can't be read or made.
    """
    if settings.secret_key is not None:
        return Vault(settings.secret_key.get_secret_value(), "server.secret_key")
    path = private_folder(settings.data_dir) / KEY_FILE
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes().strip()
        if path.stat().st_mode & 0o077:
            logger.warning("{}: others on this machine can read the key; chmod 600 keeps them out", path)
    except OSError as error:
        raise UsageError(f"{path}: can't be read or made ({error.strerror})") from None
    return Vault(key, str(path))


def _make_key(path: Path) -> None:
    """Make the file with a new key, readable for this user alone; another process that does the same may win."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(Fernet.generate_key())
            file.flush()
            os.fsync(file.fileno())
        # Unlike renaming, this leaves a file alone that is there by now.
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)
