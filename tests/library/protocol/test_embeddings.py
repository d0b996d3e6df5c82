from __future__ import annotations

import base64

import numpy as np
import openai
import pytest

from tritium import LLM
from tritium.engine.loading import load_engine
from tritium.protocol.app import create_app
from tritium.protocol.backend import LocalBackend
from tritium.protocol.calls import EmbeddingCall

TEXTS = ["A man is eating food.", "Someone eats a meal.", "The stock market fell sharply."]


@pytest.fixture(scope="module")
def embedding_client(minilm_path, serving):
    with (
        serving(create_app(minilm_path, served_name="minilm", threads=1)) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


def vectors_of(answer) -> np.ndarray:
    return np.array([item.embedding for item in answer.data], dtype=np.float32)


def test_both_encodings_carry_the_vectors_of_the_library_in_order(embedding_client, minilm_path):
    expected = LLM(minilm_path, threads=1).embed(TEXTS)
    for encoding in ("float", "base64"):
        answer = embedding_client.embeddings.create(model="minilm", input=TEXTS, encoding_format=encoding)
        assert [item.index for item in answer.data] == [0, 1, 2]
        given = [item.embedding for item in answer.data]
        if encoding == "base64":
            given = [np.frombuffer(base64.b64decode(item), dtype="<f4") for item in given]
        assert np.array_equal(np.array(given, dtype=np.float32), expected)


def test_a_text_has_the_same_vector_alone_and_in_a_batch(embedding_client):
    together = vectors_of(embedding_client.embeddings.create(model="minilm", input=TEXTS))
    for text, row in zip(TEXTS, together, strict=True):
        assert np.array_equal(
            vectors_of(embedding_client.embeddings.create(model="minilm", input=text))[0], row
        )


def test_likeness_of_meaning_is_likeness_of_vectors(embedding_client):
    food, meal, market = vectors_of(embedding_client.embeddings.create(model="minilm", input=TEXTS))
    assert np.allclose(np.linalg.norm([food, meal, market], axis=1), 1.0, atol=1e-5)
    assert food @ meal > 0.6
    assert food @ market < 0.3


def test_tokens_are_counted_and_may_be_given(embedding_client, minilm_path):
    tokenizer = LLM(minilm_path, threads=1).tokenizer
    ids = [tokenizer.encode(text) for text in TEXTS]
    from_text = embedding_client.embeddings.create(model="minilm", input=TEXTS)
    assert from_text.usage.prompt_tokens == from_text.usage.total_tokens == sum(map(len, ids))
    assert np.array_equal(
        vectors_of(from_text), vectors_of(embedding_client.embeddings.create(model="minilm", input=ids))
    )


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[1, 10**7]]}, "input"),
        ({"input": "word " * 2000}, "input"),
        ({"dimensions": 100}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(embedding_client, changes, param):
    with pytest.raises(openai.BadRequestError) as caught:
        embedding_client.embeddings.create(**({"model": "minilm", "input": "x"} | changes))
    assert caught.value.param == param


def test_the_models_own_number_of_dimensions_may_be_asked_for(embedding_client):
    answer = embedding_client.embeddings.create(model="minilm", input="x", dimensions=384)
    assert len(answer.data[0].embedding) == 384


def test_a_model_that_embeds_does_not_write(embedding_client):
    with pytest.raises(openai.BadRequestError, match="does not write"):
        embedding_client.completions.create(model="minilm", prompt="x")


async def test_who_has_a_key_is_a_tenant_of_its_own_in_the_batches(minilm_path):
    loaded = load_engine(minilm_path, threads=1)
    backend = LocalBackend(loaded, served_name="minilm")
    backend.thread.start()
    for principal in ("key 1", "key 2", None):
        await backend.embed(EmbeddingCall(request_id="r", model="minilm", inputs=("x",), principal=principal))
    backend.thread.close()
    assert set(loaded.batcher._policy._tenants) == {"key 1", "key 2", ""}
