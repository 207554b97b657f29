"""Prompts and their answers as batches: what preference and reward losses read, and supervised training on answers alone."""

import numpy as np

from tfllm.text.tokenizers import check_ids


def answer_batch(prompts, answers, tokenizer=None, *, end_id=None, length=None):
    """Lays prompts and answers out as rows of which only the answers count.

    Args:
        prompts: list of N str or of N lists of ids, each of at least one id.
        answers: the same, one for each prompt.
        tokenizer: a tokenizer; needed for str. Prompt and answer are encoded one by one.
        end_id: int, what stands behind every answer and counts; None for the tokenizer's, where it has one; -1 for nothing.
        length: int T, ids of a row without the last one; None for the longest.

    Returns:
        `(inputs int32 [N, T], targets int32 [N, T], weights float32 [N, T])` as NumPy arrays, padded on the right with 0; the
        weights are 1 on the answers.

    Raises:
        ValueError: when there are no rows or not as many answers as prompts, a prompt is empty, an id is out of the vocabulary,
            or a row does not fit.

    Example:
        >>> inputs, targets, weights = answer_batch([[5, 6], [7]], [[8], [9, 9]], end_id=1)
        >>> targets.tolist(), weights.tolist()
        ([[6, 8, 1], [9, 9, 1]], [[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    """
    prompts, answers = encode_all("prompts", prompts, tokenizer), encode_all("answers", answers, tokenizer)
    if not prompts or len(prompts) != len(answers):
        raise ValueError(f"answers must be as many as prompts, at least one; got {len(answers)} for {len(prompts)}")
    if end_id is None:
        end_id = -1 if tokenizer is None else tokenizer.end_id
    ends = [] if end_id < 0 else [end_id]
    return rows_of(prompts, [[*answer, *ends] for answer in answers], length)


def rows_of(prompts, answers, length=None):
    """Returns the batch of ids as they are; arguments and errors as for `answer_batch`."""
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompts must have at least one id each; got none in number {number}")
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)) - 1
    length = longest if length is None else length
    if longest > length:
        raise ValueError(f"length must be at least that of the longest row, {longest}; got {length}")
    ids, weights = np.zeros([len(prompts), length + 1], np.int32), np.zeros([len(prompts), length], np.float32)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, : len(prompt) + len(answer)] = [*prompt, *answer]
        weights[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = 1
    return ids[:, :-1], ids[:, 1:], weights


def encode_all(name, texts, tokenizer):
    """Returns list of lists of ids, of a list of str or of ids; `name` is what the caller calls them.

    Raises:
        ValueError: when they are neither, text comes without a tokenizer, or an id is out of the vocabulary.
    """
    if isinstance(texts, str):
        raise ValueError(f"{name} must be a list of str or of ids; got one str")
    texts = list(texts)
    if texts and all(isinstance(text, str) for text in texts):
        if tokenizer is None:
            raise ValueError(f"tokenizer must be given when {name} are text; got None")
        return tokenizer.encode(texts).to_list()
    rows = []
    for text in texts:
        ids = np.asarray(text)
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise ValueError(f"{name} must be all str, or all ids [N]; got {ids.dtype} of shape {list(ids.shape)}")
        check_ids(name, ids, np.iinfo(np.int32).max if tokenizer is None else tokenizer.vocab_size)
        rows.append(ids.tolist())
    return rows
