from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tritium.engine.stops import StopMatcher

ALPHABET = "ab\n"


def shown_by(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    shown = "".join(matcher.feed(piece) for piece in pieces)
    return (shown, True) if matcher.is_stopped else (shown + matcher.flush(), False)


@given(
    st.lists(st.text(ALPHABET, min_size=1, max_size=4), min_size=1, max_size=3).map(tuple),
    st.lists(st.text(ALPHABET, max_size=5), max_size=10),
)
def test_the_result_does_not_depend_on_how_the_text_is_cut_and_no_stop_text_is_shown(stops, pieces):
    whole = "".join(pieces)
    shown, is_stopped = shown_by(stops, pieces)
    assert (shown, is_stopped) == shown_by(stops, [whole]) == shown_by(stops, list(whole))
    assert not any(stop in shown for stop in stops)
    assert is_stopped == any(stop in whole for stop in stops)
    assert whole.startswith(shown)
    if not is_stopped:
        assert shown == whole


@given(st.text(ALPHABET, min_size=2, max_size=5), st.text(ALPHABET, max_size=12))
def test_what_is_shown_is_never_taken_back(stop, text):
    matcher = StopMatcher((stop,))
    shown = ""
    for letter in text:
        shown += matcher.feed(letter)
    assert text.startswith(shown)
    assert stop not in shown


def test_text_that_cannot_be_part_of_a_stop_text_is_shown_at_once():
    matcher = StopMatcher(("END",))
    assert [matcher.feed(piece) for piece in ("x", "E", "N", "x", "EN", "D")] == ["x", "", "", "ENx", "", ""]
    assert matcher.is_stopped
