"""How different texts are from one another. No text has a share of these numbers alone, so they are functions, not metrics.

Sources: Li et al. 2016, arXiv:1510.03055 (distinct-n); Zhu et al. 2018, arXiv:1802.01886 (self-BLEU).
"""

import numpy as np

from tfllm.evaluation.answers import check_unit, split_units
from tfllm.evaluation.overlap import TOKENIZERS, need_sacrebleu


def distinct_n(texts, n=1, *, unit="word"):
    """Says which share of all n-grams of texts are different ones.

    Args:
        texts: list of str.
        n: int >= 1.
        unit: "word" (between white space) or "character" (but white space).

    Returns:
        float in [0, 1]; 0 where no text has n units. It falls with the length of the texts: compare equally long ones.

    Raises:
        ValueError: when an argument breaks its rule.

    Example:
        >>> distinct_n(["a b a b", "a b"], 2)
        0.5
    """
    texts = _check_list(texts)
    check_unit(unit)
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be an int of at least 1; got {n!r}")
    grams = []
    for text in texts:
        units = split_units(text, unit)
        grams += zip(*(units[at:] for at in range(n)), strict=False)
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts, *, tokenize="13a", max_order=4):
    """Says how much texts repeat one another: the mean BLEU of each with all others as its references.

    Needs `sacrebleu`. The time grows with the square of the number of texts: a hundred are plenty.

    Args:
        texts: list of at least two str, none empty.
        tokenize: as for `Bleu`.
        max_order: int >= 1, the longest n-grams.

    Returns:
        float, 0 (nothing is shared) to 100 (all are the same).

    Raises:
        ValueError: when an argument breaks its rule.

    Example:
        >>> print(f'{self_bleu(["a cat sat on a mat", "a cat sat on a mat"]):.1f}')
        100.0
    """
    texts = _check_list(texts)
    if len(texts) < 2 or not all(text.strip() for text in texts):
        raise ValueError(f"texts must be at least two that are not empty; got {len(texts)}: {texts!r:.80}")
    if tokenize not in TOKENIZERS:
        raise ValueError(f"tokenize must be one of {TOKENIZERS}; got {tokenize!r}")
    if max_order < 1:
        raise ValueError(f"max_order must be at least 1; got {max_order}")
    bleu = need_sacrebleu("self_bleu").BLEU(
        force=True, effective_order=True, tokenize=tokenize, max_ngram_order=max_order
    )
    return float(
        np.mean([bleu.sentence_score(text, texts[:at] + texts[at + 1 :]).score for at, text in enumerate(texts)])
    )


def _check_list(texts):
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"texts must be a list of str, at least one; got {texts!r:.80}")
    return list(texts)
