"""What an answer must look like: a JSON schema, a regular expression or a grammar, as masks over tokens.

The library llguidance (an extra) does the work. It computes each mask when it is needed, within limits on
size and time, so that whoever sends a monstrous grammar is refused and stalls nobody.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tritium.errors import MissingExtraError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llguidance import LLMatcher, LLParserLimits, LLTokenizer
    from numpy.typing import NDArray

    from tritium.model.tokenizer import Tokenizer

GrammarKind = Literal["json_schema", "regex", "grammar"]
MAX_GRAMMAR_LENGTH = 65_536  # characters
MAX_CHOICES = 1024
# Between the parts of a JSON text: nothing, a space, or a new line and its indent. Without a bound small
# models write white space until they are cut off.
WHITESPACE = r"( |\n{1,2}[ \t]{0,20})"
_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """The form of an answer.

    Raises:
        ValidationError: the source is empty or longer than MAX_GRAMMAR_LENGTH; details hold param and limit.

    Attributes:
        kind: what language `source` is written in; "grammar" is Lark as llguidance reads it, or GBNF.
        source: the schema as JSON, the expression (which the whole answer matches), or the grammar.
        param: the name by which the caller gave it, for errors.
    """

    kind: GrammarKind
    source: str
    param: str = "grammar"

    def __post_init__(self) -> None:
        if not self.source or len(self.source) > MAX_GRAMMAR_LENGTH:
            raise ValidationError(
                f"{self.param} must have 1 to {MAX_GRAMMAR_LENGTH} characters, not {len(self.source)}.",
                param=self.param,
                limit=MAX_GRAMMAR_LENGTH,
            )


def one_of(texts: Sequence[str], *, param: str = "choice") -> Grammar:
    """Return the grammar of an answer that is one of these texts.

    Raises:
        ValidationError: there is none, too many, or an empty one.
    """
    if not 0 < len(texts) <= MAX_CHOICES or not all(texts):
        raise ValidationError(
            f"{param} must hold 1 to {MAX_CHOICES} texts, none of them empty.", param=param, limit=MAX_CHOICES
        )
    alternatives = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    return Grammar(kind="grammar", source=f"start: {alternatives}", param=param)


class GrammarCompiler:
    """Builds matchers for the vocabulary of one model; any thread may call it.

    Args:
        tokenizer: the model's.
        vocab_size: how many logits the model gives.
        end_token_ids: tokens which end a text; allowed where the form is complete.
    """

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int, end_token_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._end_token_ids = sorted(end_token_ids)
        self._vocabulary: LLTokenizer | None = None
        self._lock = threading.Lock()

    def compile(self, grammar: Grammar) -> GrammarMatcher:
        """Return a matcher at the beginning of an answer.

        Raises:
            ValidationError: the grammar is not valid, not supported or too complex, with the reason.
            MissingExtraError: llguidance is not installed.
        """
        try:
            from llguidance import LLMatcher  # noqa: PLC0415 - an extra, and not small
        except ImportError:
            raise MissingExtraError(extra="serve", feature="Constrained output") from None
        vocabulary = self._load_vocabulary()
        try:
            source = _source_of(grammar)
        # The converters raise whatever they stumble over; whatever it is, there is no grammar.
        except Exception as error:  # noqa: BLE001 - see above
            raise _refusal(grammar, str(error)) from None
        matcher = LLMatcher(vocabulary, source, log_level=0, limits=_limits())
        if matcher.is_error():
            raise _refusal(grammar, matcher.get_error())
        found = GrammarMatcher(matcher, vocab_size=self._vocab_size)
        found.mask()  # the first mask builds most of the automaton: here, where nobody waits for a step
        if matcher.is_error():
            raise _refusal(grammar, matcher.get_error())
        return found

    def _load_vocabulary(self) -> LLTokenizer:
        from llguidance import LLTokenizer  # noqa: PLC0415 - an extra, and not small

        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = LLTokenizer(
                    json.dumps(self._tokenizer.definition),
                    n_vocab=self._vocab_size,
                    eos_token=self._end_token_ids or None,
                )
            return self._vocabulary


class GrammarMatcher:
    """Follows one answer: says which tokens may come next."""

    def __init__(self, matcher: LLMatcher, *, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    @property
    def is_failed(self) -> bool:
        """Whether the grammar went beyond its limits; nothing may come next."""
        return self._matcher.is_error()

    def mask(self) -> NDArray[np.uint8]:
        """Return the tokens that may come next as uint8 [at least V / 8], the lowest bit of a byte first."""
        bits = self._matcher.compute_bitmask()
        if self.is_failed:
            return np.zeros(-(-self._vocab_size // 8), dtype=np.uint8)
        return np.frombuffer(bits, dtype=np.uint8)

    def accept(self, token: int) -> bool:
        """Take the next token; return whether the answer is complete and nothing may follow."""
        self._matcher.consume_token(token)
        return self._matcher.is_stopped() and not self.is_failed


def _source_of(grammar: Grammar) -> str:
    from llguidance import LLMatcher  # noqa: PLC0415 - an extra, and not small
    from llguidance.gbnf_to_lark import any_to_lark  # noqa: PLC0415

    if grammar.kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(
            grammar.source, overrides={"whitespace_pattern": WHITESPACE, "lenient": False}
        )
    if grammar.kind == "regex":
        return LLMatcher.grammar_from_regex(grammar.source)
    return LLMatcher.grammar_from_lark(any_to_lark(grammar.source))


def _limits() -> LLParserLimits:
    """Return what bounds a compilation to less than a second and a mask to some ten milliseconds at worst."""
    from llguidance import LLParserLimits  # noqa: PLC0415 - an extra, and not small

    return LLParserLimits(
        max_items_in_row=2_000,
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=100_000,
        step_max_items=25_000,
        max_lexer_states=20_000,
        max_grammar_size=100_000,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )


def _refusal(grammar: Grammar, reason: str) -> ValidationError:
    shown = " ".join(reason.split())[:_LONGEST_REASON].rstrip(".")
    return ValidationError(f"{grammar.param} cannot be used: {shown}.", param=grammar.param)
