"""Naming what has come: the rows of a received snapshot, inside the one transaction that makes it visible."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lamina.errors import PropertyError
from lamina.pool.catalogue import Catalogue, Change
from lamina.pool.checking.walking import Walked
from lamina.pool.figures import limits
from lamina.pool.figures.sums import Sizes
from lamina.pool.lineage.destroying import carry_out
from lamina.pool.names import printable
from lamina.pool.partials import drop_partial
from lamina.pool.properties import PROPERTIES, is_user_property, parse_properties, parse_value
from lamina.replication.destination import Arrival, ReceiveOptions
from lamina.replication.messages import SentDataset, SentSnapshot

if TYPE_CHECKING:
    from lamina.pool.pool import Pool


class Landing:
    """Makes rows for one stream. ``warnings``: what of it could not be taken over."""

    def __init__(self, pool: "Pool", options: ReceiveOptions) -> None:
        self._pool = pool
        self._catalogue: Catalogue = pool._catalogue
        self._options = options
        self._settled: set[int] = set()
        """Datasets whose properties are set."""
        self.warnings: list[str] = []

    # -- datasets -------------------------------------------------------------------------------------------------

    def make_dataset(self, change: Change, arrival: Arrival) -> int:
        """The dataset of an arrival, which is made if it is not there, as a clone if it is to be one; its row."""
        if arrival.row is not None:
            return arrival.row.id
        for above in arrival.above:
            self._catalogue.add_dataset(change, above, {})
        number = self._catalogue.add_dataset(change, arrival.dataset, {})
        if arrival.origin and arrival.base is not None:
            self._catalogue.database.execute("UPDATE dataset SET origin = ? WHERE id = ?", (arrival.base.id, number))
            self._catalogue.set_head(change, number, arrival.base.root, None, 0)
        return number

    def is_settled(self, name: str) -> bool:
        """Whether what the stream says of a dataset is set already."""
        row = self._catalogue.find_dataset(name)
        return row is not None and row.id in self._settled

    def is_even(self, name: str, sent: SentDataset) -> bool:
        """Whether a dataset is there, and a stream has said all of it before."""
        row = self._catalogue.find_dataset(name)
        if row is None or (not sent.name and self._options.properties):
            return False
        sql = "SELECT name, value FROM received_property WHERE dataset = ?"
        return sent.properties is None or dict(self._catalogue.database.query(sql, (row.id,))) == sent.properties

    def set_properties(self, change: Change, name: str, sent: SentDataset) -> None:
        """Set what a stream says of a dataset, once, but for what was set here, and what the options say.

        As in OpenZFS a value that was set here stays, one that was received follows what the stream says.
        """
        number = self._catalogue.dataset(name).id
        if number in self._settled:
            return
        self._settled.add(number)
        database = self._catalogue.database
        here = dict(database.query("SELECT name, value FROM dataset_property WHERE dataset = ?", (number,)))
        wanted: dict[str, str] = {}
        if sent.properties is not None:
            known = dict(database.query("SELECT name, value FROM received_property WHERE dataset = ?", (number,)))
            told = self._checked(name, sent.properties)
            blocked = {*self._options.excluded, *self._options.properties}
            for prop, value in told.items():
                followed = here.get(prop) == known[prop] if prop in known else prop not in here
                if followed and prop not in blocked:
                    wanted[prop] = value
            for prop in known.keys() - told.keys() - blocked:
                if here.get(prop) == known[prop]:
                    self._catalogue.clear_property(change, number, None, prop)
            database.execute("DELETE FROM received_property WHERE dataset = ?", (number,))
            database.execute_many(
                "INSERT INTO received_property(dataset, name, value) VALUES (?, ?, ?)",
                [(number, prop, value) for prop, value in told.items()],
            )
        if not sent.name:
            wanted |= self._options.properties
        self._set(change, number, name, wanted)

    def _checked(self, name: str, told: Mapping[str, str]) -> dict[str, str]:
        """Those properties that this lamina knows, with values that it takes."""
        found: dict[str, str] = {}
        for prop, value in told.items():
            try:
                if prop not in PROPERTIES and not is_user_property(prop):
                    raise PropertyError("it is not known to this lamina")
                stored = _stored(prop, value)
            except PropertyError as error:
                self._warn(prop, name, error)
            else:
                found[prop] = stored
        return found

    def _set(self, change: Change, number: int, name: str, wanted: Mapping[str, str]) -> None:
        free = self._pool._free()
        for prop, value in wanted.items():
            if prop in limits.LIMITS and value != "0":
                try:
                    limits.ground(self._catalogue, free, changed=True).set(name, prop, int(value))
                except PropertyError as error:
                    self._warn(prop, name, error)
                    continue
            self._catalogue.set_dataset_properties(change, number, {prop: value})

    def _warn(self, prop: str, name: str, error: PropertyError) -> None:
        self.warnings.append(f"cannot receive {printable(prop)} property on {name}: {error}")

    # -- snapshots ------------------------------------------------------------------------------------------------

    def land(
        self, change: Change, arrival: Arrival, sent: SentDataset, snapshot: SentSnapshot, walked: Walked | None
    ) -> None:
        """Name a snapshot whose tree is whole; ``walked`` None: it is empty. The head becomes what it is."""
        database = self._catalogue.database
        if arrival.doomed is not None:
            gone = [row.id for row in arrival.doomed.rows]
            carry_out(self._catalogue, change, arrival.doomed, undone=gone)
        number = self.make_dataset(change, arrival)
        root = self._put_tree(snapshot.root, walked) if walked is not None and snapshot.root is not None else None
        data_bytes = walked.totals.data_bytes if walked is not None else 0
        taken = min(snapshot.taken, data_bytes)
        made = self._catalogue.add_snapshot(change, number, arrival.tag, snapshot.kind, root, taken)
        database.execute(
            "UPDATE snapshot SET guid = ?, creation = ? WHERE id = ?", (snapshot.guid, snapshot.creation, made)
        )
        database.execute("INSERT INTO received_snapshot(snapshot, source) VALUES (?, ?)", (made, sent.guid))
        self._catalogue.set_snapshot_properties(change, made, self._user_properties(arrival.name, snapshot))
        if not self._options.skip_holds:
            database.execute_many(
                "INSERT INTO hold(snapshot, tag, creation) VALUES (?, ?, ?)",
                [(made, tag, creation) for tag, creation in snapshot.holds.items()],
            )
        head = self._catalogue.dataset_by_id(number)
        if snapshot.kind == "image":
            self._catalogue.set_head(change, number, root, made, taken)
        elif head.follows is None or head.head != root:
            # One that follows an image of this very tree goes on doing so, as where the snapshot was taken.
            self._catalogue.set_head(change, number, root, None, 0)
        drop_partial(self._catalogue, number)
        self.set_properties(change, arrival.dataset, sent)

    def _put_tree(self, key: bytes, walked: Walked) -> int:
        """The row of a tree, with its totals and all that it reaches."""
        database = self._catalogue.database
        number = int(database.query("SELECT id FROM object WHERE key = ?", (key,))[0][0])
        walked.objects.run_optimize()
        blob = walked.objects.serialize()
        if database.query("SELECT 1 FROM tree WHERE root = ? AND objects = ?", (number, blob)):
            return number
        stored, decoded = Sizes(database).sums(walked.objects)
        totals = walked.totals
        database.execute(
            "INSERT OR REPLACE INTO tree(root, inodes, files, directories, data_bytes, stored, decoded, objects) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*(number, totals.inodes, totals.files, totals.directories, totals.data_bytes, stored, decoded), blob),
        )
        return number

    def _user_properties(self, name: str, snapshot: SentSnapshot) -> dict[str, str]:
        found: dict[str, str] = {}
        for prop, value in snapshot.properties.items():
            try:
                found |= parse_properties({prop: value}, entry_type="snapshot")
            except PropertyError as error:
                self._warn(prop, name, error)
        return found


def _stored(prop: str, value: str) -> str:
    """The stored form of a value in stored form. Raises ``PropertyError``."""
    if prop in limits.LIMITS and value == "0":
        return value
    if prop in limits.LIMITS and not (value.isascii() and value.isdigit() and len(value) < 19):
        raise PropertyError("its value makes no sense")
    return parse_value(prop, value)
