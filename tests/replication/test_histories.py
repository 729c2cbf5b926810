"""A random history at the sender, and a receiver that is brought up to date now and then: it must be the same after.

``LAMINA_HISTORIES=200`` takes two hundred histories; without it, five.
"""

import contextlib
import os
import random
import shutil
from pathlib import Path

import pytest

from lamina.errors import LaminaError
from lamina.pool import Pool
from tests.pool.trees import Library
from tests.replication.kit import is_above, receive, same_datasets, send, sound

HISTORIES = int(os.environ.get("LAMINA_HISTORIES", "5"))
NAMES = ("a", "b", "c", "a/x", "a/y", "b/x", "c/x/z")
PROPERTIES = ({"compression": "lz4"}, {"u:note": "hello"}, {"u:note": "\N{SNOWMAN}"}, {"quota": "1G"}, {"atime": "off"})


class Sender:
    """A pool to which things happen below ``tank/top``."""

    def __init__(self, pool: Pool, library: Library, rng: random.Random) -> None:
        self.pool, self.library, self.rng = pool, library, rng
        self.count = 0
        pool.create_dataset("tank/top", {"u:top": "1"})

    def datasets(self) -> list[str]:
        return [one.name for one in self.pool.list(["tank/top"], recursive=True)]

    def snapshots(self) -> list[str]:
        """Those that the test itself does not need."""
        names = [one.name for one in self.pool.list(["tank/top"], recursive=True, types=("snapshot",))]
        return [name for name in names if "@sync" not in name]

    def step(self) -> None:
        """One thing that happens; what is refused does not."""
        pool, rng = self.pool, self.rng
        self.count += 1
        dataset = rng.choice(self.datasets())
        new = f"tank/top/{rng.choice(NAMES)}"
        snapshots = self.snapshots() or [f"{dataset}@none"]
        what = rng.randrange(12)
        with contextlib.suppress(LaminaError):
            if what <= 1:
                target = dataset if rng.random() < 0.5 else new
                pool.import_image(rng.choice(self.library).path, f"{target}@i{self.count}")
            elif what == 2:
                pool.snapshot([f"{dataset}@s{rng.randrange(4)}"], recursive=rng.random() < 0.5)
            elif what == 3:
                pool.create_dataset(new, parents=True)
            elif what == 4:
                pool.clone(rng.choice(snapshots), new, parents=True)
            elif what == 5:
                pool.promote(dataset)
            elif what == 6 and dataset != "tank/top":
                pool.rename(dataset, new, parents=True)
            elif what == 7:
                pool.rename(rng.choice(snapshots), f"s{rng.randrange(4)}")
            elif what == 8:
                pool.destroy(rng.choice(snapshots))
            elif what == 9 and dataset != "tank/top":
                pool.destroy(dataset, recursive=True)
            elif what == 10:
                properties = rng.choice(PROPERTIES)
                if rng.random() < 0.6:
                    pool.set([dataset], properties)
                else:
                    pool.inherit(dataset, next(iter(properties)))
            else:
                pool.hold("tag", [rng.choice(snapshots)])
        if rng.random() < 0.2:
            with contextlib.suppress(LaminaError):
                pool.release("tag", [rng.choice(snapshots)])


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_a_history(place: Path, library: Library, seed: int) -> None:
    rng = random.Random(seed)
    with Pool.create("tank", place / "tank") as tank, Pool.create("back", place / "back") as back:
        sender = Sender(tank, library, rng)
        before = None
        for number in range(4):
            for _ in range(rng.randrange(1, 12)):
                sender.step()
            tag = f"sync{number}"
            tank.snapshot([f"tank/top@{tag}"], recursive=True)
            if before is not None and not tank.exists(f"tank/top@{before}"):
                before = None
            if before is None and back.exists("back/top"):
                with back._database.transaction():
                    back._database.execute("DELETE FROM hold")
                back.destroy("back/top", clones=True)
            data = send(tank, f"tank/top@{tag}", recursive=True, holds=True, base=before and f"@{before}", between=True)
            receive(back, data, "back/top", force=before is not None)
            before = tag if compare(tank, back) else None
            if rng.random() < 0.3:
                tank.gc()
                back.gc()
        sound(back)
    shutil.rmtree(place)


def compare(tank: Pool, back: Pool) -> bool:
    """Whether all is the same; fails where it has to be and is not."""
    if is_above(tank, "tank/top"):
        return False  # a clone above what it was made from is sent whole
    for row in back._catalogue.snapshots():
        # Holds came with snapshots; what is gone at the sender stays while it is held here.
        if row.guid not in {one.guid for one in tank._catalogue.snapshots()}:
            assert back._database.query("SELECT 1 FROM hold")
            return False
    names = [[one.name.partition("/")[2] for one in pool.list(recursive=True)] for pool in (tank, back)]
    assert names[0] == names[1]
    same_datasets(tank, "tank/top", back, "back/top")
    return True
