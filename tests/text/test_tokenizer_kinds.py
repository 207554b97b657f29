"""Every kind of tokenizer against the Rust library: ids, texts, special tokens, offsets; in Python, graph and SavedModel."""

import functools
import json
import random

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from test_tokenizers import TEXTS, fuzzed_texts

import tfllm
from tfllm.text import BPETokenizer, CharTokenizer, WordPieceTokenizer, WordTokenizer, load_tokenizer
from tfllm.text.characters import MARK, read_characters
from tfllm.text.normalizers import Normalizer


@functools.cache
def corpus():
    other = "naïve Ünïcode ÉCOLE 12345 한국어 텍스트 ｆｕｌｌ ﬁ I'll We're"
    return [tfllm.load_text("shakespeare")[:60_000], tfllm.load_text("poetry")[:20_000], *TEXTS, other]


def bpe(pattern, **changes):
    tokenizer = BPETokenizer.train(corpus(), vocab_size=1200, pattern=pattern, special_tokens=("<|endoftext|>", "<s>"))
    document = json.loads(tokenizer.to_json())
    model = document["model"]
    if changes.pop("ignore_merges", False):
        model["ignore_merges"] = True
        for token in ("Ġqzx", "qzxj", "Hello"):  # whole tokens that no merge makes
            model["vocab"].setdefault(token, len(model["vocab"]))
    for content in changes.pop("added", ()):
        document["added_tokens"].append({"id": len(model["vocab"]), "content": content, "special": False})
        document["added_tokens"][-1] |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        document["added_tokens"][-1] |= dict.fromkeys(FLAGS.get(content, ()), True)
        model["vocab"][content] = len(model["vocab"])
    return BPETokenizer.from_json(document | changes)


def sequence(*kinds):
    return {"type": "Sequence", "normalizers": [{"type": kind} for kind in kinds]}


FLAGS = {"<mask>": ("lstrip",), "<tail>": ("lstrip", "rstrip"), "king": ("single_word",)}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
}
KINDS = {
    "char": lambda: CharTokenizer.train(corpus(), special_tokens=("<unk>", "<|endoftext|>")),
    "words": lambda: WordTokenizer.train(corpus(), vocab_size=900),
    "words-whitespace": lambda: WordTokenizer.train(corpus(), vocab_size=900, pattern="whitespace", lowercase=True),
    "words-bert": lambda: WordTokenizer.train(corpus(), vocab_size=900, pattern="bert"),
    "wordpiece": lambda: WordPieceTokenizer.train(corpus(), vocab_size=1500),
    "wordpiece-cased": lambda: WordPieceTokenizer.train(corpus(), vocab_size=1500, lowercase=False),
    "bpe-gpt2": lambda: bpe("gpt2"),
    "bpe-smollm": lambda: bpe("gpt2_digits"),
    "bpe-llama3": lambda: bpe("llama3", ignore_merges=True, post_processor=TEMPLATE),
    "bpe-qwen2": lambda: bpe("qwen2", normalizer={"type": "NFC"}, added=("<tool>", "<to")),
    "bpe-roberta": lambda: bpe("gpt2", added=("<mask>", "<tail>", "king")),
    "bpe-nfkc": lambda: bpe("gpt2", normalizer=sequence("NFKC", "Lowercase")),
    "bpe-nfd": lambda: bpe("gpt2", normalizer=sequence("NFD", "Lowercase", "StripAccents")),
}
MOVED = {"bpe-qwen2", "bpe-nfkc"}  # their normalisers change the order of characters


@functools.cache
def made(name):
    return KINDS[name]()


@pytest.fixture(params=KINDS)
def tokenizer(request):
    return made(request.param)


def rust_of(tokenizer, special=False):
    rust = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    rust.encode_special_tokens = not special
    return rust


def hard_texts(count, seed=0):
    """Fuzzed texts; a quarter of them with special tokens inside, and combining marks in any order beside them."""
    source = random.Random(seed)
    texts = fuzzed_texts(count * 3 // 4, seed)
    special = [
        "<|endoftext|>",
        "<s>",
        "[CLS]",
        "[MASK]",
        "<unk>",
        "<|endof",
        "[UNK]",
        "<tool>",
        "<to",
        " <s>  ",
        " \n<mask> ",
        " <tail>\t<mask> ",
        " king ",
        "kings",
        "<tail>  <tail>",
    ]
    for index in range(0, len(texts), 3):
        cut = source.randrange(len(texts[index]) + 1)
        texts[index] = texts[index][:cut] + source.choice(special) + texts[index][cut:]
    marks = (
        "\u0301\u0323\u0345\u0308\u0f71\u0f72\u302a\u1100\u1161\u11a8\uac00\ud55c\u030a\u0327\u1ed9\u212b\ufb01\u2126"
    )
    marks += "\u0958\u0344\u0b47\u0b56\u0b57\u09c7\u09be\U0001d15e\U0001d165Aaeo qzxj"
    return texts + ["".join(source.choices(marks, k=source.randrange(1, 12))) for _ in range(count - len(texts))]


def hard_bytes(count, seed=0):
    source = random.Random(seed)
    texts = [text.encode() for text in fuzzed_texts(count, seed)]
    broken = [
        b"\xff",
        b"\xc0\x80",
        b"\xe4\xb8",
        b"\xf0\x9f\x98",
        b"\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\x00",
    ]
    cuts = [source.randrange(len(text) + 1) for text in texts]
    return [text[:cut] + source.choice(broken) + text[cut:] for text, cut in zip(texts, cuts, strict=True)]


def assert_equal_rows(texts, found, expected):
    for text, mine, theirs in zip(texts, found, expected, strict=True):
        assert mine == theirs, f"{text!a}: {mine} instead of {theirs}"


def test_ids_and_texts_equal_the_rust_library(tokenizer):
    rust, texts = rust_of(tokenizer), hard_texts(2000)
    found = tokenizer.encode(texts).to_list()
    assert_equal_rows(texts, found, [row.ids for row in rust.encode_batch(texts, add_special_tokens=False)])
    decoded = [text.decode() for text in tokenizer.decode(found).numpy()]
    assert_equal_rows(found, decoded, rust.decode_batch(found))
    bulk = tokenizer.encode_bulk(texts[:300])
    assert [ids.tolist() for ids in bulk] == found[:300]


def test_special_tokens_in_a_text_count_only_where_allowed(tokenizer):
    rust, texts = rust_of(tokenizer, special=True), hard_texts(1500, seed=1)
    found = tokenizer.encode(texts, allow_special=True, add_special_tokens=True).to_list()
    assert_equal_rows(texts, found, [row.ids for row in rust.encode_batch(texts)])
    special = {tokenizer.id_of(token) for token in tokenizer.special_tokens} - {getattr(tokenizer, "unknown_id", 0)}
    made_by_accident = [ids for ids in tokenizer.encode(texts).to_list() if special & set(ids)]
    assert not made_by_accident
    assert not special or sum(bool(special & set(ids)) for ids in found) > 20


def test_offsets_equal_the_rust_library(request, tokenizer):
    rust, texts = rust_of(tokenizer, special=True), hard_texts(1500, seed=2)
    if request.node.callspec.params["tokenizer"] in MOVED:
        texts = [text for text in texts if not any(0x300 <= ord(c) < 0x1200 or ord(c) > 0x3000 for c in text)]
    if tokenizer is made("wordpiece"):  # the library counts marks at the edge of a word in when one of them is a symbol
        texts = [text for text in texts if not any(c in text for c in "\U0001d15e\U0001d165")]
    ids, starts, ends = tokenizer.encode_with_offsets(texts, allow_special=True)
    rows = rust.encode_batch(texts, add_special_tokens=False)
    assert_equal_rows(texts, ids.to_list(), [row.ids for row in rows])
    found = [list(zip(*pair, strict=True)) for pair in zip(starts.to_list(), ends.to_list(), strict=True)]
    assert_equal_rows(texts, found, [row.offsets for row in rows])


def test_what_is_added_around_a_text_covers_nothing():
    tokenizer = made("wordpiece")
    ids, starts, ends = tokenizer.encode_with_offsets("the king", add_special_tokens=True)
    assert tokenizer.tokens[ids[0]] == "[CLS]"
    assert tokenizer.tokens[ids[-1]] == "[SEP]"
    starts, ends = starts.numpy().tolist(), ends.numpy().tolist()
    assert (starts[0], ends[0], starts[-1], ends[-1]) == (0, 0, 0, 0)
    assert "".join("the king"[a:b] for a, b in zip(starts, ends, strict=True)) == "theking"


def test_bytes_that_are_no_utf8_are_replaced_as_python_does(tokenizer):
    rust, texts = rust_of(tokenizer), hard_bytes(1000)
    expected = [row.ids for row in rust.encode_batch([text.decode("utf-8", "replace") for text in texts])]
    if tokenizer.post_processor:
        expected = [row.ids for row in rust.encode_batch([t.decode("utf-8", "replace") for t in texts], False, False)]
    assert_equal_rows(texts, tokenizer.encode(texts).to_list(), expected)


def test_a_stream_decodes_to_the_same_text_in_whole_characters(tokenizer):
    for text in (*TEXTS, "", "👩‍👩‍👧 to be, or not"):
        ids = tokenizer.encode(text).numpy()
        pieces = list(tokenizer.decode_stream(ids))
        assert "".join(pieces) == tokenizer.decode(ids).numpy().decode()
        assert all(pieces)
    broken = np.random.default_rng(0).integers(0, tokenizer.vocab_size, 300)
    assert "".join(tokenizer.decode_stream(broken)) == tokenizer.decode(broken).numpy().decode()


def in_graph(tokenizer):
    return tf.function(tokenizer.encode, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)


def in_saved_model(tokenizer, folder):
    module = tf.Module()
    module.tokenizer = tokenizer

    def encode(texts):
        rows = tokenizer.encode(texts)
        return {"ids": rows.values, "splits": rows.row_splits}

    signature = [tf.TensorSpec([None], tf.string, "texts")]
    encode = tf.function(encode, input_signature=signature, autograph=False)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": encode})
    loaded = tf.saved_model.load(str(folder))
    serve = loaded.signatures["serving_default"]

    def run(texts):
        found = serve(texts=texts)
        assert loaded is not None  # its tensors live as long as it does
        return tf.RaggedTensor.from_row_splits(found["ids"], found["splits"])

    return run


def test_a_graph_and_a_saved_model_give_what_python_gives(tokenizer, tmp_path):
    texts = [text.encode() for text in hard_texts(400, seed=3)] + hard_bytes(100)
    expected = tokenizer.encode(texts).to_list()
    assert in_graph(tokenizer)(tf.constant(texts)).to_list() == expected
    assert in_saved_model(tokenizer, tmp_path)(tf.constant(texts)).to_list() == expected


@pytest.mark.slow
@pytest.mark.parametrize("way", ["eager", "graph", "saved model"])
def test_a_hundred_thousand_texts_equal_the_rust_library(tokenizer, way, tmp_path):
    rust = rust_of(tokenizer)
    encode = {
        "eager": lambda: tokenizer.encode,
        "graph": lambda: in_graph(tokenizer),
        "saved model": lambda: in_saved_model(tokenizer, tmp_path),
    }[way]()
    count = differences = 0
    for seed in range(10):
        texts = hard_texts(9_000, seed=100 + seed)
        raw = [text.encode() for text in texts] + hard_bytes(1_000, seed)
        texts += [text.decode("utf-8", "replace") for text in raw[len(texts) :]]
        expected = [row.ids for row in rust.encode_batch(texts, add_special_tokens=False)]
        found = encode(tf.constant(raw)).to_list()
        differences += sum(mine != theirs for mine, theirs in zip(found, expected, strict=True))
        count += len(texts)
    print(f"{count:,} texts, {way}: {differences} differences")
    assert (count, differences) == (100_000, 0)


def test_files_of_every_kind_give_an_equal_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert type(loaded) is type(tokenizer)
    assert loaded.to_json() == tokenizer.to_json()
    texts = hard_texts(100, seed=4)
    assert loaded.encode(texts).to_list() == tokenizer.encode(texts).to_list()


def test_words_are_compared_only_in_large_batches_and_nothing_changes(tokenizer):
    texts = fuzzed_texts(300, seed=6) * 30
    few = tokenizer.encode(texts[:300]).to_list()
    assert tokenizer.encode(texts).to_list() == few * 30


@pytest.mark.parametrize(
    "document",
    [
        {"type": "Lowercase"},
        {"type": "StripAccents"},
        *({"type": form} for form in ("NFC", "NFD", "NFKC", "NFKD")),
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None},
        {"type": "BertNormalizer", "clean_text": False, "handle_chinese_chars": False, "strip_accents": True},
    ],
    ids=lambda document: document["type"],
)
def test_every_code_point_is_normalised_as_in_the_rust_library(document):
    if document["type"] == "BertNormalizer":
        document["lowercase"] = document["clean_text"]
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    rust = tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", "model": model, "normalizer": document}))
    text = "\u2028".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    points, _, _ = read_characters(tf.constant([text]))
    found, origin = Normalizer(document)(points)
    expected = np.array([ord(c) for c in rust.normalizer.normalize_str(text)])
    np.testing.assert_array_equal(found[1:-1], expected)
    assert tf.reduce_all(tf.sort(origin) == origin) or document["type"].startswith("NF")


def test_gpt2_and_bert_give_the_ids_that_their_models_know():
    gpt2 = tfllm.data.load_vocabulary("gpt2")
    assert (gpt2.vocab_size, gpt2.end_id) == (50257, 50256)
    assert gpt2.encode("Hello world").numpy().tolist() == [15496, 995]
    assert gpt2.encode("<|endoftext|>", allow_special=True).numpy().tolist() == [50256]
    assert gpt2.encode("<|endoftext|>").numpy().tolist() == [27, 91, 437, 1659, 5239, 91, 29]
    bert = tfllm.data.load_vocabulary("bert-uncased")
    assert bert.vocab_size == 30522
    ids = bert.encode("Hello, my dog is cute", add_special_tokens=True).numpy().tolist()
    assert ids == [101, 7592, 1010, 2026, 3899, 2003, 10140, 102]
    with pytest.raises(ValueError, match=r"name must be one of \['bert-uncased', 'gpt2'\]; got 'gpt3'"):
        tfllm.data.load_vocabulary("gpt3")


def byte_tokens():
    return [token for token in made("bpe-gpt2").tokens if len(token) == 1]


def test_words_of_any_length_are_merged_as_in_the_rust_library():
    source, gpt2 = random.Random(1), tfllm.data.load_vocabulary("gpt2")
    words = ["".join(source.choices("abAB01词", k=size)) for size in (1, 2, 50, 500, 20_000)] + [
        "a" * 5000,
        "ab" * 3000,
    ]
    assert gpt2.encode(words).to_list() == [row.ids for row in rust_of(gpt2).encode_batch(words)]


@pytest.mark.parametrize("seed", range(8))
def test_merges_in_any_order_are_merged_as_in_the_rust_library(seed):
    source = random.Random(seed)
    tokens, merges = list("abcd"), []
    for _ in range(source.randrange(3, 25)):
        left, right = source.choice(tokens), source.choice(tokens)
        if len(left + right) < 9:
            merges.append((left, right))
            tokens = list(dict.fromkeys([*tokens, left + right]))
    if seed % 2:  # else in the order of a training; now and then one stands twice
        source.shuffle(merges)
    tokens = ["<|endoftext|>", *byte_tokens(), *(token for token in tokens if len(token) > 1)]
    tokenizer = BPETokenizer(tokens, merges)
    words = ["".join(source.choices("abcd"[: source.randrange(1, 5)], k=source.randrange(1, 30))) for _ in range(300)]
    assert tokenizer.encode(words).to_list() == [row.ids for row in rust_of(tokenizer).encode_batch(words)]


def test_no_merges_at_all():
    tokenizer = BPETokenizer(["<|endoftext|>", *byte_tokens()], [])
    assert tokenizer.decode(tokenizer.encode("no 词")).numpy().decode() == "no 词"


def test_bytes_that_a_vocabulary_lacks_are_left_out_as_in_the_rust_library():
    whole = made("bpe-gpt2")
    lacking = {"\u0124", "x", "!", "\u00e8"}  # 0x04, two of ASCII, and a byte of many Chinese characters
    merges = [pair for pair in whole.merges if not lacking & set("".join(pair))]
    tokens = [token for token in whole.tokens if token in whole.special_tokens or not lacking & set(token)]
    with pytest.raises(ValueError, match="tokens must hold every byte"):
        BPETokenizer(tokens, merges, special_tokens=whole.special_tokens)
    tokenizer = BPETokenizer(tokens, merges, special_tokens=whole.special_tokens, drop_bytes=True)
    texts = [*fuzzed_texts(300, 5), "to xbe", "x", "!!!", "a\x04b x", "", "thxe", "词语说话"]
    assert tokenizer.encode(texts).to_list() == [row.ids for row in rust_of(tokenizer).encode_batch(texts)]
    document = json.loads(tokenizer.to_json())
    assert BPETokenizer.from_json(document).encode(texts).to_list() == tokenizer.encode(texts).to_list()
    document["model"]["unk_token"] = "<|endoftext|>"
    with pytest.raises(ValueError, match=r"unk_token must be one of \(None,\)"):
        BPETokenizer.from_json(document)


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize("kind", ["RobertaProcessing", "ByteLevel", "Sequence"])
def test_offsets_are_trimmed_where_the_file_says_so(kind, prefixed):
    part = {"type": kind, "trim_offsets": True, "add_prefix_space": prefixed}
    if kind != "ByteLevel":
        part |= {"type": "RobertaProcessing", "sep": ["<s>", 1], "cls": ["<s>", 1]}
    post_processor = {"type": "Sequence", "processors": [part]} if kind == "Sequence" else part
    tokenizer = BPETokenizer.from_json(json.loads(made("bpe-gpt2").to_json()) | {"post_processor": post_processor})
    rust = rust_of(tokenizer)
    for text in ("Hello world  and   more \n", " Hello", "a   ", " ", ""):
        for special in (True, False):
            _, starts, ends = tokenizer.encode_with_offsets(text, add_special_tokens=special)
            found = list(zip(starts.numpy().tolist(), ends.numpy().tolist(), strict=True))
            assert found == rust.encode(text, add_special_tokens=special).offsets


def test_a_file_that_does_not_name_its_kind(tmp_path):
    for name in ("bpe-gpt2", "wordpiece", "words"):
        document = json.loads(made(name).to_json())
        del document["model"]["type"]
        (tmp_path / "tokenizer.json").write_text(json.dumps(document))
        assert type(load_tokenizer(tmp_path / "tokenizer.json")) is type(made(name))


def test_many_added_tokens_that_overlap():
    blanks = tuple(" " * size for size in range(2, 32))
    tokenizer = bpe("gpt2", added=(*blanks, "<a><", *(f"<|reserved_{i}|>" for i in range(200))))
    texts = ["def f(x):\n        if x:\n            return 1\n" * 40, "<a>" * 2000, "<|reserved_17|> <|reserved_1"]
    assert tokenizer.encode(texts).to_list() == [row.ids for row in rust_of(tokenizer).encode_batch(texts)]


def test_a_stream_may_hold_empty_parts(tokenizer):
    assert (
        "".join(tokenizer.decode_stream([[5], [], np.zeros(0, np.int32), [6]]))
        == tokenizer.decode([5, 6]).numpy().decode()
    )


def test_a_rank_that_is_not_known_is_refused(tokenizer):
    with pytest.raises(ValueError, match="texts must have a known number of axes"):
        tf.function(tokenizer.encode, input_signature=[tf.TensorSpec(None, tf.string)], autograph=False)(
            tf.constant("a")
        )


def test_a_word_that_looks_like_a_special_token_is_none():
    tokenizer = WordTokenizer(["<unk>", "[CLS]", "a"], special_tokens=("<unk>", "[CLS]"), pattern="whitespace")
    assert tokenizer.encode("a [CLS]").numpy().tolist() == [2, 0]
    assert [ids.tolist() for ids in tokenizer.encode_bulk(["a [CLS]", ""])] == [[2, 0], []]
    assert tokenizer.encode_bulk([]) == []
    assert tokenizer.encode("a [CLS]", allow_special=True).numpy().tolist() == [2, 1]


def test_a_vocabulary_of_one_token_a_line(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nking\n##s\n")
    tokenizer = WordPieceTokenizer.from_vocabulary(path)
    assert tokenizer.encode("Kings queen", add_special_tokens=True).numpy().tolist() == [2, 5, 6, 1, 3]
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\u2028b\nking")
    assert WordPieceTokenizer.from_vocabulary(path).tokens[5:] == ["a\u2028b", "king"]
    path.write_text("[PAD]\nking\n")
    with pytest.raises(ValueError, match=r"a vocabulary with \[UNK\]; got .*vocab.txt"):
        WordPieceTokenizer.from_vocabulary(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"path must name a UTF-8 file; got"):
        WordPieceTokenizer.from_vocabulary(path)


def test_a_mark_never_comes_from_a_text():
    points, _, _ = read_characters(tf.constant(["\U0010ffff", b"\xf4\x90\x80\x80"]))
    assert int(tf.reduce_max(points)) < MARK


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WordTokenizer.train("", vocab_size=9), "at least one character"),
        (lambda: WordTokenizer.train("a b", vocab_size=1), "more than the 1 special tokens; got vocab_size=1"),
        (lambda: WordTokenizer.train("a", vocab_size=9, pattern="gpt2"), r"pattern must be one of .*; got 'gpt2'"),
        (lambda: WordTokenizer.train("a", vocab_size=9, special_tokens=("<pad>",)), "must hold '<unk>'"),
        (lambda: WordTokenizer(["<unk>", "a", "a"]), "words must be all different; got 1 repeated"),
        (lambda: WordTokenizer(["a"]), "words must hold the unknown token; got none for '<unk>'"),
        (lambda: WordPieceTokenizer.train("a", vocab_size=5), "more than the 5 special tokens; got vocab_size=5"),
        (lambda: WordPieceTokenizer(["[UNK]"], special_tokens=("[UNK]", "[CLS]")), r"got none for '\[CLS\]'"),
        (lambda: WordPieceTokenizer(["[UNK]"], special_tokens=("[UNK]",), longest_word=0), "at least 1; got 0"),
        (lambda: WordPieceTokenizer(["[UNK]"], special_tokens=("[UNK]",), prefix=""), "prefix must not be empty"),
        (lambda: BPETokenizer.train("a", vocab_size=300, pattern="bert"), r"pattern must be one of .*; got 'bert'"),
        (lambda: WordPieceTokenizer.from_tokens(["[UNK]"]), r"BERT's special tokens; got none for '\[PAD\]'"),
        (lambda: BPETokenizer(["<|endoftext|>", "<|endoftext|>", *byte_tokens()], []), "tokens must be all different"),
        (
            lambda: WordTokenizer(["<unk>", "a"], added_tokens=("a", "a")),
            "must be all different; got 'a' more than once",
        ),
        (lambda: WordTokenizer(["<unk>"], token_flags={"<unk>": ("strip",)}), "token_flags must give tuples of"),
        (lambda: made("bpe-gpt2").encode_bulk("abc"), "texts must be a list of str; got str"),
        (lambda: made("bpe-gpt2").id_of("<none>"), "token must be one of the vocabulary's .*; got '<none>'"),
    ],
)
def test_bad_vocabularies_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
