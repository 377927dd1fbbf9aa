"""The directories where things live. A module of its own, because every command needs it and must
not read all that `settings` needs for that."""

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
"""The longest path of a Unix socket, in bytes: sun_path has 108 with its closing zero on Linux, 104
on the BSDs and macOS (unix(7))."""

SHORTER_PATH: Final = "Set XDG_RUNTIME_DIR to a directory with a shorter path."


@dataclass(frozen=True, slots=True)
class Directories:
    """Where one engine keeps its things."""

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
        are followed, for root too, so that two engines can live side by side. Raises `EngineError`
        for a user who has neither these nor a home directory (F78).
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
        # Older versions of platformdirs give ~/.config as it stands, below the current directory.
        if not all(
            each.is_absolute() for each in (directories.config, directories.data, directories.log)
        ):
            raise _homeless()
        return directories

    @classmethod
    def under(cls, root: Path) -> Directories:
        """All of them below one directory."""
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
        """The database of what is cached."""
        return self.data / "catalog.sqlite"

    @property
    def blobs(self) -> Path:
        """Whole blobs."""
        return self.data / "blobs"

    @property
    def fills(self) -> Path:
        """Blobs on their way in."""
        return self.data / "fills"

    @property
    def lock(self) -> Path:
        """Held by the one engine that runs on this data."""
        return self.data / "lock"

    @property
    def socket(self) -> Path:
        """Where a running engine takes orders."""
        return self.runtime / "entrepot.sock"

    def make(self) -> None:
        """Create what is missing, for this user only (mode 0700); raises `EngineError` when that
        can't be, or when the socket's path is too long.

        Where only configuration or log can't be created, in a home that is read-only or in none, an
        engine starts without rules (F78). What writes there later says so then.
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
        for each, _ in variables:
            _refuse_root_in_place_of_user(each)
        for each, variable in variables:
            hint = (
                f"Give this user the right to write there, or set {variable} to another directory."
            )
            try:
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
            except FileExistsError:
                raise EngineError(
                    f"{each} is not a directory.",
                    f"Move it away, or set {variable} to another directory.",
                ) from None
            except OSError as error:
                if each in {self.config, self.log} and error.errno in {
                    errno.EACCES,
                    errno.EPERM,
                    errno.EROFS,
                }:
                    continue
                if error.errno not in {errno.EACCES, errno.EPERM}:
                    raise EngineError(
                        f"The directory {each} can't be created: {error.strerror}.", hint
                    ) from None
                cause = disk_cause(error, each, file_system(each))
                raise EngineError(
                    f"The directory {each} can't be created. {cause.what}",
                    f"{cause.hint.removesuffix('.')}; or set {variable} to another directory.",
                ) from None
            # What is cached is served from a disk that can only be read, by the rules that can be
            # read; the socket has to be made.
            needed = os.R_OK | os.X_OK | (os.W_OK if each == self.runtime else 0)
            if not os.access(each, needed):
                cause = disk_cause(
                    OSError(errno.EACCES, os.strerror(errno.EACCES)), each, file_system(each)
                )
                forbidden = EngineError(
                    f"The directory {each} can't be {'written' if needed & os.W_OK else 'read'}. {cause.what}",
                    f"{cause.hint.removesuffix('.')}; or set {variable} to another directory.",
                )
                forbidden.cause = cause.code
                raise forbidden
        self._keep_runtime_private()

    def _keep_runtime_private(self) -> None:
        """Whoever may write into the directory of the socket could put another socket in its place."""
        status = self.runtime.stat()
        if status.st_uid != os.geteuid():
            raise EngineError(
                f"The directory {self.runtime} belongs to another user.",
                "Set XDG_RUNTIME_DIR to a directory of this user.",
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            self.runtime.chmod(0o700)


def socket_path_problem(path: Path) -> str | None:
    """Why *path* can't be that of a Unix socket; None where it can."""
    length = len(os.fsencode(path))
    if length <= SOCKET_PATH_LENGTH:
        return None
    return f"The path of the management socket is too long: {path} has {length} bytes, and the system allows {SOCKET_PATH_LENGTH}."


def runtime_problem(runtime: Path) -> str | None:
    """Why *runtime*, where the socket is, can't be used by this user at all, and what to do: it
    belongs to another one. None where it does not (F68).

    ``su`` and ``sudo`` may keep XDG_RUNTIME_DIR of the user before. For root see
    `Directories.make`.
    """
    owner, me = _owner(runtime), os.geteuid()
    if owner in {None, 0, me} or me == 0:
        return None
    own = Path(f"/run/user/{me}")
    hint = (
        f"Set XDG_RUNTIME_DIR={own}."
        if own.is_dir()
        else "Unset XDG_RUNTIME_DIR, or set it to a directory of this user."
    )
    return (
        f"The directory {runtime} of the management socket belongs to another user: to {user_name(owner)}, and this is {user_name(me)}. "
        f"su and sudo may keep the environment of the user before. {hint}"
    )


def _refuse_root_in_place_of_user(path: Path) -> None:
    """Root in the environment of another user (``sudo -E``) would leave files there which that user
    can't use; raises `EngineError` (F68).

    Root that keeps its data in a directory of another user on purpose, as in containers, is not
    meant: only the user who called sudo, whose home this is, or whose runtime directory.
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
            f"{path} is among the files of the user {user}, and what root makes there {user} can't use any more.",
            f"Run it as {user}, without sudo; or for root with its own directories: sudo -i, without -E.",
        )


def _owner(path: Path) -> int | None:
    """The user whose *path* is, or the directory above it that is there."""
    for each in (path, *path.parents):
        try:
            return each.stat().st_uid
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
    # platformdirs leaves XDG_RUNTIME_DIR aside while that directory is missing or has another mode
    # than 0700, and then two engines that were meant to live apart would meet at one socket. make()
    # creates it, and sees to it that our own directory below is private.
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if sys.platform == "linux" and os.path.isabs(given):
        return Path(given) / APPLICATION
    try:
        with warnings.catch_warnings():
            # That XDG_RUNTIME_DIR is not set, which is nothing to complain of: the directory that
            # is used instead is a safe one, or make() says so.
            warnings.simplefilter("ignore")
            return platformdirs.user_runtime_path(APPLICATION, appauthor=False)
    except PermissionError as error:
        # platformdirs adds the same advice in its own words.
        why = str(error).partition(";")[0]
        raise EngineError(
            f"There is no directory for the management socket: {why}.",
            "Set XDG_RUNTIME_DIR to a directory of this user.",
        ) from None
