"""The far side of a sync: ``lamina __sync``, run over ssh by the side that the user sits at."""

from typing import IO

from lamina.errors import ConnectionLost, FarError, LaminaError, MissingObjects
from lamina.replication.sync.opening import open_destination, open_source
from lamina.replication.sync.protocol import Channel, Say
from lamina.replication.sync.receiver import Receiver
from lamina.replication.sync.sender import Sender
from lamina.replication.sync.terms import Terms


def serve(requests: IO[bytes], answers: IO[bytes]) -> LaminaError | None:
    """Do what is asked for; what it failed with. In the middle of a stream the other side has not heard of that."""
    channel = Channel(requests, answers)
    try:
        channel.greet()
        channel.flush()
        role, terms = Terms.parse(channel.hear(Say.REQUEST))
        if role == "send":
            with open_source(terms) as pool:
                Sender(pool, terms, channel).run()
        else:
            with open_destination(terms) as pool:
                Receiver(pool, terms, channel).run()
    except LaminaError as error:
        again = isinstance(error, MissingObjects) or (isinstance(error, FarError) and error.again)
        ended = channel.ended
        channel.fail(str(error), again=again)
        return ConnectionLost(str(error)) if ended else error
    except KeyboardInterrupt:
        channel.fail("interrupted")
        raise
    return None
