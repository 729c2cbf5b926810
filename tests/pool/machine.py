"""Random histories of a pool, beside the model of what it should say."""

import contextlib
import copy
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lamina.errors import AlreadyExists, Busy, LaminaError, NoSpace, NotFound
from lamina.fs.view import StoredTree
from lamina.pool import Pool
from lamina.pool.figures.accounting import Accounting, Figures
from lamina.pool.properties import raw_value
from tests.pool.garbage import check_clean
from tests.pool.model import SETTABLE, Keys, Model, Refused, Snapshot, Walk, figures, reached
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
rarely = st.sampled_from([False, False, False, True])


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

    def some_snapshot(self, number: int) -> str:
        """One of those that are there."""
        return self.snapshots()[number % len(self.snapshots())]

    def key(self, name: str) -> bytes | None:
        """The key of a tree's root; None of an empty one."""
        if self.pool.root(name) is None:
            return None
        tree = self.pool.tree(name)
        assert isinstance(tree, StoredTree)
        return tree.root_key

    def check_limit(self, error: NoSpace) -> None:
        """Fail unless a quota may have refused a change."""
        assert "quota" in str(error)
        assert any(int(one.properties.get("quota", "0")) for one in self.model.datasets.values())

    def both(self, really: Callable[[], object], model: Callable[[], object], error: type[LaminaError]) -> bool:
        """Do the same to the pool and the model, or have both refuse it; whether it was done."""
        allowed = True
        saved = copy.deepcopy(self.model)
        try:
            model()
        except Refused:
            allowed = False
        try:
            really()
        except NoSpace as full:
            self.check_limit(full)
            self.model = saved
            return False
        except error:
            assert not allowed
        else:
            assert allowed, "what has to be refused was done"
        return allowed

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
        self.model.take_in(name, tag, source.data_bytes, self.key(f"{name}@{tag}"))
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
    @rule(number=some, recursive=st.booleans(), clones=rarely, defer=rarely)
    def destroy_snapshot(self, number: int, recursive: bool, clones: bool, defer: bool) -> None:
        """Destroy a snapshot, or those of its name below too."""
        self.destroy(self.some_snapshot(number), recursive, clones, defer)

    @precondition(lambda self: self.snapshots())
    @rule(number=some, other=some, form=st.sampled_from(["{0}%{1}", "%{1}", "{0}%", "{0},{1}", "%", "{0}%{1},nosuch"]))
    def destroy_range(self, number: int, other: int, form: str) -> None:
        """Destroy several snapshots of a dataset."""
        base, _, first = self.some_snapshot(number).partition("@")
        tags = [one.tag for one in self.model.datasets[base].snapshots]
        spec = form.format(first, tags[other % len(tags)])
        self.destroy(f"{base}@{spec}", recursive=number % 3 == 0, clones=number % 5 == 0, defer=other % 4 == 0)

    @rule(number=some, clones=rarely)
    def destroy_dataset(self, number: int, clones: bool) -> None:
        """Destroy a dataset with all below it."""
        self.destroy(self.dataset(number), True, clones)

    def destroy(self, name: str, recursive: bool, clones: bool = False, defer: bool = False) -> None:
        """Destroy, after asking what it would give back."""
        how = {"recursive": recursive, "clones": clones, "defer": defer}
        try:
            going, later = self.model.plan(name, recursive, clones, defer)
        except Refused:
            going, later = set(), set()
        if not going and not later:
            for dry_run in (True, False):
                with contextlib.suppress(Busy, NotFound):
                    assert not self.pool.destroy(name, **how, dry_run=dry_run).names, "what has to be refused was done"
            return
        plan = self.pool.destroy(name, **how, dry_run=True)
        before = reached(self.model, Walk(self.pool, self.known))
        done = self.pool.destroy(name, **how)
        self.model.destroy(going, later)
        assert (plan.names, plan.deferred) == (done.names, done.deferred)
        assert len(plan.names) == len(set(plan.names)) and set(plan.names) == going
        assert len(plan.deferred) == len(set(plan.deferred)) and set(plan.deferred) == later
        walk = Walk(self.pool, self.known)
        assert plan.reclaim == walk.stored(before - reached(self.model, walk))

    @rule(number=some, name=st.sampled_from(DATASETS))
    def rename(self, number: int, name: str) -> None:
        """Rename a dataset."""
        old = self.dataset(number)
        impossible = "tank" in (old, name) or name in self.model.datasets or name.startswith(old + "/")
        try:
            self.pool.rename(old, name, parents=True)
        except NoSpace as error:
            self.check_limit(error)
        except LaminaError:
            assert impossible
        else:
            assert not impossible
            self.model.rename(old, name)

    @precondition(lambda self: self.snapshots())
    @rule(number=some, tag=st.sampled_from("1234"), recursive=st.booleans())
    def rename_snapshot(self, number: int, tag: str, recursive: bool) -> None:
        """Rename a snapshot, or those of its name below too."""
        name = self.some_snapshot(number)
        base, _, old = name.partition("@")
        renamed: list[Snapshot] = []

        def model() -> None:
            for one in self.model.below(base) if recursive else [base]:
                snapshot = self.model.datasets[one].find(old)
                if snapshot is not None and self.model.datasets[one].find(tag) is not None:
                    raise Refused
                renamed.extend([snapshot] if snapshot is not None else [])

        if self.both(lambda: self.pool.rename(name, tag, recursive=recursive), model, AlreadyExists):
            for snapshot in renamed:
                snapshot.tag = tag

    # -- snapshots, clones, holds ----------------------------------------------------------------------------------

    @rule(number=some, tag=st.sampled_from("12345"), recursive=st.booleans())
    def snapshot(self, number: int, tag: str, recursive: bool) -> None:
        """A snapshot of a head, or of all below too."""
        name = self.dataset(number)
        below = self.model.below(name) if recursive else [name]
        self.both(
            lambda: self.pool.snapshot([f"{name}@{tag}"], recursive=recursive),
            lambda: self.model.take(below, tag),
            AlreadyExists,
        )

    @precondition(lambda self: self.snapshots())
    @rule(number=some, name=st.sampled_from(DATASETS))
    def clone(self, number: int, name: str) -> None:
        """A dataset with an origin."""
        snapshot = self.some_snapshot(number)
        if name in self.model.datasets:
            assert self.pool.clone(snapshot, name, parents=True) == []
            return
        self.both(
            lambda: self.pool.clone(snapshot, name, parents=True), lambda: self.model.clone(snapshot, name), LaminaError
        )

    @rule(number=some)
    def promote(self, number: int) -> None:
        """Swap a clone and what it comes from."""
        clones = sorted(name for name, one in self.model.datasets.items() if one.origin is not None)
        name = (clones or [self.model.root])[number % max(len(clones), 1)]
        self.both(lambda: self.pool.promote(name), lambda: self.model.promote(name), LaminaError)

    @precondition(lambda self: self.snapshots())
    @rule(number=some, newer=st.booleans(), clones=rarely)
    def rollback(self, number: int, newer: bool, clones: bool) -> None:
        """A head taken back."""
        name = self.some_snapshot(number)
        gone: set[str] = set()
        went: list[str] = []
        if self.both(
            lambda: went.extend(self.pool.rollback(name, destroy_newer=newer, destroy_clones=clones)),
            lambda: gone.update(self.model.rollback(name, newer, clones)),
            Busy,
        ):
            assert len(went) == len(gone) and set(went) == gone

    @precondition(lambda self: self.snapshots())
    @rule(number=some, tag=st.sampled_from(["x", "y"]), recursive=st.booleans())
    def hold(self, number: int, tag: str, recursive: bool) -> None:
        """A hold on a snapshot, or on those of its name below too."""
        name = self.some_snapshot(number)
        held = [self.model.at(one) for one in self.model.named(name, recursive)]

        def model() -> None:
            if any(tag in snapshot.holds for snapshot in held):
                raise Refused

        if self.both(lambda: self.pool.hold(tag, [name], recursive=recursive), model, AlreadyExists):
            for snapshot in held:
                snapshot.holds.add(tag)

    @precondition(lambda self: any(self.model.at(name).holds for name in self.snapshots()))
    @rule(number=some, recursive=st.booleans())
    def release(self, number: int, recursive: bool) -> None:
        """A hold taken away."""
        held = [name for name in self.snapshots() if self.model.at(name).holds]
        name = held[number % len(held)]
        tag = min(self.model.at(name).holds)
        some_held = [self.model.at(one) for one in sorted(self.model.named(name, recursive))]
        self.pool.release(tag, [name], recursive=recursive)
        for snapshot in some_held:
            if tag in snapshot.holds:
                self.model.release(snapshot, tag)

    @precondition(lambda self: self.snapshots())
    @rule(number=some, name=st.sampled_from(["b", "c"]))
    def bookmark(self, number: int, name: str) -> None:
        """A bookmark made, or destroyed if there is one."""
        snapshot = self.some_snapshot(number)
        base = snapshot.partition("@")[0]
        bookmarks = self.model.datasets[base].bookmarks
        if name in bookmarks:
            with contextlib.suppress(AlreadyExists):
                self.pool.bookmark(snapshot, f"{base}#{name}")
                raise AssertionError("a name was taken twice")
            assert self.pool.destroy(f"{base}#{name}").names == [f"{base}#{name}"]
            del bookmarks[name]
            return
        self.pool.bookmark(snapshot, f"{base}#{name}")
        bookmarks[name] = self.model.at(snapshot).when

    @precondition(lambda self: self.snapshots())
    @rule(number=some, onto=some, taken=st.integers(0, 10**5))
    def write_head(self, number: int, onto: int, taken: int) -> None:
        """A head that follows no image, as writing will leave it: some tree that the pool has."""
        name = self.some_snapshot(number)
        found = self.pool._catalogue.find_snapshot(name)
        assert found is not None
        into = self.dataset(onto)
        with self.pool._writer() as writer, self.pool._catalogue.change(writer) as change:
            row = self.pool._catalogue.dataset(into)
            self.pool._catalogue.set_head(change, row.id, found.root, None, taken)
        self.model.datasets[into].be(self.model.at(name), taken)

    @rule()
    def collect(self) -> None:
        """Free what nothing refers to: that, all of it, and nothing else."""
        self.pool.gc()
        check_clean(self.pool)

    # -- what must hold -------------------------------------------------------------------------------------------

    def wanted(self) -> dict[str, dict[str, int | float]]:
        """Figures by name."""
        return figures(self.model, Walk(self.pool, self.known))

    @invariant()
    def names(self) -> None:
        """Names, order, kinds."""
        entries = self.pool.list(types=("filesystem", "snapshot"))
        assert [entry.name for entry in entries] == self.model.names()
        images = {f"{n}@{s.tag}" for n, d in self.model.datasets.items() for s in d.snapshots if s.kind == "image"}
        assert {entry.name for entry in entries if entry.kind == "image"} == images
        assert {entry.name for entry in self.pool.images()} == images

    @invariant()
    def lineage(self) -> None:
        """Trees, origins, clones, holds, bookmarks."""
        clones: dict[str, list[str]] = {}
        for name, dataset in sorted(self.model.datasets.items(), key=lambda item: item[0].split("/")):
            assert self.key(name) == dataset.tree()
            origin = None if dataset.origin is None else self.model.name_of(dataset.origin)
            assert self.pool.get(name, ["origin"])["origin"].value == origin
            if origin is not None:
                clones.setdefault(origin, []).append(name)
        for name in self.snapshots():
            snapshot = self.model.at(name)
            assert self.key(name) == snapshot.tree
            values = self.pool.get(name, ["userrefs", "defer_destroy", "clones"])
            assert [one.value for one in values.values()] == [
                len(snapshot.holds),
                "on" if snapshot.deferred else "off",
                ",".join(clones.get(name, [])) or None,
            ]
            assert [(one.snapshot, one.tag) for one in self.pool.holds([name])] == [
                (name, tag) for tag in sorted(snapshot.holds)
            ]
        bookmarks = {f"{name}#{one}" for name, dataset in self.model.datasets.items() for one in dataset.bookmarks}
        assert {entry.name for entry in self.pool.list(types=("bookmark",))} == bookmarks

    @invariant()
    def accounting(self) -> None:
        """Every figure."""
        wanted = self.wanted()
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
