"""Decoding by XLA inside of a SavedModel.

XLA compiles for fixed shapes, so prompts, rows, new tokens and lists are padded to powers of two in the graph, and each new
combination of them compiles when it is first asked for; as `TextGenerator` does it, and `settings.pad_settings`.
"""

import tensorflow as tf

from tfllm.generation.settings import take_rows

_LEAST = 16  # tokens of prompts, and new ones
_FRONT = ("banned", "stop")  # lists that are compared from their ends


def search_in_buckets(search, request, options):
    """Runs a search by XLA, but in the graph where a request has a time limit (XLA has no clock) or no prompts.

    Args:
        search: function of (request, options, deadline or None) to what `Strategy.search` returns.
        request: dict, as of `Reader.read`.
        options: nest of tensors that the search takes.

    Returns:
        what the search returns for the request as it was.
    """
    compiled = tf.function(lambda *inputs: search(*inputs, None), jit_compile=True, autograph=False)

    def by_xla():
        lengths, capacity = request["prompts"]["lengths"], request["capacity"]
        room = power_of_two(capacity, _LEAST)
        padded = {"prompts": _pad_prompts(request["prompts"]), "settings": _pad_settings(request["settings"])}
        found = compiled(padded | {"capacity": room}, options)
        rows = tf.shape(found["count"])[0] // tf.shape(padded["prompts"]["lengths"])[0] * tf.size(lengths)
        return {
            name: x[:rows] if x.shape.rank == 1 else x[:rows, :capacity] for name, x in found.items() if x.shape.rank
        }

    def in_graph():
        found = search(request, options, request["deadline"])
        return {name: x for name, x in found.items() if x.shape.rank}

    nothing = tf.size(request["prompts"]["lengths"]) == 0
    return tf.cond((request["deadline"] < float("inf")) | nothing, in_graph, by_xla)


def power_of_two(size, least=1):
    """Returns int32, the smallest of `least`, 2 `least`, 4 `least`, ... that is not below `size` (int32 scalar)."""
    powers = tf.constant([least << i for i in range(31) if least << i < 2**31])
    return tf.reduce_min(tf.where(powers >= size, powers, tf.int32.max))


def _pad_prompts(prompts):
    """Pads int32 [B, P] and [B]; rows without a token end at once."""
    padded = {}
    for name, x in prompts.items():
        missing = [power_of_two(tf.shape(x)[0]) - tf.shape(x)[0]]
        if x.shape.rank == 2:
            missing.append(power_of_two(tf.shape(x)[1], _LEAST) - tf.shape(x)[1])
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
