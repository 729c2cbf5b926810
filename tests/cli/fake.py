"""Pools in memory with the face of :mod:`lamina.pool`: what the command line is tested against by itself.

``reference_pool`` holds the figures of the OpenZFS transcript, so that tables can be compared with the real thing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lamina.errors import AlreadyExists, Busy, NotFound, PropertyError
from lamina.pool import Entry, PropertyValue, features
from lamina.pool.names import parent_of, pool_of_name, split_snapshot
from lamina.pool.properties import (
    PROPERTIES,
    default_value,
    inherited_value,
    parse_properties,
    properties_for,
    raw_value,
)

KIB = 1024
Progress = Callable[[Any], None] | None


@dataclass
class Node:
    """A dataset or a snapshot: what is measured of it and what was set on it."""

    id: int
    kind: str = ""
    figures: dict[str, int | float | str] = field(default_factory=dict)
    local: dict[str, str] = field(default_factory=dict)


@dataclass
class FakePool:
    """One pool."""

    name: str
    path: Path = Path("/data/tank")
    guid: int = 15515664079049034598
    writable: bool = True
    nodes: dict[str, Node] = field(default_factory=dict)
    state: str = "ONLINE"
    errors: int = 0
    freeing: int = 0
    full: int = 0
    counts: tuple[int, int, int] = (0, 0, 0)
    scan: Any = None
    damaged: Sequence[str] = ()
    opened: int = 0
    imported: list[tuple[Any, str, str]] = field(default_factory=list)
    differences: list[tuple[bytes, str]] = field(default_factory=list)
    warnings: Sequence[str] = ()
    import_hook: Callable[[str, Progress], None] | None = None

    def __enter__(self) -> FakePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.opened -= 1

    def add(
        self, name: str, local: Mapping[str, str] | None = None, kind: str = "", **figures: int | float | str
    ) -> Node:
        node = Node(len(self.nodes) + 1, kind, dict(figures), dict(local or {}))
        self.nodes[name] = node
        return node

    def space(self) -> SimpleNamespace:
        return SimpleNamespace(
            size=4026531840,
            allocated=368640,
            free=4026163200,
            capacity=self.full,
            dedupratio=1.0,
            health=self.state,
            freeing=self.freeing,
        )

    def capacity(self) -> int:
        return self.full

    def status(self) -> SimpleNamespace:
        snapshots = sum("@" in name for name in self.nodes)
        return SimpleNamespace(
            name=self.name,
            state=self.state,
            path=self.path,
            packs=3,
            objects=1234,
            datasets=len(self.nodes) - snapshots,
            snapshots=snapshots,
            errors=self.errors,
            freeing=self.freeing,
            read_errors=self.counts[0],
            write_errors=self.counts[1],
            checksum_errors=self.counts[2],
            scan=self.scan,
            capacity=self.full,
        )

    def damage(self) -> Any:
        return iter(self.damaged)

    def clear_errors(self) -> None:
        self.counts = (0, 0, 0)

    def own_properties(self) -> dict[str, tuple[str, str]]:
        own = {"comment": ("-", "default"), "images": (f"{self.name}/images", "default")}
        return own | {f"feature@{one.name}": ("enabled", "local") for one in features.ALL}

    def exists(self, name: str) -> bool:
        return name in self.nodes

    def list(
        self,
        roots: Sequence[str] = (),
        *,
        recursive: bool = False,
        depth: int | None = None,
        types: Collection[str] = ("filesystem",),
    ) -> list[Entry]:
        found: dict[str, Entry] = {}
        for root in roots or [self.name]:
            if root not in self.nodes:
                raise NotFound(f"cannot open '{root}': dataset does not exist")
            for name, node in self.nodes.items():
                level = self._level(root, name)
                if level is None or level > (0 if not recursive else 10**9 if depth is None else depth):
                    continue
                type_ = "snapshot" if "@" in name else "filesystem"
                if type_ in types:
                    found[name] = Entry(name, type_, node.id, node.kind or ("snapshot" if "@" in name else ""))
        return sorted(found.values(), key=lambda entry: (entry.name.partition("@")[0], "@" in entry.name, entry.id))

    @staticmethod
    def _level(root: str, name: str) -> int | None:
        if name == root:
            return 0
        dataset, snapshot = split_snapshot(name)
        if dataset != root and not dataset.startswith(root + "/"):
            return None
        return dataset[len(root) :].count("/") + (snapshot is not None)

    def get(self, entry: str | Entry, props: Sequence[str] | None = None) -> dict[str, PropertyValue]:
        name = entry if isinstance(entry, str) else entry.name
        if name not in self.nodes:
            raise NotFound(f"cannot open '{name}': dataset does not exist")
        type_ = "snapshot" if "@" in name else "filesystem"
        if props is None:
            users: dict[str, None] = {}
            above: str | None = name
            while above is not None:
                users.update({key: None for key in self.nodes[above].local if ":" in key})
                above = parent_of(above)
            props = [found.name for found in properties_for(type_)] + sorted(users)
        absent = PropertyValue(None, "-")
        return {prop: self._value(name, type_, prop) if self._applies(prop, type_) else absent for prop in props}

    @staticmethod
    def _applies(prop: str, type_: str) -> bool:
        return prop not in PROPERTIES or PROPERTIES[prop].applies_to(type_)

    def _value(self, name: str, type_: str, prop: str) -> PropertyValue:
        node = self.nodes[name]
        if prop == "type":
            return PropertyValue(type_, "-")
        if prop in node.figures:
            return PropertyValue(node.figures[prop], "-")
        at: str | None = name
        while at is not None:
            stored = self.nodes[at].local.get(prop)
            if stored is not None:
                source = "local" if at == name else f"inherited from {at}"
                return PropertyValue(raw_value(prop, inherited_value(prop, stored, at, name)), source)
            if prop in PROPERTIES and not PROPERTIES[prop].inheritable:
                break
            at = parent_of(at)
        default = default_value(prop)
        return PropertyValue(raw_value(prop, default), "default" if default is not None else "-")

    def get_many(self, entries: Sequence[Entry], props: Sequence[str] | None) -> list[dict[str, PropertyValue]]:
        return [self.get(entry, props) for entry in entries]

    def create_dataset(
        self, name: str, properties: Mapping[str, str] | None = None, *, parents: bool = False, dry_run: bool = False
    ) -> Any:
        stored = parse_properties(properties or {}, prefix=f"cannot create '{name}': ")
        if name in self.nodes:
            if parents:
                return []
            raise AlreadyExists(f"cannot create '{name}': dataset already exists")
        made = [name]
        above = parent_of(name)
        while above is not None and above not in self.nodes:
            made.insert(0, above)
            above = parent_of(above)
        if len(made) > 1 and not parents:
            raise NotFound(f"cannot create '{name}': parent does not exist")
        for one in [] if dry_run else made:
            self.add(one, stored if one == name else {})
        return made

    def destroy(
        self,
        name: str,
        *,
        recursive: bool = False,
        clones: bool = False,
        defer: bool = False,
        dry_run: bool = False,
        measure: bool = False,
    ) -> SimpleNamespace:
        if name not in self.nodes:
            raise NotFound(f"cannot open '{name}': dataset does not exist")
        names = [one for one in self.nodes if self._level(name, one) is not None]
        names.sort(reverse=True)
        if len(names) > 1 and not recursive:
            raise Busy(
                "\n".join(
                    (
                        f"cannot destroy '{name}': filesystem has children",
                        "use '-r' to destroy the following datasets:",
                        *names[:-1],
                    )
                )
            )
        if not dry_run:
            for one in names:
                del self.nodes[one]
        return SimpleNamespace(names=names, reclaim=72 * KIB, deferred=[])

    def rename(self, old: str, new: str, *, parents: bool = False, recursive: bool = False) -> None:
        if old not in self.nodes:
            raise NotFound(f"cannot open '{old}': dataset does not exist")
        if new in self.nodes:
            raise AlreadyExists(f"cannot rename '{old}': dataset already exists")
        if self._level(old, new) is not None:
            raise Busy(f"cannot rename to '{new}': New dataset name cannot be a descendant of current dataset name")
        for name in [one for one in self.nodes if self._level(old, one) is not None]:
            self.nodes[new + name[len(old) :]] = self.nodes.pop(name)

    def set(self, names: Sequence[str], properties: Mapping[str, str]) -> None:
        for name in names:
            type_ = "snapshot" if "@" in name else "filesystem"
            stored = parse_properties(properties, entry_type=type_, prefix=f"cannot set property for '{name}': ")
            self.nodes[name].local.update(stored)

    def inherit(self, name: str, prop: str, *, recursive: bool = False) -> None:
        if name not in self.nodes:
            raise NotFound(f"cannot open '{name}': dataset does not exist")
        for one, node in self.nodes.items():
            level = self._level(name, one)
            if level == 0 or (recursive and level is not None):
                node.local.pop(prop, None)

    def import_image(self, source: Any, name: str, *, progress: Progress = None, format: str = "auto") -> Any:
        if self.import_hook is not None:
            self.import_hook(name, progress)
        content = source if isinstance(source, str) else source.read()
        self.imported.append((content, name, format))
        self.add(name, kind="image")
        return ImportReport(name, 10, 1000 * KIB, 500 * KIB, 250 * KIB, 1.25, list(self.warnings))

    def verify(self, snapshot: str, against: Path, *, progress: Progress = None) -> Any:
        return [SimpleNamespace(path=path, what=what) for path, what in self.differences]

    def images(self, root: str | None = None) -> Any:
        entries = self.list([root or self.name], recursive=True, types=("snapshot",))
        return [entry for entry in entries if entry.kind == "image"]


@dataclass
class ImportReport:
    """As lamina.pool's."""

    name: str
    files: int
    logical_bytes: int
    new_logical_bytes: int
    stored_bytes: int
    seconds: float
    warnings: Any


class FakeMachine:
    """The pools that the command line finds."""

    def __init__(self) -> None:
        self.pools: dict[str, FakePool] = {}
        self.created: list[tuple[str, str, dict[str, Any]]] = []
        self.commands: list[str] = []

    def add(self, pool: FakePool) -> FakePool:
        self.pools[pool.name] = pool
        return pool

    def pool_names(self) -> list[str]:
        return list(self.pools)

    def open(self, name: str | Path, *, write: bool = False) -> FakePool:
        pool = self.pools.get(str(name))
        if pool is None:
            raise NotFound(f"cannot open '{name}': no such pool")
        pool.opened += 1
        return pool

    def pool_of(self, name: str, write: bool = False) -> FakePool:
        return self.open(pool_of_name(name), write=write)

    def create(self, name: str, path: str, **options: Any) -> FakePool:
        if name in self.pools:
            raise AlreadyExists(f"cannot create '{name}': pool already exists")
        if "bad" in options["properties"]:
            raise PropertyError("never reached: the command line checks names")
        self.commands.append(options.pop("command"))
        if not options["own_properties"]:
            del options["own_properties"]
        self.created.append((name, path, options))
        pool = self.add(FakePool(name))
        pool.opened += 1
        return pool


def reference_pool() -> FakePool:
    """The pool of the transcript after "fill some data"."""
    pool = FakePool("tank")
    free = 3780542464
    root = {"compression": "lz4", "atime": "off", "mountpoint": "/tank"}
    rows: list[tuple[str, int, int, int, float, dict[str, str]]] = [
        ("tank", 107 * KIB * KIB + 50, 104 * KIB, 107 * KIB * KIB, 2.79, root),
        ("tank/UPPER-ok_1.2:3", 96 * KIB, 96 * KIB, 42 * KIB, 1.0, {}),
        ("tank/a", 288 * KIB, 96 * KIB, 126 * KIB, 1.0, {}),
        ("tank/a/b", 192 * KIB, 96 * KIB, 84 * KIB, 1.0, {}),
        ("tank/a/b/c", 96 * KIB, 96 * KIB, 42 * KIB, 1.0, {}),
        ("tank/images", 40304640, 8765440, 112248320, 2.81, {}),
        ("tank/images/base", 31342592, 31342592, 95351072, 3.06, {"recordsize": "1048576", "compression": "zstd-19"}),
        ("tank/images/unm", 96 * KIB, 96 * KIB, 42 * KIB, 1.0, {}),
        ("tank/images/user", 96 * KIB, 96 * KIB, 42 * KIB, 1.0, {"com.example:tag": "prod"}),
    ]
    for name, used, referenced, logical, ratio, local in rows:
        pool.add(
            name,
            local,
            used=used,
            available=free,
            referenced=referenced,
            logicalused=logical,
            logicalreferenced=16828416 if name == "tank/images" else logical,
            compressratio=ratio,
            refcompressratio=1.93 if name == "tank/images" else ratio,
            creation=1795434701,
            guid=12794081414436370584,
            createtxg=14,
            mounted="yes",
            usedbysnapshots=0,
            usedbydataset=referenced,
            usedbychildren=used - referenced,
            usedbyrefreservation=0,
            unique=used,
        )
    return pool


def add_snapshots(pool: FakePool) -> None:
    """The snapshots of the transcript, and one that is an image."""
    for name, referenced in (
        ("tank/images@s1", 8780000),
        ("tank/images@s2", 8780000),
        ("tank/images/base@s2", 31342592),
    ):
        pool.add(name, used=0, referenced=referenced, compressratio=1.93, creation=1795434782, unique=0)
    pool.add("tank/images/base@2.8.0", kind="image", used=5, referenced=31342592, compressratio=1.5, unique=5)
