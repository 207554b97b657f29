"""Vectors of words as a noun: neighbours, analogies, similarity, files, and a Keras layer that starts from them."""

import dataclasses

import keras
import numpy as np

from tfllm.embeddings import formats
from tfllm.embeddings.subwords import Subwords
from tfllm.embeddings.vocabulary import check_word


@dataclasses.dataclass(frozen=True, eq=False)
class WordVectors:
    """A vector for every word of a vocabulary.

    With a table of n-grams, which `FastText` leaves, any other word has a vector too: the mean of its n-grams.

    Attributes:
        words: tuple of str, all different, the most frequent first where frequency is known.
        vectors: float32 [V, D].
        subwords: `Subwords` or None, how words are cut into n-grams.
        ngrams: float32 [buckets, D] or None, the vectors of the n-grams.

    Raises:
        ValueError: when the sizes do not fit, a word is there twice or empty, or a number is not finite.

    Example:
        >>> vectors = WordVectors(["north", "south", "up"], [[1, 0.1, 0], [1, -0.1, 0], [0, 0, 1]])
        >>> [(word, round(cosine, 2)) for word, cosine in vectors.most_similar("north", 1)]
        [('south', 0.98)]
        >>> "up" in vectors, "down" in vectors
        (True, False)
    """

    words: tuple
    vectors: np.ndarray
    subwords: Subwords | None = None
    ngrams: np.ndarray | None = None
    _numbers: dict = dataclasses.field(init=False, repr=False)
    _directions: np.ndarray = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        words = tuple(self.words)
        vectors = _table("vectors", self.vectors)
        if len(words) != len(vectors):
            raise ValueError(f"vectors must have a row for each of the {len(words)} words; got {len(vectors)}")
        numbers = {word: number for number, word in enumerate(words)}
        if len(numbers) != len(words) or not all(isinstance(word, str) and word for word in words):
            wrong = next(w for i, w in enumerate(words) if numbers[w] != i or not isinstance(w, str) or not w)
            raise ValueError(f"words must be different str that are not empty; got {wrong!r}")
        if (self.subwords is None) != (self.ngrams is None):
            raise ValueError("subwords and ngrams must be given together; got only one of them")
        if self.subwords is not None:
            ngrams = _table("ngrams", self.ngrams)
            if ngrams.shape != (self.subwords.buckets, vectors.shape[1]):
                expected = [self.subwords.buckets, vectors.shape[1]]
                raise ValueError(f"ngrams must have the shape {expected}; got {list(ngrams.shape)}")
            object.__setattr__(self, "ngrams", ngrams)
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "_numbers", numbers)
        object.__setattr__(self, "_directions", _directions(vectors))

    def __len__(self):
        return len(self.words)

    def __contains__(self, word):
        return word in self._numbers

    def __getitem__(self, word):
        """Returns float32 [D], the vector of a word.

        Raises:
            ValueError: when the word is unknown and has no n-grams.
        """
        number = self._numbers.get(word)
        if number is not None:
            return self.vectors[number]
        buckets = self.subwords.buckets_of(word) if self.subwords and isinstance(word, str) and word else []
        if not len(buckets):
            check_word(word, self._numbers)
        return self.ngrams[buckets].mean(axis=0)

    def similarity(self, first, second):
        """Returns float in [-1, 1], the cosine of two words; 0 where a vector is zero.

        Raises:
            ValueError: when a word is unknown.
        """
        return float(_directions(self[first]) @ _directions(self[second]))

    def most_similar(self, word, n=10, *, without=()):
        """Finds the words whose vectors point most nearly the same way.

        Args:
            word: str, or a vector float [D].
            n: int >= 1, how many.
            without: words to leave out; `word` itself is left out in any case.

        Returns:
            list of (str, float cosine), the nearest first; all others when there are fewer than `n`.

        Raises:
            ValueError: when the word is unknown, the vector has another shape, or `n` is below 1.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1; got {n}")
        vector = np.asarray(self[word] if isinstance(word, str) else word, np.float32)
        if vector.shape != self.vectors.shape[1:]:
            raise ValueError(
                f"word must be a str or a vector of shape {list(self.vectors.shape[1:])}; got {word!r:.60}"
            )
        cosines = self._directions @ _directions(vector)
        left_out = {word, *without} if isinstance(word, str) else set(without)
        cosines[[self._numbers[known] for known in left_out if known in self]] = -np.inf
        n = min(n, len(cosines))
        best = np.argpartition(-cosines, n - 1)[:n]
        best = best[np.lexsort((best, -cosines[best]))]
        return [(self.words[i], float(cosines[i])) for i in best if cosines[i] > -np.inf]

    def analogy(self, a, b, c, n=1):
        """Finds what is to `c` as `b` is to `a`: the words nearest to b - a + c, of unit vectors.

        Args:
            a, b, c: str. `analogy("man", "king", "woman")` should give "queen".
            n: int >= 1, how many.

        Returns:
            list of (str, float cosine) as in `most_similar`, without the three words.

        Raises:
            ValueError: when a word is unknown, or `n` is below 1.

        Source: Mikolov et al. 2013, arXiv:1301.3781, section 4.
        """
        target = _directions(self[b]) - _directions(self[a]) + _directions(self[c])
        return self.most_similar(target, n, without=(a, b, c))

    def save(self, path, format=None):
        """Writes the vectors to a file, whole or not at all.

        Args:
            path: str or path.
            format: "text" or "binary", the formats of word2vec, which keep no n-grams; "npz", which keeps everything.
                None takes it from the suffix: `.txt` and `.vec`, `.bin`, `.npz`.

        Raises:
            ValueError: when the format is unknown, or one of word2vec's is asked for a word with white space.
        """
        subwords = dataclasses.asdict(self.subwords) if self.subwords else None
        formats.write(path, format, self.words, self.vectors, subwords, self.ngrams)

    @classmethod
    def load(cls, path, format=None):
        """Reads a file that `save`, gensim, word2vec or fastText (its `.vec`) wrote.

        Args:
            path: str or path.
            format: as in `save`.

        Returns:
            `WordVectors`.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when the format is unknown or the file is damaged.
        """
        words, vectors, subwords, ngrams = formats.read(path, format)
        try:
            return cls(words, vectors, Subwords(**subwords) if subwords else None, ngrams)
        except (TypeError, ValueError) as error:
            raise ValueError(f"path must be a sound file of word vectors; got {str(path)!r}: {error}") from error

    def embedding_layer(self, trainable=True, tokenizer=None, *, seed=0):
        """Makes a Keras layer that starts from these vectors.

        Args:
            trainable: bool, whether training moves the vectors.
            tokenizer: a tokenizer whose ids the layer will see: row i is the vector of `tokenizer.tokens[i]`, or of
                the token without the mark of a blank at its beginning ("Ġ" or "▁"). Tokens that have no vector, the
                special ones among them, get random vectors of the same spread. None: ids are places in `words`.
            seed: int, decides the random vectors.

        Returns:
            A built `keras.layers.Embedding` with weights float32 [V, D].

        Example:
            >>> layer = WordVectors(["a", "b"], [[1.0, 2.0], [3.0, 4.0]]).embedding_layer(trainable=False)
            >>> layer(tf.constant([[1, 0]])).numpy().tolist()
            [[[3.0, 4.0], [1.0, 2.0]]]
        """
        table = self.vectors
        if tokenizer is not None:
            draw = np.random.default_rng(seed)
            table = draw.normal(0, self.vectors.std(), [len(tokenizer.tokens), self.vectors.shape[1]])
            special = set(tokenizer.special_tokens)
            for number, token in enumerate(tokenizer.tokens):
                for form in (token, token[1:] if token[:1] in ("Ġ", "▁") else token):
                    if token not in special and (form in self or (self.subwords and form)):
                        table[number] = self[form]
                        break
        layer = keras.layers.Embedding(*table.shape, trainable=trainable)
        layer.build([None, None])
        layer.set_weights([table.astype(np.float32)])
        return layer


def _table(name, values):
    table = np.asarray(values, np.float32)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"{name} must have the shape [rows, dim], neither of them 0; got {list(table.shape)}")
    if not np.isfinite(table).all():
        raise ValueError(f"{name} must be finite numbers; got some that are not")
    return table


def _directions(vectors):
    """Returns float32, vectors of length 1, and of length 0 where they were."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
