"""What a subscriber sees of a message, encoded once for all who see the same.

A `View` is a value: two subscribers with equal views share the bytes. `encode_run` turns a run of
publications into a `Run`: each message framed, and all of them joined, so that a healthy subscriber
costs one reference and one write for the whole run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import structlog
from attrs import frozen

from realtime.filters import Filter
from realtime.history import Publication
from realtime.wire import Framing

__all__ = ["EVERYTHING", "Envelope", "Frame", "Run", "View", "encode_run", "message_text"]

log = structlog.get_logger("realtime")

_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_json = msgspec.json.Encoder()


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One message, ready for the wire."""

    data: bytes
    offset: int
    key: str | None
    #: The message itself, for subscribers in this process, who need no bytes.
    publication: Publication


class Run(msgspec.Struct, frozen=True):
    """Consecutive messages of one topic in one view and framing. Shared; never changed."""

    frames: list[Frame]
    #: All frames joined.
    data: bytes
    size: int
    count: int


#: Writes a message in words of its own, given its event, its data as the view shows it, its time and its topic.
Envelope = Callable[[str | None, bytes, int, str], bytes]


@frozen
class View:
    """Which messages a subscriber sees, which part of each, and in what words."""

    #: Only these members of an object payload; None: the payload as it is.
    fields: tuple[str, ...] | None = None
    #: Only messages whose payload matches.
    filter: Filter | None = None
    #: None: the protocol's own ``message`` push.
    envelope: Envelope | None = None

    @classmethod
    def of(
        cls, fields: Sequence[str] | None = None, condition: Filter | None = None, envelope: Envelope | None = None
    ) -> View:
        """The view of these fields, in their order, each once, where the condition holds."""
        if fields is None and condition is None and envelope is None:
            return EVERYTHING
        return cls(None if fields is None else tuple(dict.fromkeys(fields)), condition, envelope)

    def shows(self, publication: Publication) -> bool:
        """Whether this view leaves anything of the message."""
        return self._seen(publication) is not None

    def text(self, publication: Publication) -> bytes | None:
        """The JSON text of the push; None where this view leaves nothing of the message."""
        data = self._seen(publication)
        if data is None:
            return None
        if self.envelope is None:
            return message_text(publication, data)
        try:
            return self.envelope(publication.event, data, publication.time, publication.topic)
        except Exception:  # code of a front end's own, called on whatever was published: the hub must outlive it
            log.exception("an envelope failed, the message is left out", topic=publication.topic)
            return None

    def _seen(self, publication: Publication) -> bytes | None:
        """What this view leaves of the payload."""
        if self.fields is None and self.filter is None:
            return publication.data
        try:
            members = _object_decoder.decode(publication.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Not an object, so there are no members to look at or to leave out. Or, from a publisher inside this
            # process, not even JSON: the hub must outlive that.
            shown = self.filter is None or self.filter.matches({})
            return publication.data if shown else None
        if self.filter is not None and not self.filter.matches(members):
            return None
        if self.fields is None:
            return publication.data
        seen = {name: members[name] for name in self.fields if name in members}
        return _json.encode(seen) if seen else None


EVERYTHING = View()


def message_text(publication: Publication, data: bytes) -> bytes:
    """The JSON text of a ``message`` push.

    Put together from pieces: the payload is JSON text already, and encoding the few members around it
    by hand costs a third of a struct and an encoder.
    """
    event, key = publication.event, publication.key
    return b'{"type":"message","topic":%b,"offset":%d%b%b,"time":%d,"data":%b}' % (
        _json.encode(publication.topic),
        publication.offset,
        b"" if event is None else b',"event":' + _json.encode(event),
        b"" if key is None else b',"key":' + _json.encode(key),
        publication.time,
        data,
    )


def encode_run(view: View, framing: Framing | None, epoch: str, publications: Sequence[Publication]) -> Run | None:
    """The run of all publications that ``view`` shows; None where it shows none. No framing: no bytes."""
    frames = []
    for publication in publications:
        if framing is None:
            if not view.shows(publication):
                continue
            data = publication.data
        else:
            text = view.text(publication)
            if text is None:
                continue
            data = framing.message(text, publication.topic, epoch, publication.offset)
        frames.append(Frame(data, publication.offset, publication.key, publication))
    if not frames:
        return None
    if len(frames) == 1:
        data = frames[0].data
        return Run(frames, data, len(data), 1)
    data = b"".join([frame.data for frame in frames])
    return Run(frames, data, len(data), len(frames))


def single(frame: Frame) -> Run:
    """The run of this one frame."""
    return Run([frame], frame.data, len(frame.data), 1)
