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


class Refused(Exception):
    """The model's word for what must be refused."""


@dataclass(eq=False)
class Snapshot:
    """A snapshot; ``logical`` is what its tree holds, ``taken`` what was taken in with it.

    ``tree`` is the key of its root, None of an empty one; ``when`` tells which of two is older.
    """

    tag: str
    logical: int
    taken: int
    kind: str = "image"
    properties: dict[str, str] = field(default_factory=dict)
    tree: bytes | None = None
    when: int = 0
    holds: set[str] = field(default_factory=set)
    deferred: bool = False


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
    head_tree: bytes | None = None
    bookmarks: dict[str, int] = field(default_factory=dict)
    """Name to ``when`` of the snapshot."""

    def find(self, tag: str) -> Snapshot | None:
        """The snapshot of this name."""
        return next((one for one in self.snapshots if one.tag == tag), None)

    def logical(self) -> int:
        """Data bytes of the head."""
        return self.follows.logical if self.follows else self.head or 0

    def tree(self) -> bytes | None:
        """Key of the head's root."""
        return self.follows.tree if self.follows else self.head_tree

    def be(self, source: Snapshot | None, taken: int = 0) -> None:
        """Have a head that follows nothing."""
        self.follows, self.taken = None, taken
        empty = source is None or source.tree is None
        self.head, self.head_tree = (None, None) if source is None or empty else (source.logical, source.tree)


class Model:
    """The names of a pool as they should be."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.datasets: dict[str, Dataset] = {root: Dataset()}
        self.clock = 0

    def at(self, name: str) -> Snapshot:
        """The snapshot of this full name."""
        base, _, tag = name.partition("@")
        found = self.datasets[base].find(tag)
        assert found is not None, name
        return found

    def name_of(self, snapshot: Snapshot) -> str:
        """Its full name."""
        (name,) = (name for name, one in self.datasets.items() if snapshot in one.snapshots)
        return f"{name}@{snapshot.tag}"

    # -- changes --------------------------------------------------------------------------------------------------

    def create(self, name: str, properties: dict[str, str] | None = None) -> None:
        """A dataset and those missing above it."""
        parts = name.split("/")
        for end in range(1, len(parts) + 1):
            self.datasets.setdefault("/".join(parts[:end]), Dataset())
        self.datasets[name].properties.update(properties or {})

    def take_in(self, name: str, tag: str, logical: int, tree: bytes | None) -> None:
        """An import."""
        self.create(name)
        dataset = self.datasets[name]
        self.clock += 1
        image = Snapshot(tag, logical, logical, tree=tree, when=self.clock)
        dataset.snapshots.append(image)
        dataset.be(None)
        dataset.follows = image

    def take(self, names: list[str], tag: str) -> None:
        """Snapshots of heads, at one moment."""
        if any(self.datasets[name].find(tag) for name in names):
            raise Refused
        self.clock += 1
        for name in names:
            dataset = self.datasets[name]
            taken, tree = 0, dataset.tree()
            if tree is not None and all(one.tree != tree for one in dataset.snapshots):
                taken, dataset.taken = dataset.taken, 0
            dataset.snapshots.append(Snapshot(tag, dataset.logical(), taken, "snapshot", tree=tree, when=self.clock))

    def clone(self, snapshot: str, name: str) -> None:
        """A clone, with the datasets above it."""
        origin = self.at(snapshot)
        if name in self.datasets:
            raise Refused
        self.create(name)
        self.datasets[name].origin = origin
        self.datasets[name].be(origin)

    def promote(self, name: str) -> None:
        """Swap a clone and its origin's dataset."""
        dataset, origin = self.datasets[name], self.datasets[name].origin
        if origin is None:
            raise Refused
        parent = next(one for one in self.datasets.values() if origin in one.snapshots)
        moving = [one for one in parent.snapshots if one.when <= origin.when]
        if {one.tag for one in moving} & {one.tag for one in dataset.snapshots}:
            raise Refused
        parent.snapshots = [one for one in parent.snapshots if one not in moving]
        dataset.snapshots = moving + dataset.snapshots
        if parent.follows in moving:
            parent.be(parent.follows)
        elif parent.follows is None and parent.head_tree in [one.tree for one in moving]:
            parent.taken = 0
        dataset.origin, parent.origin = parent.origin, origin

    def below(self, name: str) -> list[str]:
        """A dataset and all under it."""
        return [one for one in self.datasets if one == name or one.startswith(name + "/")]

    def spread(self, names: set[str], clones: bool) -> set[str]:
        """``names`` and all that depends on them; ``clones``: as dependents of their origins too."""
        found = set(names)
        while True:
            more = set(found)
            for name in found:
                if "@" not in name:
                    more |= set(self.below(name)) | {f"{name}@{one.tag}" for one in self.datasets[name].snapshots}
                elif clones:
                    more |= {one for one, dataset in self.datasets.items() if dataset.origin is self.at(name)}
            if more == found:
                return found
            found = more

    def named(self, name: str, recursive: bool) -> set[str]:
        """What a destroy of ``name`` means: ``dataset``, or ``dataset@a,b%c``."""
        base, at, spec = name.partition("@")
        if not at:
            return {base}
        found = set()
        for one in self.below(base) if recursive else [base]:
            tags = [snapshot.tag for snapshot in self.datasets[one].snapshots]
            for part in spec.split(","):
                first, percent, last = part.partition("%")
                if not percent:
                    found |= {part} & set(tags) and {f"{one}@{part}"}
                elif {end for end in (first, last) if end} <= set(tags):
                    start = tags.index(first) if first else 0
                    stop = tags.index(last) if last else len(tags) - 1
                    found |= {f"{one}@{tag}" for tag in tags[start : stop + 1]}
        return found

    def plan(self, name: str, recursive: bool, clones: bool, defer: bool) -> tuple[set[str], set[str]]:
        """What a destroy takes, and what it takes later. Raises ``Refused``."""
        named = self.named(name, recursive or clones)
        going = self.spread(named, clones)
        if not named or ("@" not in name and not recursive and not clones and (len(going) > 1 or name == self.root)):
            raise Refused
        return self.doom(going, defer)

    def doom(self, going: set[str], defer: bool) -> tuple[set[str], set[str]]:
        """What goes of ``going``, and what goes later. Raises ``Refused``."""
        datasets = {one for one in going if "@" not in one} - {self.root}
        going = going - {self.root}
        later: set[str] = set()
        for one in going - datasets:
            snapshot = self.at(one)
            cloned = {name for name, dataset in self.datasets.items() if dataset.origin is snapshot} - datasets
            if snapshot.holds or cloned:
                if not defer or one.partition("@")[0] in datasets:
                    raise Refused
                later.add(one)
        going = going - later
        for one in [*datasets]:
            origin = self.datasets[one].origin
            if origin is not None and origin.deferred and not origin.holds:
                clones = {name for name, dataset in self.datasets.items() if dataset.origin is origin}
                if clones <= going:
                    going.add(self.name_of(origin))
        return going, later

    def destroy(self, going: set[str], later: set[str], undone: list[Snapshot] | None = None) -> None:
        """Take names away; what the ``undone`` have taken in is not passed on."""
        doomed = [self.at(one) for one in going if "@" in one]
        for one in later:
            self.at(one).deferred = True
        for one in going:
            if "@" not in one:
                del self.datasets[one]
        for dataset in self.datasets.values():
            self.remove(dataset, [one for one in dataset.snapshots if one in doomed], undone or [])

    @staticmethod
    def remove(dataset: Dataset, gone: list[Snapshot], undone: list[Snapshot]) -> None:
        """Take snapshots from a dataset that stays."""
        carried = 0
        for one in dataset.snapshots:
            if one in gone and one not in undone:
                carried = one.taken if one.kind == "image" else _more(one.tree, one.logical, one.taken, carried)
            elif one not in gone:
                if one.kind != "image":
                    one.taken = _more(one.tree, one.logical, one.taken, carried)
                carried = 0
        if dataset.follows is None:
            dataset.taken = _more(dataset.head_tree, dataset.head or 0, dataset.taken, carried)
        dataset.snapshots = [one for one in dataset.snapshots if one not in gone]
        if dataset.follows in gone:
            images = [one for one in dataset.snapshots if one.kind == "image"]
            dataset.be(dataset.origin)
            dataset.follows = images[-1] if images else None

    def rollback(self, name: str, newer_too: bool, clones_too: bool) -> set[str]:
        """Take a head back; what went. Raises ``Refused``."""
        target, base = self.at(name), name.partition("@")[0]
        dataset = self.datasets[base]
        newer = [one for one in dataset.snapshots if one.when > target.when]
        bookmarks = [one for one, when in dataset.bookmarks.items() if when > target.when]
        if (newer or bookmarks) and not newer_too and not clones_too:
            raise Refused
        names = {f"{base}@{one.tag}" for one in newer}
        spread = self.spread(names, True)
        if base in spread or (spread != names and not clones_too):
            raise Refused
        going, later = self.doom(spread, False)
        dataset.be(target)
        dataset.follows = target if target.kind == "image" else None
        self.destroy(going, later, newer)
        for one in bookmarks:
            del dataset.bookmarks[one]
        return going | {f"{base}#{one}" for one in bookmarks}

    def release(self, snapshot: Snapshot, tag: str) -> None:
        """Take a hold away; a deferred snapshot goes with its last."""
        snapshot.holds.remove(tag)
        cloned = any(one.origin is snapshot for one in self.datasets.values())
        if snapshot.deferred and not snapshot.holds and not cloned:
            self.destroy({self.name_of(snapshot)}, set())

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


def _more(tree: bytes | None, logical: int, taken: int, carried: int) -> int:
    """What is counted as taken in by something that comes after what went."""
    return taken if tree is None else max(taken, min(taken + carried, logical))


def figures(model: Model, walk: Walk) -> dict[str, dict[str, int | float]]:
    """Every property that is a figure, of every dataset and snapshot."""
    nothing: Keys = frozenset()
    head, own, alone = {}, {}, {}
    snapshots: dict[str, Keys] = {}
    for name, dataset in model.datasets.items():
        head[name] = nothing if dataset.tree() is None else walk.objects(name)
        alone[name] = head[name] if dataset.follows is None else nothing
        for snapshot in dataset.snapshots:
            full = f"{name}@{snapshot.tag}"
            snapshots[full] = nothing if snapshot.tree is None else walk.objects(full)
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
    heads = [n for n, d in model.datasets.items() if d.tree() is not None]
    kept = [n for n in model.names() if "@" in n and model.at(n).tree is not None]
    return nothing.union(*(walk.objects(name) for name in [*heads, *kept]))


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
