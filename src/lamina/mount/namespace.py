"""What a mount shows: one snapshot, a dataset with its ``.zfs``, or every snapshot of a pool.

Node numbers are a pure function of what they name, so that a server that is started again gives the same ones:

* a tree's inode is ``slot << 36 | inode number``; the slot is the snapshot's catalogue id, and 0 for the tree that the
  mount's root is (so a single snapshot's node numbers are its inode numbers);
* a directory that is in no tree has bit 62 set;
* the root is 1, as the protocol wants (``FUSE_ROOT_ID``).
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lamina.errors import NotFound, UnsupportedPool
from lamina.fs.types import ROOT_INO

if TYPE_CHECKING:
    from lamina.fs.view import TreeView

INO_BITS = 36
INO_MASK = (1 << INO_BITS) - 1
VIRTUAL = 1 << 62
ROOT_NODE = 1
ZFS_NAME = b".zfs"
ZFS_COOKIE = 3
"""Directory position of a visible ``.zfs``: after "." and "..", before every cookie of a tree."""

_ZFS_DIR = VIRTUAL | 1
_SNAPSHOT_DIR = VIRTUAL | 2
_FIRST_FOLDER = VIRTUAL | 16

_LIST_SECONDS = 0.25
"""How long a list of names is believed."""
_MOST_VIEWS = 256
"""Trees kept open at once."""


class Entry(Protocol):
    """A dataset or snapshot as the pool lists it."""

    @property
    def name(self) -> str:
        """Full name: ``tank/a`` or ``tank/a@b``."""
        ...

    @property
    def type(self) -> str:
        """``filesystem`` or ``snapshot``."""
        ...

    @property
    def id(self) -> int:
        """Catalogue row, never used again."""
        ...


class Source(Protocol):
    """What the mount needs of a pool. ``lamina.pool.Pool`` has all of it."""

    @property
    def name(self) -> str:
        """The pool's name."""
        ...

    def tree(self, name: str) -> "TreeView":
        """The tree of a snapshot, or of a dataset's head."""
        ...

    def list(
        self,
        roots: Sequence[str] = (),
        *,
        recursive: bool = False,
        depth: int | None = None,
        types: Collection[str] = ("filesystem",),
    ) -> Sequence[Entry]:
        """Datasets and snapshots."""
        ...

    def get(self, entry: Any, props: Sequence[str] | None = None) -> dict[str, Any]:
        """Properties; each has a ``value``."""
        ...

    def close(self) -> None:
        """Let go of the pool."""
        ...


@dataclass(slots=True, frozen=True)
class Place:
    """An open tree and the number that its inode numbers are added to."""

    view: "TreeView"
    base: int


@dataclass(slots=True, frozen=True)
class Child:
    """A name in a virtual directory."""

    name: bytes
    node: int
    cookie: int


class Namespace:
    """A single immutable tree: the base of the others."""

    live = False
    """Whether names can come and go, so that the kernel must ask again."""
    virtual_root = False
    extra: Child | None = None
    """A name in the root beside the tree's own."""
    extra_visible = False

    def __init__(self, view: "TreeView | None") -> None:
        self._places: dict[int, Place] = {}
        if view is not None:
            self._places[0] = Place(_checked(view), 0)

    def place(self, slot: int) -> Place:
        """The tree of a slot. Raises ``NotFound`` when it is gone."""
        found = self._places.get(slot)
        if found is None:
            found = Place(_checked(self._open(slot)), slot << INO_BITS)
            if len(self._places) >= _MOST_VIEWS:
                del self._places[next(key for key in self._places if key)]
            self._places[slot] = found
        return found

    def children(self, node: int) -> list[Child]:
        """What a virtual directory holds, by cookie. Raises ``NotFound``."""
        raise NotFound(f"no directory {node:#x}")

    def parent(self, node: int) -> int:
        """The directory that holds a virtual directory."""
        return ROOT_NODE

    def _open(self, slot: int) -> "TreeView":
        raise NotFound(f"no tree {slot}")


class DatasetNamespace(Namespace):
    """A dataset's head, with its snapshots under ``.zfs/snapshot``. The head is the one of the moment of mounting."""

    live = True

    def __init__(self, source: Source, dataset: Entry, *, visible: bool) -> None:
        super().__init__(source.tree(dataset.name))
        self._source = source
        self._dataset = dataset.name
        self._id = dataset.id
        self._names: dict[int, str] = {}
        self._listed = -1.0
        self._list: list[Child] = []
        self.extra = Child(ZFS_NAME, _ZFS_DIR, ZFS_COOKIE)
        self.extra_visible = visible

    def children(self, node: int) -> list[Child]:
        """``snapshot`` in ``.zfs``; the snapshots in that."""
        if node == _ZFS_DIR:
            return [Child(b"snapshot", _SNAPSHOT_DIR, ZFS_COOKIE)]
        if node != _SNAPSHOT_DIR:
            return super().children(node)
        now = time.monotonic()
        if now - self._listed > _LIST_SECONDS:
            self._refresh()
            self._listed = now
        return self._list

    def parent(self, node: int) -> int:
        """``.zfs`` for ``snapshot``, else the root."""
        return _ZFS_DIR if node == _SNAPSHOT_DIR else ROOT_NODE

    def _refresh(self) -> None:
        try:
            entries = self._snapshots()
        except NotFound:
            # Renamed, or gone: the row's number tells.
            known = self._source.list((), recursive=True, types=("filesystem",))
            self._dataset = next((e.name for e in known if e.id == self._id), self._dataset)
            try:
                entries = self._snapshots()
            except NotFound:
                entries = []
        self._names = {e.id: e.name for e in entries}
        self._list = sorted(
            (Child(_encode(e.name.partition("@")[2]), e.id << INO_BITS | ROOT_INO, e.id + 16) for e in entries),
            key=lambda child: child.cookie,
        )

    def _snapshots(self) -> list[Entry]:
        prefix = self._dataset + "@"
        listed = self._source.list((self._dataset,), depth=1, types=("snapshot",))
        return [e for e in listed if e.name.startswith(prefix)]

    def _open(self, slot: int) -> "TreeView":
        if slot not in self._names:
            self.children(_SNAPSHOT_DIR)
        if slot not in self._names:
            return super()._open(slot)
        return self._source.tree(self._names[slot])


class PoolNamespace(Namespace):
    """Every dataset that has children as a folder, every snapshot as a folder named ``dataset@snapshot``."""

    live = True
    virtual_root = True

    def __init__(self, source: Source) -> None:
        super().__init__(None)
        self._source = source
        self._listed = -1.0
        self._folders: dict[int, list[Child]] = {ROOT_NODE: []}
        self._parents: dict[int, int] = {}
        self._names: dict[int, str] = {}

    def children(self, node: int) -> list[Child]:
        """Folders and snapshots of one dataset."""
        now = time.monotonic()
        if now - self._listed > _LIST_SECONDS:
            self._refresh()
            self._listed = now
        found = self._folders.get(node)
        if found is None:
            return super().children(node)
        return found

    def parent(self, node: int) -> int:
        """The folder above."""
        return self._parents.get(node, ROOT_NODE)

    def _refresh(self) -> None:
        pool = self._source.name
        entries = list(self._source.list((pool,), recursive=True, types=("filesystem", "snapshot")))
        datasets = {e.name: e for e in entries if e.type == "filesystem"}
        with_children = {name.rpartition("/")[0] for name in datasets if "/" in name}
        nodes = {name: _folder_node(datasets[name].id) for name in with_children if name in datasets}
        nodes[pool] = ROOT_NODE
        folders: dict[int, list[Child]] = {node: [] for node in nodes.values()}
        parents: dict[int, int] = {}
        names: dict[int, str] = {}
        for entry in entries:
            if entry.type == "filesystem":
                above, _, leaf = entry.name.rpartition("/")
                if entry.name != pool and entry.name in nodes and above in nodes:
                    node = nodes[entry.name]
                    folders[nodes[above]].append(Child(_encode(leaf), node, 16 + 2 * entry.id))
                    parents[node] = nodes[above]
                continue
            dataset, _, snapshot = entry.name.partition("@")
            above, _, leaf = dataset.rpartition("/")
            if dataset == pool:
                above, leaf = pool, ""
            if above in nodes:
                node = entry.id << INO_BITS | ROOT_INO
                folders[nodes[above]].append(Child(_encode(f"{leaf}@{snapshot}"), node, 17 + 2 * entry.id))
                names[entry.id] = entry.name
        for children in folders.values():
            children.sort(key=lambda child: child.cookie)
        self._folders, self._parents, self._names = folders, parents, names

    def _open(self, slot: int) -> "TreeView":
        if slot not in self._names:
            self.children(ROOT_NODE)
        if slot not in self._names:
            return super()._open(slot)
        return self._source.tree(self._names[slot])


def open_namespace(source: Source, name: str, *, whole_pool: bool) -> Namespace:
    """The namespace of a snapshot, a dataset or, with ``whole_pool``, the pool. Raises ``NotFound``."""
    if whole_pool:
        namespace: Namespace = PoolNamespace(source)
        namespace.children(ROOT_NODE)
        return namespace
    if "@" in name:
        return Namespace(source.tree(name))
    dataset = next((e for e in source.list((name,), types=("filesystem",)) if e.name == name), None)
    if dataset is None:
        raise NotFound(f"cannot open '{name}': dataset does not exist")
    snapdir = source.get(name, ("snapdir",)).get("snapdir")
    return DatasetNamespace(source, dataset, visible=snapdir is not None and snapdir.value == "visible")


def _folder_node(dataset: int) -> int:
    return _FIRST_FOLDER + dataset


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _checked(view: "TreeView") -> "TreeView":
    if view.totals.next_ino > 1 << INO_BITS:
        raise UnsupportedPool(f"a tree with inode numbers of more than {INO_BITS} bits cannot be mounted")
    return view
