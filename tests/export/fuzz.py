"""Random requests, as `TextGenerator` and as a SavedModel take them, and their comparison."""

import numpy as np
import tensorflow as tf

DECODERS = ("generate", "complete", "guided", "beam_search", "mcts", "speculative")


def as_inputs(settings):
    """Turns settings of `TextGenerator` into inputs of a signature."""
    inputs = dict(settings)
    bias = inputs.pop("logit_bias", None)
    if bias:
        inputs |= {"bias_ids": list(bias), "bias_values": list(bias.values())}
    return inputs


def random_settings(random, batch, words, vocab_size):
    """Returns settings of which each is left out, given once or given once a prompt."""
    ranges = {
        "max_new_tokens": lambda: int(random.integers(1, 12)),
        "min_new_tokens": lambda: int(random.integers(0, 4)),
        "temperature": lambda: float(random.choice([0, 0.5, 1, 3])),
        "top_k": lambda: int(random.choice([0, 1, 3, 2**31 - 1])),
        "top_p": lambda: float(random.uniform(0.1, 1)),
        "min_p": lambda: float(random.uniform(0, 0.5)),
        "typical_p": lambda: float(random.uniform(0.1, 1)),
        "epsilon_cutoff": lambda: float(random.uniform(0, 0.1)),
        "eta_cutoff": lambda: float(random.uniform(0, 0.1)),
        "repetition_penalty": lambda: float(random.uniform(0.5, 2)),
        "frequency_penalty": lambda: float(random.uniform(-1, 1)),
        "presence_penalty": lambda: float(random.uniform(-1, 1)),
        "no_repeat_ngram_size": lambda: int(random.choice([0, 1, 2, 3, 2**31 - 1])),
        "seed": lambda: int(random.integers(-(2**31), 2**31)),
    }
    settings = {"max_new_tokens": 8}
    for name, draw in ranges.items():
        how = random.integers(4)
        if how < 2:
            settings[name] = draw() if how else [draw() for _ in range(batch)]
    ids = random.permutation(vocab_size)
    if random.random() < 0.3:
        settings["logit_bias"] = {int(i): float(random.choice([-2, 3, -np.inf])) for i in ids[:3]}
    for name, values in {
        "stop": [str(word) for word in random.choice(words, random.integers(1, 4))],
        "banned_words": [str(word) for word in random.choice(words, random.integers(1, 4))],
        "stop_ids": ids[3:5].tolist(),
        "banned_ids": ids[5:7].tolist(),
        "forced_prefix": [str(word) for word in random.choice(["", *words], batch)],
    }.items():
        if random.random() < 0.3:
            settings[name] = values
    return settings


def random_prompts(random, batch, letters):
    return ["".join(random.choice(letters, random.integers(1, 16))) for _ in range(batch)]


def compare(loaded, generator, strategies, name, random, batch, letters, words):
    """Sends one request of `batch` prompts to a signature and to Python, and asserts that their texts are equal.

    Args:
        loaded: what `tf.saved_model.load` returned.
        generator: the `TextGenerator` that was saved.
        strategies: dict of signature to `Strategy`, those of the export.
        name: str, the signature.
        random: NumPy generator.
        batch: int.
        letters: str, what prompts are made of.
        words: list of str, for settings.
    """
    prompts = ["".join(random.choice(list(letters), random.integers(1, 12))) for _ in range(batch)]
    prompts = [prompt if prompt.strip() else f"a{prompt}" for prompt in prompts]  # WordPiece finds no token in spaces
    texts = tf.constant(prompts)
    if name in DECODERS:
        settings = random_settings(random, batch, words, generator.tokenizer.vocab_size)
        inputs = as_inputs(settings)
        if name == "guided":
            settings |= {"negative_prompt": prompts[::-1], "guidance_scale": float(random.uniform(0, 3))}
            inputs |= {"negative_prompts": prompts[::-1], "guidance_scale": settings["guidance_scale"]}
        elif name in ("generate", "complete") and random.random() < 0.3:
            settings["num_sequences"] = inputs["num_sequences"] = 2  # a number that Python compiles for
        elif name == "beam_search":
            settings["length_penalty"] = inputs["length_penalty"] = float(random.uniform(-1, 2))
        elif name == "mcts":
            settings["c_puct"] = inputs["c_puct"] = float(random.uniform(0, 3))
        found = getattr(loaded, name)(texts, **inputs)
        expected = generator.complete(prompts, strategy=strategies.get(name, "sample"), **settings)
        expected = [completion for row in expected for completion in row]
        shown = f"{name} {settings}"
        assert [text.decode() for text in found["text"].numpy()] == [one.text for one in expected], shown
        assert [text.decode() for text in found["finish_reason"].numpy()] == [one.finish_reason for one in expected]
        for at, one in enumerate(expected):
            size = int(found["lengths"][at])
            np.testing.assert_array_equal(found["ids"][at, :size], one.ids)
            if name == "complete":
                np.testing.assert_allclose(found["log_probs"][at, :size], one.log_probs, rtol=1e-4, atol=1e-4)
            if "score" in found:
                np.testing.assert_allclose(found["score"][at], one.score, rtol=1e-3, atol=1e-3)
    elif name == "score":
        contexts = prompts[::-1] if random.random() < 0.5 else None
        found = loaded.score(texts, contexts or [])
        for at, one in enumerate(generator.score(prompts, contexts=contexts)):
            size = int(found["lengths"][at])
            np.testing.assert_array_equal(found["ids"][at, :size], one.ids)
            np.testing.assert_allclose(found["log_probs"][at, :size], one.log_probs, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(found["total"][at], one.total, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(found["perplexity"][at], one.perplexity, rtol=1e-3)
    elif name == "next_token":
        found = loaded.next_token(texts, 3)
        for at, row in enumerate(generator.next_token(prompts, top=3)):
            assert [token.decode() for token in found["token"][at].numpy()] == [token for token, _ in row]
            np.testing.assert_allclose(found["probability"][at], [share for _, share in row], rtol=1e-4, atol=1e-6)
        shares = generator.next_token_distribution(prompts)
        np.testing.assert_allclose(found["distribution"], shares, rtol=1e-4, atol=1e-6)
    elif name == "embed":
        np.testing.assert_allclose(loaded.embed(texts)["embedding"], generator.embed(prompts), rtol=1e-4, atol=1e-4)
    else:
        rows = generator.tokenizer.encode(prompts)
        found = loaded.encode(texts)
        np.testing.assert_array_equal(found["ids"], rows.to_tensor())
        np.testing.assert_array_equal(found["lengths"], rows.row_lengths())
        np.testing.assert_array_equal(loaded.decode(**found)["text"], generator.tokenizer.decode(rows))
