"""Learning: gradients against NumPy, the project's step, structure that is there, and what must not matter."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfllm.embeddings import FastText, Word2Vec
from tfllm.embeddings.negative_sampling import (
    BLOCK,
    NegativeSamplingModel,
    count_blocks,
    keep_probabilities,
    make_batch,
    make_thinning,
    negative_sampling_loss,
    sparse_step,
)
from tfllm.embeddings.vocabulary import read_corpus
from tfllm.training import gradient_step

ANIMALS, METALS = ["cat", "dog", "hen", "cow", "pig"], ["iron", "gold", "lead", "zinc", "tin"]


def two_topics(sentences=1500, seed=0):
    """Sentences of six words, each about animals or about metals, with words of neither."""
    draw = np.random.default_rng(seed)
    topics = [[*topic, "the", "of"] for topic in (ANIMALS, METALS)]
    return [draw.choice(topics[i % 2], 6).tolist() for i in range(sentences)]


def make_model(architecture, rows=None, words=6, dim=3):
    model = NegativeSamplingModel(words, dim, architecture, num_ngrams=4 if rows else 0)
    draw = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(draw.normal(size=weight.shape))
    model.rows = tf.ragged.constant(rows, dtype=tf.int32, row_splits_dtype=tf.int32) if rows else None
    return model


def make_small_batch():
    """Two blocks of three words with a reach of one; words 0 and 5 fill up."""
    window = tf.constant([[1, 2, 3, 1, 4], [5, 4, 4, 2, 0]])
    near = np.zeros([2, 3, 5], np.float32)
    near[0, [0, 0, 1, 1, 2, 2], [0, 2, 1, 3, 2, 4]] = 1
    near[1, [0, 1], [2, 1]] = 1  # the third word of the second block has nothing around it
    return window, tf.constant(near), tf.constant([[3, 0], [2, 2]])


def scores_one_by_one(model, batch, negatives, update):
    """Goes through the pairs as the paper writes them and calls `update(input rows, target, label, weight)`."""
    window, near, drawn = (part.numpy() for part in batch)
    parts = model.rows.to_list() if model.rows is not None else [[i] for i in range(model.vocab_size)]
    for block in range(len(window)):
        for place in range(near.shape[1]):
            around = [window[block, c] for c in range(near.shape[2]) if near[block, place, c]]
            centre = window[block, place + 1]
            if model.architecture == "skip-gram":
                pairs = [(parts[centre], target) for target in around]
            else:
                pairs = [([row for word in around for row in parts[word]], centre)] if around else []
            for rows, target in pairs:
                update(rows, target, 1, 1)
                for word in drawn[block]:
                    if word != target:
                        update(rows, word, 0, negatives / len(drawn[block]))


@pytest.mark.parametrize("rows", [None, [[0, 6], [1, 6, 7], [2], [3, 8, 9], [4, 7], [5]]], ids=["words", "n-grams"])
@pytest.mark.parametrize("architecture", ["skip-gram", "cbow"])
def test_a_step_is_the_sum_of_the_papers_updates(architecture, rows):
    model, batch = make_model(architecture, rows), make_small_batch()
    inputs, targets = (weight.numpy().astype(np.float64) for weight in model.trainable_weights)
    moved_inputs, moved_targets, nats = inputs.copy(), targets.copy(), []

    def update(rows, target, label, weight):
        hidden = inputs[rows].mean(axis=0)
        chance = 1 / (1 + np.exp(-hidden @ targets[target]))
        nats.append(-weight * np.log(chance if label else 1 - chance))
        error = 0.1 * weight * (label - chance)
        for row in rows:  # the whole error to every part, as word2vec.c and fastText do
            moved_inputs[row] += error * targets[target]
        moved_targets[target] += error * hidden

    scores_one_by_one(model, batch, 5, update)
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    total, pairs = sparse_step(model, optimizer, batch, negatives=5)["loss"]
    np.testing.assert_allclose(total, sum(nats), rtol=1e-5)
    assert pairs == (8 if architecture == "skip-gram" else 5)
    np.testing.assert_allclose(model.inputs_table.numpy(), moved_inputs, atol=1e-5)
    np.testing.assert_allclose(model.targets_table.numpy(), moved_targets, atol=1e-5)


def test_the_sparse_step_is_the_step_of_the_project():
    batch, after = make_small_batch(), []
    for way in ("sparse", "dense"):
        model, optimizer = make_model("skip-gram"), keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)
        if way == "sparse":
            sparse_step(model, optimizer, batch)
        else:  # whose loss is a mean over the 8 pairs
            optimizer.learning_rate = 0.8
            gradient_step(model, optimizer, batch, negative_sampling_loss, clip_norm=None)
        after.append([weight.numpy() for weight in model.trainable_weights])
    for sparse, dense in zip(*after, strict=True):
        np.testing.assert_allclose(sparse, dense, atol=1e-6)


def epoch_of(sentences, window=2, threshold=0.0, seed=0, epoch=0, blocks=2):
    corpus = read_corpus(sentences, 1)
    ids, left, right = make_thinning(corpus, threshold, window, seed)(epoch)
    batch = make_batch("skip-gram", window, blocks, corpus.counts, seed)
    steps = -(-int(count_blocks(tf.size(ids), window)) // blocks)
    return corpus, [batch(ids, left, right, epoch, step) for step in range(steps)]


@pytest.mark.parametrize("length", [2, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3])
def test_an_epoch_has_every_word_once_and_every_neighbour(length):
    _, batches = epoch_of([[f"w{i:03}" for i in range(length)]], window=1)  # a window of 1 leaves nothing to chance
    pairs = []
    for window, near, _ in batches:
        for block, place, other in np.argwhere(near.numpy()):
            pairs.append((int(window[block, place + 1]), int(window[block, other])))
    expected = [(i, i + 1) for i in range(length - 1)] + [(i + 1, i) for i in range(length - 1)]
    assert sorted(pairs) == sorted(expected)


def test_no_pair_spans_two_sentences_or_leaves_the_window():
    draw = np.random.default_rng(0)
    sentences, word = [], 0
    for length in draw.integers(1, 12, 60):
        sentences.append([f"{word + i}" for i in range(length)])
        word += length
    home = {int(name): number for number, sentence in enumerate(sentences) for name in sentence}
    corpus, batches = epoch_of(sentences, window=3)
    seen = {}
    for window, near, _ in batches:
        for block, place, other in np.argwhere(near.numpy()):
            one, two = (int(corpus.words[int(window[block, at])]) for at in (place + 3, other))
            assert one != two
            assert home[one] == home[two]
            seen[abs(one - two)] = seen.get(abs(one - two), 0) + 1
    assert set(seen) == {1, 2, 3}
    assert seen[1] > seen[2] > seen[3]  # a window is as often 1 as 2 as 3


def test_negatives_are_drawn_by_the_power_of_their_counts():
    counts = np.array([1000, 100, 10])
    nothing = tf.zeros([2 * 5 + BLOCK + 1], tf.int32)
    batch = make_batch("skip-gram", 5, 4, counts, seed=1)
    drawn = np.concatenate([batch(nothing, nothing, nothing, 0, step)[2].numpy().ravel() for step in range(100)])
    share = counts**0.75 / (counts**0.75).sum()
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), share, atol=0.02)


def test_frequent_words_are_thinned_out_by_word2vecs_formula():
    corpus = read_corpus([["often"] * 9 + ["rare"]] * 1000, 1)
    keep = keep_probabilities(corpus.counts, 0.01)
    np.testing.assert_allclose(keep, [(0.01 / 0.9) ** 0.5 + 0.01 / 0.9, (0.01 / 0.1) ** 0.5 + 0.1], rtol=1e-5)
    ids, *_ = make_thinning(corpus, 0.01, 5, seed=0)(0)
    kept = np.bincount(ids.numpy()[5 : -5 - BLOCK]) / corpus.counts
    np.testing.assert_allclose(kept, keep, atol=0.04)
    np.testing.assert_array_equal(keep_probabilities(corpus.counts, 0), [1, 1])


@pytest.mark.parametrize(
    "model",
    [
        Word2Vec(dim=16, window=3, threshold=0, epochs=4),
        Word2Vec("cbow", dim=16, window=3, threshold=0, epochs=8),
        FastText(dim=16, window=3, threshold=0, epochs=4, buckets=500),
    ],
    ids=["skip-gram", "cbow", "fasttext"],
)
def test_words_of_one_topic_are_neighbours_and_the_seed_decides_everything(model):
    vectors = model.train(two_topics(), quiet=True)
    assert set(vectors.words) == {*ANIMALS, *METALS, "the", "of"}
    for topic in (ANIMALS, METALS):
        for word in topic:
            found = [name for name, _ in vectors.most_similar(word, 4, without=("the", "of"))]
            assert set(found) == set(topic) - {word}
    np.testing.assert_array_equal(vectors.vectors, model.train(two_topics(), quiet=True).vectors)


def test_another_seed_is_another_training():
    first, second = (Word2Vec(dim=4, epochs=1, seed=seed).train(two_topics(50), quiet=True) for seed in (1, 2))
    assert first.words == second.words
    assert not np.allclose(first.vectors, second.vectors)


@pytest.mark.slow
def test_an_analogy_that_the_text_holds_is_found():
    draw, sentences = np.random.default_rng(0), []
    people = {("man", "he"): "king", ("woman", "she"): "queen"}
    for _ in range(6000):  # royal words stand near royals, "he" and "she" near their own
        (person, pronoun), royal = list(people.items())[draw.integers(2)]
        if draw.integers(2):
            sentences.append([royal, pronoun, *draw.choice(["crown", "throne", "palace"], 2)])
        else:
            sentences.append([person, pronoun, *draw.choice(["field", "work", "street"], 2)])
    vectors = Word2Vec(dim=16, window=3, threshold=0, epochs=10).train(sentences, quiet=True)
    assert vectors.analogy("man", "king", "woman")[0][0] == "queen"
    assert vectors.analogy("king", "man", "queen")[0][0] == "woman"


def test_unknown_words_get_the_vector_of_their_ngrams():
    sentences = [["playing", "player", "played"], ["cooking", "cooker", "cooked"]] * 200
    vectors = FastText(dim=12, threshold=0, epochs=5, buckets=2000).train(sentences, quiet=True)
    assert "plays" not in vectors
    assert {word for word, _ in vectors.most_similar("plays", 3)} == {"playing", "player", "played"}
    assert not vectors["xyz"].any()  # no n-gram of it was ever seen


def test_vectors_of_known_words_are_the_mean_of_their_parts():
    still = FastText(dim=4, epochs=1, min_count=1, buckets=50, learning_rate=1e-30, seed=3)
    vectors = still.train([["ab", "cd"]], quiet=True)
    at_start = NegativeSamplingModel(2, 4, num_ngrams=50, seed=3).inputs_table.numpy()
    buckets = vectors.subwords.buckets_of("cd")
    np.testing.assert_allclose(vectors["cd"], at_start[[1, *(2 + buckets)]].mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(vectors.ngrams[buckets], at_start[2 + buckets])


def test_a_text_in_lines_lists_or_strings_is_one_corpus():
    whole = read_corpus("我爱 tf\n爱 tf", 1)
    for same in (["我爱 tf", "爱 tf"], [["我", "爱", "tf"], ("爱", "tf")], (line for line in ["我爱 tf", "爱 tf"])):
        other = read_corpus(same, 1)
        assert other.words == whole.words == ("爱", "tf", "我")
        np.testing.assert_array_equal(other.ids, whole.ids)
        np.testing.assert_array_equal(other.sentences, [0, 0, 0, 1, 1])
    assert read_corpus(["a,b"] * 2, 2, segment=lambda text: text.split(",")).words == ("a", "b")


def test_progress_is_shown_unless_quiet(capsys):
    Word2Vec(dim=2, epochs=2).train(two_topics(50), quiet=True)
    assert capsys.readouterr().out == ""
    Word2Vec(dim=2, epochs=2).train(two_topics(50))
    assert "words/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "glove"}, r"architecture must be one of \('skip-gram', 'cbow'\); got 'glove'"),
        ({"dim": 0}, "dim must be at least 1; got 0"),
        ({"window": 0}, "window must be at least 1; got 0"),
        ({"negatives": 0}, "negatives must be at least 1; got 0"),
        ({"threshold": -1}, "threshold must be at least 0; got -1"),
        ({"min_count": 0}, "min_count must be at least 1; got 0"),
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"learning_rate": 0}, "learning_rate must be above 0; got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0; got nan"),
        ({"seed": 2**31}, r"seed must be below 2\*\*31"),
        ({"min_n": 4, "max_n": 3}, "1 <= min_n <= max_n; got 4 and 3"),
        ({"buckets": 0}, r"buckets must lie in \[1, 2\*\*31\); got 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FastText(**settings)


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ("", "got 0 of 0 different words"),
        ([], "got 0 of 0 different words"),
        ([["a"] * 9], "at least two different words .* min_count=5 times or more; got 1 of 1 different words"),
        ([["a", "b", "c"]], "got 0 of 3 different words"),
        ([3, 4], "sentences must hold str or lists of str; got '3'"),
        ([[3, 4]] * 9, "each a str that is not empty; got '3'"),
        ([["a", ""]] * 9, "each a str that is not empty; got ''"),
        ([[["a"]]], "sentences must hold str or lists of str"),
    ],
)
def test_bad_sentences_are_refused(sentences, message):
    with pytest.raises(ValueError, match=message):
        Word2Vec(dim=2).train(sentences, quiet=True)


def test_vectors_that_run_away_are_refused():
    with pytest.raises(ValueError, match=r"learning_rate must leave the vectors finite; got 1e\+30, which did not"):
        Word2Vec(dim=2, learning_rate=1e30).train(two_topics(50), quiet=True)
