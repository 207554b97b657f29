"""Heads as functions of strings: a class, entities, an answer, a vector; in Python, and as one SavedModel for TensorFlow alone.

A predictor reads texts as `data/labelled.py` reads them for training, so its settings must be those of the training data. Texts
that are longer than the model are cut into windows where the answer has a place (entities, answers); elsewhere they lose
their ends, and the output `truncated` says so.
"""

import pathlib

import numpy as np
import tensorflow as tf

from tfllm.data.windows import span_windows, special_ids, split_words, text_rows, word_windows
from tfllm.export.model_card import describe_endpoints, fingerprint, parameters
from tfllm.export.requests import not_empty, optional, refuse, text_input
from tfllm.export.saved_model import check_free, write_saved_model
from tfllm.export.signatures import make_endpoint
from tfllm.layers.crf import bio_parts
from tfllm.models.heads import SentenceEmbedder, SpanExtractor, TextClassifier, TokenTagger

_TRUNCATED = "bool [B], which texts were longer than the model and lost their ends"
_SETTINGS = {
    TextClassifier: ("labels", "max_length", "add_special_tokens"),
    TokenTagger: ("labels", "max_length", "stride", "separator", "piece", "pattern", "add_special_tokens"),
    SpanExtractor: ("max_length", "stride", "max_question", "separator"),
    SentenceEmbedder: ("max_length", "add_special_tokens"),
}


def make_predictor(model, tokenizer, **settings):
    """Makes the functions of strings that a head is.

    Args:
        model: a `TextClassifier`, `TokenTagger`, `SpanExtractor` or `SentenceEmbedder`.
        tokenizer: its tokenizer.
        **settings: those of the data set that it was trained on.
            - labels: list, the names of classes or tags in the order of their numbers; for classes and tags.
            - max_length: int, the most ids of a row; None for the model's own.
            - add_special_tokens: bool, for all but answers.
            - stride: int, for tags and answers; separator: str, for tags (between words) and answers (a token).
            - piece, pattern: str, for tags: see `data.word_windows` and `data.split_words`.
            - max_question: int, for answers.

    Returns:
        dict of str to `Endpoint`, whose `function` takes strings and returns a dict of tensors: `classify(texts)`,
        `tag(texts)`, `answer(questions, contexts)`, or `embed(texts)` and `similarity(firsts, seconds)`. `run_predictor` turns
        what they return into Python's values.

    Raises:
        ValueError: on another model, an unknown setting, or labels that are not as many as the model's.

    Example:
        >>> tokenizer = tfllm.CharTokenizer("ab")
        >>> model = TextClassifier(tfllm.models.TransformerEncoder(3, dim=8, num_layers=1, num_heads=2), 2)
        >>> classify = make_predictor(model, tokenizer, labels=["good", "bad"])["classify"]
        >>> sorted(classify.function(tf.constant(["ab", "b"])))
        ['label', 'probabilities', 'probability', 'truncated']
    """
    kind = next((kind for kind in _SETTINGS if isinstance(model, kind)), None)
    if kind is None:
        names = tuple(one.__name__ for one in _SETTINGS)
        raise ValueError(f"model must be one of {names}; got a {type(model).__name__}")
    unknown = set(settings) - set(_SETTINGS[kind])
    if unknown:
        raise ValueError(f"settings of a {kind.__name__} must be among {_SETTINGS[kind]}; got {sorted(unknown)}")
    if tokenizer.vocab_size > model.vocab_size:
        raise ValueError(f"tokenizer must have at most the model's {model.vocab_size} ids; got {tokenizer.vocab_size}")
    settings = {"max_length": model.max_length} | {k: v for k, v in settings.items() if v is not None}
    make = {
        TextClassifier: _make_classify,
        TokenTagger: _make_tag,
        SpanExtractor: _make_answer,
        SentenceEmbedder: _make_embed,
    }
    return make[kind](model, tokenizer, **settings)


def run_predictor(endpoint, *columns, batch_size=32, **options):
    """Runs a predictor on lists of str and returns Python's values.

    Args:
        endpoint: an `Endpoint` of `make_predictor`.
        *columns: lists of str, one for each input that must be given.
        batch_size: int >= 1, texts that are run at a time.
        **options: further inputs, such as `max_answer`.

    Returns:
        list of dicts, one a text, with the outputs: str, float, bool, or lists of them. For entities, each dict has a list under
        "entities", of dicts.

    Example:
        >>> tokenizer = tfllm.CharTokenizer("ab")
        >>> model = TextClassifier(tfllm.models.TransformerEncoder(3, dim=8, num_layers=1, num_heads=2), 2)
        >>> rows = run_predictor(make_predictor(model, tokenizer, labels=["x", "y"])["classify"], ["ab", "b", "aab"])
        >>> len(rows), rows[0]["label"] in ("x", "y")
        (3, True)
    """
    if not columns or any(isinstance(column, str) or len(column) != len(columns[0]) for column in columns):
        raise ValueError(f"columns must be lists of str of one length; got {columns!r:.80}")
    options = {name: tf.constant(value, endpoint.inputs[name].spec.dtype) for name, value in options.items()}
    found = []
    for i in range(0, len(columns[0]), batch_size):
        some = [tf.constant(list(column[i : i + batch_size]), tf.string) for column in columns]
        outputs = {name: _plain(value) for name, value in endpoint.function(*some, **options).items()}
        counts = outputs.pop("count", None)
        rows = [{name: values[k] for name, values in outputs.items()} for k in range(len(some[0]))]
        if counts is not None:
            names = [name for name in outputs if name != "truncated"]
            rows = [
                {"entities": [{name: row[name][j] for name in names} for j in range(count)]}
                for row, count in zip(rows, counts, strict=True)
            ]
        found += rows
    return found


def save_predictor(model, tokenizer, path, *, force=False, **settings):
    """Writes a SavedModel from strings to what a head says of them, with tokenizer and weights, that needs TensorFlow alone.

    `tf.saved_model.load(path).classify(["..."])` returns what `make_predictor(...)["classify"].function` returns; the first
    function is also `serving_default`. `assets/` holds `tokenizer.json` and `model_card.md`. The folder appears whole or not at
    all.

    Args:
        model, tokenizer, **settings: as for `make_predictor`.
        path: str or path of a folder that does not exist yet, or is empty.
        force: bool, whether a SavedModel that stands there may be replaced.

    Raises:
        ValueError: as `make_predictor` does.
        FileExistsError: when something stands at `path` and `force` does not allow to replace it.
    """
    path = pathlib.Path(path)
    check_free(path, force)
    endpoints = make_predictor(model, tokenizer, **settings)
    module = tf.Module()
    # The variables themselves: a Keras model in here would store every weight twice and break `saved_model_cli`.
    module.model_weights = [weight.value for weight in model.weights]
    module.tokenizer = tokenizer
    functions = {name: endpoint.function for name, endpoint in endpoints.items()}
    for name, function in functions.items():
        setattr(module, name, function)
    functions["serving_default"] = next(iter(functions.values()))
    assets = {"tokenizer.json": tokenizer.to_json(), "model_card.md": _card(model, tokenizer, endpoints, settings)}
    write_saved_model(module, functions, assets, path)


def _make_classify(model, tokenizer, labels=None, **settings):
    labels = _checked_labels(labels, model.num_labels)
    read = _reader(tokenizer, **settings)

    def call(inputs):
        rows, cut = read("texts", inputs["texts"])
        shares = tf.nn.softmax(model(rows))
        best = tf.argmax(shares, 1, tf.int32)
        return {
            "label": tf.gather(labels, best),
            "probability": tf.gather(shares, best, batch_dims=1),
            "probabilities": shares,
            "truncated": cut,
        }

    outputs = {
        "label": "string [B], the likeliest class",
        "probability": "float32 [B], of that class",
        "probabilities": f"float32 [B, {model.num_labels}], of {', '.join(map(bytes.decode, labels.numpy()))}",
        "truncated": _TRUNCATED,
    }
    inputs = {"texts": text_input("texts", "texts, each with a token")}
    return {"classify": make_endpoint(call, inputs, outputs, "says to which class texts belong")}


def _make_tag(model, tokenizer, labels=None, pattern="words", **settings):
    names = _checked_labels(model.tag_names if labels is None else labels, model.num_labels)
    plain = [name.decode() for name in names.numpy()]
    bio = model.tag_names is not None
    parts = [bio_parts(name) if bio else ("B", name) for name in plain]
    kinds = sorted({kind for _, kind in parts})
    mark_of = tf.constant(["OBI".index(mark) for mark, _ in parts])
    kind_of, kinds = tf.constant([kinds.index(kind) for _, kind in parts]), tf.constant(kinds)
    outside = tf.constant([0.0 if not bio or mark == "O" else -1e4 for mark, _ in parts])  # of words that are no token

    def call(inputs):
        texts = _checked_texts(["texts"], [inputs["texts"]])[0]
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
        words, starts, ends = split_words(texts, pattern)
        batch, counts = tf.shape(texts)[0], tf.cast(words.row_lengths(), tf.int32)
        with tf.control_dependencies([refuse([_all(counts > 0, "texts must have at least one word each")])]):
            cut = word_windows(tokenizer, words, **settings)
        tagged = tf.where(cut["word"] >= 0)
        places = tf.stack(
            [tf.gather(cut["row"], tagged[:, 0]), tf.gather_nd(cut["word"], tagged)], 1
        )  # text and word of each token that says a tag
        width = tf.reduce_max(tf.concat([counts, [1]], 0))
        logits = tf.tile(outside[None, None], [batch, width, 1])
        logits = tf.tensor_scatter_nd_update(
            logits, places, tf.gather_nd(model({"ids": cut["ids"], "lengths": cut["lengths"]}), tagged)
        )
        tags = model.decode(logits, counts)  # [B, W]
        shares = tf.gather(model.shares(logits, counts), tags, batch_dims=2)
        real = tf.sequence_mask(counts, width)
        mark, kind = tf.where(real, tf.gather(mark_of, tags), 0), tf.gather(kind_of, tags)
        before, kind_before = (tf.pad(values[:, :-1], [[0, 0], [1, 0]]) for values in (mark, kind))
        begins = (mark == 1) | ((mark == 2) & ((before == 0) | (kind != kind_before)))
        number = tf.cumsum(tf.cast(begins, tf.int32), axis=1) - 1  # of the entity
        found = tf.reduce_sum(tf.cast(begins, tf.int32), 1)
        most = tf.reduce_max(tf.concat([found, [0]], 0))
        inside = tf.where(mark > 0)
        entity = tf.gather_nd(number, inside) + tf.cast(inside[:, 0], tf.int32) * most

        def each(values, reduce):
            values = tf.gather_nd(values, inside)
            joined = tf.reshape(reduce(values, entity, batch * most), [batch, most])
            return tf.where(tf.sequence_mask(found, most), joined, tf.zeros([], joined.dtype))

        first = each(starts.to_tensor(shape=[None, None]), tf.math.unsorted_segment_min)
        last = each(ends.to_tensor(shape=[None, None]), tf.math.unsorted_segment_max)
        some = tf.sequence_mask(found, most)
        types = tf.where(some, tf.gather(kinds, each(kind, tf.math.unsorted_segment_max)), "")
        pieces = tf.strings.substr(tf.repeat(texts[:, None], most, 1), first, last - first, unit="UTF8_CHAR")
        return {
            "type": types,
            "text": pieces,
            "start": first,
            "end": last,
            "score": each(shares, tf.math.unsorted_segment_min),
            "count": found,
        }

    outputs = {
        "type": 'string [B, E], of each entity, "" behind the last',
        "text": "string [B, E]",
        "start": "int32 [B, E], its first character",
        "end": "int32 [B, E], the character behind it",
        "score": "float32 [B, E], the smallest probability of its words' tags",
        "count": "int32 [B], how many entities each text has",
    }
    inputs = {"texts": text_input("texts", "texts, each with a word")}
    return {"tag": make_endpoint(call, inputs, outputs, "finds entities in texts")}


def _make_answer(model, tokenizer, **settings):
    def call(inputs):
        questions, contexts = _checked_texts(["questions", "contexts"], [inputs["questions"], inputs["contexts"]])
        contexts = tf.strings.unicode_transcode(contexts, "UTF-8", "UTF-8", errors="replace")
        rule = _all(inputs["max_answer"] >= 1, "max_answer must be at least 1")
        with tf.control_dependencies([refuse([rule])]):
            cut = span_windows(tokenizer, questions, contexts, **settings)
        names = ("ids", "lengths", "segments", "context_starts", "context_lengths")
        spans = model.spans({name: cut[name] for name in names}, max_length=inputs["max_answer"])
        batch = tf.shape(questions)[0]
        best = tf.math.unsorted_segment_max(spans["score"], cut["row"], batch)  # [B]
        is_best = spans["score"] >= tf.gather(best, cut["row"])
        window = tf.math.unsorted_segment_min(
            tf.where(is_best, tf.range(tf.size(is_best)), tf.int32.max), cut["row"], batch
        )
        start, end = (tf.gather(spans[name], window) for name in ("start", "end"))
        some = start >= 0
        first = tf.gather(tf.gather(cut["char_starts"], window), tf.maximum(start, 0), batch_dims=1)
        last = tf.gather(tf.gather(cut["char_ends"], window), tf.maximum(end, 0), batch_dims=1)
        first, last = tf.where(some, first, 0), tf.where(some, last, 0)
        # A token may begin with the blank before its word.
        piece = tf.strings.substr(contexts, first, last - first, unit="UTF8_CHAR")
        bare = tf.strings.regex_replace(piece, r"^\s+", "")
        first += tf.strings.length(piece, "UTF8_CHAR") - tf.strings.length(bare, "UTF8_CHAR")
        bare = tf.strings.regex_replace(bare, r"\s+$", "")
        return {
            "answer": bare,
            "score": tf.gather(spans["score"], window),
            "start": first,
            "end": first + tf.strings.length(bare, "UTF8_CHAR"),
            "truncated": cut["long_questions"],
        }

    outputs = {
        "answer": "string [B], the words of the text that answer best",
        "score": "float32 [B], nats, how much likelier they are than no answer",
        "start": "int32 [B], their first character in the text",
        "end": "int32 [B], the character behind them",
        "truncated": "bool [B], which questions were too long and lost their ends",
    }
    inputs = {
        "questions": text_input("questions", "questions, none of them empty"),
        "contexts": text_input("contexts", "a text for each question, none of them empty"),
        "max_answer": optional("max_answer", tf.int32, [], 30, "the most tokens of an answer, at least 1"),
    }
    return {"answer": make_endpoint(call, inputs, outputs, "finds answers to questions in texts")}


def _make_embed(model, tokenizer, **settings):
    read = _reader(tokenizer, **settings)

    def embed(inputs):
        rows, cut = read("texts", inputs["texts"])
        return {"embedding": model(rows), "truncated": cut}

    def compare(inputs):
        firsts, seconds = _checked_texts(["firsts", "seconds"], [inputs["firsts"], inputs["seconds"]])
        rows, cut = read("firsts and seconds", tf.concat([firsts, seconds], 0))
        first, second = tf.split(tf.math.l2_normalize(model(rows), 1), 2)
        cut = tf.reduce_any(tf.reshape(cut, [2, -1]), 0)
        return {"cosine": tf.reduce_sum(first * second, 1), "truncated": cut}

    pairs = {
        "firsts": text_input("firsts", "texts, each with a token"),
        "seconds": text_input("seconds", "a text for each of them"),
    }
    cosines = {"cosine": "float32 [B], in [-1, 1]", "truncated": _TRUNCATED}
    texts = {"texts": text_input("texts", "texts, each with a token")}
    vectors = {"embedding": "float32 [B, D]", "truncated": _TRUNCATED}
    return {
        "embed": make_endpoint(embed, texts, vectors, "makes vectors of texts"),
        "similarity": make_endpoint(compare, pairs, cosines, "says how close two texts are"),
    }


def _reader(tokenizer, **settings):
    """Returns a function of a name and texts string [B] that gives inputs of a head and bool [B], which texts were cut."""
    specials = sum(map(len, special_ids(tokenizer))) if settings.get("add_special_tokens", True) else 0

    def read(name, texts):
        (texts,) = _checked_texts([name], [texts])
        rows, cut = text_rows(tokenizer, texts, **settings)
        rule = _all(rows.row_lengths() > specials, f"{name} must have at least one token each")
        with tf.control_dependencies([refuse([rule])]):
            ids = rows.to_tensor()
        return {"ids": ids, "lengths": tf.cast(rows.row_lengths(), tf.int32)}, cut

    return read


def _checked_texts(names, columns):
    """Returns lists of strings [B] as they are, which must be as many, and none of them empty."""
    rules = [not_empty(name, texts) for name, texts in zip(names, columns, strict=True)]
    if len(columns) > 1:
        rules.append(_all(tf.size(columns[0]) == tf.size(columns[1]), f"{names[1]} must be as many as {names[0]}"))
    with tf.control_dependencies([refuse(rules)]):
        return [tf.identity(texts) for texts in columns]


def _all(holds, sentence):
    """Returns, for `refuse`, the rule that all of `holds` are true."""
    return tf.reduce_all(holds), lambda: tf.constant(sentence)


def _checked_labels(labels, number):
    if labels is None or isinstance(labels, str) or len(labels) != number or len(set(labels)) != number:
        raise ValueError(f"labels must be {number} different names, one a number of the model; got {labels!r:.80}")
    return tf.constant([str(label) for label in labels])


def _plain(values):
    """Turns a tensor into Python's values, bytes into str."""

    def decoded(value):
        if isinstance(value, list):
            return [decoded(one) for one in value]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    return decoded(values.numpy().tolist())


def _card(model, tokenizer, endpoints, settings):
    """Returns str, Markdown: the model, its settings, every signature with its inputs and outputs."""
    numbers = sum(int(np.prod(weight.shape)) for weight in parameters(model))
    name, endpoint = next(iter(endpoints.items()))
    given = ", ".join(f'{key}=["..."]' for key, one in endpoint.inputs.items() if one.default is None)
    facts = {
        "model": f"`{type(model).__name__}` on `{type(model.backbone).__name__}`",
        "parameters": f"{numbers:,}",
        "longest text": "no limit" if model.max_length is None else f"{model.max_length:,} tokens",
        "tokenizer": f"`{type(tokenizer).__name__}`, {tokenizer.vocab_size:,} tokens",
        "settings": ", ".join(f"`{key}={value!r}`" for key, value in settings.items()) or "none",
        "weights": f"SHA-256 `{fingerprint(model)}`",
    }
    lines = [f"# {type(model).__name__}", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    lines += ["", "```python", "import tensorflow as tf", "", f'tf.saved_model.load("PATH").{name}({given})', "```"]
    return "\n".join([*lines, *describe_endpoints(endpoints)]) + "\n"
