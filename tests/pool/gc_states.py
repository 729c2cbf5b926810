"""The states of the model of garbage collection (``tests/pool/gc_model.py``): plain tuples, in one form each."""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Row(NamedTuple):
    """A row of ``object``: its number, its mark (0: none, or ``DAMAGED``), where it lies, how it is encoded."""

    version: int
    condemned: int
    place: int
    tag: int


class Place(NamedTuple):
    """A pack with one record: ``-`` none, ``f`` nobody's, ``0`` or ``1`` a writer's, ``g`` gc's, ``x`` a file that has
    no row any more, ``h`` gone but for somebody who remembers it."""

    state: str
    tag: int = 0


NOWHERE = Place("-")


class Writer(NamedTuple):
    """An import. For each key: ``-`` not wanted, ``?`` not looked up, ``s`` shared, ``n`` to be stored, ``b`` bytes
    are appended, ``f`` its row is there."""

    at: str  # idle, work
    tries: int
    steps: str
    renewed: int = 0
    reached: tuple[int, ...] = ()
    places: tuple[int, ...] = ()
    own: tuple[int, ...] = ()
    overtaken: bool = False


class Mount(NamedTuple):
    """A reader: the tree that it has pinned (0: none), one that it looked up, the read it is at: (key, place)."""

    tries: int
    pinned: int = 0
    seen: int = 0
    read: tuple[int, int] | None = None


class Gc(NamedTuple):
    """A collection. ``names_changed`` since the names were read; ``live`` rows; ``spot``: (key, place, new place)."""

    at: str  # idle, scan, mark, delete, space, drop, strike, copied, cut, moved
    names_changed: bool = False
    named: frozenset[int] = frozenset()
    live: frozenset[tuple[int, int]] = frozenset()
    unnamed: tuple[int, ...] = ()
    todo: tuple[tuple[int, int], ...] = ()
    spot: tuple[int, int, int] | None = None
    moves: int = 0
    punches: int = 0


class State(NamedTuple):
    """Everything. Trees by their bits, with the numbers of their rows; names: the first tree's, then the writers'."""

    rows: tuple[Row | None, ...]
    versions: tuple[int, ...]
    places: tuple[tuple[Place, ...], ...]
    epoch: int
    trees: tuple[tuple[int, ...] | None, ...]
    names: tuple[int, ...]
    writers: tuple[Writer, ...]
    mount: Mount
    gc: Gc
    damages: int


class Broken(Exception):
    """A state in which something was lost, or stays for ever."""


DAMAGED = -1


# -- rows and places ------------------------------------------------------------------------------------------------


def put(some: tuple[T, ...], at: int, one: T) -> tuple[T, ...]:
    """A tuple with another element at one place."""
    return (*some[:at], one, *some[at + 1 :])


def put_step(writer: Writer, key: int, step: str) -> str:
    """How far a writer is with a key."""
    return writer.steps[:key] + step + writer.steps[key + 1 :]


def set_place(state: State, key: int, place: int, one: Place) -> State:
    """Another state of a place."""
    return state._replace(places=put(state.places, key, put(state.places[key], place, one)))


def has_bytes(place: Place) -> bool:
    """Whether a reader finds something there."""
    return place.state not in "-h"


def is_named(state: State, key: int, place: int) -> bool:
    """Whether a row says that its object lies there."""
    row = state.rows[key]
    return row is not None and row.place == place


def reached(state: State, masks: Iterable[int]) -> frozenset[tuple[int, int]]:
    """The rows that trees reach, by key and number."""
    trees = [tree for mask in masks if (tree := state.trees[mask]) is not None]
    return frozenset((key, version) for tree in trees for key, version in enumerate(tree) if version)


def free_spot(state: State, key: int) -> int:
    """A place that is none yet."""
    return next(place for place, one in enumerate(state.places[key]) if one.state == "-")


def tidy(state: State) -> State:
    """The same state in one form: numbers of rows and epochs that nobody remembers do not count."""
    if any(one.state == "h" for some in state.places for one in some):
        state = _without_holes(state)
    epochs = {state.epoch}
    for row in state.rows:
        if row is not None and row.condemned > 0:
            epochs.add(row.condemned)
    for writer in state.writers:
        if writer.at == "work":
            epochs.add(writer.renewed)
    if len(epochs) != state.epoch:
        state = _later(state, {epoch: rank for rank, epoch in enumerate(sorted(epochs), 1)})
    for key, last in enumerate(state.versions):
        used = _versions(state, key)
        if len(used) != last:
            state = _renumbered(state, key, used)
    return state


def _without_holes(state: State) -> State:
    remembered = {state.gc.spot[:2]} if state.gc.spot else set()
    if state.mount.read:
        remembered.add(state.mount.read)
    places = tuple(
        tuple(NOWHERE if one.state == "h" and (key, at) not in remembered else one for at, one in enumerate(some))
        for key, some in enumerate(state.places)
    )
    return state._replace(places=places)


def _later(state: State, when: dict[int, int]) -> State:
    rows = tuple(row and row._replace(condemned=when.get(row.condemned, row.condemned)) for row in state.rows)
    writers = tuple(one._replace(renewed=when[one.renewed]) if one.at == "work" else one for one in state.writers)
    return state._replace(rows=rows, writers=writers, epoch=when[state.epoch])


def _versions(state: State, key: int) -> set[int]:
    """The numbers of a key's rows that somebody remembers."""
    row = state.rows[key]
    used = {row.version} if row else set()
    for tree in state.trees:
        if tree:
            used.add(tree[key])
    for writer in state.writers:
        if writer.at == "work":
            used.add(writer.reached[key])
            used.add(writer.own[key])
    for one, version in (*state.gc.live, *state.gc.todo):
        if one == key:
            used.add(version)
    used.discard(0)
    return used


def _renumbered(state: State, key: int, used: set[int]) -> State:
    number = {0: 0} | {version: rank for rank, version in enumerate(sorted(used), 1)}
    row = state.rows[key]
    if row:
        state = state._replace(rows=put(state.rows, key, row._replace(version=number[row.version])))
    trees = tuple(tree and put(tree, key, number[tree[key]]) for tree in state.trees)
    writers = tuple(
        w._replace(reached=put(w.reached, key, number[w.reached[key]]), own=put(w.own, key, number[w.own[key]]))
        if w.at == "work"
        else w
        for w in state.writers
    )
    gc = state.gc
    gc = gc._replace(
        live=frozenset((one, number[version] if one == key else version) for one, version in gc.live),
        todo=tuple((one, number[version] if one == key else version) for one, version in gc.todo),
    )
    return state._replace(trees=trees, writers=writers, gc=gc, versions=put(state.versions, key, len(used)))
