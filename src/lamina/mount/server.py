"""The FUSE server: one request loop, a dispatch table, and an errno for everything that goes wrong."""

import errno
import os
import stat
import time
from collections.abc import Callable

from lamina.errors import DamagedData, LaminaError, MountError, NotFound
from lamina.fs.types import Inode
from lamina.mount import protocol
from lamina.mount.data import DEFAULT_CACHE_BYTES, DEFAULT_THREADS, ChunkCache, Decoder
from lamina.mount.directories import Directories
from lamina.mount.log import Log
from lamina.mount.namespace import INO_BITS, INO_MASK, ROOT_NODE, VIRTUAL, ZFS_NAME, Namespace, Place
from lamina.mount.push import Pusher
from lamina.mount.reading import Reader

FOREVER = 10 * 86400
"""Seconds the kernel may keep a name or attributes of a tree that never changes."""
LIVE_NS = 500_000_000
"""Nanoseconds the kernel may keep a name that can come and go."""

_READ_BYTES = 32 << 10
"""Of a request read from the device: room for 2,000 FORGETs at once; the kernel wants at least 8 KiB."""
_MAX_WRITE = 4096
_MAX_PAGES = 256
"""Pages in one READ: 1 MiB."""
_BACKGROUND = 64
"""READs of the kernel's own read-ahead in flight at once."""
_MOST_KNOWN = 400_000
"""Regular files remembered as known to the kernel, with their sizes."""
_NAME_MAX = 255
_PROBES = 6
_PROBED = 128 << 10
_COUNTED = 2 << 20
"""Files from ``_PROBED`` to ``_COUNTED`` bytes have their extents counted for ``st_blocks``; larger ones, where they
look sparse at a few places."""

_WANTED = (
    protocol.ASYNC_READ
    | protocol.DO_READDIRPLUS
    | protocol.ASYNC_DIO
    | protocol.NO_OPEN_SUPPORT
    | protocol.NO_OPENDIR_SUPPORT
    | protocol.PARALLEL_DIROPS
    | protocol.MAX_PAGES
    | protocol.CACHE_SYMLINKS
    | protocol.EXPLICIT_INVAL_DATA
)

Handler = Callable[[int, int, bytes], None]


class Server:
    """Serves one mount from one ``/dev/fuse`` descriptor until it is unmounted."""

    def __init__(
        self,
        device: int,
        namespace: Namespace,
        log: Log,
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        threads: int = DEFAULT_THREADS,
        posix_acl: bool = False,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self._device = device
        self._namespace = namespace
        self._log = log
        self._on_ready = on_ready
        self._wanted = _WANTED | (protocol.POSIX_ACL if posix_acl else 0)
        self._started_ns = time.time_ns()
        self._owner = (os.getuid(), os.getgid())
        self._ended = False
        self._refused: str | None = None
        self._places: dict[int, Place] = {}
        self._known: dict[int, int] = {}
        """Sizes of regular files by node: those that the kernel has an inode of, as far as remembered."""
        self._parents: dict[int, int] = {}
        self._xattrs: tuple[int, dict[bytes, bytes]] = (0, {})
        cache = ChunkCache(cache_bytes)
        self._decoder = Decoder(cache, threads, self._unexpected)
        self._pusher = Pusher(device, self._known, self._unexpected)
        self._reader = Reader(device, cache, self._decoder, self._pusher, self._locate, self._known, self._read_failed)
        self._directories = Directories(
            device, namespace, self._locate, self._known, self._pusher, self._parents, blocks, FOREVER
        )
        self._handlers = self._table()

    # The loop -------------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer requests until the file system is unmounted. Raises ``MountError`` for a kernel that is too old."""
        device, handlers = self._device, self._handlers
        read, unpack = os.read, protocol.REQUEST.unpack_from
        try:
            while not self._ended:
                try:
                    request = read(device, _READ_BYTES)
                except OSError as error:
                    if error.errno == errno.ENODEV:
                        break
                    if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                        continue  # the request was interrupted before it could be read
                    raise
                _, opcode, unique, node = unpack(request)
                try:
                    handlers[opcode if opcode < protocol.OPCODES else 0](unique, node, request)
                except Exception as error:
                    self._failed(opcode, unique, node, error)
        finally:
            self._pusher.close()
            self._decoder.close()
        if self._refused is not None:
            raise MountError(f"cannot mount: {self._refused}")

    def _table(self) -> list[Handler]:
        table: list[Handler] = [self._unknown] * protocol.OPCODES
        for opcode in protocol.WRITING:
            table[opcode] = self._read_only
        reader, directories = self._reader, self._directories
        table[protocol.LOOKUP] = self._lookup
        table[protocol.FORGET] = self._forget
        table[protocol.BATCH_FORGET] = self._batch_forget
        table[protocol.GETATTR] = self._getattr
        table[protocol.READLINK] = self._readlink
        table[protocol.READ] = reader.read
        table[protocol.LSEEK] = reader.lseek
        table[protocol.STATFS] = self._statfs
        table[protocol.RELEASE] = self._nothing
        table[protocol.RELEASEDIR] = self._nothing
        table[protocol.GETXATTR] = self._getxattr
        table[protocol.LISTXATTR] = self._listxattr
        table[protocol.INIT] = self._init
        table[protocol.READDIR] = directories.readdir
        table[protocol.READDIRPLUS] = directories.readdirplus
        table[protocol.INTERRUPT] = self._interrupt
        table[protocol.NOTIFY_REPLY] = self._interrupt
        table[protocol.DESTROY] = self._destroy
        # OPEN and FLUSH stay unknown: ENOSYS tells the kernel not to ask again. So do ACCESS (the mount has
        # default_permissions), FSYNC (nothing to sync), and STATX, which would add only a birth time that trees do
        # not keep, and would be asked again at each stat(1). OPENDIR too where no directory can change.
        if self._namespace.live:
            table[protocol.OPENDIR] = self._opendir
        return table

    # Errors ---------------------------------------------------------------------------------------------------------

    def _failed(self, opcode: int, unique: int, node: int, error: Exception) -> None:
        if isinstance(error, OSError) and error.errno == errno.ENODEV:
            self._ended = True
            return
        if isinstance(error, OSError) and error.errno == errno.ENOENT and error.filename is None:
            return  # a reply to a request that was interrupted: nobody waits for it
        if isinstance(error, NotFound):
            # The kernel has named a node: its snapshot is gone.
            code = errno.ENOENT if opcode == protocol.LOOKUP else errno.ESTALE
        elif isinstance(error, DamagedData):
            code = errno.EIO
            self._log.line(f"EIO: inode {node & INO_MASK} (node {node:#x}), request {opcode}: {error}")
        elif isinstance(error, LaminaError):
            code = error.errno
            self._log.line(f"{errno.errorcode.get(code, code)}: node {node:#x}, request {opcode}: {error}")
        else:
            code = errno.EIO
            self._log.traceback(f"EIO: node {node:#x}, request {opcode}: {type(error).__name__}", error)
        if opcode in (protocol.FORGET, protocol.BATCH_FORGET, protocol.INTERRUPT, protocol.NOTIFY_REPLY):
            return
        try:
            os.write(self._device, protocol.error_reply(unique, code))
        except OSError as gone:
            if gone.errno == errno.ENODEV:
                self._ended = True
            elif gone.errno != errno.ENOENT:
                self._log.line(f"a reply was refused: {gone.strerror}")

    def _read_failed(self, node: int, key: bytes, error: BaseException) -> None:
        text = f"EIO: inode {node & INO_MASK} (node {node:#x}), chunk {key.hex()}: "
        if isinstance(error, LaminaError):
            self._log.line(text + str(error))
        else:
            self._log.traceback(text + type(error).__name__, error)

    def _unexpected(self, text: str, error: BaseException) -> None:
        if isinstance(error, LaminaError):
            self._log.line(f"{text}: {error}")
        else:
            self._log.traceback(f"{text}: {type(error).__name__}", error)

    def _unknown(self, unique: int, node: int, request: bytes) -> None:
        os.write(self._device, protocol.error_reply(unique, errno.ENOSYS))

    def _read_only(self, unique: int, node: int, request: bytes) -> None:
        os.write(self._device, protocol.error_reply(unique, errno.EROFS))

    def _nothing(self, unique: int, node: int, request: bytes) -> None:
        os.write(self._device, protocol.error_reply(unique, 0))

    def _interrupt(self, unique: int, node: int, request: bytes) -> None:
        """No reply. Reads of regular files are not interrupted: EINTR would reach programs that take it as a failed
        read (a profiling timer is enough), and every request ends soon."""

    # Session --------------------------------------------------------------------------------------------------------

    def _init(self, unique: int, node: int, request: bytes) -> None:
        try:
            reply = protocol.init_reply(
                unique,
                request[protocol.IN_HEADER_BYTES :],
                wanted=self._wanted,
                max_write=_MAX_WRITE,
                max_pages=_MAX_PAGES,
                background=_BACKGROUND,
            )
        except protocol.TooOld as error:
            os.write(self._device, protocol.error_reply(unique, errno.EPROTO))
            self._refused = str(error)
            self._ended = True
            return
        os.write(self._device, reply)
        if self._on_ready is not None:
            self._on_ready()
            self._on_ready = None

    def _destroy(self, unique: int, node: int, request: bytes) -> None:
        self._nothing(unique, node, request)
        self._ended = True

    # Names and attributes -------------------------------------------------------------------------------------------

    def _is_virtual(self, node: int) -> bool:
        return node >= VIRTUAL or (node == ROOT_NODE and self._namespace.virtual_root)

    def _locate(self, node: int) -> tuple[Place, int]:
        slot = node >> INO_BITS
        place = self._places.get(slot)
        if place is None:
            place = self._namespace.place(slot)
            if len(self._places) > 256:
                self._places.clear()
            self._places[slot] = place
        return place, node & INO_MASK

    def _lookup(self, unique: int, node: int, request: bytes) -> None:
        name = request[protocol.IN_HEADER_BYTES : -1]
        if len(name) > _NAME_MAX:  # kernels from 6.16 on ask for longer ones too
            os.write(self._device, protocol.error_reply(unique, errno.ENAMETOOLONG))
            return
        if node == ROOT_NODE or node >= VIRTUAL:
            if self._is_virtual(node):
                self._lookup_virtual(unique, node, name)
                return
            extra = self._namespace.extra
            if extra is not None and name == ZFS_NAME:
                self._reply_virtual_entry(unique, extra.node)
                return
        place, ino = self._locate(node)
        entry = place.view.lookup(ino, name)
        if entry is None:
            # Node 0 with a time: the kernel may remember that there is no such name.
            os.write(self._device, protocol.ENTRY_REPLY.pack(144, 0, unique, 0, 0, FOREVER, 0, 0, 0, *protocol.NO_ATTR))
            return
        inode = place.view.inode(entry.ino)
        child = place.base | entry.ino
        self._remember(node, child, inode)
        fields = protocol.attr_fields(inode, child, blocks(place, inode))
        os.write(self._device, protocol.ENTRY_REPLY.pack(144, 0, unique, child, 0, FOREVER, FOREVER, 0, 0, *fields))

    def _remember(self, parent: int, child: int, inode: Inode) -> None:
        kind = inode.mode & 0o170000
        if kind == stat.S_IFREG:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[child] = inode.size
            self._pusher.version += 1
        elif kind == stat.S_IFDIR:
            if len(self._parents) >= _MOST_KNOWN:
                self._parents.clear()
            self._parents[child] = parent

    def _lookup_virtual(self, unique: int, node: int, name: bytes) -> None:
        try:
            found = next((c for c in self._namespace.children(node) if c.name == name), None)
        except NotFound:
            found = None
        if found is None:
            os.write(self._device, protocol.error_reply(unique, errno.ENOENT))
        elif self._is_virtual(found.node):
            self._reply_virtual_entry(unique, found.node)
        else:
            place, ino = self._locate(found.node)
            inode = place.view.inode(ino)
            self._parents[found.node] = node
            fields = protocol.attr_fields(inode, found.node, blocks(place, inode))
            os.write(
                self._device,
                protocol.ENTRY_REPLY.pack(144, 0, unique, found.node, 0, 0, FOREVER, LIVE_NS, 0, *fields),
            )

    def _reply_virtual_entry(self, unique: int, node: int) -> None:
        fields = self._virtual_fields(node)
        os.write(self._device, protocol.ENTRY_REPLY.pack(144, 0, unique, node, 0, 0, 0, LIVE_NS, LIVE_NS, *fields))

    def _virtual_fields(self, node: int) -> protocol.AttrFields:
        # One link, as on btrfs: "not counted", so that nobody concludes from it how many directories there are.
        uid, gid = self._owner
        when = self._started_ns
        inode = Inode(node, stat.S_IFDIR | 0o555, uid, gid, 1, 0, when, when, when)
        return protocol.attr_fields(inode, node, 0)

    def _getattr(self, unique: int, node: int, request: bytes) -> None:
        if self._is_virtual(node):
            fields = self._virtual_fields(node)
            os.write(self._device, protocol.ATTR_REPLY.pack(120, 0, unique, 0, LIVE_NS, 0, *fields))
            return
        place, ino = self._locate(node)
        inode = place.view.inode(ino)
        fields = protocol.attr_fields(inode, node, blocks(place, inode))
        os.write(self._device, protocol.ATTR_REPLY.pack(120, 0, unique, FOREVER, 0, 0, *fields))

    def _forget(self, unique: int, node: int, request: bytes) -> None:
        self._known.pop(node, None)
        self._parents.pop(node, None)
        self._pusher.forget(node)
        self._reader.forget(node)

    def _batch_forget(self, unique: int, node: int, request: bytes) -> None:
        count, _ = protocol.BATCH_FORGET_IN.unpack_from(request, protocol.IN_HEADER_BYTES)
        start = protocol.IN_HEADER_BYTES + protocol.BATCH_FORGET_IN.size
        body = request[start : start + count * protocol.FORGET_ONE.size]
        for gone, _ in protocol.FORGET_ONE.iter_unpack(body):
            self._forget(unique, gone, request)

    def _readlink(self, unique: int, node: int, request: bytes) -> None:
        place, ino = self._locate(node)
        target = place.view.readlink(ino)
        os.write(self._device, protocol.OUT_HEADER.pack(16 + len(target), 0, unique) + target)

    def _opendir(self, unique: int, node: int, request: bytes) -> None:
        flags = 0 if self._is_virtual(node) else protocol.FOPEN_KEEP_CACHE | protocol.FOPEN_CACHE_DIR
        os.write(self._device, protocol.OPEN_REPLY.pack(32, 0, unique, 0, flags, 0))

    def _statfs(self, unique: int, node: int, request: bytes) -> None:
        # As squashfs and ISO 9660 answer: all of it is used.
        used = files = 0
        if not self._is_virtual(node):
            totals = self._locate(node)[0].view.totals
            used, files = -(-totals.data_bytes // protocol.BLOCK), totals.inodes
        size = protocol.BLOCK
        os.write(
            self._device, protocol.STATFS_REPLY.pack(96, 0, unique, used, 0, 0, files, 0, size, _NAME_MAX, size, 0)
        )

    # Extended attributes --------------------------------------------------------------------------------------------

    def _attributes(self, node: int) -> dict[bytes, bytes]:
        # A program lists, then asks for each, size first: the last node's are kept.
        if self._xattrs[0] != node:
            if self._is_virtual(node):
                return {}
            place, ino = self._locate(node)
            self._xattrs = (node, place.view.xattrs(ino))
        return self._xattrs[1]

    def _getxattr(self, unique: int, node: int, request: bytes) -> None:
        (size,) = protocol.GETXATTR_IN.unpack_from(request, 40)
        value = self._attributes(node).get(request[48:-1])
        if value is None:
            os.write(self._device, protocol.error_reply(unique, errno.ENODATA))
        else:
            self._reply_sized(unique, size, value)

    def _listxattr(self, unique: int, node: int, request: bytes) -> None:
        (size,) = protocol.GETXATTR_IN.unpack_from(request, 40)
        (uid,) = protocol.REQUEST_UID.unpack_from(request, protocol.UID_AT)
        # xattr(7): trusted.* is visible to CAP_SYS_ADMIN alone; the kernel guards the values, not this list.
        names = (n for n in self._attributes(node) if uid == 0 or not n.startswith(b"trusted."))
        self._reply_sized(unique, size, b"".join(name + b"\0" for name in names))

    def _reply_sized(self, unique: int, size: int, value: bytes) -> None:
        if size == 0:
            reply = protocol.GETXATTR_REPLY.pack(24, 0, unique, len(value), 0)
        elif size < len(value):
            reply = protocol.error_reply(unique, errno.ERANGE)
        else:
            reply = protocol.OUT_HEADER.pack(16 + len(value), 0, unique) + value
        os.write(self._device, reply)


def blocks(place: Place, inode: Inode) -> int:
    """``st_blocks``: units of 512 bytes. Large files that look sparse at a few places are counted exactly.

    Tools take a file for sparse when this is less than its size; to count a dense file of thousands of extents for
    each stat would cost milliseconds.
    """
    size = inode.size
    if inode.mode & 0o170000 != stat.S_IFREG:
        return -(-size // 4096) * 8 if inode.mode & 0o170000 == stat.S_IFLNK and size > 59 else 0
    dense = -(-size // 4096) * 8
    if size < _PROBED:
        return dense
    extents, ino = place.view.extents, inode.ino
    step = size // _PROBES
    if size > _COUNTED and all(extents(ino, at, at + 1) for at in range(step // 2, size, step)):
        return dense
    total = sum(extent.length for extent in extents(ino, 0, size))
    return min(-(-total // 512), dense)
