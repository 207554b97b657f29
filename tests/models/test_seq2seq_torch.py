"""The Transformer encoder-decoder against PyTorch's `nn.Transformer` of the same weights, where PyTorch is installed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfllm

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
VOCAB, DIM, HEADS = 19, 12, 3


def as_torch(weight):
    return torch.nn.Parameter(torch.tensor(np.asarray(weight.value)))


def fill_attention(theirs, query, key_value, output):
    """`key_value` None: `query` is the joint projection of queries, keys and values."""
    kernels = [query.kernel.value] if key_value is None else [query.kernel.value, key_value.kernel.value]
    biases = [query.bias.value] if key_value is None else [query.bias.value, key_value.bias.value]
    theirs.in_proj_weight.data = torch.tensor(np.concatenate([np.asarray(x) for x in kernels], 1).T)
    theirs.in_proj_bias.data = torch.tensor(np.concatenate([np.asarray(x) for x in biases]))
    fill_linear(theirs.out_proj, output)


def fill_linear(theirs, ours):
    theirs.weight.data, theirs.bias.data = torch.tensor(np.asarray(ours.kernel.value).T), as_torch(ours.bias).data


def fill_norm(theirs, ours):
    theirs.weight.data, theirs.bias.data = as_torch(ours.gamma).data, as_torch(ours.beta).data


def fill_block(theirs, ours):
    fill_attention(theirs.self_attn, ours.attention.query_key_value, None, ours.attention.output_projection)
    fill_linear(theirs.linear1, ours.feed_forward.up)
    fill_linear(theirs.linear2, ours.feed_forward.down)
    norms = [ours.attention_norm, ours.feed_forward_norm]
    if ours.cross_attention:
        reading = ours.reading
        fill_attention(theirs.multihead_attn, reading.query, reading.key_value, reading.output_projection)
        norms.insert(1, ours.reading_norm)
    for number, norm in enumerate(norms, 1):
        fill_norm(getattr(theirs, f"norm{number}"), norm)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_logits_and_attention_are_those_of_torch(pre_norm):
    keras.utils.set_random_seed(0)
    model = tfllm.TransformerSeq2Seq(
        VOCAB,
        16,
        DIM,
        2,
        HEADS,
        num_encoder_layers=3,
        hidden_dim=20,
        activation="relu",
        use_bias=True,
        pre_norm=pre_norm,
    )
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(random.normal(float(weight.path.endswith("gamma")), 0.4, weight.shape))
    theirs = torch.nn.Transformer(
        DIM, HEADS, 3, 2, 20, dropout=0.0, activation="relu", batch_first=True, norm_first=pre_norm
    ).eval()
    if pre_norm:
        fill_norm(theirs.encoder.norm, model.encoder.final_norm)
        fill_norm(theirs.decoder.norm, model.final_norm)
    else:
        theirs.encoder.norm = theirs.decoder.norm = None
    for ours, stack in ((model.encoder, theirs.encoder), (model, theirs.decoder)):
        for block, layer in zip(ours.blocks, stack.layers, strict=True):
            fill_block(layer, block)

    source, ids = random.integers(0, VOCAB, (2, 7)), random.integers(0, VOCAB, (2, 5))
    lengths = [7, 4]
    table = torch.tensor(np.asarray(model.embedding.embeddings.value))
    places = [torch.tensor(np.asarray(part.place.vectors.value)) for part in (model.encoder, model)]
    padding = torch.arange(7) >= torch.tensor(lengths)[:, None]
    features = theirs(
        table[source] + places[0][:7],
        table[ids] + places[1][:5],
        tgt_mask=torch.nn.Transformer.generate_square_subsequent_mask(5),
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
    )
    inputs = {"source": tf.constant(source), "source_lengths": tf.constant(lengths), "ids": tf.constant(ids)}
    np.testing.assert_allclose(model(inputs), (features @ table.T).detach().numpy(), atol=2e-4, rtol=1e-4)
