"""The parts of a Hugging Face `tokenizer.json` that all kinds of tokenizers read and write.

What is not built here is refused with the name of the field, rather than encoded differently from the library that wrote it.
"""

import functools
import json

from tfllm.text import splitters
from tfllm.text.added_tokens import FLAGS
from tfllm.text.normalizers import Normalizer

_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace("{1,3}", "")
_CL100K = (  # the same words as Llama 3's
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _bytes(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(regex):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def _sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


BYTE_LEVEL = _bytes(True)
_DIGITS = {"type": "Digits", "individual_digits": True}

# For every pattern: where words begin, and the pre_tokenizers that say so, the one that is written first.
_PATTERNS = {
    "characters": (splitters.split_characters, [_split(r"[\s\S]")]),
    "words": (splitters.split_words_and_signs, [{"type": "Whitespace"}]),
    "whitespace": (splitters.split_whitespace, [{"type": "WhitespaceSplit"}]),
    "bert": (splitters.split_bert, [{"type": "BertPreTokenizer"}]),
    "gpt2": (splitters.split_gpt2, [BYTE_LEVEL, _sequence(_split(_GPT2), _bytes(False))]),
    "gpt2_digits": (functools.partial(splitters.split_gpt2, digits=True), [_sequence(_DIGITS, BYTE_LEVEL)]),
    "llama3": (
        splitters.split_llama3,
        [_sequence(_split(regex), _bytes(False)) for regex in (_LLAMA3, _CL100K)],
    ),
    "qwen2": (functools.partial(splitters.split_llama3, digits=1), [_sequence(_split(_QWEN2), _bytes(False))]),
}
BYTE_PATTERNS = ("gpt2", "gpt2_digits", "llama3", "qwen2")
WORD_PATTERNS = ("words", "whitespace", "bert")


def splitter_named(pattern):
    """Returns the splitter of a pattern (see `splitters.py`)."""
    return _PATTERNS[pattern][0]


def check_pattern(pattern, allowed):
    """Raises ValueError unless `pattern` is one of `allowed`."""
    if pattern not in allowed:
        raise ValueError(f"pattern must be one of {allowed}; got {pattern!r}")


def pre_tokenizer_of(pattern):
    """Returns dict, the pre_tokenizer that cuts a text as a pattern does."""
    return _PATTERNS[pattern][1][0]


def pattern_of(document, allowed):
    """Returns str, the pattern of the pre_tokenizer of a tokenizer.json.

    Raises:
        ValueError: when it is none of those allowed.
    """
    found = document.get("pre_tokenizer")
    plain = _plain(found)
    for name in allowed:
        if plain in [_plain(known) for known in _PATTERNS[name][1]]:
            return name
    raise ValueError(f"tokenizer.json: pre_tokenizer must cut words as one of {allowed} does; got {json.dumps(found)}")


def _plain(part):
    """Returns a pre_tokenizer without what does not change its words."""
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Sequence":
        parts = [_plain(step) for step in part.get("pretokenizers", [])]
        return parts[0] if len(parts) == 1 else {"type": "Sequence", "parts": parts}
    defaults = {"use_regex": True} if part.get("type") == "ByteLevel" else {}
    return {name: value for name, value in (defaults | part).items() if name != "trim_offsets"}


def template_of(post_processor):
    """Returns (list of str, list of str): the special tokens that a post_processor puts before and after one text.

    Raises:
        ValueError: when it is not of a supported kind.
    """
    if post_processor is None or post_processor.get("type") == "ByteLevel":  # which only trims offsets
        return [], []
    kind = post_processor.get("type")
    if kind in ("BertProcessing", "RobertaProcessing"):
        return [post_processor["cls"][0]], [post_processor["sep"][0]]
    if kind == "Sequence":
        before, after = [], []
        for part in post_processor["processors"]:
            first, last = template_of(part)
            before, after = first + before, after + last
        return before, after
    if kind == "TemplateProcessing":
        parts, known = post_processor["single"], post_processor["special_tokens"]
        at = [index for index, part in enumerate(parts) if "Sequence" in part]
        if len(at) == 1:
            before, after = (
                [token for part in some for token in known[part["SpecialToken"]["id"]]["tokens"]]
                for some in (parts[: at[0]], parts[at[0] + 1 :])
            )
            return before, after
    raise ValueError(f"tokenizer.json: post_processor is not supported; got {json.dumps(post_processor)}")


def trims_offsets(post_processor):
    """Returns None, or, where a post_processor trims the blanks off the offsets, whether it spares a prefixed blank."""
    for part in (post_processor or {}).get("processors", [post_processor or {}]):
        if part.get("type") in ("ByteLevel", "RobertaProcessing") and part.get("trim_offsets", True):
            return bool(part.get("add_prefix_space", True))
    return None


def kind_of(document):
    """Returns str, the type of the model of a tokenizer.json; old files do not name it."""
    model = document["model"]
    if "type" in model:
        return model["type"]
    if "merges" in model:
        return "BPE"
    return "WordPiece" if "continuing_subword_prefix" in model or "max_input_chars_per_word" in model else "WordLevel"


def write_document(tokenizer, model, decoder):
    """Returns str, the tokenizer.json of a tokenizer.

    Args:
        tokenizer: a `Tokenizer`.
        model: dict, the model without its vocabulary.
        decoder: dict or None.
    """
    vocabulary = {token: index for index, token in enumerate(tokenizer.tokens)}
    whole = [(token, True) for token in tokenizer.special_tokens] + [(token, False) for token in tokenizer.added_tokens]
    added = [
        {"id": vocabulary[token], "content": token, "normalized": False, "special": special}
        | {flag: flag in tokenizer.token_flags.get(token, ()) for flag in FLAGS}
        for token, special in whole
    ]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": tokenizer.normalizer,
        "pre_tokenizer": pre_tokenizer_of(tokenizer.pattern),
        "post_processor": tokenizer.post_processor,
        "decoder": decoder,
        "model": model | {"vocab": vocabulary},
    }
    return json.dumps(document, ensure_ascii=False, indent=1)


def read_shared(document, patterns):
    """Reads what all kinds of tokenizers share.

    Args:
        document: dict, a tokenizer.json.
        patterns: tuple of str, the patterns that the kind can have.

    Returns:
        (list of str, dict): the tokens in the order of their ids, and the arguments that every kind takes.

    Raises:
        ValueError: when ids have gaps or repeat, or a part is not supported.
    """
    added = document.get("added_tokens") or []
    for token in added:
        if token.get("normalized") and Normalizer(document.get("normalizer")).steps:
            raise ValueError(
                f"tokenizer.json: added_tokens must not be normalized where there is a normalizer; got {token['content']!r}"
            )
    vocabulary = dict(document["model"]["vocab"]) | {token["content"]: token["id"] for token in added}
    tokens = sorted(vocabulary, key=vocabulary.get)
    if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError(f"tokenizer.json: ids must run from 0 to {len(tokens) - 1} without a gap; got others")
    added = sorted(added, key=lambda token: token["id"])
    return tokens, {
        "special_tokens": tuple(token["content"] for token in added if token.get("special")),
        "added_tokens": tuple(token["content"] for token in added if not token.get("special")),
        "token_flags": {
            token["content"]: tuple(flag for flag in FLAGS if token.get(flag))
            for token in added
            if any(token.get(flag) for flag in FLAGS)
        },
        "pattern": pattern_of(document, patterns),
        "normalizer": document.get("normalizer"),
        "post_processor": document.get("post_processor"),
    }


def refuse_unless(part, **allowed):
    """Refuses a part of a tokenizer.json that asks for what is not built here, rather than encode differently."""
    for name, values in allowed.items():
        if part.get(name) not in values:
            raise ValueError(f"tokenizer.json: {name} must be one of {values}; got {part.get(name)!r}")
