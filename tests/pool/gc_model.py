"""A small model of garbage collection beside writers, a destroyer and a mount: all that can happen, step by step.

Each action is one transaction of the code, or one call to the disk between two; which, its docstring says. The model
leaves out what cannot matter to safety: batches are of one row, a pack holds one record (a **place**), a tree's root is
no object of its own, and every collection is a full one, which frees all that a quick one frees.

``Rules`` are what the protocol rests on. Each can be broken, to see that the model notices.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from tests.pool.gc_states import (
    DAMAGED,
    NOWHERE,
    Broken,
    Gc,
    Mount,
    Place,
    Row,
    State,
    Writer,
    free_spot,
    has_bytes,
    is_named,
    put,
    put_step,
    reached,
    set_place,
    tidy,
)


@dataclass(frozen=True)
class Rules:
    """What the protocol rests on."""

    lookups_pass_condemned_by: bool = True
    commit_clears_marks: bool = True
    commit_alone_renews: bool = True
    deletion_waits_for_leases: bool = True
    direct_deletion_only_without_writers: bool = True
    condemning_counts_the_epoch: bool = True
    names_are_checked_again: bool = True
    pins_count_as_names: bool = True
    pin_with_the_lookup: bool = True
    rows_move_before_the_file_goes: bool = True
    rows_move_only_from_where_they_were: bool = True
    packs_are_held_while_punched: bool = True
    abort_leaves_what_others_may_share: bool = True
    readers_look_again: bool = True


RULES = tuple(field.name for field in fields(Rules))


@dataclass(frozen=True)
class Case:
    """How large a world is explored. Trees are sets of keys, as bits; a writer wants one and tries so often."""

    keys: int
    first: int
    """The tree that has a name at the beginning."""
    writers: tuple[int, ...] = ()
    tries: int = 1
    mounts: int = 0
    moves: int = 0
    punches: int = 0
    damages: int = 0
    """How often scrub finds an object damaged."""
    kills: bool = True
    """Whether processes may be killed at any moment; else they only end by themselves."""


class World:
    """The actions of one case under some rules."""

    def __init__(self, case: Case, rules: Rules) -> None:
        self.case = case
        self.rules = rules
        self.all_keys = range(case.keys)

    def start(self) -> State:
        """The first tree is stored and named; nobody does anything yet."""
        case = self.case
        has = [bool(case.first >> key & 1) for key in self.all_keys]
        rows = tuple(Row(1, 0, 0, 0) if one else None for one in has)
        spare = len(case.writers) * case.tries + case.moves  # all that can come together
        places = tuple((Place("f") if one else NOWHERE, *[NOWHERE] * spare) for one in has)
        trees: list[tuple[int, ...] | None] = [None] * (1 << case.keys)
        if case.first:
            trees[case.first] = tuple(int(one) for one in has)
        writers = tuple(Writer("idle", case.tries, "") for _ in case.writers)
        names = (case.first, *[0] * len(case.writers))
        gc = Gc("idle", moves=case.moves, punches=case.punches)
        versions = tuple(int(one) for one in has)
        return State(rows, versions, places, 1, tuple(trees), names, writers, Mount(case.mounts), gc, case.damages)

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """All that can happen next."""
        for number in range(len(state.writers)):
            for name, after in self.writer_steps(state, number):
                yield f"writer {number} {name}", after
        for slot, name_mask in enumerate(state.names):
            if name_mask:
                yield f"destroy {slot}", self.destroy(state, slot)
        yield from self.mount_steps(state)
        yield from self.scrub_steps(state)
        for name, after in self.gc_steps(state):
            yield f"gc {name}", after

    # -- names ----------------------------------------------------------------------------------------------------

    def destroy(self, state: State, slot: int) -> State:
        """``Catalogue.change``: the row of the name goes, its tree's row stays."""
        return self.names_change(state._replace(names=put(state.names, slot, 0)))

    @staticmethod
    def names_change(state: State) -> State:
        """What ``txg`` and ``generation`` tell to those who look."""
        writers = tuple(one._replace(overtaken=True) if one.at == "work" else one for one in state.writers)
        marking = state.gc.at in ("scan", "mark")
        return state._replace(writers=writers, gc=state.gc._replace(names_changed=marking))

    # -- writers --------------------------------------------------------------------------------------------------

    def writer_steps(self, state: State, number: int) -> Iterator[tuple[str, State]]:
        """What an import may do next; it may be killed at any moment."""
        writer = state.writers[number]
        if writer.at == "idle":
            if writer.tries and not state.names[number + 1]:
                yield "begins", self.begin(state, number)
            return
        for key in self.all_keys:
            step = writer.steps[key]
            if step == "?":
                yield f"looks up {key}", self.look_up(state, number, key)
                break  # in order: the others are looked up just the same
        for key in self.all_keys:
            if writer.steps[key] == "n":
                yield f"appends {key}", self.append(state, number, key)
            elif writer.steps[key] == "b":
                yield f"names {key}", self.flush(state, number, key, sealed=False)
                yield f"names {key} and seals", self.flush(state, number, key, sealed=True)
        if all(step in "-sf" for step in writer.steps):
            yield "commits", self.commit(state, number)
        yield "aborts", self.abort(state, number)
        if self.case.kills:
            yield "is killed", self.end(state, number)

    def begin(self, state: State, number: int) -> State:
        """``Lease``: the row, with the epoch of now, before anything is looked up."""
        nothing = (0,) * self.case.keys
        steps = "".join("?" if self.case.writers[number] >> key & 1 else "-" for key in self.all_keys)
        tries = state.writers[number].tries - 1
        writer = Writer("work", tries, steps, state.epoch, nothing, (-1,) * self.case.keys, nothing)
        return state._replace(writers=put(state.writers, number, writer))

    def look_up(self, state: State, number: int, key: int) -> State:
        """``StoreWriter.claim``: an object that is there, and not condemned, is shared."""
        writer = state.writers[number]
        row = state.rows[key]
        if row is not None and not (row.condemned and self.rules.lookups_pass_condemned_by):
            writer = writer._replace(reached=put(writer.reached, key, row.version))
            step = "s"
        else:
            step = "n"
        return state._replace(writers=put(state.writers, number, writer._replace(steps=put_step(writer, key, step))))

    def append(self, state: State, number: int, key: int) -> State:
        """``StoreWriter.append`` and the sync of its pack, which its lease keeps others from."""
        writer = state.writers[number]
        spot = free_spot(state, key)
        writer = writer._replace(steps=put_step(writer, key, "b"), places=put(writer.places, key, spot))
        state = set_place(state, key, spot, Place(str(number), number + 1))
        return state._replace(writers=put(state.writers, number, writer))

    def flush(self, state: State, number: int, key: int, *, sealed: bool) -> State:
        """``StoreWriter._write_rows``: a new row; or a condemned one moves here; or one that came meanwhile stays."""
        writer = state.writers[number]
        place = writer.places[key]
        row = state.rows[key]
        if row is None:
            row = Row(state.versions[key] + 1, 0, place, number + 1)
            state = state._replace(versions=put(state.versions, key, row.version))
            writer = writer._replace(own=put(writer.own, key, row.version))
        elif row.condemned:
            row = row._replace(condemned=0, place=place, tag=number + 1)
        writer = writer._replace(steps=put_step(writer, key, "f"), reached=put(writer.reached, key, row.version))
        if not self.rules.commit_alone_renews:
            writer = writer._replace(renewed=state.epoch)
        if sealed:
            state = set_place(state, key, place, Place("f", number + 1))
        return state._replace(rows=put(state.rows, key, row), writers=put(state.writers, number, writer))

    def commit(self, state: State, number: int) -> State:
        """``StoreWriter.commit``: marks go, the tree gets its row and its name, the lease is renewed; then it ends.

        (An import that goes on after its commit is one that begins anew at the same epoch.)
        """
        writer = state.writers[number]
        rows = list(state.rows)
        for key in self.all_keys:
            row = rows[key]
            if row is None or row.version != writer.reached[key] or row.condemned == DAMAGED:
                continue
            if self.rules.commit_clears_marks:
                rows[key] = row._replace(condemned=0)
        mask = self.case.writers[number]
        state = state._replace(
            rows=tuple(rows),
            trees=put(state.trees, mask, writer.reached),
            names=put(state.names, number + 1, mask),
        )
        return self.end(self.names_change(state), number)

    def abort(self, state: State, number: int) -> State:
        """``StoreWriter.abort``: rows and bytes are taken back, unless somebody else may share them."""
        writer = state.writers[number]
        alone = not any(one.at == "work" for at, one in enumerate(state.writers) if at != number)
        if (alone and not writer.overtaken) or not self.rules.abort_leaves_what_others_may_share:
            for key in self.all_keys:
                row, place = state.rows[key], writer.places[key]
                if row is not None and row.version == writer.own[key]:
                    state = state._replace(rows=put(state.rows, key, None))
                # StoreWriter._shrink: not if rows are in it, nor if gc holds it.
                if place >= 0 and not is_named(state, key, place):
                    holder = state.places[key][place].state
                    if holder in (str(number), "f") and state.places[key][place].tag == number + 1:
                        state = set_place(state, key, place, NOWHERE)  # others append there
        return self.end(state, number)

    def end(self, state: State, number: int) -> State:
        """The lease goes, by ``Lease.close`` or with its process: whoever looks next sweeps its row."""
        places = tuple(
            tuple(one._replace(state="f") if one.state == str(number) else one for one in some) for some in state.places
        )
        writer = Writer("idle", state.writers[number].tries, "")
        return state._replace(places=places, writers=put(state.writers, number, writer))

    # -- the mount ------------------------------------------------------------------------------------------------

    def mount_steps(self, state: State) -> Iterator[tuple[str, State]]:
        """What a mount's server may do next."""
        mount = state.mount
        if not mount.pinned:
            if mount.seen:
                if state.trees[mount.seen] is not None:
                    yield "mount pins", state._replace(mount=Mount(mount.tries, mount.seen))
                yield "mount gives up", state._replace(mount=Mount(mount.tries))
            elif mount.tries:
                for mask in sorted({*state.names} - {0}):
                    yield f"mount {mask}", self.mount(state, mask)
            return
        if mount.read is None:
            for key in self.all_keys:
                if mount.pinned >> key & 1:
                    yield f"mount looks up {key}", self.read_row(state, key)
        else:
            yield f"mount reads {mount.read[0]}", self.read_bytes(state)
        yield "mount ends", state._replace(mount=Mount(mount.tries))

    def mount(self, state: State, mask: int) -> State:
        """``PinnedPool.tree``: the name is looked up and its root pinned in one transaction."""
        if self.rules.pin_with_the_lookup:
            return state._replace(mount=Mount(state.mount.tries - 1, mask))
        return state._replace(mount=Mount(state.mount.tries - 1, 0, mask))

    @staticmethod
    def read_row(state: State, key: int) -> State:
        """``ObjectStore.locate``."""
        row = state.rows[key]
        if row is None:
            raise Broken(f"the mount finds no row of {key}")
        return state._replace(mount=state.mount._replace(read=(key, row.place)))

    def read_bytes(self, state: State) -> State:
        """``ObjectStore.get``: what is not there any more is looked up again; at the same place it is EIO."""
        assert state.mount.read is not None
        key, place = state.mount.read
        row = state.rows[key]
        if row is None:
            raise Broken(f"the mount finds no row of {key}")
        if has_bytes(state.places[key][place]):
            return state._replace(mount=state.mount._replace(read=None))
        if row.place == place or not self.rules.readers_look_again:
            raise Broken(f"the mount cannot read {key}")
        return state._replace(mount=state.mount._replace(read=(key, row.place)))

    # -- scrub ----------------------------------------------------------------------------------------------------

    @staticmethod
    def scrub_steps(state: State) -> Iterator[tuple[str, State]]:
        """Scrub marks what it finds damaged and cannot repair, one transaction each."""
        for key, row in enumerate(state.rows):
            if state.damages and row is not None and not row.condemned:
                rows = put(state.rows, key, row._replace(condemned=DAMAGED))
                yield f"scrub marks {key}", state._replace(rows=rows, damages=state.damages - 1)

    # -- gc -------------------------------------------------------------------------------------------------------

    def gc_steps(self, state: State) -> Iterator[tuple[str, State]]:
        """What a collection may do next; it may be killed at any moment, and another one begins."""
        gc = state.gc
        if gc.at == "idle":
            yield "reads names", self.gc_names(state)
            return
        if self.case.kills:
            yield "is killed", self.gc_end(state)
        if gc.at == "scan":
            yield "reads rows", self.gc_scan(state)
        elif gc.at == "mark":
            yield "marks", self.gc_mark(state)
        elif gc.at == "delete":
            yield "deletes", self.gc_delete(state)
        elif gc.at == "space":
            yield from self.space_steps(state)
        elif gc.at in ("drop", "moved"):
            yield "removes a file", self.gc_unlink(state)
        elif gc.at == "strike":
            yield "punches", self.gc_punch(state)
        elif gc.at == "copied":
            yield "moves a row", self.gc_move(state)
        elif gc.at == "cut":
            yield "moves a row late", self.gc_move(state)

    def gc_end(self, state: State) -> State:
        """The lease of gc goes, and what it held is free."""
        places = tuple(
            tuple(one._replace(state="f") if one.state == "g" else one for one in some) for some in state.places
        )
        return state._replace(places=places, gc=Gc("idle", moves=state.gc.moves, punches=state.gc.punches))

    def gc_names(self, state: State) -> State:
        """``read_reach``: what names and pins reach; checked by ``txg`` to be of one moment."""
        named = self.named(state)
        unnamed = tuple(mask for mask, tree in enumerate(state.trees) if tree is not None and mask not in named)
        gc = state.gc._replace(at="scan", names_changed=False, named=named, unnamed=unnamed)
        return state._replace(gc=gc._replace(live=reached(state, named)))

    def named(self, state: State) -> frozenset[int]:
        """Trees that a name or a pin refers to."""
        pinned = state.mount.pinned if self.rules.pins_count_as_names else 0
        return frozenset({*state.names, pinned} - {0})

    def catch_up(self, state: State) -> State:
        """``catch_up``, inside a transaction: what has got a name since is live too."""
        gc = state.gc
        if not gc.names_changed or not self.rules.names_are_checked_again:
            return state
        fresh = self.named(state) - gc.named
        gc = gc._replace(names_changed=False, named=gc.named | fresh, live=gc.live | reached(state, fresh))
        return state._replace(gc=gc)

    def gc_scan(self, state: State) -> State:
        """``all_objects``: rows that nothing reaches, read later than the names."""
        todo = tuple(
            (key, row.version)
            for key, row in enumerate(state.rows)
            if row is not None and (key, row.version) not in state.gc.live
        )
        return state._replace(gc=state.gc._replace(at="mark", todo=todo))

    def gc_mark(self, state: State) -> State:
        """``_free`` and ``_free_trees``: one transaction a row, then one for the trees; all look at names again."""
        state = self.catch_up(state)
        gc = state.gc
        writing = any(writer.at == "work" for writer in state.writers)
        if not gc.todo:
            gone = {*gc.unnamed} - gc.named
            trees = tuple(None if mask in gone else tree for mask, tree in enumerate(state.trees))
            named = {mask for mask in state.names if mask} | ({state.mount.pinned} - {0})
            if any(trees[mask] is None for mask in named):
                raise Broken("a tree with a name would go")  # a foreign key forbids it
            done = gc._replace(at="delete", named=frozenset(), live=frozenset(), unnamed=(), names_changed=False)
            return state._replace(trees=trees, gc=done)
        (key, version), *rest = gc.todo
        state = state._replace(gc=gc._replace(todo=tuple(rest)))
        row = state.rows[key]
        if row is None or row.version != version or (key, version) in gc.live:
            return state
        if not writing or not self.rules.direct_deletion_only_without_writers:
            return state._replace(rows=put(state.rows, key, None))
        if row.condemned:
            return state
        epoch = state.epoch + self.rules.condemning_counts_the_epoch
        return state._replace(rows=put(state.rows, key, row._replace(condemned=epoch)), epoch=epoch)

    def gc_delete(self, state: State) -> State:
        """``_delete_some``: what was condemned before every running import last committed."""
        limit = min((w.renewed for w in state.writers if w.at == "work"), default=state.epoch)
        if not self.rules.deletion_waits_for_leases:
            limit = state.epoch
        for key, row in enumerate(state.rows):
            if row is not None and 0 < row.condemned <= limit:
                return state._replace(rows=put(state.rows, key, None))
        return state._replace(gc=state.gc._replace(at="space"))

    def space_steps(self, state: State) -> Iterator[tuple[str, State]]:
        """``_give_back``: packs that hold nothing, dead ranges, what is left in packs that are mostly dead."""
        gc = state.gc
        yield "ends", self.gc_end(state)
        for key in self.all_keys:
            row = state.rows[key]
            for place, one in enumerate(state.places[key]):
                if one.state == "x":
                    yield f"removes stray {key}", self.gone(state, key, place, "space")
                if one.state != "f":
                    continue
                spot = (key, place, -1)
                if not is_named(state, key, place):
                    # PackSpace.drop_unused: the row goes, in a transaction that looks for others
                    dropped = set_place(state, key, place, one._replace(state="x"))
                    yield f"drops {key}", dropped._replace(gc=gc._replace(at="drop", spot=spot))
                    if gc.punches:
                        # PackSpace.held, then dead_ranges of what is occupied
                        holder = "g" if self.rules.packs_are_held_while_punched else "f"
                        held = set_place(state, key, place, one._replace(state=holder))
                        at = gc._replace(at="strike", spot=spot, punches=gc.punches - 1)
                        yield f"holds {key}", held._replace(gc=at)
                elif gc.moves and row is not None and not row.condemned:
                    # Compactor.empty: under a hold the payload is read, and appended to a pack of its own, synced
                    target = free_spot(state, key)
                    copied = set_place(state, key, place, one._replace(state="g"))
                    copied = set_place(copied, key, target, Place("g", one.tag))
                    at = gc._replace(at="copied", spot=(key, place, target), moves=gc.moves - 1)
                    copied = copied._replace(gc=at)
                    if not self.rules.rows_move_before_the_file_goes:
                        copied = self.gone(copied, key, place, "cut", keep_spot=True)
                    yield f"copies {key}", copied

    def gc_move(self, state: State) -> State:
        """``Compactor._flush``: the row moves if it still lies there; then the pack's row goes."""
        assert state.gc.spot is not None
        key, place, target = state.gc.spot
        row = state.rows[key]
        if row is not None and (row.place == place or not self.rules.rows_move_only_from_where_they_were):
            state = state._replace(rows=put(state.rows, key, row._replace(place=target)))
        state = set_place(state, key, target, state.places[key][target]._replace(state="f"))
        old = state.places[key][place]
        if not has_bytes(old):
            return state._replace(gc=state.gc._replace(at="space", spot=None))
        if is_named(state, key, place):
            state = set_place(state, key, place, old._replace(state="f"))
            return state._replace(gc=state.gc._replace(at="space", spot=None))
        state = set_place(state, key, place, old._replace(state="x"))
        return state._replace(gc=state.gc._replace(at="moved"))

    def gc_unlink(self, state: State) -> State:
        """``PackSpace.remove_file``: after its row."""
        assert state.gc.spot is not None
        return self.gone(state, *state.gc.spot[:2], "space")

    def gc_punch(self, state: State) -> State:
        """``Backend.punch``."""
        assert state.gc.spot is not None
        return self.gone(state, *state.gc.spot[:2], "space")

    @staticmethod
    def gone(state: State, key: int, place: int, at: str, *, keep_spot: bool = False) -> State:
        """The bytes of a place are no more."""
        state = set_place(state, key, place, Place("h"))
        return state._replace(gc=state.gc._replace(at=at, spot=state.gc.spot if keep_spot else None))

    # -- what must hold -------------------------------------------------------------------------------------------

    def check(self, state: State) -> None:
        """Whatever a name or a pin reaches has its row, unmarked, and its bytes, encoded as the row says."""
        for mask in {*state.names, state.mount.pinned} - {0}:
            tree = state.trees[mask]
            if tree is None:
                raise Broken(f"tree {mask} has no row")
            for key, version in enumerate(tree):
                row = state.rows[key]
                if not version:
                    continue
                if row is None or row.version != version:
                    raise Broken(f"object {key} of tree {mask} has no row")
                if row.condemned > 0:
                    raise Broken(f"object {key} of tree {mask} is condemned")
                place = state.places[key][row.place]
                if not has_bytes(place) or place.tag != row.tag:
                    raise Broken(f"object {key} of tree {mask} has no bytes")

    def check_ends_clean(self, state: State) -> None:
        """Once everybody has ended, one collection leaves what names reach, and nothing else."""
        state = after_all(self, state)
        kept: set[tuple[int, int]] = set()
        for mask in {*state.names} - {0}:
            tree = state.trees[mask]
            assert tree is not None
            kept |= {(key, version) for key, version in enumerate(tree) if version}
        state = self.gc_names(state)
        while state.gc.at != "idle":
            if state.gc.at == "space":
                stray = next((after for name, after in self.space_steps(state) if name.startswith("removes")), None)
                drop = next((after for name, after in self.space_steps(state) if name.startswith("drops")), None)
                state = stray or drop or self.gc_end(state)
            else:
                state = next(after for name, after in self.gc_steps(state) if name != "is killed")
        rows = {(key, row.version) for key, row in enumerate(state.rows) if row is not None}
        if rows != kept:
            raise Broken(f"rows {sorted(rows - kept)} stay")
        if {mask for mask, tree in enumerate(state.trees) if tree is not None} != {*state.names} - {0}:
            raise Broken("trees without a name stay")
        for key in self.all_keys:
            for place, one in enumerate(state.places[key]):
                if has_bytes(one) and not is_named(state, key, place):
                    raise Broken(f"bytes of {key} stay")


def after_all(world: World, state: State) -> State:
    """The state once everybody was killed."""
    for number, writer in enumerate(state.writers):
        if writer.at == "work":
            state = world.end(state, number)
    state = world.gc_end(state)
    gc = Gc("idle")
    writers = tuple(Writer("idle", 0, "") for _ in state.writers)
    return tidy(state._replace(writers=writers, mount=Mount(0), gc=gc, damages=0))


# -- exploring ------------------------------------------------------------------------------------------------------


def explore(case: Case, rules: Rules | None = None, after: Sequence[str] = ()) -> int:
    """Visit every state that can be reached, breadth first; how many. Raises ``Broken`` with the way there.

    ``after``: only those that can be reached once these steps were taken.
    """
    world = World(case, rules or Rules())
    first = tidy(world.start())
    for wanted in after:
        first = next(tidy(state) for name, state in world.steps(first) if name == wanted)
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    ended: set[State] = set()
    queue = deque([first])
    while queue:
        state = queue.popleft()
        try:
            for name, after in world.steps(state):
                after = tidy(after)
                if after in came_from:
                    continue
                came_from[after] = (state, name)
                try:
                    world.check(after)
                except Broken:
                    state = after
                    raise
                queue.append(after)
            end = after_all(world, state)
            if end not in ended:
                ended.add(end)
                world.check_ends_clean(end)
        except Broken as error:
            raise Broken(f"{error}: {'; '.join(_way(came_from, state))}") from None
    return len(came_from)


def _way(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    names: list[str] = []
    step = came_from[state]
    while step is not None:
        names.append(step[1])
        step = came_from[step[0]]
    return names[::-1]
