"""SQLite's own input and output, seen by a tap: a VFS around the one for unix (https://www.sqlite.org/vfs.html).

While it is in place it is the default, so whoever opens a database in this process goes through it. Files keep their
own methods but for those that read, change, sync: these ask the tap and then call the original.
"""

import contextlib
import ctypes
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_int64, c_void_p
from typing import Any

from tests.faults.tap import Fault, Tap

_OK = 0
_IOERR = 10
_FULL = 13
_CANTOPEN = 14
_READ, _WRITE, _SYNC, _TRUNCATE, _FSTAT, _DELETE, _ACCESS = (_IOERR | n << 8 for n in (1, 3, 4, 6, 7, 10, 13))
_SHMSIZE, _SHMMAP = _IOERR | 19 << 8, _IOERR | 21 << 8
"""Result codes (https://www.sqlite.org/rescode.html)."""

_OPEN_CREATE = 0x4
_OPEN_DELETEONCLOSE = 0x8
_OPEN_JOURNALS = 0x800 | 0x4000 | 0x80000
"""``SQLITE_OPEN_MAIN_JOURNAL``, ``_SUPER_JOURNAL``, ``_WAL``: with ``CREATE`` their directory is synced with them."""


class _Methods(Structure):
    """``sqlite3_io_methods``."""

    _fields_ = (
        ("iVersion", c_int),
        *(
            (name, c_void_p)
            for name in (
                *("xClose", "xRead", "xWrite", "xTruncate", "xSync", "xFileSize", "xLock", "xUnlock"),
                *("xCheckReservedLock", "xFileControl", "xSectorSize", "xDeviceCharacteristics"),
                *("xShmMap", "xShmLock", "xShmBarrier", "xShmUnmap", "xFetch", "xUnfetch"),
            )
        ),
    )


class _Vfs(Structure):
    """``sqlite3_vfs``."""

    _fields_ = (
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        *(
            (name, c_void_p)
            for name in (
                *("xOpen", "xDelete", "xAccess", "xFullPathname", "xDlOpen", "xDlError", "xDlSym", "xDlClose"),
                *("xRandomness", "xSleep", "xCurrentTime", "xGetLastError", "xCurrentTimeInt64"),
                *("xSetSystemCall", "xGetSystemCall", "xNextSystemCall"),
            )
        ),
    )


_Close = CFUNCTYPE(c_int, c_void_p)
_ReadWrite = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)
_FileSize = CFUNCTYPE(c_int, c_void_p, c_void_p)
_ShmMap = CFUNCTYPE(c_int, c_void_p, c_int, c_int, c_int, c_void_p)
_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_Delete = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_Access = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_void_p)


def library() -> ctypes.CDLL | None:
    """The very library that Python's ``sqlite3`` uses; None where that is linked into Python itself."""
    try:
        found = ctypes.CDLL("libsqlite3.so.0")
    except OSError:
        return None
    found.sqlite3_libversion.restype = c_char_p
    with open("/proc/self/maps", encoding="utf-8") as maps:
        mapped = {os.path.realpath(line.split()[-1]) for line in maps if "libsqlite3" in line}
    same = found.sqlite3_libversion().decode() == sqlite3.sqlite_version and len(mapped) == 1
    return found if same else None


_KEPT: list["TappedSqlite"] = []
"""Those with files left open, which a test is about to fail for: SQLite would call what is gone."""


class TappedSqlite:
    """The VFS. Use ``installed``."""

    def __init__(self, tap: Tap, sqlite: ctypes.CDLL) -> None:
        self._tap = tap
        self._sqlite = sqlite
        self._sqlite.sqlite3_vfs_find.restype = POINTER(_Vfs)
        self._unix = self._sqlite.sqlite3_vfs_find(b"unix")
        self._vfs = _Vfs.from_buffer_copy(self._unix.contents)
        self._vfs.zName = b"lamina-tap"
        self._paths: dict[int, str] = {}
        self._sync_directory: set[int] = set()
        self._methods: dict[int, tuple[_Methods, _Methods]] = {}
        """By the address of the original methods: a copy of them, and ours."""
        self._kept: list[Any] = []
        self.errors: list[BaseException] = []
        original = self._unix.contents
        self._open = _Open(original.xOpen)
        self._delete = _Delete(original.xDelete)
        self._access = _Access(original.xAccess)
        self._vfs.xOpen = self._callback(_Open, self._x_open, _CANTOPEN)
        self._vfs.xDelete = self._callback(_Delete, self._x_delete, _DELETE)
        self._vfs.xAccess = self._callback(_Access, self._x_access, _ACCESS)

    def register(self) -> None:
        """Make it the default."""
        self._sqlite.sqlite3_vfs_register(byref(self._vfs), 1)

    def unregister(self) -> None:
        """Make unix the default again; no file may be open."""
        self._sqlite.sqlite3_vfs_unregister(byref(self._vfs))
        if self._paths:
            _KEPT.append(self)
        if self.errors:
            raise self.errors[0]

    def open_files(self) -> list[str]:
        """Files that SQLite has open."""
        return sorted(self._paths.values())

    def _callback(self, kind: Any, function: Callable[..., int], otherwise: int) -> Any:
        def guarded(*arguments: Any) -> int:
            try:
                return function(*arguments)
            except BaseException as error:  # ctypes would print and forget it
                self.errors.append(error)
                return otherwise

        made = kind(guarded)
        self._kept.append(made)
        return ctypes.cast(made, c_void_p)

    def _failed(self, kind: str, path: str | None, code: int) -> int:
        """The code that a call has to return at once, or 0."""
        fault = self._tap.passing(kind, path, sqlite=True)
        return 0 if fault is None else self._code(fault, code)

    @staticmethod
    def _code(fault: Fault, code: int) -> int:
        full = fault.code in (errno.ENOSPC, errno.EDQUOT) and code == _WRITE
        return _FULL if full else code

    # -- the file system ------------------------------------------------------------------------------------------

    def _x_open(self, vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
        path = None
        if name is not None and not flags & _OPEN_DELETEONCLOSE:
            path = self._tap.name(ctypes.string_at(name).decode())
        failed = self._failed("create" if flags & _OPEN_CREATE else "open", path, _CANTOPEN)
        if failed:
            c_void_p.from_address(file).value = None  # no methods: nothing to close
            return failed
        with self._tap.held():
            code: int = self._open(ctypes.addressof(self._unix.contents), name, file, flags, out)
            if code == _OK and path is not None:
                if flags & _OPEN_CREATE:
                    self._tap.created(path)
                    if flags & _OPEN_JOURNALS:
                        self._sync_directory.add(file)
                self._paths[file] = path
                methods = c_void_p.from_address(file)
                assert methods.value is not None
                methods.value = ctypes.addressof(self._ours(methods.value)[1])
        return code

    def _x_delete(self, vfs: int, name: int, sync: int) -> int:
        path = self._tap.name(ctypes.string_at(name).decode())
        failed = self._failed("unlink", path, _DELETE)
        if failed:
            return failed
        with self._tap.held():
            code: int = self._delete(ctypes.addressof(self._unix.contents), name, sync)
            if code == _OK and path is not None:
                self._tap.unlinked(path)
                for file, other in list(self._paths.items()):
                    if other == path:
                        self._paths[file] = "-shm"  # removed while open: followed no further
                if sync:
                    self._tap.synced(path.rpartition("/")[0])
        return code

    def _x_access(self, vfs: int, name: int, flags: int, out: int) -> int:
        path = self._tap.name(ctypes.string_at(name).decode())
        code: int = self._failed("access", path, _ACCESS)
        return code or self._access(ctypes.addressof(self._unix.contents), name, flags, out)

    # -- files ----------------------------------------------------------------------------------------------------

    def _ours(self, original: int) -> tuple[_Methods, _Methods]:
        found = self._methods.get(original)
        if found is None:
            theirs = _Methods.from_address(original)
            ours = _Methods.from_buffer_copy(theirs)
            for name, kind, function, code in (
                ("xClose", _Close, self._x_close, _IOERR),
                ("xRead", _ReadWrite, self._x_read, _READ),
                ("xWrite", _ReadWrite, self._x_write, _WRITE),
                ("xTruncate", _Truncate, self._x_truncate, _TRUNCATE),
                ("xSync", _Sync, self._x_sync, _SYNC),
                ("xFileSize", _FileSize, self._x_file_size, _FSTAT),
                ("xShmMap", _ShmMap, self._x_shm_map, _SHMMAP),
            ):
                original_call = getattr(theirs, name)
                if original_call is not None:  # only the database itself has shared memory
                    bound = self._bound(function, kind(original_call))
                    setattr(ours, name, self._callback(kind, bound, code))
            found = self._methods[original] = (theirs, ours)
        return found

    @staticmethod
    def _bound(function: Callable[..., int], original: Any) -> Callable[..., int]:
        return lambda *arguments: function(original, *arguments)

    def _x_close(self, original: Any, file: int) -> int:
        with self._tap.held():
            self._paths.pop(file, None)
            self._sync_directory.discard(file)
            code: int = original(file)
            return code

    def _x_read(self, original: Any, file: int, data: int, length: int, offset: int) -> int:
        return self._failed("read", self._paths[file], _READ) or original(file, data, length, offset)

    def _x_write(self, original: Any, file: int, data: int, length: int, offset: int) -> int:
        path = self._paths[file]
        fault = self._tap.passing("write", path, sqlite=True)
        if fault is not None:
            if fault.part is None:
                return self._code(fault, _WRITE)
            length = int(length * fault.part)
        with self._tap.held():
            code: int = original(file, data, length, offset) if length else _OK
            if code == _OK:
                self._tap.written(path, offset, ctypes.string_at(data, length))
        # unix writes on where a part was taken, until nothing more is: then the disk is full.
        return _FULL if fault is not None else code

    def _x_truncate(self, original: Any, file: int, size: int) -> int:
        path = self._paths[file]
        failed = self._failed("truncate", path, _TRUNCATE)
        if failed:
            return failed
        with self._tap.held():
            code: int = original(file, size)
            if code == _OK:
                self._tap.truncated(path, size)
        return code

    def _x_sync(self, original: Any, file: int, flags: int) -> int:
        path = self._paths[file]
        failed = self._failed("sync", path, _SYNC)
        with self._tap.held():
            code: int = failed or original(file, flags)
            # After one that failed SQLite takes it that a later one does what this one did not. The kernel may have
            # dropped the data instead; no database above SQLite can help that.
            if code == _OK:
                self._tap.synced(path)
            if code == _OK and file in self._sync_directory:
                self._sync_directory.discard(file)
                self._tap.synced(path.rpartition("/")[0])
        return code

    def _x_file_size(self, original: Any, file: int, size: int) -> int:
        return self._failed("stat", self._paths[file], _FSTAT) or original(file, size)

    def _x_shm_map(self, original: Any, file: int, region: int, size: int, extend: int, out: int) -> int:
        fault = self._tap.passing("map", f"{self._paths[file]}-shm", sqlite=True)
        if fault is not None:
            c_void_p.from_address(out).value = None
            return _SHMSIZE if fault.code == errno.ENOSPC else _SHMMAP
        code: int = original(file, region, size, extend, out)
        return code


@contextlib.contextmanager
def installed(tap: Tap) -> Iterator[TappedSqlite]:
    """Have SQLite's I/O pass ``tap``. All databases opened inside have to be closed inside."""
    sqlite = library()
    assert sqlite is not None
    vfs = TappedSqlite(tap, sqlite)
    vfs.register()
    try:
        yield vfs
    finally:
        vfs.unregister()
