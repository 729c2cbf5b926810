"""Pools given up and taken in: moved, copied, renamed, with their guid or a new one; crashes in between."""

import os
import shutil
from pathlib import Path

import pytest

from lamina.errors import AlreadyExists, Busy, DamagedData, InvalidName, NotFound
from lamina.pool import Pool, files, pool_names, registry
from lamina.pool.recovery import moving as moving_module
from lamina.pool.recovery.moving import export_pool, find_pools, import_pool
from lamina.pool.recovery.recover import recover_pool
from tests.pool.dump import dump
from tests.pool.example import example, filled, impatient
from tests.pool.processes import run

__all__ = ["example", "filled", "impatient"]


def names(pool: str) -> list[str]:
    with Pool.open(pool) as opened:
        assert opened.check(headers=True).problems == []
        return [entry.name for entry in opened.list(types=("filesystem", "snapshot"))]


def test_exported_and_imported_where_it_is(filled: Path) -> None:
    before = names("tank")
    export_pool("tank", command="lamina pool export tank")
    assert pool_names() == []
    # All of it is in its files: the log holds nothing.
    assert not any((filled / "catalogue.db-wal").read_bytes())
    with pytest.raises(NotFound, match="no such pool"):
        Pool.open("tank")
    (found,) = find_pools()
    assert (found.name, found.path, found.state, found.comment) == ("tank", filled, "ONLINE", "all of it")
    assert import_pool("tank", command="lamina pool import tank") == "tank"
    assert names("tank") == before and find_pools() == [] and registry.exported() == []
    with Pool.open("tank") as pool:
        assert [line.command for line in pool.history()][-2:] == ["lamina pool export tank", "lamina pool import tank"]


@pytest.mark.parametrize("by", ["name", "guid", "path"])
def test_moved_and_imported_elsewhere(filled: Path, place: Path, by: str) -> None:
    with Pool.open(filled) as pool:
        before, guid = dump(pool), pool.guid
    export_pool("tank")
    (place / "elsewhere").mkdir()
    shutil.move(filled, place / "elsewhere" / "moved")
    assert find_pools() == []
    assert [pool.path for pool in find_pools([place / "elsewhere"])] == [place / "elsewhere" / "moved"]
    if by == "path":
        import_pool(str(place / "elsewhere" / "moved"))
    else:
        import_pool("tank" if by == "name" else str(guid), directories=[place / "elsewhere"])
    with Pool.open("tank") as pool:
        assert pool.path == place / "elsewhere" / "moved"
        assert dump(pool) == before


def test_under_another_name(filled: Path) -> None:
    before = names("tank")
    export_pool("tank")
    assert import_pool("tank", "archive", command="lamina pool import tank archive") == "archive"
    assert pool_names() == ["archive"]
    assert names("archive") == ["archive" + name[4:] for name in before]
    assert files.read_marker(filled, "archive").name == "archive"
    with Pool.open("archive", write=True) as pool:
        pool.create_dataset("archive/new")
        state = dump(pool)
    for name in ("catalogue.db", "pool.json"):
        (filled / name).unlink()
    assert recover_pool("archive").name == "archive"
    with Pool.open("archive") as pool:
        after = dump(pool, history=False)
    assert after == {name: rows for name, rows in state.items() if name != "history"}


def test_refusals(filled: Path, place: Path) -> None:
    with pytest.raises(NotFound, match="cannot open 'other': no such pool"):
        export_pool("other")
    with Pool.open("tank"), pytest.raises(Busy, match="has it open"):
        export_pool("tank")
    with Pool.open("tank", write=True) as pool, pool._writer(), pytest.raises(Busy, match="works with it"):
        export_pool("tank")
    assert pool_names() == ["tank"]
    with pytest.raises(AlreadyExists, match="a pool with that name already exists; use the form"):
        import_pool("tank")
    with pytest.raises(AlreadyExists, match="is imported already"):
        import_pool(str(filled))
    with pytest.raises(NotFound, match="cannot import 'nosuch': no such pool available"):
        import_pool("nosuch")
    with pytest.raises(NotFound, match="no such directory"):
        find_pools([place / "nowhere"])
    export_pool("tank")
    with pytest.raises(InvalidName, match="cannot import 'mirror': name is reserved"):
        import_pool("tank", "mirror")
    Pool.create("archive", place / "archive").close()
    with pytest.raises(AlreadyExists, match="a pool with that name already exists"):
        import_pool("tank", "archive")
    with Pool.open(filled), pytest.raises(Busy, match="cannot import 'tank': pool is busy"):
        import_pool("tank", "another")
    assert names("archive") == ["archive"] and import_pool("tank") == "tank"


def test_what_cannot_be_imported_says_why(filled: Path, place: Path) -> None:
    export_pool("tank")
    text = (filled / "pool.json").read_text()
    (filled / "pool.json").write_text("{")
    (found,) = find_pools()
    assert found.state == "FAULTED" and f"lamina pool recover {filled}" in found.action
    with pytest.raises(DamagedData, match="is damaged"):
        import_pool(str(filled))
    (filled / "pool.json").write_text(text.replace('"version": 1', '"version": 9'))
    (found,) = find_pools()
    assert found.state == "UNAVAIL" and "use a newer lamina" in found.status
    (filled / "pool.json").write_text(text)
    os.truncate(filled / "catalogue.db", 0)
    (found,) = find_pools()
    assert (found.name, found.state) == ("tank", "FAULTED") and "lamina pool recover" in found.action
    recover_pool(filled)
    assert import_pool("tank") == "tank"


def test_a_copy_gets_a_guid_of_its_own(filled: Path, place: Path) -> None:
    with Pool.open("tank", write=True) as pool:
        guid = pool.guid
    shutil.copytree(filled, place / "copy")
    (found,) = find_pools()
    assert (found.copy_of, found.guid) == ("tank", guid) and "--new-guid" in found.action
    with pytest.raises(AlreadyExists, match="it is a copy of the pool 'tank'"):
        import_pool(str(place / "copy"), "twin")
    before = names("tank")
    import_pool(str(place / "copy"), "twin", new_guid=True)
    assert names("twin") == ["twin" + name[4:] for name in before]
    with Pool.open("twin", write=True) as twin:
        assert twin.guid != guid and twin._catalogue.meta("guid") == twin.guid
        twin.create_dataset("twin/own")
        state = dump(twin, history=False)
    # From packs of both guids, and from nothing else.
    for name in ("catalogue.db", "pool.json"):
        (place / "copy" / name).unlink()
    assert recover_pool("twin").lines == []
    assert "twin/own" in names("twin")
    with Pool.open("twin") as twin:
        assert dump(twin, history=False) == state
    assert names("tank") == before


def test_two_of_one_name_need_more_than_a_name(place: Path) -> None:
    for number in (1, 2):
        Pool.create("tank", place / f"d{number}" / "p").close()
        export_pool("tank")
        shutil.move(place / f"d{number}", place / f"moved{number}")
    for number in (1, 2):
        shutil.move(place / f"moved{number}" / "p", place / f"p{number}")
    with pytest.raises(AlreadyExists, match="more than one matching pool; import by numeric ID instead"):
        import_pool("tank", directories=[place])
    found = find_pools([place])
    assert import_pool(str(found[1].guid), directories=[place]) == "tank"
    shutil.copytree(place / "p1", place / "p3")
    with pytest.raises(AlreadyExists, match="import by its directory instead"):
        import_pool(str(found[0].guid), "t2", directories=[place])


def test_what_is_exported_is_meant_before_what_lies_beside(place: Path) -> None:
    Pool.create("tank", place / "a").close()
    shutil.copytree(place / "a", place / "b")
    export_pool("tank")
    assert len(find_pools()) == 2
    import_pool("tank")
    with Pool.open("tank") as pool:
        assert pool.path == place / "a"


def test_a_pool_whose_directory_is_gone_is_forgotten(place: Path) -> None:
    Pool.create("tank", place / "tank").close()
    shutil.rmtree(place / "tank")
    export_pool("tank")
    assert pool_names() == [] and find_pools() == []


@pytest.mark.parametrize("new_guid", [False, True])
@pytest.mark.parametrize("at", ["marker", "registry", "change"])
def test_a_crash_on_the_way_leaves_one_pool(filled: Path, at: str, new_guid: bool) -> None:
    """Whatever is done when it stops, the pool can be imported: with the old name or the new, and all that is in it."""
    before = names("tank")
    export_pool("tank")

    def importing() -> None:
        def stop(*_: object, **__: object) -> None:
            os._exit(7)

        if at == "marker":
            moving_module.files.write_marker = stop
        elif at == "registry":
            moving_module.registry.add = stop
        else:
            moving_module.Catalogue.rename_dataset = stop  # type: ignore[method-assign,assignment]
        import_pool("tank", "archive", new_guid=new_guid)

    child = run(importing)
    _, status = os.waitpid(child.pid, 0)
    os.close(child.pipe)
    assert os.WEXITSTATUS(status) == 7
    (found,) = find_pools()
    assert found.name == ("tank" if at == "change" else "archive") and found.state == "ONLINE"
    with Pool.open(filled) as pool:
        assert pool.check(headers=True).problems == []
        assert pool.name == found.name and pool.guid == pool._catalogue.meta("guid") == found.guid
    for name in ("catalogue.db", "catalogue.db-wal", "catalogue.db-shm"):
        (filled / name).unlink()
    recover_pool(filled)
    (found,) = find_pools()
    name = import_pool(found.name, "archive" if found.name == "tank" else None)
    assert name == "archive"
    assert names("archive") == ["archive" + one[4:] for one in before]
    with Pool.open("archive", write=True) as pool:
        pool.create_dataset("archive/after")
    assert "archive/after" in names("archive")
