"""Stop texts: found across token boundaries, and never shown, not even in part."""

from __future__ import annotations


class StopMatcher:
    """Passes text on as soon as it cannot be part of a stop text.

    The result does not depend on how the text was cut into pieces: the stop text that is complete first wins.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.is_stopped = False

    def feed(self, text: str) -> str:
        """Take new text; return what can be shown. After a stop text nothing is shown any more."""
        if self.is_stopped:
            return ""
        if not self._stops:
            return text
        self._held += text
        matches = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if matches:
            self.is_stopped = True
            shown = self._held[: min(matches)[1]]
            self._held = ""
            return shown
        keep = self._undecided_length()
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """Return what was held back: the text is over and no stop text was completed."""
        shown, self._held = self._held, ""
        return shown

    def _undecided_length(self) -> int:
        """Return the length of the longest end of the held text with which a stop text begins."""
        longest = min(len(self._held), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
