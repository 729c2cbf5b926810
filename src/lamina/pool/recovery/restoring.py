"""Names as name records tell them, put back as rows of a new catalogue, with the trees that they refer to.

Nothing is left out in silence: what cannot be put back as it was is told in a line.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyroaring import BitMap64

from lamina.errors import DamagedData
from lamina.pool.catalogue import Catalogue
from lamina.pool.checking.walking import Walked, Walker
from lamina.pool.figures.sums import Sizes
from lamina.pool.names import parent_of, printable
from lamina.pool.recording import PROPERTIES
from lamina.pool.recovery.chain import Names, Row
from lamina.pool.recovery.rebuild import Placeholders, unattributed
from lamina.store.objects import ObjectStore

_TREE = "root, inodes, files, directories, data_bytes, stored, decoded, objects"


@dataclass(slots=True)
class Restored:
    """What was put back, and the lines about what was not, or not as it was."""

    datasets: int = 0
    snapshots: int = 0
    bookmarks: int = 0
    missing: int = 0
    """Objects that trees need and no pack holds."""
    lines: list[str] = field(default_factory=list)


class Restorer:
    """Puts names back into an empty catalogue whose index is complete."""

    def __init__(self, catalogue: Catalogue, store: ObjectStore, names: Names, pool: str) -> None:
        self._catalogue = catalogue
        self._database = catalogue.database
        self._store = store
        self._names = names
        self._pool = pool
        self._absent = Placeholders(self._database)
        self._walker = Walker(store, self._absent.give)
        self._roots: dict[str, int | None] = {}
        """Rows of trees by the key of their roots; None of those whose root object cannot be read."""
        self._partial: dict[int, Walked] = {}
        self.done = Restored()

    def run(self) -> Restored:
        """Put everything back."""
        self._complete()
        self._trees()
        with self._database.transaction():
            self._datasets()
            self._snapshots()
            self._settle()
            self._bookmarks()
            self._own()
        self.done.missing = self._absent.count
        return self.done

    def name_of(self, snapshot: Row) -> str:
        """The full name of a snapshot."""
        return f"{self._names.datasets[snapshot['dataset']]['name']}@{snapshot['name']}"

    def _say(self, line: str) -> None:
        self.done.lines.append(printable(line))

    # -- before: what a gap in the records may have taken --------------------------------------------------------

    def _complete(self) -> None:
        """Give every row a place: a dataset for each snapshot, a parent for each dataset, one name to each."""
        names = self._names
        for row in sorted(names.snapshots.values(), key=lambda row: int(row["id"])):
            if row["dataset"] not in names.datasets:
                name = f"{self._pool}/recovered-{row['dataset']}"
                self._say(f"the dataset of snapshot '{row['name']}' is in no name record: it is restored as '{name}'")
                names.datasets[row["dataset"]] = _dataset(row["dataset"], name, row)
        taken: set[str] = set()
        for row in sorted(names.datasets.values(), key=lambda row: int(row["id"])):
            name = row["name"]
            if name != self._pool and not name.startswith(self._pool + "/"):
                name = f"{self._pool}/{name}"
            while name in taken:
                name += f"-recovered-{row['id']}"
            if name != row["name"]:
                self._say(f"'{row['name']}' is restored as '{name}'")
                row["name"] = name
            taken.add(name)
        for name in sorted({*taken, self._pool}):
            above: str | None = name
            while above is not None:
                if above not in taken:
                    number = max([0, *names.datasets]) + 1
                    names.datasets[number] = _dataset(number, above, {"creation": 0, "txg": names.txg})
                    taken.add(above)
                    self._say(f"'{above}' is in no name record: it is made anew, without its properties")
                above = parent_of(above)
        of: dict[tuple[int, str], Row] = {}
        for row in sorted(names.snapshots.values(), key=lambda row: int(row["id"])):
            while (row["dataset"], row["name"]) in of:
                self._say(f"snapshot '{row['name']}' is restored as '{row['name']}-recovered-{row['id']}'")
                row["name"] += f"-recovered-{row['id']}"
            of[row["dataset"], row["name"]] = row

    # -- trees ----------------------------------------------------------------------------------------------------

    def _trees(self) -> None:
        wanted: dict[str, list[str]] = {}
        for row in self._names.snapshots.values():
            if row["root"] is not None:
                wanted.setdefault(row["root"], []).append(self.name_of(row))
        for row in self._names.datasets.values():
            if row["head"] is not None:
                wanted.setdefault(row["head"], []).append(row["name"])
        claimed = BitMap64()
        for root, users in wanted.items():
            shown = ", ".join(f"'{name}'" for name in sorted(users)[:3]) + (", …" if len(users) > 3 else "")
            with self._database.transaction():
                try:
                    walked = self._walker.walk(bytes.fromhex(root))
                except (DamagedData, ValueError) as error:
                    self._roots[root] = None
                    self._say(f"the tree of {shown} is lost: {error}")
                    continue
                number = self._roots[root] = self._store.locate([bytes.fromhex(root)])[bytes.fromhex(root)].id
                self._put_tree(number, walked)
            if walked.missing or not walked.whole:
                self._say(
                    f"the tree of {shown} is not complete: {max(len(walked.missing), 1)} objects or more of it are "
                    "missing; importing the same files again, or 'lamina pool scrub --repair-from', brings them back"
                )
            else:
                for problem in walked.problems:
                    self._say(f"the tree of {shown} is damaged: {problem}")
            if walked.whole:
                claimed |= walked.objects
            else:
                self._partial[number] = walked
        if self._partial:
            # What lies below a node that is missing is not known: all that could is kept.
            spare = unattributed(self._database, claimed)
            for number, walked in self._partial.items():
                walked.objects |= spare
                with self._database.transaction():
                    self._put_tree(number, walked)

    def _put_tree(self, number: int, walked: Walked) -> None:
        walked.objects.run_optimize()
        stored, decoded = Sizes(self._database).sums(walked.objects)
        totals = walked.totals
        self._database.execute(
            f"INSERT OR REPLACE INTO tree({_TREE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(number, totals.inodes, totals.files, totals.directories, totals.data_bytes, stored, decoded),
                walked.objects.serialize(),
            ),
        )

    def _tree(self, root: str | None) -> int | None:
        return None if root is None else self._roots[root]

    # -- rows -----------------------------------------------------------------------------------------------------

    def _datasets(self) -> None:
        for row in self._names.datasets.values():
            self._database.execute(
                "INSERT INTO dataset(id, name, guid, creation, txg, head, taken) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(row["id"], row["name"], row["guid"], row["creation"], row["txg"]),
                    *(self._tree(row["head"]), row["taken"]),
                ),
            )
            self._database.execute_many(
                "INSERT INTO dataset_property(dataset, name, value) VALUES (?, ?, ?)",
                [(row["id"], name, value) for name, value in row.get("properties", {}).items()],
            )
            self.done.datasets += 1

    def _snapshots(self) -> None:
        for row in self._names.snapshots.values():
            if row["root"] is not None and self._tree(row["root"]) is None:
                self._say(f"'{self.name_of(row)}' is left out: its tree is lost")
                continue
            self._database.execute(
                "INSERT INTO snapshot(id, dataset, name, guid, creation, txg, kind, root, taken, defer) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(row["id"], row["dataset"], row["name"], row["guid"], row["creation"], row["txg"], row["kind"]),
                    *(self._tree(row["root"]), row["taken"], row.get("defer", 0)),
                ),
            )
            self._database.execute_many(
                "INSERT INTO snapshot_property(snapshot, name, value) VALUES (?, ?, ?)",
                [(row["id"], name, value) for name, value in row.get("properties", {}).items()],
            )
            self._database.execute_many(
                "INSERT INTO hold(snapshot, tag, creation) VALUES (?, ?, ?)",
                [(row["id"], tag, creation) for tag, creation in row.get("holds", {}).items()],
            )
            self.done.snapshots += 1

    def _settle(self) -> None:
        """What datasets say of snapshots, now that it is known which are there."""
        there = {number for (number,) in self._database.query("SELECT id FROM snapshot")}
        for row in self._names.datasets.values():
            follows, origin, head, taken = row["follows"], row["origin"], self._tree(row["head"]), row["taken"]
            if origin is not None and origin not in there:
                origin = None
                self._say(f"'{row['name']}' is no clone any more: the snapshot that it was made of is not there")
            if follows is not None and follows not in there:
                images = self._database.query(
                    "SELECT root, id, taken FROM snapshot WHERE dataset = ? AND kind = 'image' "
                    "ORDER BY txg DESC, id DESC LIMIT 1",
                    (row["id"],),
                )
                head, follows, taken = images[0] if images else (None, None, 0)
            if head is None and row["head"] is not None:
                self._say(f"'{row['name']}' is empty now: its tree is lost")
            self._database.execute(
                "UPDATE dataset SET head = ?, follows = ?, taken = ?, origin = ? WHERE id = ?",
                (head, follows, taken, origin, row["id"]),
            )

    def _bookmarks(self) -> None:
        for row in self._names.bookmarks.values():
            if row["dataset"] in self._names.datasets:
                self._database.execute(
                    "INSERT OR IGNORE INTO bookmark(id, dataset, name, guid, creation, txg) VALUES (?, ?, ?, ?, ?, ?)",
                    [row[column] for column in ("id", "dataset", "name", "guid", "creation", "txg")],
                )
                self.done.bookmarks += 1

    def _own(self) -> None:
        """History, the pool's own properties, and row numbers that are not to be given again."""
        names = self._names
        self._database.execute_many(
            "INSERT INTO history(time, txg, user, host, command) VALUES (?, ?, ?, ?, ?)",
            [(one.time, one.txg, one.user, one.host, one.command) for one in names.history],
        )
        properties: Mapping[str, Any] = names.pool.get("properties", {})
        for name in PROPERTIES:
            if name in properties:
                self._catalogue.set_meta(name, str(properties[name]))
        for kind, rows in names.tables().items():
            keep_sequence(self._catalogue, kind, max([names.highest.get(kind, 0), *rows]))


def keep_sequence(catalogue: Catalogue, table: str, highest: int) -> None:
    """Have the next row of a table numbered above ``highest``."""
    rows = catalogue.database.query("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))
    catalogue.database.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
    catalogue.database.execute(
        "INSERT INTO sqlite_sequence(name, seq) VALUES (?, ?)", (table, max([highest, *(row[0] for row in rows)]))
    )


def _dataset(number: int, name: str, like: Row) -> Row:
    """A dataset that has to be made up."""
    guid = int.from_bytes(os.urandom(8), "big") >> 1
    return {
        **{"id": number, "name": name, "guid": guid, "creation": like["creation"], "txg": like["txg"]},
        **{"head": None, "follows": None, "taken": 0, "origin": None, "properties": {}},
    }
