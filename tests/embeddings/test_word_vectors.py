"""Vectors as a noun: neighbours worked out by hand, files shared with gensim, layers and maps."""

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.embeddings import FastText, Word2Vec, WordVectors, draw_map
from tfllm.embeddings.subwords import Subwords

KeyedVectors = pytest.importorskip("gensim.models").KeyedVectors
fasttext_inner = pytest.importorskip("gensim.models.fasttext_inner")

WORDS = ["king", "queen", "man", "woman", "苹果"]
ROWS = [[1, 1, 0], [1, -1, 0], [0, 1, 0.1], [0, -1, 0.1], [0, 0, -2]]


@pytest.fixture
def vectors():
    return WordVectors(WORDS, ROWS)


@pytest.fixture
def many():
    draw = np.random.default_rng(0)
    words = [f"w{i}" for i in range(60)] + ["naïve", "床前", "🙂", "x-y"]
    table = draw.normal(size=(len(words), 7)) * 10.0 ** draw.integers(-9, 9, (len(words), 1))
    return WordVectors(words, table)


def test_neighbours_worked_out_by_hand(vectors):
    assert vectors.similarity("king", "queen") == pytest.approx(0)
    assert vectors.similarity("king", "man") == pytest.approx(1 / 2**0.5 / 1.01**0.5)
    assert [word for word, _ in vectors.most_similar("king")] == ["man", "queen", "苹果", "woman"]
    assert vectors.most_similar([0, 0, -1], 1) == [("苹果", 1.0)]
    assert [word for word, _ in vectors.most_similar("king", 2, without=["man"])] == ["queen", "苹果"]
    assert vectors.most_similar("king", 99) == vectors.most_similar("king", 4)
    assert vectors.analogy("man", "king", "woman")[0][0] == "queen"
    assert len(vectors.analogy("man", "king", "woman", n=10)) == 2  # the three words are left out
    assert "king" in vectors
    assert "King" not in vectors
    assert len(vectors) == 5
    np.testing.assert_array_equal(vectors["queen"], np.float32([1, -1, 0]))


def test_gensim_finds_the_same_neighbours(many, tmp_path):
    many.save(tmp_path / "v.bin")
    theirs = KeyedVectors.load_word2vec_format(str(tmp_path / "v.bin"), binary=True)
    for word in ("w3", "床前"):
        names, cosines = zip(*many.most_similar(word, 8), strict=True)
        their_names, their_cosines = zip(*theirs.most_similar(word, topn=8), strict=True)
        assert names == their_names
        np.testing.assert_allclose(cosines, their_cosines, atol=1e-6)
    (found,) = many.analogy("w1", "w2", "w3")
    assert found[0] == theirs.most_similar(positive=["w2", "w3"], negative=["w1"], topn=1)[0][0]


def test_a_zero_vector_is_like_nothing():
    vectors = WordVectors(["a", "b"], [[0, 0], [1, 0]])
    assert vectors.similarity("a", "b") == 0
    assert vectors.most_similar("a") == [("b", 0.0)]


@pytest.mark.parametrize("binary", [False, True])
def test_files_are_byte_for_byte_those_of_gensim(many, tmp_path, binary):
    ours, theirs = tmp_path / f"ours.{'bin' if binary else 'txt'}", tmp_path / "theirs"
    many.save(ours)
    gensim = KeyedVectors(vector_size=7)
    gensim.add_vectors(list(many.words), many.vectors)
    gensim.save_word2vec_format(str(theirs), binary=binary)
    assert ours.read_bytes() == theirs.read_bytes()
    read = WordVectors.load(theirs, "binary" if binary else "text")
    assert read.words == many.words
    np.testing.assert_array_equal(read.vectors, many.vectors)
    again = KeyedVectors.load_word2vec_format(str(ours), binary=binary)
    assert again.index_to_key == list(many.words)
    np.testing.assert_array_equal(again.vectors, many.vectors)


def test_files_of_word2vec_c_and_fasttext_are_read(tmp_path):
    row = np.float32([1.5, -2]).tobytes()
    (tmp_path / "c.bin").write_bytes(b"2 2\n</s> " + row + b"\nthe " + row + b"\n")  # a line end after each vector
    (tmp_path / "f.vec").write_bytes(b"2 2\n</s> 1.5 -2 \nthe 1.5 -2 \n")  # a blank after each number
    for name in ("c.bin", "f.vec"):
        read = WordVectors.load(tmp_path / name)
        assert read.words == ("</s>", "the")
        np.testing.assert_array_equal(read.vectors, [[1.5, -2]] * 2)


def test_npz_keeps_everything(tmp_path):
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    vectors = WordVectors(["two words", "line\nend", "x"], [[1, 2], [3, 4], [5, 6]], Subwords(2, 3, 10), table)
    vectors.save(tmp_path / "v.npz")
    read = WordVectors.load(tmp_path / "v.npz")
    assert (read.words, read.subwords) == (vectors.words, vectors.subwords)
    np.testing.assert_array_equal(read.vectors, vectors.vectors)
    np.testing.assert_array_equal(read["unseen"], vectors["unseen"])
    for name in ("v.txt", "v.bin"):
        with pytest.raises(
            ValueError, match=r"format must be 'npz' for words that hold white space; got .* 'two words'"
        ):
            vectors.save(tmp_path / name)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["v.txt", "v.bin", "v.npz"])
def test_a_file_cut_anywhere_is_refused(name, tmp_path):
    WordVectors(["king", "queen"], [[1.25, 2], [3, 4]]).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for length in range(0, len(whole), 1 if len(whole) < 100 else 37):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(ValueError, match="path must be a sound file"):
            WordVectors.load(tmp_path / name)


@pytest.mark.parametrize("name", ["v.txt", "v.bin"])
@pytest.mark.parametrize("tail", [b"more 1 2\n", b"\0"])
def test_a_file_that_goes_on_is_refused(name, tail, tmp_path):
    WordVectors(["king", "queen"], [[1.25, 2], [3, 4]]).save(tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + tail)
    with pytest.raises(ValueError, match="it goes on after its 2 words"):
        WordVectors.load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("v.txt", b"", "its first line is not the number of words and of dimensions"),
        ("v.txt", b"king 1 2\n", "its first line is not"),
        ("v.txt", b"0 5\n", "says 0 words of 5 dimensions"),
        ("v.bin", b"9999999999999 300\nking ", "bytes are too few for 9,999,999,999,999 words"),
        ("v.txt", b"2 2\na 1 2\nb 1\n", "line 3 has 1 numbers in place of 2"),
        ("v.txt", b"1 2\na 1 two\n", "could not convert string to float"),
        ("v.txt", b"1 2\na 1 nan\n", "vectors must be finite"),
        ("v.txt", b"2 1\na 1\na 2\n", "words must be different str .* got 'a'"),
        ("v.txt", b"1 1\n\xff\xfe 1\n", "can't decode byte 0xff"),
        ("v.npz", b"PK\3\4 no zip", "it is no whole zip file"),
        ("v.npz", b"\x80\x04]\x94.", "it is no whole zip file"),
    ],
)
def test_damaged_files_are_refused_with_the_reason(name, content, reason, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"path must be a sound file .*: .*({reason})"):
        WordVectors.load(tmp_path / name)


def test_a_flipped_byte_of_an_npz_file_is_seen(tmp_path):
    WordVectors(["a", "b"], np.random.default_rng(0).normal(size=(2, 50))).save(tmp_path / "v.npz")
    content = bytearray((tmp_path / "v.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "v.npz").write_bytes(content)
    with pytest.raises(ValueError, match="path must be a sound file in npz format"):
        WordVectors.load(tmp_path / "v.npz")


def test_other_paths_are_refused(vectors, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path must be a file of word vectors; got .*none.txt"):
        WordVectors.load(tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"path must end in one of .* unless format is given; got 'v.model'"):
        vectors.save("v.model")
    with pytest.raises(ValueError, match=r"format must be 'text', 'binary' or 'npz'; got 'pickle'"):
        vectors.save("v.txt", "pickle")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], [[1.0], [2.0]]), "vectors must have a row for each of the 1 words; got 2"),
        ((["a", "a"], [[1.0], [2.0]]), "words must be different str that are not empty; got 'a'"),
        ((["a", ""], [[1.0], [2.0]]), "words must be different str that are not empty; got ''"),
        (([], []), r"vectors must have the shape \[rows, dim\]"),
        ((["a"], [[np.inf]]), "vectors must be finite"),
        ((["a"], [[1.0]], Subwords(buckets=3)), "subwords and ngrams must be given together"),
        ((["a"], [[1.0]], Subwords(buckets=3), [[1.0]]), r"ngrams must have the shape \[3, 1\]; got \[1, 1\]"),
    ],
)
def test_what_is_no_set_of_vectors_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        WordVectors(*arguments)


def test_bad_questions_are_refused(vectors):
    with pytest.raises(ValueError, match=r"word must be one of the 5 of the vocabulary; got 'qeen' \(close: 'queen'\)"):
        vectors["qeen"]
    with pytest.raises(ValueError, match=r"got 'King' \(close: 'king'\)"):
        vectors.most_similar("King")
    with pytest.raises(ValueError, match=r"vocabulary; got 'xyz'$"):
        vectors.analogy("king", "queen", "xyz")
    with pytest.raises(ValueError, match="n must be at least 1; got 0"):
        vectors.most_similar("king", 0)
    with pytest.raises(ValueError, match=r"a str or a vector of shape \[3\]"):
        vectors.most_similar([1.0, 2.0])


def test_ngrams_and_buckets_are_those_of_gensim():
    for word in ("where", "naïve", "床前明月光", "a", "🙂x"):
        for low, high in ((3, 6), (1, 2), (2, 4)):
            theirs = fasttext_inner.compute_ngrams(word, low, high)
            theirs = [gram for gram in theirs if gram not in ("<", ">")]  # gensim's lists differ there from its hashes
            assert sorted(Subwords(low, high, 1000).ngrams(word)) == sorted(theirs)
            hashes = fasttext_inner.compute_ngrams_bytes(word, low, high)
            theirs = sorted(fasttext_inner.ft_hash_bytes(gram) % 1000 for gram in hashes)
            assert sorted(Subwords(low, high, 1000).buckets_of(word).tolist()) == theirs


def test_a_layer_starts_from_the_vectors(vectors):
    layer = vectors.embedding_layer()
    assert layer.trainable
    np.testing.assert_array_equal(layer(tf.constant([[0, 4]]))[0], vectors.vectors[[0, 4]])
    assert not vectors.embedding_layer(trainable=False).trainable_variables


def test_a_layer_follows_a_tokenizer(vectors):
    class Words:
        tokens, special_tokens = ["[UNK]", "queen", "Ġman", "zzz", "king"], ("[UNK]",)

    table = vectors.embedding_layer(tokenizer=Words()).get_weights()[0]
    np.testing.assert_array_equal(table[[1, 2, 4]], vectors.vectors[[1, 2, 0]])
    assert table[[0, 3]].any(axis=1).all()
    np.testing.assert_array_equal(table, vectors.embedding_layer(tokenizer=Words(), seed=0).get_weights()[0])
    assert not np.array_equal(table, vectors.embedding_layer(tokenizer=Words(), seed=1).get_weights()[0])


def test_a_model_of_characters_can_start_from_vectors():
    tokenizer = tfllm.CharTokenizer.train("床前明月光")
    vectors = Word2Vec(dim=4, min_count=1, epochs=1).train(["床前明月光"] * 3, quiet=True)
    layer = vectors.embedding_layer(tokenizer=tokenizer)
    ids = tokenizer.encode("明月")
    np.testing.assert_array_equal(layer(ids), [vectors["明"], vectors["月"]])


def test_unknown_tokens_of_a_fasttext_layer_have_their_ngrams():
    vectors = FastText(dim=4, min_count=1, epochs=1, buckets=50).train(["playing played"] * 3, quiet=True)

    class Words:
        tokens, special_tokens = ["<pad>", "plays"], ("<pad>",)

    np.testing.assert_array_equal(vectors.embedding_layer(tokenizer=Words()).get_weights()[0][1], vectors["plays"])


def test_a_map_shows_every_word_and_its_neighbours_near(tmp_path):
    draw = np.random.default_rng(0)
    table = np.repeat(np.eye(2, 8) * 3, 4, axis=0) + draw.normal(size=(8, 8)) * 0.1
    vectors = WordVectors([*"abcd$fgh"], table)
    figure = draw_map(vectors, [*"abcd$fgh"], title="Two heaps")
    points = figure.axes[0].collections[0].get_offsets()
    spread = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert spread[:4, :4].max() < spread[:4, 4:].min()
    assert [text.get_text() for text in figure.axes[0].texts] == [*"abcd", r"\$", *"fgh"]
    assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"words must be at least 3 different words; got \['a'\]"):
        draw_map(vectors, ["a", "a"])
    with pytest.raises(ValueError, match="word must be one of the 8"):
        draw_map(vectors, ["a", "b", "z"])


def test_a_map_says_which_word_no_font_can_draw():
    vectors = WordVectors(["a", "b", "\U000e0fff"], np.eye(3))
    with pytest.raises(ValueError, match="words must be ones that a font of this machine can draw; got "):
        draw_map(vectors, vectors.words)
    assert draw_map(WordVectors(["a", "b", "c"], [[1.0], [2.0], [-1.0]]), [*"abc"])  # one dimension
