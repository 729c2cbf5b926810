"""A terminal that is played: what is on its screen after what was written."""

import io
import re


class Terminal(io.StringIO):
    """Knows what is on the screen: as much of a terminal as the lines use."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        super().__init__()
        self.columns, self.rows = columns, rows
        self.screen = [""]
        self.row = self.column = 0
        self.lost = 0
        """Lines that scrolled out at the top."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for part in re.findall(r"\x1b\[\d*[A-Z]|\r|\n|[^\x1b\r\n]+", text):
            if part == "\n":
                self.row += 1
                self.column = 0
                if self.row == len(self.screen):
                    self.screen.append("")
                if len(self.screen) > self.rows:
                    del self.screen[0]
                    self.row -= 1
                    self.lost += 1
            elif part == "\r":
                self.column = 0
            elif part == "\x1b[K":
                self.screen[self.row] = self.screen[self.row][: self.column]
            elif part == "\x1b[J":
                del self.screen[self.row + 1 :]
                self.screen[self.row] = self.screen[self.row][: self.column]
            elif part.startswith("\x1b"):
                assert part.endswith("A")
                up = int(part[2:-1])
                assert up <= self.row, "moves above the first line"
                self.row -= up
            else:
                before = self.screen[self.row]
                self.screen[self.row] = before[: self.column] + part + before[self.column + len(part) :]
                self.column += len(part)
                assert self.column < self.columns, "a line that wraps cannot be drawn over"
        return len(text)
