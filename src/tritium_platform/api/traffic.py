"""The bytes of one HTTP request and of its answer, counted where they pass."""

from __future__ import annotations


class HttpTraffic:
    """What the uses of one request have on the wire: the bytes of its body and of the answer's body.

    Bodies count as they cross the wire, that is compressed if they are. Heads, the framing of HTTP and what
    TLS and TCP add do not count. Of the request it is what was received; of the answer what was handed to the
    transport until the use is settled, whether its client still reads or has left:

    - a complete answer, in one piece or streamed, counts to its last byte: its last part is announced just
      before it goes out;
    - one that was cut off counts as far as it went out.

    A use that failed is settled before its client is told: the message of the error is not in it.

    Attributes:
        received: bytes of the request's body so far.
        sent: bytes of the answer's body so far.
        announced: bytes of the answer's last part, which goes out when the use is settled.
    """

    __slots__ = ("_taken", "announced", "received", "sent")

    def __init__(self) -> None:
        self.received = self.sent = self.announced = 0
        self._taken = 0

    def take(self) -> int:
        """Return the bytes that no use has taken yet.

        So the first that is settled of several texts of one request has what has passed until then, and what
        all of them have sums to the whole.
        """
        whole = self.received + self.sent + self.announced
        taken, self._taken = whole - self._taken, whole
        return taken
