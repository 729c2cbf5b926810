"""A sync as the side sees it at which the user sits: it runs the other side, and tries again where that is lost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from lamina.errors import ConnectionLost, FarError, LaminaError, MissingObjects, SourceError, StreamError
from lamina.pool.pool import Pool
from lamina.pool.remote import RemoteLamina
from lamina.replication.sync.opening import open_destination, open_source
from lamina.replication.sync.places import Place
from lamina.replication.sync.protocol import Channel, Say
from lamina.replication.sync.receiver import Receiver
from lamina.replication.sync.report import Done, Outlook
from lamina.replication.sync.sender import Sender
from lamina.replication.sync.terms import Terms

_FIRST_WAIT = 1.0
_LONGEST_WAIT = 60.0
_WORTH = 1 << 20
"""Bytes of a stream that make a try one that got somewhere: the count of tries then begins anew."""
_PATIENCE_HERE = 60.0
_PATIENCE_FAR = 10.0
"""Seconds that the other side is given to keep what has come."""


@dataclass(slots=True)
class SyncReport:
    """What a sync did, over all tries.

    ``streamed``: bytes of streams; ``negotiated``: all other bytes, both ways; ``rounds``: how often the other side was
    waited for. ``outlook`` is of the last try.
    """

    done: Done = field(default_factory=Done)
    outlook: Outlook | None = None
    streamed: int = 0
    negotiated: int = 0
    rounds: int = 0
    tries: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Session:
    """One command's. ``ssh``: the command line to use instead of ssh; ``retries``: tries in a row that may get nowhere.

    ``outlook`` is called at each try once it is known what will be done, ``progress`` with bytes of the stream and
    their total, ``tell`` with a line for each new try. ``connect`` runs the other side.
    """

    source: Place
    destination: Place
    terms: Terms
    ssh: str | None = None
    retries: int = 3
    outlook: Callable[[Outlook], None] | None = None
    progress: Callable[[int, int], None] | None = None
    tell: Callable[[str], None] | None = None
    sleep: Callable[[float], None] = time.sleep
    connect: Callable[[str | None, Sequence[str], str | None], RemoteLamina] = RemoteLamina
    _report: SyncReport = field(default_factory=SyncReport, init=False)
    _connected: bool = field(default=False, init=False)
    """Whether the other side ever answered."""

    def run(self) -> SyncReport:
        """Do it. Raises ``LaminaError`` with what refuses it on either side, ``ConnectionLost``, ``SourceError``."""
        began = time.monotonic()
        waited = _FIRST_WAIT
        left = self.retries
        while True:
            moved = self._report.streamed
            try:
                self._try()
                break
            except _Again as error:
                if self.terms.thorough:
                    raise error.why from None
                self.terms = replace(self.terms, thorough=True)
                if self.tell is not None:
                    self.tell(f"{error.why}; asking about everything in full")
            except (ConnectionLost, SourceError) as error:
                if self._report.streamed - moved >= _WORTH:
                    left, waited = self.retries, _FIRST_WAIT
                if not left or not self._connected:
                    raise
                left -= 1
                if self.tell is not None:
                    self.tell(f"{error}; trying again in {waited:.0f} s")
                self.sleep(waited)
                waited = min(2 * waited, _LONGEST_WAIT)
        self._report.seconds = time.monotonic() - began
        return self._report

    @property
    def _far(self) -> Place:
        """The place that the other side is at; of two that are here, the destination."""
        return self.source if self.source.host is not None else self.destination

    def _try(self) -> None:
        far = self._far
        self._report.tries += 1
        remote = self.connect(far.host, ["__sync"], self.ssh)
        channel = Channel(remote.answers, remote.requests)
        side: Sender | Receiver | None = None
        try:
            channel.greet()
            channel.say(Say.REQUEST, self.terms.message("receive" if far is self.destination else "send"))
            channel.flush()
            with self._opened() as pool:
                kind = Sender if far is self.destination else Receiver
                side = kind(pool, self.terms, channel, self.progress, self._looked)
                self._report.done = side.run()
        except LaminaError as error:
            ended = channel.ended
            if not ended:
                channel.fail(str(error))
            remote.close(self._patience)
            raise self._explained(error, remote, greeted=channel.greeted, ended=ended) from None
        finally:
            remote.close(self._patience)
            moved = channel.sent + channel.received
            streamed = side.streamed if side is not None else 0
            self._report.streamed += streamed
            self._report.negotiated += moved - streamed
            self._report.rounds += channel.rounds
            self._connected = self._connected or channel.greeted

    def _opened(self) -> Pool:
        return open_source(self.terms) if self._far is self.destination else open_destination(self.terms)

    def _looked(self, outlook: Outlook) -> None:
        self._report.outlook = outlook
        if self.outlook is not None:
            self.outlook(outlook)

    @property
    def _patience(self) -> float:
        return _PATIENCE_HERE if self._far.host is None else _PATIENCE_FAR

    def _explained(self, error: LaminaError, remote: RemoteLamina, *, greeted: bool, ended: bool) -> Exception:
        """An error as the user is told, with the name of the host where it is from there."""
        shown = self._far.shown
        host = "" if self._far.host is None else f"{self._far.host}: "
        if isinstance(error, FarError):
            told = FarError(host + str(error), again=error.again)
            return _Again(told) if error.again else told
        if isinstance(error, MissingObjects):
            return _Again(error)
        if not greeted and isinstance(error, ConnectionLost | StreamError):
            said = remote.complaint()
            if isinstance(error, ConnectionLost):
                error = StreamError("the other side is no lamina that syncs")
            return SourceError(f"cannot sync with '{shown}': {error}" + (f": {said}" if said else ""))
        if ended and isinstance(error, ConnectionLost | StreamError):
            said = remote.complaint()
            lines = str(error).split("\n")
            kept = [line for line in lines[1:] if line.startswith("What has come")]
            if said and remote.status == 1:  # lamina's own words; ssh's status is 255
                return FarError("\n".join([host + said, *kept]))
            return ConnectionLost(
                "\n".join([f"the connection to '{shown}' ended" + (f": {said}" if said else ""), *kept])
            )
        if isinstance(error, ConnectionLost):
            return ConnectionLost(f"{error}: '{shown}'")
        if isinstance(error, StreamError) and remote.status == 1 and remote.complaint():
            return FarError(host + remote.complaint())  # what comes in the middle of a stream is no stream
        return error


class _Again(Exception):
    """It may go well where everything is asked about in full."""

    def __init__(self, why: LaminaError) -> None:
        super().__init__(str(why))
        self.why = why
