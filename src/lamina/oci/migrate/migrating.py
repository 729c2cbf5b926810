"""Moving images one by one: import, verify, remove at the source, and only then the next.

Each step leaves both sides whole: an import is in the pool or not, a removal is its owner's own command and comes after
every byte was read back. So whatever ends a migration, giving the same command again goes on where it ended: what is in
the pool already is verified, removed, and not read again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lamina.errors import AlreadyExists, LaminaError, NoSpace, OciError, UsageError
from lamina.oci.incoming.importing import Choice, import_images, name_for
from lamina.oci.inspecting import SOURCE
from lamina.oci.migrate.units import Part, Source, Unit
from lamina.oci.migrate.verifying import verify_image
from lamina.oci.registry.reference import parse_reference
from lamina.pool.importing.imageindex import image_of
from lamina.pool.importing.interrupts import Interrupts
from lamina.pool.importing.tags import remove_tag, tag_image
from lamina.pool.names import printable

if TYPE_CHECKING:
    from lamina.ingest.progress import Progress
    from lamina.pool.pool import Pool

MIGRATED, THERE, SKIPPED, FAILED, LEFT = "migrated", "there", "skipped", "failed", "left"
"""What became of a unit: taken in; in the pool before; not touched; not taken in; taken in, but not removed."""

_NAMELESS = "untagged"
"""The repository of images that have no name."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a unit. ``names``: in the pool; ``stored``: bytes written for it; ``why``: what is not done."""

    unit: Unit
    state: str
    names: tuple[str, ...] = ()
    stored: int = 0
    removed: bool = False
    why: str | None = None

    @property
    def label(self) -> str:
        """What to call it: a file by its name, others by that of the image."""
        named = next((name for part in self.unit.parts for name in part.names), None)
        return named if named is not None and self.unit.label.startswith("sha256:") else self.unit.label

    @property
    def saved(self) -> int:
        """Bytes that are not needed any more, once it is removed at the source."""
        return self.unit.size - self.stored if self.state in (MIGRATED, THERE, LEFT) else 0


@dataclass(frozen=True, slots=True)
class How:
    """What the options say. ``dest``: the dataset below which images go."""

    dest: str
    delete_source: bool = False
    nameless: bool = False
    choice: Choice = field(default_factory=Choice)


class Migration:
    """Moves the images of one source. For one thread."""

    def __init__(
        self,
        pool: "Pool",
        source: Source,
        how: How,
        *,
        begin: Callable[[str], None] = lambda text: None,
        progress: "Callable[[Progress], None] | None" = None,
        verified: Callable[[int, int], None] | None = None,
    ) -> None:
        """``begin`` gets what is being done next; ``progress`` that of imports, ``verified`` bytes read back."""
        self._pool = pool
        self._source = source
        self._how = how
        self._begin = begin
        self._progress = progress
        self._verified = verified
        self._interrupted = False
        """Whether Ctrl-C came while an original was removed, which is not broken off."""

    # -- planning -------------------------------------------------------------------------------------------------

    def plan(self, units: list[Unit]) -> list[Result]:
        """What would become of each unit, as far as can be known without importing."""
        return [self._looked_at(unit) or self._expected(unit) for unit in units]

    def _expected(self, unit: Unit) -> Result:
        names: list[str] = []
        there = 0
        try:
            for part in unit.parts:
                wanted = self._names(part)
                names += wanted
                there += self._known(part) is not None
                self._check_free(part, wanted)
        except LaminaError as error:
            return Result(unit, FAILED, tuple(names), why=str(error))
        return Result(unit, THERE if there == len(unit.parts) else MIGRATED, tuple(names))

    def _looked_at(self, unit: Unit) -> Result | None:
        """The result of a unit that is not touched; None for one that is to be migrated."""
        if unit.error is not None:
            return Result(unit, FAILED, why=unit.error)
        if unit.unusable is not None:
            return Result(unit, SKIPPED, why=unit.unusable)
        if self._how.delete_source and unit.used_by is not None:
            return Result(unit, SKIPPED, why=f"containers use it: {printable(unit.used_by)}")
        if not self._how.nameless and any(not part.names for part in unit.parts):
            return Result(unit, SKIPPED, why="it has no name; --all takes such images too")
        return None

    def _names(self, part: Part) -> list[str]:
        """The image's names in the pool. Raises ``LaminaError``."""
        if not part.names:
            return [f"{self._how.dest}/{_NAMELESS}@{part.ids[0].removeprefix('sha256:')[:12]}"]
        found = [name_for(self._how.dest, name, printable(name)) for name in part.names]
        return list(dict.fromkeys(found))

    def _known(self, part: Part) -> str | None:
        """A name of the image in the pool, if it is there."""
        self._pool.image_index.fill()
        for digest in part.ids:
            rows = self._pool.store.database.query(
                "SELECT d.name, s.name FROM image i JOIN snapshot s ON s.root = i.root "
                "JOIN dataset d ON d.id = s.dataset "
                "WHERE (i.config = ? OR i.manifest = ?) AND s.kind = 'image' ORDER BY d.name, s.name LIMIT 1",
                (digest, digest),
            )
            if rows:
                return f"{rows[0][0]}@{rows[0][1]}"
        return None

    def _check_free(self, part: Part, names: list[str]) -> None:
        """Raise ``AlreadyExists`` where another image has one of the names."""
        for name in names:
            if self._pool.exists(name) and not self._is(name, part):
                raise another(name)

    def _is(self, name: str, part: Part) -> bool:
        row = image_of(self._pool, name)
        return row is not None and bool({row.config, row.manifest} & set(part.ids))

    # -- moving ---------------------------------------------------------------------------------------------------

    def run(self, units: list[Unit]) -> Iterator[Result]:
        """Move them; each result as soon as it is known. What found no room is tried again once room was made."""
        waiting: list[Unit] = []
        for unit in units:
            result = self._looked_at(unit)
            if result is not None:
                yield result
            else:
                waiting.append(unit)
        cramped: list[Result] = []
        made_room = False
        while waiting:
            unit = self._next(waiting)
            waiting.remove(unit)
            result, no_room = self._move(unit)
            made_room = made_room or result.removed
            if no_room:
                cramped.append(result)
            else:
                yield result
            if self._interrupted:
                raise KeyboardInterrupt
            if not waiting and cramped and made_room:
                waiting, cramped, made_room = [result.unit for result in cramped], [], False
        yield from cramped

    def _next(self, units: list[Unit]) -> Unit:
        """As they come; where the disk is too small for all, what frees most for a byte that it needs comes first."""
        free = self._pool._free()
        if not self._how.delete_source or free >= sum(unit.size for unit in units):
            return units[0]
        needs = [(self._need(unit), unit) for unit in units]
        fitting = [(need, unit) for need, unit in needs if need <= free]
        if fitting:
            return max(fitting, key=lambda one: one[1].frees / (one[0] + 1))[1]
        return min(needs, key=lambda one: one[0])[1]

    def _need(self, unit: Unit) -> int:
        """Bytes that a unit may take in the pool: those of the layers that the pool lacks."""
        need = 0
        for part in unit.parts:
            if part.layers is None:
                return unit.size if self._known(part) is None else 0
            need += sum(size for diff_id, size in part.layers if not self._has(diff_id))
        return need

    def _has(self, diff_id: str) -> bool:
        """Whether an image of the pool has a layer; an estimate: the import looks more closely."""
        query = "SELECT 1 FROM image_layer WHERE diff_id = ? LIMIT 1"
        return bool(self._pool.store.database.query(query, (diff_id,)))

    def _move(self, unit: Unit) -> tuple[Result, bool]:
        """(what became of a unit, whether it only lacked room)."""
        result = Result(unit, THERE)
        try:
            for part in unit.parts:
                result = self._take(part, result)
        except NoSpace as error:
            return replace(result, state=FAILED, why=str(error)), True
        except LaminaError as error:
            return replace(result, state=FAILED, why=str(error)), False
        if not self._how.delete_source:
            return result, False
        if unit.kept is not None:
            return replace(result, state=LEFT, why=f"it is left at the source: {unit.kept}"), False
        self._begin(f"removing {printable(result.label)}")
        done = False
        try:
            with Interrupts():
                self._source.remove(unit)
                done = True
        except KeyboardInterrupt:
            if not done:
                raise
            self._interrupted = True
        except LaminaError as error:
            return replace(result, state=LEFT, why=f"it is in the pool, but not removed: {error}"), False
        return replace(result, removed=True), False

    def _take(self, part: Part, result: Result) -> Result:
        """Have one image in the pool, whole and under all its names."""
        names = self._names(part)
        known = self._known(part)
        stored = 0
        state = result.state
        if known is None:
            # Where the ID is not the pool's, the name tells: the import finds out whether it is the same image.
            self._begin(f"importing {printable(names[0])}")
            stored = self._import(result.unit, part, names[0])
            known, state = names[0], MIGRATED
        else:
            self._check_free(part, names)
        ids = part.ids if part.layers is not None else ()
        self._begin(f"verifying {printable(known)}")
        verify_image(self._pool, known, ids, self._verified)
        for name in names:
            if name != known:
                tag_image(self._pool, known, name)
        self._note(part, names)
        return replace(result, state=state, names=(*result.names, *names), stored=result.stored + stored)

    def _import(self, unit: Unit, part: Part, name: str) -> int:
        """Import an image; bytes stored for it. Raises ``AlreadyExists`` where another image has the name."""
        taken = self._pool.exists(name)
        if taken and part.layers is not None:
            self._check_free(part, [name])
        # What an engine calls an image's ID may be none that the pool knows: then the import tells if it is the same.
        dataset = name.partition("@")[0]
        target = f"{dataset}@migrating-{part.ids[0].removeprefix('sha256:')[:12]}" if taken else name
        choice = replace(self._how.choice, image=part.selector)
        with self._source.open(unit, part) as origin:
            report = import_images(self._pool, origin, target, choice, progress=self._progress)
        if taken:
            new, old = image_of(self._pool, target), image_of(self._pool, name)
            remove_tag(self._pool, target)
            if new is None or old is None or new.config != old.config:
                raise another(name)
        return report.stored_bytes

    def _note(self, part: Part, names: list[str]) -> None:
        """Remember where an image is from, so that a pull of the same name knows it."""
        for name in part.names if part.named else ():
            try:
                reference = parse_reference(name)
                own = name_for(self._how.dest, name, printable(name))
            except (OciError, UsageError):
                continue
            # "localhost" is where Podman says that images are that it built.
            if reference.host == "localhost" or own not in names:
                continue
            if self._pool.get(own, [SOURCE])[SOURCE].value is None:
                self._pool.set([own], {SOURCE: str(reference)})


def another(name: str) -> AlreadyExists:
    """The error where a name in the pool is another image's."""
    return AlreadyExists(
        f"'{printable(name)}' is another image already; rename it, or name another dataset to migrate to"
    )
