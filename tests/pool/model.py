"""What a pool should hold and say, from the definitions: names in plain dictionaries, objects found by walking trees.

Nothing here reads the pool's bitmaps, its kept sums or its rows of names.
"""

import contextlib
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field

from lamina.fs.view import StoredTree
from lamina.pool import Pool
from lamina.pool.properties import PROPERTIES

Keys = frozenset[bytes]
SETTABLE = [found.name for found in PROPERTIES.values() if found.settable]


@dataclass
class Snapshot:
    """A snapshot; ``logical`` is what its tree holds, ``taken`` what was taken in with it."""

    tag: str
    logical: int
    taken: int
    kind: str = "image"
    properties: dict[str, str] = field(default_factory=dict)


@dataclass
class Dataset:
    """A dataset; snapshots in the order they were made. ``follows``: the image that the head is."""

    properties: dict[str, str] = field(default_factory=dict)
    snapshots: list[Snapshot] = field(default_factory=list)
    follows: Snapshot | None = None
    head: int | None = None
    """Data bytes of a head that follows no image; None where it is empty."""
    taken: int = 0
    origin: Snapshot | None = None

    def find(self, tag: str) -> Snapshot | None:
        """The snapshot of this name."""
        return next((one for one in self.snapshots if one.tag == tag), None)

    def logical(self) -> int:
        """Data bytes of the head."""
        return self.follows.logical if self.follows else self.head or 0


class Model:
    """The names of a pool as they should be."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.datasets: dict[str, Dataset] = {root: Dataset()}

    # -- changes --------------------------------------------------------------------------------------------------

    def create(self, name: str, properties: dict[str, str] | None = None) -> None:
        """A dataset and those missing above it."""
        parts = name.split("/")
        for end in range(1, len(parts) + 1):
            self.datasets.setdefault("/".join(parts[:end]), Dataset())
        self.datasets[name].properties.update(properties or {})

    def take_in(self, name: str, tag: str, logical: int) -> None:
        """An import."""
        self.create(name)
        dataset = self.datasets[name]
        image = Snapshot(tag, logical, logical)
        dataset.snapshots.append(image)
        dataset.follows, dataset.head, dataset.taken = image, None, 0

    def below(self, name: str) -> list[str]:
        """A dataset and all under it."""
        return [one for one in self.datasets if one == name or one.startswith(name + "/")]

    def destroy(self, name: str, recursive: bool) -> set[str]:
        """Take names away; what went."""
        base, _, tag = name.partition("@")
        gone: set[str] = set()
        for one in self.below(base) if recursive else [base]:
            dataset = self.datasets[one]
            for snapshot in [s for s in dataset.snapshots if not tag or s.tag == tag]:
                gone.add(f"{one}@{snapshot.tag}")
                dataset.snapshots.remove(snapshot)
                if dataset.follows is snapshot:
                    images = [s for s in dataset.snapshots if s.kind == "image"]
                    dataset.follows = images[-1] if images else None
            if not tag and one != self.root:
                gone.add(one)
                del self.datasets[one]
        return gone

    def rename(self, old: str, new: str) -> None:
        """Rename a dataset with all below it."""
        moving = {one: self.datasets.pop(one) for one in self.below(old)}
        if "/" in new:
            self.create(new.rpartition("/")[0])
        for one, dataset in moving.items():
            self.datasets[new + one[len(old) :]] = dataset

    # -- what names should say ------------------------------------------------------------------------------------

    def setting(self, name: str, prop: str) -> tuple[str | None, str]:
        """(stored value, source) of a settable or user property of a dataset."""
        native = PROPERTIES.get(prop)
        parts = name.split("/")
        for end in range(len(parts), 0, -1):
            above = "/".join(parts[:end])
            if prop in self.datasets[above].properties:
                value = self.datasets[above].properties[prop]
                if prop == "mountpoint" and value not in ("none", "legacy") and above != name:
                    value = "/".join([value.rstrip("/"), *parts[end:]])
                return value, "local" if above == name else f"inherited from {above}"
            if native is not None and not native.inheritable:
                break
        return (native.default, "default") if native is not None else (None, "-")

    def user_properties(self, name: str) -> dict[str, tuple[str | None, str]]:
        """User properties that a dataset or snapshot has, with their sources."""
        base, _, tag = name.partition("@")
        parts = base.split("/")
        names = {
            p for end in range(len(parts)) for p in self.datasets["/".join(parts[: end + 1])].properties if ":" in p
        }
        found = {prop: self.setting(base, prop) for prop in names}
        if tag:
            found = {p: (v, f"inherited from {base}" if s == "local" else s) for p, (v, s) in found.items()}
            snapshot = self.datasets[base].find(tag)
            assert snapshot is not None
            found |= {prop: (value, "local") for prop, value in snapshot.properties.items()}
        return found

    def names(self) -> list[str]:
        """Every name in OpenZFS's order: a dataset, its snapshots by age, its children by name."""
        return [
            full
            for name in sorted(self.datasets, key=lambda one: one.split("/"))
            for full in (name, *(f"{name}@{snapshot.tag}" for snapshot in self.datasets[name].snapshots))
        ]


class Walk:
    """Sizes and sets of objects of a pool, by brute force."""

    def __init__(self, pool: Pool, known: dict[bytes, Keys]) -> None:
        """``known`` keeps walked trees by root key between walks: the objects of a tree never change."""
        self._pool = pool
        self._known = known
        with contextlib.closing(sqlite3.connect(f"file:{pool.path}/catalogue.db?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT key, stored, decoded FROM object").fetchall()
        self._sizes = {key: (stored, decoded) for key, stored, decoded in rows}

    def objects(self, name: str) -> Keys:
        """Keys of all objects that the tree of a snapshot, or of a dataset's head, reaches."""
        tree = self._pool.tree(name)
        assert isinstance(tree, StoredTree)
        if tree.root_key not in self._known:
            self._known[tree.root_key] = frozenset(tree.objects())
        return self._known[tree.root_key]

    def stored(self, keys: Iterable[bytes]) -> int:
        """Stored bytes of distinct objects."""
        return sum(self._sizes[key][0] for key in keys)

    def decoded(self, keys: Iterable[bytes]) -> int:
        """Their bytes before compression."""
        return sum(self._sizes[key][1] for key in keys)


def figures(model: Model, walk: Walk) -> dict[str, dict[str, int | float]]:
    """Every property that is a figure, of every dataset and snapshot."""
    nothing: Keys = frozenset()
    head, own, alone = {}, {}, {}
    snapshots: dict[str, Keys] = {}
    for name, dataset in model.datasets.items():
        empty = dataset.follows is None and dataset.head is None
        head[name] = nothing if empty else walk.objects(name)
        alone[name] = head[name] if dataset.follows is None else nothing
        for snapshot in dataset.snapshots:
            snapshots[f"{name}@{snapshot.tag}"] = walk.objects(f"{name}@{snapshot.tag}")
        own[name] = head[name].union(*(snapshots[f"{name}@{s.tag}"] for s in dataset.snapshots))
    logical: dict[str, int] = {}
    found: dict[str, dict[str, int | float]] = {}
    for name in sorted(model.datasets, key=len, reverse=True):
        dataset = model.datasets[name]
        children = set(model.below(name)) - {name}
        below = nothing.union(*(own[one] for one in children))
        kept = nothing.union(*(snapshots[f"{name}@{s.tag}"] for s in dataset.snapshots))
        base = _of(model, dataset.origin, snapshots)
        outside = nothing.union(*(own[one] for one in model.datasets if one != name and one not in children))
        parts = (head[name] - base, below - head[name], kept - head[name] - below)
        used = sum(walk.stored(part) for part in parts)
        decoded = sum(walk.decoded(part) for part in parts)
        logical[name] = sum(s.taken for s in dataset.snapshots) + sum(
            logical[one] for one in children if one.count("/") == name.count("/") + 1
        )
        same = [s for s in dataset.snapshots if snapshots[f"{name}@{s.tag}"] == head[name]]
        if dataset.follows is None and dataset.head is not None and not same:
            logical[name] += dataset.taken
        found[name] = {
            "used": used,
            "referenced": walk.stored(head[name]),
            "usedbydataset": walk.stored(parts[0]),
            "usedbychildren": walk.stored(parts[1]),
            "usedbysnapshots": walk.stored(parts[2]),
            "usedbyrefreservation": 0,
            "unique": walk.stored((own[name] | below) - outside),
            "compressratio": ratio(decoded, used),
            "refcompressratio": ratio(walk.decoded(head[name]), walk.stored(head[name])),
            "dedupratio": ratio(logical[name], decoded),
            "reduction": ratio(logical[name], used),
            "logicalused": logical[name],
            "logicalreferenced": dataset.logical(),
        }
    for name, dataset in model.datasets.items():
        for snapshot in dataset.snapshots:
            full = f"{name}@{snapshot.tag}"
            mine = snapshots[full]
            beside = head[name].union(*(snapshots[f"{name}@{s.tag}"] for s in dataset.snapshots if s is not snapshot))
            elsewhere = nothing.union(*alone.values(), *(keys for one, keys in snapshots.items() if one != full))
            found[full] = {
                "used": walk.stored(mine - beside),
                "referenced": walk.stored(mine),
                "unique": walk.stored(mine - elsewhere),
                "compressratio": ratio(walk.decoded(mine), walk.stored(mine)),
                "refcompressratio": ratio(walk.decoded(mine), walk.stored(mine)),
                "logicalreferenced": snapshot.logical,
            }
    return found


def reached(model: Model, walk: Walk) -> Keys:
    """Every object that a name reaches."""
    nothing: Keys = frozenset()
    heads = [n for n, d in model.datasets.items() if d.follows is not None or d.head is not None]
    return nothing.union(*(walk.objects(name) for name in [*heads, *(n for n in model.names() if "@" in n)]))


def ratio(above: int, beneath: int) -> float:
    """Cut to hundredths, at least 1: what OpenZFS prints."""
    return max(above * 100 // beneath, 100) / 100 if beneath else 1.0


def _of(model: Model, origin: Snapshot | None, snapshots: dict[str, Keys]) -> Keys:
    if origin is None:
        return frozenset()
    return next(
        snapshots[f"{name}@{origin.tag}"]
        for name, dataset in model.datasets.items()
        if any(one is origin for one in dataset.snapshots)
    )
