from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from segue.text.tokens.detokenizer import StopStringMatcher


def naive_search(text: str, stops: list[str]) -> tuple[str, str | None]:
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


def run(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    matcher = StopStringMatcher(stops)
    shown = ""
    for piece in pieces:
        safe, match = matcher.push(piece)
        shown += safe
        if match is not None:
            return shown, match
    return shown + matcher.flush(), None


# Two letters make overlaps, repeats and near misses frequent.
words = st.text(alphabet="ab", min_size=1, max_size=5)


@settings(max_examples=500, derandomize=True)
@given(pieces=st.lists(st.text(alphabet="abc", max_size=6)), stops=st.lists(words, max_size=4))
def test_pieces_end_where_a_naive_search_of_the_whole_text_ends(
    pieces: list[str], stops: list[str]
) -> None:
    assert run(pieces, stops) == naive_search("".join(pieces), stops)


def test_every_short_stop_string_is_found_in_every_short_text() -> None:
    stops = ["".join(letters) for n in range(1, 6) for letters in product("ab", repeat=n)]

    for text in map("".join, product("ab", repeat=8)):
        for stop in stops:
            assert run([text], [stop]) == naive_search(text, [stop])


@settings(max_examples=300, derandomize=True)
@given(text=st.text(alphabet="abc"), stops=st.lists(words, min_size=1, max_size=4))
def test_only_a_possible_start_of_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    matcher = StopStringMatcher(stops)

    safe, match = matcher.push(text)
    held = matcher.flush()

    assert match is not None or safe + held == text
    assert held == "" or any(stop.startswith(held) for stop in stops)


def test_text_that_cannot_become_a_stop_string_is_passed_on_at_once() -> None:
    matcher = StopStringMatcher(["END"])

    assert matcher.push("hello E") == ("hello ", None)
    assert matcher.push("x") == ("Ex", None)
    assert matcher.push("EN") == ("", None)
    assert matcher.push("D and more") == ("", "END")
    assert matcher.flush() == ""


def test_the_stop_string_that_is_complete_first_wins() -> None:
    assert run(["xabcd"], ["abcd", "bc"]) == ("xa", "bc")


def test_of_stop_strings_that_end_together_the_longest_wins() -> None:
    assert run(["x", "a", "b", "c"], ["c", "abc", "bc"]) == ("x", "abc")


def test_without_stop_strings_everything_is_safe() -> None:
    assert StopStringMatcher([]).push("anything") == ("anything", None)


def test_a_near_miss_falls_back_to_the_longest_remaining_start() -> None:
    assert run(["abacabaabacabaac"], ["abacabaac"]) == ("abacaba", "abacabaac")
