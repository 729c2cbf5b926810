"""What a check finds, while it looks."""

from dataclasses import dataclass, field

from lamina.pool.names import printable


@dataclass(slots=True)
class Findings:
    """Problems, each with what to do, and notes; names and paths in them are made printable here."""

    pool: str
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    objects: int = 0
    packs: int = 0
    trees: int = 0

    def problem(self, what: str, action: str) -> None:
        """Something that is wrong."""
        self.problems.append((printable(what), action))

    def rebuild(self, what: str) -> None:
        """Something wrong with the catalogue, which packs can make anew."""
        self.problem(what, f"'lamina pool recover -f {self.pool}' rebuilds the catalogue")

    def repair(self, what: str) -> None:
        """Something wrong with what is stored."""
        self.problem(
            what, f"'lamina pool scrub {self.pool}' says which files are hit, with --repair-from it repairs them"
        )

    def note(self, what: str) -> None:
        """Something to know that is not wrong."""
        self.notes.append(printable(what))
