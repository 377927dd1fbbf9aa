"""The directories of an engine.

A module of its own, because every command needs it, and `settings` takes longer to import.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

from entrepot.causes import disk_cause, user_name
from entrepot.errors import EngineError
from entrepot.files import file_system

APPLICATION: Final = "entrepot"

SOCKET_PATH_LENGTH: Final = 107 if sys.platform == "linux" else 103
"""The longest path of a Unix socket, in bytes (unix(7)).

With its closing zero, sun_path has 108 on Linux, 104 on the BSDs and macOS.
"""

SHORTER_PATH: Final = "Set XDG_RUNTIME_DIR to a directory with a shorter path."


@dataclass(frozen=True, slots=True)
class Directories:
    """The directories of one engine, and its files in them."""

    config: Path
    """``settings.toml``, ``rules.toml``, ``credentials.toml``"""
    data: Path
    """The catalog and the blobs."""
    runtime: Path
    """The socket of a running engine."""
    log: Path

    @classmethod
    def of_user(cls) -> Directories:
        """The platform's directories of this user.

        On Linux ``XDG_CONFIG_HOME``, ``XDG_DATA_HOME``, ``XDG_RUNTIME_DIR`` and ``XDG_STATE_HOME``
        count, for root too, so that two engines can run side by side. Raises `EngineError` for a
        user who has neither these nor a home directory (F78).
        """
        try:
            directories = cls(
                config=platformdirs.user_config_path(APPLICATION, appauthor=False),
                data=platformdirs.user_data_path(APPLICATION, appauthor=False),
                runtime=_user_runtime(),
                log=platformdirs.user_log_path(APPLICATION, appauthor=False),
            )
        except RuntimeError:
            raise _homeless() from None
        # Older versions of platformdirs return ~/.config as it is, below the current directory.
        paths = (directories.config, directories.data, directories.log)
        if not all(path.is_absolute() for path in paths):
            raise _homeless()
        return directories

    @classmethod
    def under(cls, root: Path) -> Directories:
        """All directories below *root*."""
        return cls(
            config=root / "config", data=root / "data", runtime=root / "run", log=root / "log"
        )

    @property
    def settings(self) -> Path:
        """The administrator's file."""
        return self.config / "settings.toml"

    @property
    def rules(self) -> Path:
        """The document of the cache rules."""
        return self.config / "rules.toml"

    @property
    def credentials(self) -> Path:
        """The document of the credential sets."""
        return self.config / "credentials.toml"

    @property
    def catalog(self) -> Path:
        """The database of what is cached (`entrepot.store.catalog`)."""
        return self.data / "catalog.sqlite"

    @property
    def blobs(self) -> Path:
        """The directory of complete blobs."""
        return self.data / "blobs"

    @property
    def fills(self) -> Path:
        """The directory of blobs on their way in."""
        return self.data / "fills"

    @property
    def restrictions(self) -> Path:
        """Who may read what is cached (`entrepot.config.restrictions`)."""
        return self.data / "restrictions.toml"

    @property
    def tokens(self) -> Path:
        """The document of the personal tokens, without the tokens themselves."""
        return self.config / "tokens.toml"

    @property
    def token_uses(self) -> Path:
        """When each personal token was used last."""
        return self.data / "token-uses.json"

    @property
    def lock(self) -> Path:
        """The file that the engine on this data directory locks."""
        return self.data / "lock"

    @property
    def socket(self) -> Path:
        """The Unix socket of the management API."""
        return self.runtime / "entrepot.sock"

    def make(self) -> None:
        """Create missing directories, for this user only (mode 0700).

        Raises `EngineError` where that fails, or where the socket's path is too long. If only
        configuration or log can't be created, in a home that is read-only or missing, an engine
        starts without rules (F78); a later write there raises.
        """
        if (problem := socket_path_problem(self.socket)) is not None:
            raise EngineError(problem, SHORTER_PATH)
        if (problem := runtime_problem(self.runtime)) is not None:
            raise EngineError(problem)
        variables = (
            (self.config, "XDG_CONFIG_HOME"),
            (self.data, "XDG_DATA_HOME"),
            (self.runtime, "XDG_RUNTIME_DIR"),
            (self.log, "XDG_STATE_HOME"),
        )
        for directory, _ in variables:
            _refuse_root_in_place_of_user(directory)
        for directory, variable in variables:
            hint = (
                f"Give this user the right to write there, or set {variable} to another directory."
            )
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except FileExistsError:
                raise EngineError(
                    f"{directory} is not a directory.",
                    f"Move it away, or set {variable} to another directory.",
                ) from None
            except OSError as error:
                if directory in {self.config, self.log} and error.errno in {
                    errno.EACCES,
                    errno.EPERM,
                    errno.EROFS,
                }:
                    continue
                if error.errno not in {errno.EACCES, errno.EPERM}:
                    raise EngineError(
                        f"The directory {directory} can't be created: {error.strerror}.", hint
                    ) from None
                cause = disk_cause(error, directory, file_system(directory))
                raise EngineError(
                    f"The directory {directory} can't be created. {cause.what}",
                    f"{cause.hint.removesuffix('.')}; or set {variable} to another directory.",
                ) from None
            # Cached content is served from a read-only disk too; only the socket has to be created.
            required_access = os.R_OK | os.X_OK | (os.W_OK if directory == self.runtime else 0)
            if not os.access(directory, required_access):
                cause = disk_cause(
                    OSError(errno.EACCES, os.strerror(errno.EACCES)),
                    directory,
                    file_system(directory),
                )
                verb = "written" if required_access & os.W_OK else "read"
                forbidden = EngineError(
                    f"The directory {directory} can't be {verb}. {cause.what}",
                    f"{cause.hint.removesuffix('.')}; or set {variable} to another directory.",
                )
                forbidden.cause = cause.code
                raise forbidden
        self._keep_runtime_private()

    def _keep_runtime_private(self) -> None:
        """Keep other users out of the directory of the socket: they could replace it."""
        status = self.runtime.stat()
        if status.st_uid != os.geteuid():
            raise EngineError(
                f"The directory {self.runtime} belongs to another user.",
                "Set XDG_RUNTIME_DIR to a directory of this user.",
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            self.runtime.chmod(0o700)


def socket_path_problem(path: Path) -> str | None:
    """Why *path* can't be the path of a Unix socket; None if it can."""
    length = len(os.fsencode(path))
    if length <= SOCKET_PATH_LENGTH:
        return None
    return (
        f"The path of the management socket is too long: {path} has {length} bytes, and the system "
        f"allows {SOCKET_PATH_LENGTH}."
    )


def runtime_problem(runtime: Path) -> str | None:
    """Why this user can't use the directory of the socket, and what to do (F68).

    None unless it belongs to another user: ``su`` and ``sudo`` may keep XDG_RUNTIME_DIR of the user
    before. For root see `Directories.make`.
    """
    owner, user = _owner(runtime), os.geteuid()
    if owner in {None, 0, user} or user == 0:
        return None
    own_directory = Path(f"/run/user/{user}")
    hint = (
        f"Set XDG_RUNTIME_DIR={own_directory}."
        if own_directory.is_dir()
        else "Unset XDG_RUNTIME_DIR, or set it to a directory of this user."
    )
    return (
        f"The directory {runtime} of the management socket belongs to another user: to "
        f"{user_name(owner)}, and this is {user_name(user)}. su and sudo may keep the environment "
        f"of the user before. {hint}"
    )


def _refuse_root_in_place_of_user(path: Path) -> None:
    """Raise `EngineError` for root in the environment of another user (F68).

    After ``sudo -E``, root would leave files there that this user can't use. It may use a directory
    of another user on purpose, as in containers: refused are only directories of the user who
    called sudo, of the owner of the home directory, and runtime directories.
    """
    owner = _owner(path)
    if os.geteuid() or not owner:
        return
    caller = os.environ.get("SUDO_UID", "")
    home = Path.home()
    of_caller = caller == str(owner)
    at_home = (
        path.is_relative_to(home) and _owner(home) == owner and str(home) != pwd.getpwuid(0).pw_dir
    )
    if of_caller or at_home or path.is_relative_to(f"/run/user/{owner}"):
        user = user_name(owner)
        raise EngineError(
            f"{path} is among the files of the user {user}, who can't use what root creates there.",
            f"Run it as {user}, without sudo; or for root with its own directories: sudo -i, "
            "without -E.",
        )


def _owner(path: Path) -> int | None:
    """The owner of *path*, or of the nearest directory above it that exists."""
    for existing in (path, *path.parents):
        try:
            return existing.stat().st_uid
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.EACCES, errno.ENOTDIR}:
                return None
    return None


def _homeless() -> EngineError:
    missing = [
        name
        for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
        if not os.path.isabs(os.environ.get(name, ""))
    ]
    return EngineError(
        "This user has no home directory.",
        f"Set HOME, or each of {', '.join(missing)} to a directory of this user.",
    )


def _user_runtime() -> Path:
    # platformdirs ignores XDG_RUNTIME_DIR while that directory is missing or has another mode than
    # 0700: then two engines with different ones would use the same socket. make() creates it, and
    # makes our own directory in it private.
    variable = os.environ.get("XDG_RUNTIME_DIR", "")
    if sys.platform == "linux" and os.path.isabs(variable):
        return Path(variable) / APPLICATION
    try:
        with warnings.catch_warnings():
            # It warns that XDG_RUNTIME_DIR is not set: the directory in its place is safe, or
            # make() refuses it.
            warnings.simplefilter("ignore")
            return platformdirs.user_runtime_path(APPLICATION, appauthor=False)
    except PermissionError as error:
        # platformdirs adds its own advice behind a semicolon.
        why = str(error).partition(";")[0]
        raise EngineError(
            f"There is no directory for the management socket: {why}.",
            "Set XDG_RUNTIME_DIR to a directory of this user.",
        ) from None
