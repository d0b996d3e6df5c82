"""tokenizer.model: the tokens that the sentencepiece library gives for every text, or a refusal by name."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.formats.gguf_pieces import is_of_pieces
from tritium.formats.gguf_tokenizer import tokenizer_metadata
from tritium.formats.gguf_vocabulary import tokenizer_files
from tritium.formats.pieces import BYTE_PIECES, Pieces, merges_of, pieces_definition
from tritium.formats.sentencepiece import read_sentencepiece

FILE = Path("tokenizer.model")
TEXT = [
    "In the beginning God created the heaven and the earth; and the earth was without form, and void.",
    "Größe und Straße: naïve café, 1234 + 5678 = 6912!  Two  spaces   and more.",
    "aaa aaaa aaaaa bbbb abab ababab baba ((())) ====== ------ the the the then there these",
    "日本語の文章も少し。 Ελληνικά και русский текст.",
] * 8
PARTS = [
    *TEXT[:4], " ", "  ", "   ", "\n", "\t", "a", "aa", "aaaaaaaa", "ab", "▁", "▁▁", "☃", "é", "0", "<",
]  # fmt: skip


def trained(**options) -> bytes:
    """The bytes of a tokenizer.model that the sentencepiece library trained on a few sentences."""
    library = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    library.SentencePieceTrainer.train(
        **{
            "sentence_iterator": iter(TEXT), "model_writer": model, "model_type": "bpe", "vocab_size": 460,
            "byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
            "character_coverage": 0.98, "minloglevel": 2, "num_threads": 1,
        }
        | options
    )  # fmt: skip
    return model.getvalue()


def as_tokenizer(content: bytes, **ends) -> tokenizers.Tokenizer:
    pieces = read_sentencepiece(content, file=FILE).pieces
    definition = pieces_definition(pieces, first=None, last=None, file=FILE) | ends
    return tokenizers.Tokenizer.from_str(json.dumps(definition))


KINDS = {
    "llama": {},
    "without a space in front": {"add_dummy_prefix": False, "user_defined_symbols": ["<tool>", "\n"]},
    "without bytes": {"byte_fallback": False, "vocab_size": 220},
    "with control tokens": {"control_symbols": ["[INST]", "[/INST]"]},
    "whitespace of its own": {"allow_whitespace_only_pieces": True, "split_by_whitespace": False},
    "digits one by one": {"split_digits": True},
}


@pytest.fixture(scope="module", params=KINDS, ids=str)
def both(request):
    """The library's own processor, and ours made of the same file."""
    library = pytest.importorskip("sentencepiece")
    content = trained(**KINDS[request.param])
    return library.SentencePieceProcessor(model_proto=content), as_tokenizer(content)


# Control tokens are found in a text here, as transformers does, and never by the library: they are left out.
TEXTS = st.one_of(
    st.lists(st.sampled_from(PARTS)).map("".join),
    st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    st.text(alphabet="ab ▁."),
).filter(lambda text: not any(token in text for token in ("<s>", "</s>", "<unk>", "[INST]", "[/INST]")))


@settings(max_examples=300)
@given(text=TEXTS)
def test_every_text_gives_the_tokens_of_the_library(both, text):
    library, ours = both
    ids = library.encode(text)
    assert ours.encode(text).ids == ids


@settings(max_examples=100)
@given(text=TEXTS)
def test_tokens_give_the_text_back(both, text):
    library, ours = both
    ids = library.encode(text)
    # What is unknown has no text here and a sign of its own there.
    if library.unk_id() not in ids:
        assert ours.decode(ids) == library.decode(ids)


def test_user_defined_pieces_are_found_first():
    library = pytest.importorskip("sentencepiece")
    content = trained(**KINDS["without a space in front"])
    theirs, ours = library.SentencePieceProcessor(model_proto=content), as_tokenizer(content)
    for text in ("<tool>", "a<tool>b", " <tool>\n<tool> the", "<tool", "the\n\nearth"):
        assert ours.encode(text).ids == theirs.encode(text)


def test_the_first_and_the_last_token_are_named():
    found = read_sentencepiece(trained(), file=FILE)
    assert (found.bos, found.eos) == ("<s>", "</s>")
    assert read_sentencepiece(trained(bos_id=-1), file=FILE).bos is None
    definition = pieces_definition(found.pieces, first=found.bos, last=found.eos, file=FILE)
    ids = tokenizers.Tokenizer.from_str(json.dumps(definition)).encode("the earth").ids
    assert (ids[0], ids[-1]) == (1, 2)


@pytest.mark.parametrize("kind", ["llama", "without a space in front", "without bytes"])
def test_there_and_back_through_the_metadata_of_gguf(kind):
    content = trained(**KINDS[kind] | {"user_defined_symbols": []})
    pieces = read_sentencepiece(content, file=FILE).pieces
    definition = pieces_definition(pieces, first="<s>", last=None, file=FILE)
    assert is_of_pieces(definition)
    metadata = tokenizer_metadata(definition, vocab_size=len(pieces.texts) + 5)
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    as_gemma = {**definition, "pre_tokenizer": split}  # which finds no space any more
    assert tokenizer_metadata(as_gemma, vocab_size=len(pieces.texts) + 5) == metadata
    ids = {"bos_token_id": 1, "eos_token_id": 2, "add_bos_token": True, "add_eos_token": False}
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in ids.items()}
    files = tokenizer_files(metadata, file=Path("model.gguf"))
    assert json.loads(files["tokenizer.json"])["model"]["merges"] == definition["model"]["merges"]
    rebuilt = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    original = tokenizers.Tokenizer.from_str(json.dumps(definition))
    for text in PARTS:
        assert rebuilt.encode(text).ids == original.encode(text).ids
        assert rebuilt.decode(rebuilt.encode(text).ids) == original.decode(original.encode(text).ids)


def test_merges_that_no_scores_say_are_not_written_to_gguf():
    pieces = Pieces(texts=["<unk>", "a", "b", "ab", "abb"], scores=[0, -3, -4, -1, -2], kinds=[2, 1, 1, 1, 1],
                    has_leading_space=True)  # fmt: skip
    definition = pieces_definition(pieces, first=None, last=None, file=FILE)
    assert tokenizer_metadata(definition, vocab_size=5)["tokenizer.ggml.scores"] == [0, -2, -3, 0, -1]
    definition["model"]["merges"].reverse()
    assert tokenizer_metadata(definition, vocab_size=5)["tokenizer.ggml.scores"] == [0, -2, -3, -1, 0]
    definition["model"]["merges"] = [["a", "b"], ["a", "b"]]
    with pytest.raises(ValidationError, match="scores of pieces cannot say"):
        tokenizer_metadata(definition, vocab_size=5)


def test_merges_come_in_the_order_of_the_joined_pieces_scores():
    scores = {"a": -9.0, "b": -9.0, "aa": -2.0, "ab": -1.0, "aab": -3.0}
    assert merges_of(scores) == [("a", "b"), ("a", "a"), ("a", "ab"), ("aa", "b")]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model_type": "unigram", "byte_fallback": False, "vocab_size": 90}, "kind 'unigram'"),
        ({"model_type": "char", "byte_fallback": False, "vocab_size": 60}, "kind 'character'"),
        ({"normalization_rule_name": "nmt_nfkc"}, "characters are replaced by a table"),
        ({"remove_extra_whitespaces": True}, "spaces in a row are made one"),
        ({"treat_whitespace_as_suffix": True}, "spaces stand at the end"),
        ({"user_defined_symbols": ["<tool>"]}, "user-defined piece '<tool>'"),
        ({"user_defined_symbols": ["▁▁"], "add_dummy_prefix": False}, "user-defined piece '▁▁'"),
    ],
)
def test_what_cannot_be_followed_exactly_is_refused_by_name(options, reason):
    with pytest.raises(ValidationError, match=reason):
        read_sentencepiece(trained(**options), file=FILE)


@settings(max_examples=200)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_and_never_breaks(data):
    content = bytearray(trained())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for broken in (bytes(content), bytes(content[:cut])):
        try:
            pieces = read_sentencepiece(broken, file=FILE).pieces
            pieces_definition(pieces, first=None, last=None, file=FILE)
        except ValidationError as error:
            assert error.details["file"] == "tokenizer.model"  # noqa: PT017 - only if there is one


def message(number: int, wire: int, content: bytes) -> bytes:
    return bytes([number << 3 | wire]) + content


def piece(text: bytes, score: float = 0.0, kind: int = 1) -> bytes:
    fields = [(1, 2, bytes([len(text)]) + text), (2, 5, struct.pack("<f", score)), (3, 0, bytes([kind]))]
    inside = b"".join(message(*field) for field in fields)
    return message(1, 2, bytes([len(inside)]) + inside)


UNKNOWN = piece(b"<unk>", kind=2)
TRAINER = message(2, 2, b"\x02" + message(3, 0, b"\x02"))  # BPE
NORMALIZER = message(3, 2, b"\x02" + message(4, 0, b"\x00"))  # spaces in a row stay


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([b"", b"\xff\xff"], "wire type"),
        ([message(1, 2, b"\x05ab")], "cut short"),
        ([b"\x80" * 11], "cut short"),
        ([message(1, 0, b"\x01")], "a number where a message"),
        ([message(1, 2, b"\x00")], "without a text"),
        ([piece(b"\xff")], "not valid UTF-8"),
        ([piece(b"a", kind=7)], "unknown kind '7'"),
        ([piece(b"a")], "stand for what is unknown, not 0"),
        ([UNKNOWN, piece(b"")], "piece 1 is empty"),
        ([UNKNOWN, piece(b"a"), piece(b"a")], "'a' has two ids, 1 and 2"),
        (
            [UNKNOWN, piece(b"<0x41>", kind=6)],
            "pieces for single bytes there are 1",
        ),
        (
            [UNKNOWN, piece(b"a"), piece(b"b"), piece(b"ab", 1), piece(b"ba", 1)],
            "have one score",
        ),
        ([UNKNOWN, piece(b"a"), piece(b"b"), piece(b"ab", kind=5)], "unused piece 'ab'"),
    ],
)
def test_what_is_broken_is_refused_with_its_reason(pieces, reason):
    content = b"".join(pieces) + TRAINER + NORMALIZER
    with pytest.raises(ValidationError, match=reason):
        pieces_definition(read_sentencepiece(content, file=FILE).pieces, first=None, last=None, file=FILE)


def test_bytes_are_spelled_as_sentencepiece_spells_them():
    assert (BYTE_PIECES[0], BYTE_PIECES[255], len(BYTE_PIECES)) == ("<0x00>", "<0xFF>", 256)
