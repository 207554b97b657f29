"""What the tasks have to beat, beside the n-gram model of `kneser_ney.py`: methods of counting, each fitted in seconds.

Each is what its field measures itself against: the commonest label, TF-IDF with logistic regression, the first sentences, a word
for a word, BM25, a conditional random field, the commonest answer. Two use packages of `tfllm[tasks]`, imported where used.
"""

import collections
import pathlib
import re
import tempfile

import numpy as np
import scipy.sparse

_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)  # of logistic regression, among which the validation part decides


def words_of(text, language="en"):
    """Returns list of str, the words and signs of a text; the characters where a language has no blanks between words.

    Example:
        >>> words_of("Open the file, please."), words_of("打开 a.txt", "zh")
        (['Open', 'the', 'file', ',', 'please', '.'], ['打', '开', 'a', '.', 'txt'])
    """
    if language in ("zh", "ja"):
        return re.findall(r"[A-Za-z0-9_]+|[^\sA-Za-z0-9_]", text)
    return re.findall(r"\w+|[^\w\s]", text)


def majority(labels):
    """Returns the commonest of a list of labels, the first of them where several are.

    Raises:
        ValueError: when there is none.

    Example:
        >>> majority(["a", "b", "b"])
        'b'
    """
    if not len(labels):
        raise ValueError("labels must hold at least one; got none")
    return collections.Counter(labels).most_common(1)[0][0]


def fit_tfidf(texts, labels, validation_texts, validation_labels, *, seed=0):
    """Fits logistic regression on TF-IDF of words and pairs of words.

    How strongly it is regularised is chosen by the accuracy on the validation part.

    Args:
        texts, validation_texts: lists of str.
        labels, validation_labels: lists of str, one a text.
        seed: int.

    Returns:
        A function of a list of str to a list of labels.

    Raises:
        ImportError: when scikit-learn is not installed.
        ValueError: when there are fewer than two different labels.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError("TF-IDF with logistic regression needs scikit-learn: pip install tfllm[tasks]") from error
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    features, held_out = vectorizer.fit_transform(texts), vectorizer.transform(validation_texts)

    def fit(strength):
        return LogisticRegression(C=strength, max_iter=1000, random_state=seed).fit(features, labels)

    models = [fit(strength) for strength in _STRENGTHS]
    right = [np.mean(model.predict(held_out) == np.array(validation_labels)) for model in models]
    best = models[int(np.argmax(right))]
    return lambda texts: best.predict(vectorizer.transform(texts)).tolist()


def lead(document, k=1):
    """Returns str, the first k sentences of a document.

    Example:
        >>> lead("Opens a file. Then closes it. Done.", 2)
        'Opens a file. Then closes it.'
        >>> lead("打开文件。关闭文件。", 1)
        '打开文件。'
    """
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\n+", document.strip()) if s]
    glue = "" if re.search("[。！？]$", sentences[0] if sentences else "") else " "
    return glue.join(sentences[:k])


class WordDictionary:
    """Translates word for word, by a dictionary learned from pairs of texts: IBM model 1.

    Args:
        sources, targets: lists of str, as many.
        languages: (str, str), codes that say how texts are cut into words, see `words_of`.
        iterations: int >= 1, of expectation maximisation.

    Raises:
        ValueError: when there are no pairs, or not as many targets as sources.

    Example:
        >>> dictionary = WordDictionary(["the house", "the book", "a book"], ["das Haus", "das Buch", "ein Buch"])
        >>> dictionary.translate("a house")
        'ein Haus'

    Source: Brown et al. 1993, The Mathematics of Statistical Machine Translation, Computational Linguistics 19(2), section 4.2.
    """

    def __init__(self, sources, targets, languages=("en", "de"), iterations=8):
        if len(sources) != len(targets) or not sources:
            raise ValueError(f"targets must be as many as sources, at least 1; got {len(targets)} and {len(sources)}")
        self.languages = languages
        vocabularies = [{None: 0}, {}]  # the empty source word explains what no other does
        rows = [[], []]
        for source, target in zip(sources, targets, strict=True):
            for side, text in enumerate((source, target)):
                ids = vocabularies[side]
                rows[side].append([ids.setdefault(word, len(ids)) for word in words_of(text, languages[side])])
        pairs, slots = [], []  # (source word, target word), and which word of which target they explain
        count = 0
        for source, target in zip(*rows, strict=True):
            source = np.array([0, *source])
            pairs.append(
                np.repeat(np.array(target, np.int64), len(source)) + np.tile(source, len(target)) * len(vocabularies[1])
            )
            slots.append(count + np.repeat(np.arange(len(target)), len(source)))
            count += len(target)
        keys, pair = np.unique(np.concatenate(pairs), return_inverse=True)
        pair, slot = pair.reshape(-1), np.concatenate(slots)
        source, target = keys // len(vocabularies[1]), keys % len(vocabularies[1])
        share = np.ones(len(keys))  # of a target word among the translations of a source word
        for _ in range(iterations):
            weight = share[pair]
            weight /= np.bincount(slot, weight, count)[slot]
            share = np.bincount(pair, weight, len(keys))
            share /= np.bincount(source, share, len(vocabularies[0]))[source]
        order = np.lexsort((target, -share, source))  # the likeliest translation of each word comes first
        first = np.unique(source[order], return_index=True)[1]
        names, words = list(vocabularies[1]), list(vocabularies[0])
        best = order[first]
        self.words = {words[source[at]]: names[target[at]] for at in best if source[at]}

    def translate(self, text):
        """Returns str, the likeliest translation of each word; unknown words stay."""
        found = [self.words.get(word, word) for word in words_of(text, self.languages[0])]
        return ("" if self.languages[1] in ("zh", "ja") else " ").join(found)


class BM25:
    """Ranks documents by the words that they share with a query, rare ones first.

    `idf(w) * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean length))`, summed over the query's words, with
    `idf(w) = ln(1 + (N - n(w) + 0.5) / (n(w) + 0.5))`.

    Args:
        documents: list of str, at least one.
        k1: float >= 0, how soon more of a word count no more.
        b: float in [0, 1], how much long documents are held back.

    Raises:
        ValueError: when there is no document.

    Example:
        >>> BM25(["a cat sat", "a dog ran far"]).top(["the dog"], 1).tolist()
        [[1]]

    Source: Robertson and Zaragoza 2009, The Probabilistic Relevance Framework, section 3.4; idf as in Lucene.
    """

    def __init__(self, documents, k1=1.2, b=0.75):
        if not len(documents):
            raise ValueError("documents must be at least one; got none")
        self.ids = {}
        rows, columns, lengths = [], [], np.zeros(len(documents))
        for number, document in enumerate(documents):
            words = words_of(document.lower())
            lengths[number] = len(words)
            rows += [number] * len(words)
            columns += [self.ids.setdefault(word, len(self.ids)) for word in words]
        counts = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), [len(documents), max(len(self.ids), 1)])
        counts = counts.tocoo()  # equal words are added up
        counts.sum_duplicates()
        having = np.bincount(counts.col, minlength=counts.shape[1])
        idf = np.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
        saturation = k1 * (1 - b + b * lengths / max(lengths.mean(), 1e-9))
        weights = idf[counts.col] * counts.data * (k1 + 1) / (counts.data + saturation[counts.row])
        self.table = scipy.sparse.csr_matrix((weights, (counts.col, counts.row)), counts.shape[::-1])

    def scores(self, queries):
        """Returns float64 [Q, N], the scores of the documents for a list of queries."""
        rows, columns = [], []
        for number, query in enumerate(queries):
            known = [self.ids[word] for word in words_of(query.lower()) if word in self.ids]
            rows += [number] * len(known)
            columns += known
        shape = [len(queries), self.table.shape[0]]
        return (scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape) @ self.table).toarray()

    def top(self, queries, k=10):
        """Returns int64 [Q, k], the numbers of the best documents, the best first; of equals the first."""
        parts = [self.scores(queries[at : at + 256]) for at in range(0, len(queries), 256)]
        return np.concatenate([np.argsort(-part, axis=1, kind="stable")[:, :k] for part in parts])


def fit_crf(sentences, tags, *, iterations=100):
    """Fits a linear-chain conditional random field on what a word looks like and on its neighbours.

    Args:
        sentences: list of lists of str, words.
        tags: list of lists of str, a tag a word.
        iterations: int >= 1, of L-BFGS at most.

    Returns:
        A function of a list of sentences to a list of lists of tags.

    Raises:
        ImportError: when python-crfsuite is not installed.

    Source: Lafferty et al. 2001, Conditional Random Fields.
    """
    try:
        import pycrfsuite
    except ImportError as error:
        raise ImportError("the CRF needs python-crfsuite: pip install tfllm[tasks]") from error
    trainer = pycrfsuite.Trainer(algorithm="lbfgs", verbose=False)
    for words, row in zip(sentences, tags, strict=True):
        trainer.append(_crf_features(words), list(row))
    trainer.set_params({"c1": 0.05, "c2": 0.05, "max_iterations": iterations, "feature.possible_transitions": True})
    tagger = pycrfsuite.Tagger()
    with tempfile.TemporaryDirectory() as folder:  # the library trains into a file
        path = str(pathlib.Path(folder) / "model")
        trainer.train(path)
        tagger.open(path)  # reads it whole
    return lambda sentences: [tagger.tag(_crf_features(words)) if words else [] for words in sentences]


def _crf_features(words):
    """Returns list of lists of str, what a CRF sees of each word."""
    rows = []
    for number, word in enumerate(words):
        shape = re.sub(r"\d", "0", re.sub(r"[a-zß-öø-ÿ]", "a", re.sub(r"[A-ZÀ-ÖØ-Þ]", "A", word)))
        shape = re.sub(r"(.)\1+", r"\1+", shape)
        found = ["bias", f"word={word.lower()}", f"shape={shape}"]
        found += [f"prefix={word[:size].lower()}" for size in (1, 2, 3)] + [
            f"suffix={word[-size:].lower()}" for size in (1, 2, 3)
        ]
        for offset in (-2, -1, 1, 2):
            at = number + offset
            inside = 0 <= at < len(words)
            found.append(f"{offset:+d}={words[at].lower() if inside else '<edge>'}")
            if inside and abs(offset) == 1:
                found.append(f"{offset:+d}title={words[at][:1].isupper()}")
        rows.append(found)
    return rows


def most_frequent_answer(answers):
    """Learns to answer with the known answer that stands most often in the text asked about.

    Args:
        answers: list of str, those of training.

    Returns:
        A function of a context, str, to an answer, str; of equals the one commonest in training, and the commonest of all where
        the context has none.

    Raises:
        ValueError: when there is no answer.

    Example:
        >>> answer = most_frequent_answer(["Moses", "David", "David"])
        >>> answer("Moses went up. And Moses saw David."), answer("It rained.")
        ('Moses', 'David')
    """
    usual, counts = majority(answers), collections.Counter(answers)

    def answer(context):
        def rank(name):
            return len(re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", context)), counts[name]

        known = [name for name in counts if name in context]
        return max(known, key=rank) if known else usual

    return answer
