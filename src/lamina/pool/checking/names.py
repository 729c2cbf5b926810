"""Checking names: rows that fit together, and name records in the packs that would bring back exactly these rows."""

import time
from typing import TYPE_CHECKING, Any

from lamina.errors import DamagedData
from lamina.pool.catalogue import Catalogue
from lamina.pool.checking.findings import Findings
from lamina.pool.names import dataset_name_error, parent_of
from lamina.pool.recording import everything, former_guids, pool_row
from lamina.pool.records import NameRecord
from lamina.pool.recovery.chain import Link, Names, apply_records, find_chain
from lamina.pool.recovery.rebuild import record_reader
from lamina.pool.units import format_size
from lamina.store.record import Kind

if TYPE_CHECKING:
    from lamina.pool.pool import Pool


def check_names(pool: "Pool", findings: Findings) -> None:
    """Rows among themselves, then against the records."""
    for table, row, parent, _ in pool._database.query("PRAGMA foreign_key_check"):
        findings.rebuild(f"row {row} of table '{table}' refers to a row of '{parent}' that is not there")
    _check_rows(pool, findings)
    if pool._catalogue.meta("guid") != pool.guid:
        findings.rebuild("the catalogue is another pool's than 'pool.json'")
    if pool._catalogue.meta("recovery") is not None:
        findings.rebuild("a recovery was broken off before its end")
    _check_records(pool, findings)


def _check_rows(pool: "Pool", findings: Findings) -> None:
    datasets = pool._catalogue.datasets()
    snapshots = {row.id: row for row in pool._catalogue.snapshots()}
    names = {row.name for row in datasets}
    if pool.name not in names:
        findings.rebuild(f"there is no dataset '{pool.name}'")
    for row in datasets:
        reason = dataset_name_error(row.name)
        if reason is not None:
            findings.rebuild(f"dataset '{row.name}': {reason}")
        above = parent_of(row.name)
        if (above is None and row.name != pool.name) or (above is not None and above not in names):
            findings.rebuild(f"dataset '{row.name}' has no parent")
        if row.follows is not None:
            image = snapshots.get(row.follows)
            if image is None or image.dataset != row.id or image.kind != "image" or image.root != row.head:
                findings.rebuild(f"the head of '{row.name}' is not the image that it is said to be")
        if row.origin is not None and (row.origin not in snapshots or snapshots[row.origin].dataset == row.id):
            findings.rebuild(f"'{row.name}' is not a clone of a snapshot of another dataset")


def _check_records(pool: "Pool", findings: Findings) -> None:
    """What ``pool recover`` would bring back must be what is there."""
    catalogue = pool._catalogue
    rows = pool._database.query(
        "SELECT key FROM object WHERE kind = ? AND id >= ? ORDER BY id",
        (int(Kind.NAMES), catalogue.meta("names_from") or 0),
    )
    read = record_reader(pool.store)
    accepted = {pool.guid, *former_guids(catalogue)}
    records: dict[str, NameRecord] = {}
    for (key,) in rows:
        try:
            record = read(key.hex())
        except DamagedData as error:
            findings.problem(f"name record {key.hex()} cannot be read: {error}", _write_new(pool))
            continue
        if record.pool in accepted or not record.pool:
            records[record.key] = record
    chain = find_chain(Link.of(record) for record in records.values())
    if not chain.links or chain.links[-1].key != catalogue.meta("record"):
        findings.problem("the last name record is not in the packs", _write_new(pool))
        return
    for gap in chain.gaps:
        findings.problem(f"name records between txg {gap.before} and {gap.after} are missing", _write_new(pool))
    if not chain.gaps and not (chain.links[0].full or chain.links[0].after is None):
        findings.problem("name records do not go back to one that holds all names", _write_new(pool))
    try:
        names = apply_records(records[link.key] for link in chain.links)
    except DamagedData as error:
        findings.problem(str(error), _write_new(pool))
        return
    _compare(catalogue, names, findings, _write_new(pool))
    full = [link for link in chain.links if link.full]
    size = format_size(int(catalogue.meta("names_since") or 0))
    since = sum(link.is_last and not link.full for link in chain.links)
    when = (
        f"of {time.strftime('%Y-%m-%d %H:%M', time.localtime(full[0].time // 1_000_000_000))}"
        if full
        else "from the beginning"
    )
    findings.note(f"backup of all names in the packs: {when}, and {since} changes since ({size})")


def _write_new(pool: "Pool") -> str:
    return f"'lamina pool check --save-names {pool.name}' writes all names anew, as the catalogue has them"


def _compare(catalogue: Catalogue, told: Names, findings: Findings, action: str) -> None:
    kept = Names(txg=int(catalogue.meta("txg") or 0))
    for change in everything(catalogue):
        for kind, row in change.items():
            if kind in kept.tables():
                kept.tables()[kind][int(row["id"])] = row
    if told.txg != kept.txg:
        findings.problem(f"the name records go up to txg {told.txg}, the catalogue to {kept.txg}", action)
    if told.pool != pool_row(catalogue):
        findings.problem("the name records tell other properties of the pool", action)
    for kind, rows in kept.tables().items():
        others = told.tables()[kind]
        for number in sorted(rows.keys() | others.keys()):
            mine, other = rows.get(number), others.get(number)
            if mine is None or other is None:
                name = (mine or other or {}).get("name")
                where = "the name records do not know" if other is None else "the name records still know"
                findings.problem(f"{where} the {kind} '{name}'", action)
            elif _differ(mine, other):
                findings.problem(f"the name records tell the {kind} '{mine['name']}' otherwise", action)


def _differ(mine: dict[str, Any], other: dict[str, Any]) -> bool:
    """Records of version 1 have no column that came later: then it has its default."""
    return any(mine[column] != other.get(column, mine[column]) for column in mine) or bool(other.keys() - mine.keys())
