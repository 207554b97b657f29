"""Tokenizers against the Rust library, in Python and in a graph, on text that was made to hurt."""

import json
import random

import numpy as np
import pytest
import tensorflow as tf
import tokenizers

import tfllm
from tfllm.text import BPETokenizer, CharTokenizer, load_tokenizer

TEXTS = [
    "Hello, hello world! It's  we'll   they're I'd 'tis 's'S ''s x''re",
    "def f(x):\n\treturn x**2  # 12345 \u00a0\u3000 end\r\n\r\n",
    "四时运灰琯，一夕变冬春。送寒余雪尽，迎岁早梅新。",
    "naïve café — “quotes” 🏳️‍🌈👩‍👩‍👧 ½ Ⅷ ٣ \u0301",
]


@pytest.fixture(scope="module")
def bpe():
    corpus = tfllm.load_text("shakespeare")[:100_000] + tfllm.load_text("poetry")[:20_000]
    return BPETokenizer.train([corpus, *TEXTS], vocab_size=1200)


@pytest.fixture(scope="module")
def char():
    return CharTokenizer.train(tfllm.load_text("shakespeare")[:50_000] + tfllm.load_text("poetry")[:5_000])


@pytest.fixture(params=["bpe", "char"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def fuzzed_texts(count, seed=0):
    source = random.Random(seed)
    pieces = [
        lambda: source.choice(
            [" ", "\n", "\t", "'", "\r", "\x0b", "\x1c", "\x85", "\xa0", "\u2028", "\u3000", "\u200b"]
        ),
        lambda: source.choice(["'s", "'re", "'ve", "'ll", "'t", "'m", "'d", "'S", "'LL", "''", " '", "don't", "x's1"]),
        lambda: chr(source.randrange(33, 127)),
        lambda: chr(source.randrange(0xA0, 0x3000)),
        lambda: chr(source.randrange(0x4E00, 0x9FFF)),
        lambda: chr(source.choice([source.randrange(0xD800), source.randrange(0xE000, 0x110000)])),
        lambda: source.choice(["👩‍👩‍👧", "aaaaa", "=====", "     ", "\n\n\n", "0123456789", "if x:\n    y = 1"]),
        lambda: source.choice(["the quick brown", " king", "Speak, speak.", "一夕变冬春"]),
    ]
    return ["".join(source.choice(pieces)() for _ in range(source.randrange(25))) for _ in range(count)]


def test_ids_and_texts_equal_the_rust_library(tokenizer):
    rust = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    texts = TEXTS + fuzzed_texts(3000) + ["", " ", "'", "\n"]
    expected = [rust.encode(text).ids for text in texts]
    found = tokenizer.encode(texts)
    assert found.dtype == tf.int32
    assert found.to_list() == expected
    assert [text.decode() for text in tokenizer.decode(found).numpy()] == [rust.decode(ids) for ids in expected]


@pytest.mark.slow
def test_many_more_texts_equal_the_rust_library(tokenizer):
    rust = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    for seed in range(1, 11):
        texts = fuzzed_texts(10_000, seed)
        assert tokenizer.encode(texts).to_list() == [rust.encode(text).ids for text in texts]


def test_random_ids_decode_as_in_the_rust_library(tokenizer):
    rust = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    source = random.Random(3)
    ids = [[source.randrange(tokenizer.vocab_size) for _ in range(source.randrange(12))] for _ in range(2000)]
    assert [text.decode() for text in tokenizer.decode(ids).numpy()] == [rust.decode(row) for row in ids]


def test_a_graph_gives_what_python_gives(tokenizer):
    texts = TEXTS + fuzzed_texts(300, seed=9)
    encode = tf.function(tokenizer.encode, input_signature=[tf.TensorSpec([None], tf.string)])
    assert encode(tf.constant(texts)).to_list() == tokenizer.encode(texts).to_list()
    decode = tf.function(tokenizer.decode, input_signature=[tf.RaggedTensorSpec([None, None], tf.int32)])
    np.testing.assert_array_equal(decode(tokenizer.encode(texts)), tokenizer.decode(tokenizer.encode(texts)))


def test_encoding_in_a_batch_equals_encoding_alone(tokenizer):
    together = tokenizer.encode(TEXTS).to_list()
    assert together == [tokenizer.encode(text).numpy().tolist() for text in TEXTS]


def test_bpe_returns_every_text_unchanged(bpe):
    texts = TEXTS + fuzzed_texts(500, seed=5)
    assert [text.decode() for text in bpe.decode(bpe.encode(texts)).numpy()] == texts


def test_strings_of_any_shape(tokenizer):
    one = tokenizer.encode("a b")
    assert (one.shape.rank, one.dtype) == (1, tf.int32)
    square = tokenizer.encode(tf.constant([["a b", "c"], ["", "dd"]]))
    assert square.shape.as_list() == [2, 2, None]
    assert square[0, 0].numpy().tolist() == one.numpy().tolist()
    ragged = tokenizer.encode(tf.ragged.constant([["a b"], [], ["", "dd"]]))
    assert ragged[0, 0].numpy().tolist() == one.numpy().tolist()
    assert tokenizer.decode(ragged).to_list() == [[b"a b"], [], [b"", b"dd"]]
    assert tokenizer.decode(square).to_list() == [[b"a b", b"c"], [b"", b"dd"]]
    assert tokenizer.encode([]).to_list() == []
    assert tokenizer.encode("").numpy().tolist() == []


def test_invalid_bytes_are_replaced(bpe, char):
    broken = tf.constant([b"a\xff\xfeb", b"\xe4\xb8"])
    assert bpe.decode(bpe.encode(broken)).numpy().tolist() == ["a\ufffd\ufffdb".encode(), "\ufffd".encode()]
    assert char.encode(broken)[0].numpy().tolist() == [char.tokens.index("a"), 0, 0, char.tokens.index("b")]


def test_decode_bytes_keeps_half_characters(bpe):
    half = bpe.encode("😀")[:-1]
    assert "😀".encode().startswith(bpe.decode_bytes(half).numpy())
    assert bpe.decode(half).numpy().decode() == "\ufffd"


def test_char_ids_are_in_the_order_of_code_points():
    tokenizer = CharTokenizer.train("hello")
    assert tokenizer.tokens == ["<unk>", "e", "h", "l", "o"]
    assert tokenizer.encode("hole z").numpy().tolist() == [2, 4, 3, 1, 0, 0]
    assert tokenizer.decode([2, 0, 1]).numpy() == b"he"


def test_training_learns_the_merges_of_the_rust_library():
    text = tfllm.load_text("shakespeare")[:30_000]
    mine = BPETokenizer.train(text, vocab_size=400)
    rust = tokenizers.Tokenizer(tokenizers.models.BPE())
    rust.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rust.train_from_iterator([text], trainer)
    assert {token: i for i, token in enumerate(mine.tokens)} == rust.get_vocab()
    assert mine.encode(text).numpy().tolist() == rust.encode(text).ids


def test_special_tokens_are_never_made_by_a_text(bpe):
    ids = bpe.encode("a<|endoftext|>b").numpy()
    assert bpe.end_id == 0
    assert bpe.end_id not in ids
    assert bpe.decode([bpe.end_id, *ids]).numpy() == b"a<|endoftext|>b"


def test_a_file_gives_an_equal_tokenizer(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = load_tokenizer(path)
    assert type(loaded) is type(tokenizer)
    assert (loaded.tokens, loaded.special_tokens, loaded.end_id) == (
        tokenizer.tokens,
        tokenizer.special_tokens,
        tokenizer.end_id,
    )
    assert loaded.encode(TEXTS).to_list() == tokenizer.encode(TEXTS).to_list()
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "path must name a tokenizer.json; got"),
        ("[]", "path must name a tokenizer.json; got"),
        ("[" * 100_000, "path must name a tokenizer.json; got"),
        (json.dumps({"model": {"type": ["BPE"]}}), r"a kind in .* got \['BPE'\]"),
        (json.dumps({"model": {"type": "Unigram"}}), "a kind in .* got 'Unigram'"),
        (json.dumps({"model": {"type": "BPE", "vocab": {}}}), "pre_tokenizer must cut words as one of .* got null"),
        (json.dumps({"model": {"type": "WordLevel"}}), "a whole tokenizer.json; got .* lacks 'vocab'"),
    ],
)
def test_foreign_files_are_refused(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("char", {"pre_tokenizer": {"type": "Metaspace"}}, "pre_tokenizer must cut words as .* got .*Metaspace"),
        ("char", {"normalizer": {"type": "Lowercase"}}, "normalizer must be one of .* got .*Lowercase"),
        ("char", {"model": {"unk_token": "[UNK]"}}, r"unk_token must be one of .* got '\[UNK\]'"),
        ("bpe", {"model": {"byte_fallback": True}}, "byte_fallback must be one of .* got True"),
        ("bpe", {"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix must be one of .* got '</w>'"),
        (
            "bpe",
            {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
            "pre_tokenizer must cut words as .* got .*add_prefix_space.* true",
        ),
        ("bpe", {"post_processor": {"type": "Template"}}, "post_processor is not supported; got"),
        ("bpe", {"decoder": {"type": "Fuse"}}, "decoder must be ByteLevel; got"),
        ("bpe", {"normalizer": {"type": "Precompiled"}}, "normalizer must be of a supported type; got"),
        (
            "bpe",
            {"normalizer": {"type": "NFC"}, "added_tokens": [{"id": 1200, "content": "x", "normalized": True}]},
            "must not be normalized where there is a normalizer; got 'x'",
        ),
        ("bpe", {"added_tokens": [{"id": 1300, "content": "x"}]}, "without a gap; got others"),
    ],
)
def test_files_that_would_encode_otherwise_are_refused(request, tmp_path, kind, changes, message):
    document = json.loads(request.getfixturevalue(kind).to_json())
    document |= changes | {"model": document["model"] | changes.get("model", {})}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CharTokenizer(""), "characters must be at least one"),
        (lambda: CharTokenizer("aa"), "all different; got 'aa'"),
        (lambda: CharTokenizer("ab", special_tokens=("<pad>",)), "must begin with '<unk>'"),
        (lambda: CharTokenizer("ab", special_tokens=("<unk>", "a")), "special_tokens must not be characters"),
        (lambda: CharTokenizer.train([]), "at least one character; got 0"),
        (lambda: BPETokenizer.train("", vocab_size=300), "at least one character; got 1"),
        (lambda: BPETokenizer.train("abc", vocab_size=100), "vocab_size must be at least 256 .* got vocab_size=100"),
        (lambda: BPETokenizer.train("abc", vocab_size=300, special_tokens=("x", "x")), "different strings"),
        (lambda: BPETokenizer(["a"], []), "tokens must hold every byte"),
        (lambda: BPETokenizer.train("abc", vocab_size=300, special_tokens=("a",)), "what a text makes; got 'a'"),
    ],
)
def test_bad_vocabularies_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_ids_out_of_the_vocabulary_are_refused(tokenizer):
    with pytest.raises(ValueError, match=f"ids must lie in .*{tokenizer.vocab_size}.*got {tokenizer.vocab_size}"):
        tokenizer.decode([1, tokenizer.vocab_size])
    with pytest.raises(ValueError, match="ids must be whole numbers, in rows; got float32"):
        tokenizer.decode(tf.constant([1.0]))
    for wrong in ([1.5], "abc", 5, [[1], 2]):
        with pytest.raises(ValueError, match="ids must be whole numbers, in rows; got"):
            tokenizer.decode(wrong)
    with pytest.raises(ValueError, match=f"ids must lie in .*; got {2**40}"):
        tokenizer.decode([2**40])
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.function(tokenizer.decode)(tf.constant([2**32 + 1]))
    assert tokenizer.decode(np.array([5, 6], np.uint16)).numpy() == tokenizer.decode([5, 6]).numpy()
