"""BLEU and chrF, by `sacrebleu`: its own statistics of every sentence, added up, and its own scores of the sums.

Scores are on its scale, 0 to 100. It is needed where these are used: `pip install "tfllm[evaluation]"`.

Sources: Papineni et al. 2002; Popović 2015, 2017; Post 2018, arXiv:1804.08771.
"""

import abc
import dataclasses
import functools

import numpy as np

from tfllm.evaluation.metric import Metric, check_texts

TOKENIZERS = ("13a", "intl", "zh", "char", "none")
SMOOTHINGS = ("exp", "floor", "add-k", "none")


def need_sacrebleu(what):
    """Returns the module `sacrebleu`, or raises ImportError with what to install."""
    try:
        import sacrebleu
    except ImportError as error:
        raise ImportError(f'{what} needs sacrebleu: pip install "tfllm[evaluation]"') from error
    return sacrebleu


@dataclasses.dataclass(frozen=True)
class _BySacrebleu(Metric):
    @property
    @abc.abstractmethod
    def outside(self):
        """The metric object of sacrebleu."""

    def statistics(self, references, predictions):
        references, predictions = check_texts(references, predictions, several=True)
        for at, texts in enumerate(references):
            if not all(text.strip() for text in texts):
                raise ValueError(f"references must not be empty texts; got {texts!r:.80} in number {at}")
        most = max(map(len, references))
        streams = [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]
        return np.array(self.outside._extract_corpus_statistics(predictions, streams), np.float64)

    def score(self, sums):
        sums = np.asarray(sums, np.float64)
        rows = sums.reshape(-1, self.num_statistics).tolist()
        scores = [self.outside._compute_score_from_stats(row).score for row in rows]
        return np.array(scores).reshape(sums.shape[:-1])


@dataclasses.dataclass(frozen=True)
class Bleu(_BySacrebleu):
    """Corpus BLEU, 0 to 100: how many word n-grams of the predictions are in a reference, times a penalty for brevity.

    A reference is a str, or a list of them. The score of one example is sentence BLEU, which says little.

    Args:
        tokenize: "13a" (as WMT), "intl", "zh" for Chinese, "char" or "none".
        lowercase: bool.
        smoothing: "exp", "floor", "add-k" or "none", what n-grams without a match count as.
        max_order: int >= 1, the longest n-grams.

    Example:
        >>> print(f'{Bleu()(["the cat is on the mat"], ["the cat is on a mat"]):.2f}')
        53.73
    """

    tokenize: str = "13a"
    lowercase: bool = False
    smoothing: str = "exp"
    max_order: int = 4
    name = "bleu"

    def __post_init__(self):
        for name, known in (("tokenize", TOKENIZERS), ("smoothing", SMOOTHINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}; got {getattr(self, name)!r}")
        if self.max_order < 1:
            raise ValueError(f"max_order must be at least 1; got {self.max_order}")

    @property
    def num_statistics(self):
        return 2 + 2 * self.max_order

    @functools.cached_property
    def outside(self):
        return need_sacrebleu("Bleu").BLEU(
            lowercase=self.lowercase,
            force=True,  # which only leaves out a warning
            tokenize=self.tokenize,
            smooth_method=self.smoothing,
            max_ngram_order=self.max_order,
        )


@dataclasses.dataclass(frozen=True)
class ChrF(_BySacrebleu):
    """Corpus chrF, 0 to 100: an F score of character n-grams, without white space; for Chinese as for English.

    A reference is a str, or a list of them.

    Args:
        char_order: int >= 1, the longest n-grams of characters.
        word_order: int >= 0, the longest n-grams of words: 2 makes it chrF++.
        beta: int >= 1, how much more recall counts than precision.
        lowercase: bool.

    Example:
        >>> ChrF()(["the cat"], ["the cat"])
        100.0
    """

    char_order: int = 6
    word_order: int = 0
    beta: int = 2
    lowercase: bool = False

    def __post_init__(self):
        for name, least in (("char_order", 1), ("word_order", 0), ("beta", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")

    @property
    def name(self):
        return "chrf" + "+" * self.word_order

    @property
    def num_statistics(self):
        return 3 * (self.char_order + self.word_order)

    @functools.cached_property
    def outside(self):
        return need_sacrebleu("ChrF").CHRF(
            char_order=self.char_order, word_order=self.word_order, beta=self.beta, lowercase=self.lowercase
        )
