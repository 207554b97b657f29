"""TextGenerator: strings in, strings out, around a model, a tokenizer and the compiled loop."""

import numpy as np
import tensorflow as tf

from tfllm.generation.loop import advance, begin, generate_ids, new_tokens
from tfllm.generation.sampling import Sampling, check_int32

_STREAM_CHUNK = 4  # tokens a call: few enough to look alive, enough to hide the cost of a call


class TextGenerator:
    """Continues texts with a language model; compiled once, for prompts, lengths and settings of any kind.

    Args:
        model: a `LanguageModel`.
        tokenizer: the tokenizer that it was trained with.
        jit_compile: bool, whether XLA compiles the loop. It needs fixed shapes, so batch, prompt and new tokens are padded
            to powers of two and each new combination compiles once, which takes seconds.

    Attributes:
        trace_count: int, how often a function was traced so far: it stays put in steady use.

    Raises:
        ValueError: when tokenizer and model differ in `vocab_size`.

    Example:
        >>> import tfllm
        >>> tokenizer = tfllm.CharTokenizer.train("to be or not")
        >>> model = tfllm.RecurrentLM(tokenizer.vocab_size, cell="gru", dim=8)
        >>> text = tfllm.TextGenerator(model, tokenizer).generate("to be", max_new_tokens=5)
        >>> len(text) <= 5
        True
    """

    def __init__(self, model, tokenizer, *, jit_compile=False):
        if tokenizer.vocab_size != model.vocab_size:
            raise ValueError(
                f"tokenizer must have the model's vocab_size={model.vocab_size}; got {tokenizer.vocab_size}"
            )
        self.model, self.tokenizer, self.jit_compile = model, tokenizer, jit_compile
        self.trace_count = 0
        batch, rows = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)
        strings = tf.TensorSpec([None], tf.string)
        whole, real = tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.float32)
        self._settings = (real, whole, real, whole)  # of `Sampling`, in its order
        self._encode = self._compile(tokenizer.encode, [strings])
        self._generate = self._compile(self._decode_loop, [batch, rows, whole, self._settings])
        self._generate_xla = self._compile(self._decode_loop, jit_compile=True)
        self._begin = self._compile(self._begin_loop, [batch, rows, whole, self._settings])
        self._advance = None  # its signature is known when `_begin` is traced

    def generate(self, prompts, *, max_new_tokens=128, temperature=1.0, top_k=0, top_p=1.0, seed=0):
        """Continues one text or several.

        Args:
            prompts: str, or list of str, none of them empty.
            max_new_tokens: int >= 1; a row ends sooner where the model gives the tokenizer's end token.
            temperature: float >= 0; 0 always takes the likeliest token.
            top_k: int >= 0, draws from the k likeliest tokens only; 0 means from all.
            top_p: float in (0, 1], draws from the likeliest tokens that sum to this probability.
            seed: int; the same seed gives the same texts.

        Returns:
            str for a str, else list of str: what follows each prompt, without the prompt.

        Raises:
            ValueError: on an empty prompt, a prompt of more tokens than the model can hold, or a setting out of its range.
        """
        single = isinstance(prompts, str)
        if not single and not isinstance(prompts, list | tuple):
            raise ValueError(f"prompts must be a str or a list of str; got {type(prompts).__name__}")
        if not single and not prompts:
            return []
        sampling = Sampling(temperature, top_k, top_p, seed)
        ids, lengths = self._prepare([prompts] if single else prompts, sampling, max_new_tokens)
        settings = _flat(sampling.tensors())
        if self.jit_compile:
            new, counts = self._run_xla(ids.numpy(), lengths.numpy(), max_new_tokens, settings)
        else:
            new, counts = self._generate(ids, lengths, max_new_tokens, settings)
        texts = [
            text.decode() for text in self.tokenizer.decode(tf.RaggedTensor.from_tensor(new, lengths=counts)).numpy()
        ]
        return texts[0] if single else texts

    def stream(self, prompt, *, max_new_tokens=128, temperature=1.0, top_k=0, top_p=1.0, seed=0):
        """Yields the continuation of one text piece by piece, as it is decoded.

        Args:
            prompt: str; the rest as in `generate`.

        Yields:
            str, never a part of a character; joined, the pieces are what `generate` returns.

        Raises:
            ValueError: as `generate`.
        """
        sampling = Sampling(temperature, top_k, top_p, seed)
        ids, lengths = self._prepare([prompt], sampling, max_new_tokens)
        new_ids = self._new_ids(ids, lengths, max_new_tokens, _flat(sampling.tensors()))
        return self.tokenizer.decode_stream(new_ids)

    def serve(self, prompts, max_new_tokens, temperature, top_k, top_p, seed):
        """Does what `generate` does as one graph from strings to strings; this is what an export runs.

        Args:
            prompts: string [B]; the other arguments are scalar tensors: int32, float32, int32, float32, int32.

        Returns:
            string [B].

        Raises:
            tf.errors.InvalidArgumentError: when it runs, where `generate` would raise ValueError.
        """
        rows = self.tokenizer.encode(prompts)
        lengths = tf.cast(rows.row_lengths(), tf.int32)
        limit = self.model.max_length or tf.int32.max
        rules = [
            (temperature >= 0, "temperature must be at least 0; got", temperature),
            (top_k >= 0, "top_k must be at least 0; got", top_k),
            ((top_p > 0) & (top_p <= 1), "top_p must lie in (0, 1]; got", top_p),
            (max_new_tokens >= 1, "max_new_tokens must be at least 1; got", max_new_tokens),
            (tf.reduce_all(lengths > 0), "prompts must not be empty; got", prompts),
            (tf.reduce_all(lengths <= limit), f"prompts must have at most {limit} tokens; got", lengths),
        ]
        with tf.control_dependencies([tf.debugging.Assert(ok, [rule, value]) for ok, rule, value in rules]):
            ids = rows.to_tensor()
            # A batch of no rows has no column either, and a model reads at least one.
            ids = tf.pad(ids, [[0, 0], [0, tf.cast(tf.shape(ids)[1] == 0, tf.int32)]])
        new, counts = self._decode_loop(ids, lengths, max_new_tokens, (temperature, top_k, top_p, seed))
        return self.tokenizer.decode(tf.RaggedTensor.from_tensor(new, lengths=counts))

    def _prepare(self, prompts, sampling, max_new_tokens):
        sampling.check()
        check_int32("max_new_tokens", max_new_tokens)
        if not max_new_tokens >= 1:
            raise ValueError(f"max_new_tokens must be at least 1; got {max_new_tokens}")
        for prompt in prompts:
            if not isinstance(prompt, str) or not prompt:
                raise ValueError(f"prompts must be strings that are not empty; got {prompt!r}")
        rows = self._encode(tf.constant(list(prompts)))
        lengths = tf.cast(rows.row_lengths(), tf.int32)
        longest, limit = int(tf.reduce_max(lengths)), self.model.max_length
        if limit is not None and longest > limit:
            raise ValueError(f"prompts must have at most the model's max_length={limit} tokens; got {longest}")
        if longest + max_new_tokens >= 2**31:
            raise ValueError(f"max_new_tokens and the prompt must stay below 2**31 tokens; got {max_new_tokens}")
        return rows.to_tensor(), lengths

    def _run_xla(self, ids, lengths, max_new_tokens, settings):
        rows, size = _power_of_two(len(ids)), _power_of_two(ids.shape[1], 16)
        padded = np.zeros([rows, size], np.int32)  # rows of length 0 end at once
        padded[: len(ids), : ids.shape[1]] = ids
        lengths = np.pad(lengths, [0, rows - len(ids)])
        room = tf.zeros([_power_of_two(max_new_tokens, 16)])  # only its shape counts
        inputs = (tf.constant(padded), tf.constant(lengths), tf.constant(max_new_tokens))
        new, counts = self._generate_xla(*inputs, settings, room)
        return new[: len(ids)], counts[: len(ids)]

    def _new_ids(self, ids, lengths, max_new_tokens, settings):
        """Yields int32 [T], the ids of one text as they are decoded, some at a time."""
        loop = self._begin(ids, lengths, max_new_tokens, settings)
        if self._advance is None:
            outputs = self._begin.get_concrete_function().structured_outputs
            loop_spec = tf.nest.map_structure(tf.TensorSpec.from_tensor, outputs)
            signature = [loop_spec, tf.TensorSpec([], tf.int32), self._settings]
            self._advance = self._compile(self._advance_loop, signature)
        shown, asked = 0, 1
        while True:
            new, counts = new_tokens(loop, max_new_tokens)
            yield new[0, shown : counts[0]]
            shown = counts[0]
            if bool(loop["done"][0]) or asked >= max_new_tokens:
                return
            chunk = min(_STREAM_CHUNK, max_new_tokens - asked)
            loop = self._advance(loop, chunk, settings)
            asked += chunk

    def _compile(self, function, signature=None, **options):
        # A closure of its own for each generator: TensorFlow would take several for one that retraces, and warn.
        def traced(*inputs):
            self.trace_count += 1
            return function(*inputs)

        return tf.function(traced, input_signature=signature, **options)

    def _decode_loop(self, ids, lengths, max_new_tokens, settings, room=None):
        capacity = None if room is None else room.shape[0]
        end_id = self.tokenizer.end_id
        return generate_ids(
            self.model, ids, lengths, Sampling(*settings), max_new_tokens, end_id=end_id, capacity=capacity
        )

    def _begin_loop(self, ids, lengths, capacity, settings):
        return begin(self.model, ids, lengths, Sampling(*settings), capacity, end_id=self.tokenizer.end_id)

    def _advance_loop(self, loop, steps, settings):
        return advance(self.model, loop, Sampling(*settings), steps, end_id=self.tokenizer.end_id)


def _flat(sampling):
    return (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed)


def _power_of_two(size, least=1):
    while least < size:
        least *= 2
    return least
