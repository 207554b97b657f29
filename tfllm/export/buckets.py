"""Decoding by XLA inside of a SavedModel.

XLA compiles for fixed shapes, so prompts, rows, new tokens and lists are padded to powers of two in the graph, and each new
combination of them compiles when it is first asked for; as `TextGenerator` does it, and `settings.pad_settings`.
"""

import tensorflow as tf

from tfllm.generation.settings import take_rows

_LEAST = 16  # tokens of prompts, and new ones
_FRONT = ("banned", "stop")  # lists that are compared from their ends


def search_in_buckets(search, reader, request, options, always_fits):
    """Runs a search by XLA, but in the graph where a request has a time limit (XLA has no clock) or no prompts.

    One row that draws one text, texts that fit into the model, and all else have programs of their own, because the first two
    need much less: see `layers/projection.py` and `generation/loop.py`.

    Args:
        search: function of (model, request, options, deadline or None) to what `Strategy.search` returns.
        reader: `Reader`.
        request: dict, as of `Reader.read`.
        options: dict of tensors that the search takes.
        always_fits: bool, whether requests that go beyond the model were refused.

    Returns:
        what the search returns for the request as it was.
    """
    limit, num = reader.model.max_length, options.get("num_sequences")
    longest_source = getattr(reader.model, "max_source_length", None)

    def by_xla(model, one_row=False):
        def program(request, options):
            if one_row:
                request, options = _as_one_row(request), options | {"num_sequences": 1}
            return search(model, request, options)

        compiled = tf.function(program, jit_compile=True, autograph=False)

        def run():
            lengths, capacity = request["prompts"]["lengths"], request["capacity"]
            room = power_of_two(capacity, _LEAST)
            padded = {
                "prompts": _pad_prompts(request["prompts"], longest_source),
                "settings": _pad_settings(request["settings"]),
            }
            found = compiled(padded | {"capacity": room}, options)
            rows = tf.shape(found["count"])[0] // tf.shape(padded["prompts"]["lengths"])[0] * tf.size(lengths)
            return {
                name: x[:rows] if x.shape.rank == 1 else x[:rows, :capacity]
                for name, x in found.items()
                if x.shape.rank
            }

        return run

    def in_graph():
        found = search(reader.model, request, options, request["deadline"])
        return {name: x for name, x in found.items() if x.shape.rank}

    rows = tf.size(request["prompts"]["lengths"])
    ways = [((request["deadline"] < float("inf")) | (rows == 0), in_graph)]
    if not always_fits and limit is not None:
        longest = tf.reduce_max(request["prompts"]["lengths"])
        ways.append((longest + request["capacity"] > limit, by_xla(reader.model)))
    if num is not None:
        ways.append(((rows == 1) & (num == 1), by_xla(reader.within, one_row=True)))
    return tf.case(ways, by_xla(reader.within))


def power_of_two(size, least=1):
    """Returns int32, the smallest of `least`, 2 `least`, 4 `least`, ... that is not below `size` (int32 scalar)."""
    powers = tf.constant([least << i for i in range(31) if least << i < 2**31])
    return tf.reduce_min(tf.where(powers >= size, powers, tf.int32.max))


def _as_one_row(request):
    """Returns a request of one row whose shapes say so."""

    def known(name, x):
        return x if name == "next_state" else tf.ensure_shape(x, [1, *x.shape[1:]])

    parts = {part: {name: known(name, x) for name, x in request[part].items()} for part in ("prompts", "settings")}
    return request | parts


def _pad_prompts(prompts, limit):
    """Pads int32 [B, P] and [B], sources to no more than `limit` (int or None); rows without a token end at once."""
    padded = {}
    for name, x in prompts.items():
        missing = [power_of_two(tf.shape(x)[0]) - tf.shape(x)[0]]
        if x.shape.rank == 2:
            least = 1 if "source" in prompts and name.endswith("ids") else _LEAST  # texts begin with one token
            width = power_of_two(tf.shape(x)[1], least)
            if name.endswith("source") and limit is not None:
                width = tf.minimum(width, limit)
            missing.append(width - tf.shape(x)[1])
        padded[name] = tf.pad(x, [[0, n] for n in missing])
    return padded


def _pad_settings(settings):
    """Repeats a row, and pads lists that are given; every word has room for one token or byte."""
    batch = tf.shape(settings["seed"])[0]
    rows = tf.minimum(tf.range(power_of_two(batch)), batch - 1)
    padded = {}
    for name, x in take_rows(settings, rows).items():
        paddings = [[0, 0]]
        if name == "next_state":
            size = tf.shape(x)[0]
            paddings = [[0, tf.where(size > 0, power_of_two(size) - size, 0)]]
        for axis in range(1, x.shape.rank):
            size = tf.shape(x)[axis]
            if name == "next_state":
                missing = 0
            elif axis == 2:
                missing = power_of_two(size) - size
            else:
                missing = tf.where(size > 0, power_of_two(size) - size, 0)
            paddings.append([missing, 0] if name in _FRONT and axis == 2 else [0, missing])
        fill = 0.0 if name == "bias_values" else -1
        padded[name] = tf.pad(x, paddings, constant_values=fill) if x.shape.rank > 1 else x
    return padded
