"""What a model thinks of given texts: log-probabilities token by token, the next token, the mean of its features."""

import tensorflow as tf

_CHUNK = 64  # tokens read at once: logits of a whole long text would fill the memory


def score_ids(model, ids, lengths, source=None, source_lengths=None):
    """Scores every token but the first by those before it: log P(w_t | w_1 ... w_{t-1}), the terms of the chain rule.

    Args:
        model: as for `generate_ids`.
        ids: int32 [B, T], padded on the right with any id; T at most the model's `max_length`.
        lengths: int32 [B].
        source, source_lengths: int32 [B, S] and [B], for a model with an encoder.

    Returns:
        float32 [B, T - 1], in nats; 0 behind a row's end.
    """
    batch, time = tf.shape(ids)[0], tf.shape(ids)[1] - 1
    chunks = tf.maximum((time + _CHUNK - 1) // _CHUNK, 1)  # one token alone has none before it
    padded = tf.pad(ids, [[0, 0], [0, chunks * _CHUNK - time]])
    state = model.initial_state(batch, tf.maximum(time, 1), **_context(model, source, source_lengths))

    def body(chunk, state, found):
        at = chunk * _CHUNK
        inputs, targets = padded[:, at : at + _CHUNK], padded[:, at + 1 : at + _CHUNK + 1]
        inputs, targets = tf.ensure_shape(inputs, [None, _CHUNK]), tf.ensure_shape(targets, [None, _CHUNK])
        reads = tf.clip_by_value(lengths - 1 - at, 0, _CHUNK)
        logits, state = model.step(inputs, state, reads)
        log_probs = tf.gather(tf.nn.log_softmax(logits), targets, batch_dims=2)
        return chunk + 1, state, found.write(chunk, tf.where(tf.range(_CHUNK) < reads[:, None], log_probs, 0.0))

    found = tf.TensorArray(tf.float32, chunks, element_shape=[None, _CHUNK])
    _, _, found = tf.while_loop(
        lambda chunk, *_: chunk < chunks, body, (tf.constant(0), state, found), parallel_iterations=1
    )
    rows = tf.reshape(tf.transpose(found.stack(), [1, 0, 2]), [batch, chunks * _CHUNK])
    return rows[:, :time]


def next_log_probs(model, ids, lengths, source=None, source_lengths=None):
    """Returns float32 [B, V], log P(w | the row) of every token w, in nats; arguments as for `score_ids`."""
    context = _context(model, source, source_lengths)
    state = model.initial_state(tf.shape(ids)[0], tf.shape(ids)[1], **context)
    logits, _ = model.step(ids, state, lengths, last=True)
    return tf.nn.log_softmax(logits[:, 0])


def embed_ids(model, ids, lengths):
    """Returns float32 [B, D], the mean over each row's tokens of what the model's head reads; 0 for a row without any.

    Of a model with an encoder it is the mean of what that makes of the row, as a source. Others need `read`; the other arguments
    are as for `score_ids`.
    """
    if hasattr(model, "encode"):
        features = model.read_source(ids, lengths)
    else:
        features, _ = model.read(ids, model.initial_state(tf.shape(ids)[0], tf.shape(ids)[1]), lengths)
    real = tf.sequence_mask(lengths, tf.shape(ids)[1], tf.float32)[..., None]
    total = tf.reduce_sum(tf.cast(features, tf.float32) * real, 1)
    return total / tf.maximum(tf.cast(lengths, tf.float32), 1.0)[:, None]


def _context(model, source, source_lengths):
    return {} if source is None else {"context": model.encode(source, source_lengths)}
