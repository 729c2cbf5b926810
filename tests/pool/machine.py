"""Random histories of a pool, beside the model of what it should say."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lamina.errors import AlreadyExists, Busy, LaminaError, NoSpace
from lamina.pool import Pool
from lamina.pool.accounting import Accounting, Figures
from lamina.pool.properties import raw_value
from tests.pool.model import SETTABLE, Dataset, Keys, Model, Snapshot, Walk, figures, reached
from tests.pool.records import compare_with_catalogue
from tests.pool.trees import Library

DATASETS = ("tank", "tank/a", "tank/a/b", "tank/a-b", "tank/a0", "tank/a/b/c", "tank/x/y", "tank/a b")
"""Names whose order by bytes is not their order by components."""

VALUES = (
    *(("compression", value) for value in ("off", "lz4", "gzip-9", "zstd", "zstd-fast-10", "on", "zle")),
    *(("recordsize", value) for value in ("16384", "131072")),
    *(("mountpoint", value) for value in ("none", "/data", "/", "legacy")),
    *(("quota", value) for value in ("1073741824", "300000", "150000")),
    *(("atime", "off"), ("readonly", "on"), ("snapdir", "visible")),
    *(("user:note", "hello"), ("user:note", ""), ("user:other", "\N{SNOWMAN}")),
)

some = st.integers(0, 10**6)


def kept_as_computed(pool: Pool) -> None:
    """Fail unless figures as kept are those computed now; what has none kept reaches nothing."""
    accounting = Accounting(pool._catalogue)
    for kept, computed in zip(accounting.figures(), accounting.compute(), strict=True):
        assert {number: kept.get(number, Figures()) for number in computed} == computed
        assert set(kept) <= set(computed)


class Histories(RuleBasedStateMachine):
    """A pool and its model take the same steps; after each they must say the same of everything."""

    library: Library

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="lamina-history-"))
        self.before = os.environ.get("LAMINA_POOLS")
        os.environ["LAMINA_POOLS"] = str(self.place / "known")
        self.pool = Pool.create("tank", self.place / "tank")
        self.model = Model("tank")
        self.known: dict[bytes, Keys] = {}

    def teardown(self) -> None:
        try:
            compare_with_catalogue(self.pool)
            with Pool.open("tank") as other:
                kept_as_computed(other)
        finally:
            self.pool.close()
            shutil.rmtree(self.place)
            del os.environ["LAMINA_POOLS"]
            if self.before is not None:
                os.environ["LAMINA_POOLS"] = self.before

    # -- steps ----------------------------------------------------------------------------------------------------

    def dataset(self, number: int) -> str:
        """One of those that are there."""
        return sorted(self.model.datasets)[number % len(self.model.datasets)]

    def snapshots(self) -> list[str]:
        """All of them."""
        return sorted(name for name in self.model.names() if "@" in name)

    @rule(tree=some, name=st.sampled_from(DATASETS), tag=st.sampled_from("123"))
    def take_in(self, tree: int, name: str, tag: str) -> None:
        """Import, into a dataset that is there or not."""
        source = self.library[tree % len(self.library)]
        before = self.traces()
        if name in self.model.datasets and self.model.datasets[name].find(tag):
            with contextlib.suppress(AlreadyExists):
                self.pool.import_image(source.path, f"{name}@{tag}")
                raise AssertionError("a name was taken twice")
            return
        try:
            report = self.pool.import_image(source.path, f"{name}@{tag}")
        except NoSpace as error:
            assert "quota of" in str(error)
            assert self.traces() == before
            return
        self.model.take_in(name, tag, source.data_bytes)
        assert (report.logical_bytes, report.warnings) == (source.data_bytes, [])
        above = ["/".join(name.split("/")[:end]) for end in range(1, name.count("/") + 2)]
        for one in above:
            values = self.pool.get(one, ["used", "quota"])
            used, quota = values["used"].value, values["quota"].value
            assert isinstance(used, int) and isinstance(quota, int)
            assert quota == 0 or used <= quota

    def traces(self) -> tuple[object, ...]:
        """All that a failed import might leave behind."""
        counts = [self.pool._database.query(f"SELECT * FROM {table}") for table in ("object", "pack", "tree", "lease")]
        files = [(path, path.stat().st_size) for path in sorted(self.pool.path.rglob("*")) if path.is_file()]
        return *counts, [(path, size) for path, size in files if path.parent != self.pool.path]

    @rule(name=st.sampled_from(DATASETS), at=some)
    def create(self, name: str, at: int) -> None:
        """Create a dataset with a property."""
        prop, value = VALUES[at % len(VALUES)]
        if name in self.model.datasets:
            with contextlib.suppress(AlreadyExists):
                self.pool.create_dataset(name)
                raise AssertionError("a name was taken twice")
            return
        self.pool.create_dataset(name, {prop: value}, parents=True)
        self.model.create(name, {prop: value})

    @rule(number=some, at=some)
    def set(self, number: int, at: int) -> None:
        """Set a property."""
        name = self.dataset(number)
        prop, value = VALUES[at % len(VALUES)]
        try:
            self.pool.set([name], {prop: value})
        except LaminaError as error:
            assert prop == "quota", error
            used = self.pool.get(name, ["used"])["used"].value
            assert isinstance(used, int) and used > int(value)
        else:
            self.model.datasets[name].properties[prop] = value

    @rule(number=some, at=some, recursive=st.booleans())
    def inherit(self, number: int, at: int, recursive: bool) -> None:
        """Clear a property."""
        name = self.dataset(number)
        prop, _ = VALUES[at % len(VALUES)]
        if prop == "quota":
            self.pool.set([name], {"quota": "none"})
            self.model.datasets[name].properties["quota"] = "0"
            return
        self.pool.inherit(name, prop, recursive=recursive)
        for one in self.model.below(name) if recursive else [name]:
            self.model.datasets[one].properties.pop(prop, None)

    @precondition(lambda self: self.snapshots())
    @rule(number=some, value=st.sampled_from(["", "kept"]), clear=st.booleans())
    def mark(self, number: int, value: str, clear: bool) -> None:
        """Set or clear a user property of a snapshot."""
        name = self.snapshots()[number % len(self.snapshots())]
        snapshot = self.model.datasets[name.partition("@")[0]].find(name.partition("@")[2])
        assert snapshot is not None
        if clear:
            self.pool.inherit(name, "user:mark")
            snapshot.properties.pop("user:mark", None)
        else:
            self.pool.set([name], {"user:mark": value})
            snapshot.properties["user:mark"] = value

    @precondition(lambda self: self.snapshots())
    @rule(number=some, recursive=st.booleans())
    def destroy_snapshot(self, number: int, recursive: bool) -> None:
        """Destroy a snapshot, or those of its name below too."""
        self.destroy(self.snapshots()[number % len(self.snapshots())], recursive)

    @rule(number=some)
    def destroy_dataset(self, number: int) -> None:
        """Destroy a dataset with all below it."""
        self.destroy(self.dataset(number), True)

    def destroy(self, name: str, recursive: bool) -> None:
        """Destroy, after asking what it would give back."""
        if self.needed_elsewhere(name, recursive):
            with contextlib.suppress(Busy):
                self.pool.destroy(name, recursive=recursive)
                raise AssertionError("an origin was destroyed under its clone")
            return
        plan = self.pool.destroy(name, recursive=recursive, dry_run=True)
        before = reached(self.model, Walk(self.pool, self.known))
        done = self.pool.destroy(name, recursive=recursive)
        gone = self.model.destroy(name, recursive)
        assert plan == done
        assert len(plan.names) == len(set(plan.names)) and set(plan.names) == gone
        walk = Walk(self.pool, self.known)
        assert plan.reclaim == walk.stored(before - reached(self.model, walk))

    def needed_elsewhere(self, name: str, recursive: bool) -> bool:
        """Whether a clone that stays has its origin in what a destroy would take."""
        base, _, tag = name.partition("@")
        places = self.model.below(base) if recursive else [base]
        going = [s for one in places for s in self.model.datasets[one].snapshots if tag in ("", s.tag)]
        staying = [d for one, d in self.model.datasets.items() if tag or one not in places]
        return any(one is dataset.origin for dataset in staying for one in going)

    @rule(number=some, name=st.sampled_from(DATASETS))
    def rename(self, number: int, name: str) -> None:
        """Rename a dataset."""
        old = self.dataset(number)
        impossible = "tank" in (old, name) or name in self.model.datasets or name.startswith(old + "/")
        try:
            self.pool.rename(old, name, parents=True)
        except LaminaError:
            assert impossible
        else:
            assert not impossible
            self.model.rename(old, name)

    @precondition(lambda self: self.snapshots())
    @rule(number=some, tag=st.sampled_from("1234"))
    def rename_snapshot(self, number: int, tag: str) -> None:
        """Rename a snapshot."""
        name = self.snapshots()[number % len(self.snapshots())]
        base, _, old = name.partition("@")
        snapshot = self.model.datasets[base].find(old)
        assert snapshot is not None
        taken = self.model.datasets[base].find(tag) is not None
        try:
            self.pool.rename(name, tag)
        except AlreadyExists:
            assert taken
        else:
            assert not taken
            snapshot.tag = tag

    # -- what later verbs will do, by the rows ---------------------------------------------------------------------

    @precondition(lambda self: self.snapshots())
    @rule(number=some, onto=some, taken=st.integers(0, 10**5))
    def write_head(self, number: int, onto: int, taken: int) -> None:
        """A head that follows no image, as writing leaves it: some tree that the pool has."""
        name = self.snapshots()[number % len(self.snapshots())]
        base, _, tag = name.partition("@")
        snapshot = self.model.datasets[base].find(tag)
        found = self.pool._catalogue.find_snapshot(name)
        assert snapshot is not None and found is not None
        into = self.dataset(onto)
        with self.pool._writer() as writer, self.pool._catalogue.change(writer) as change:
            row = self.pool._catalogue.dataset(into)
            self.pool._catalogue.set_head(change, row.id, found.root, None, taken)
            self.pool._catalogue.sweep_trees()
        dataset = self.model.datasets[into]
        dataset.follows, dataset.head, dataset.taken = None, snapshot.logical, taken

    @rule(number=some, tag=st.sampled_from("12"), taken=st.integers(0, 10**5))
    def snapshot(self, number: int, tag: str, taken: int) -> None:
        """A snapshot of the head that is no image."""
        name = self.dataset(number)
        dataset = self.model.datasets[name]
        if dataset.find(tag) or (dataset.follows is None and dataset.head is None):
            return
        with self.pool._writer() as writer, self.pool._catalogue.change(writer) as change:
            row = self.pool._catalogue.dataset(name)
            self.pool._catalogue.add_snapshot(change, row.id, tag, "snapshot", row.head, taken)
        dataset.snapshots.append(Snapshot(tag, dataset.logical(), taken, "snapshot"))

    @precondition(lambda self: self.snapshots())
    @rule(number=some, name=st.sampled_from(DATASETS))
    def clone(self, number: int, name: str) -> None:
        """A dataset with an origin."""
        if name in self.model.datasets:
            return
        full = self.snapshots()[number % len(self.snapshots())]
        base, _, tag = full.partition("@")
        origin = self.model.datasets[base].find(tag)
        found = self.pool._catalogue.find_snapshot(full)
        assert origin is not None and found is not None
        self.pool.create_dataset(name, parents=True)
        with self.pool._writer() as writer, self.pool._catalogue.change(writer) as change:
            row = self.pool._catalogue.dataset(name)
            self.pool._database.execute("UPDATE dataset SET origin = ? WHERE id = ?", (found.id, row.id))
            self.pool._catalogue.set_head(change, row.id, found.root, None, 0)
        self.model.create(name)
        self.model.datasets[name] = Dataset(head=origin.logical, origin=origin)

    # -- what must hold -------------------------------------------------------------------------------------------

    @invariant()
    def names(self) -> None:
        """Names, order, kinds."""
        entries = self.pool.list(types=("filesystem", "snapshot"))
        assert [entry.name for entry in entries] == self.model.names()
        images = {f"{n}@{s.tag}" for n, d in self.model.datasets.items() for s in d.snapshots if s.kind == "image"}
        assert {entry.name for entry in entries if entry.kind == "image"} == images
        assert {entry.name for entry in self.pool.images()} == images

    @invariant()
    def accounting(self) -> None:
        """Every figure."""
        wanted = figures(self.model, Walk(self.pool, self.known))
        entries = self.pool.list(types=("filesystem", "snapshot"))
        for _ in range(2):  # computed, then as kept
            for entry, values in zip(entries, self.pool.get_many(entries, None), strict=True):
                shown = {name: values[name].value for name in wanted[entry.name]}
                assert shown == wanted[entry.name], entry.name
        kept_as_computed(self.pool)

    @invariant()
    def settings(self) -> None:
        """Every setting, its source, every user property."""
        entries = self.pool.list(types=("filesystem", "snapshot"))
        for entry, values in zip(entries, self.pool.get_many(entries, None), strict=True):
            users = {name: (value.value, value.source) for name, value in values.items() if ":" in name}
            assert users == self.model.user_properties(entry.name)
            if entry.type == "filesystem":
                for name in SETTABLE:
                    value, source = self.model.setting(entry.name, name)
                    assert (values[name].value, values[name].source) == (raw_value(name, value), source)
