"""Vectors of words: learned from a text, compared, drawn, read and written."""

from tfllm.embeddings.vocabulary import plain_sentences
from tfllm.embeddings.word2vec import FastText, Word2Vec
from tfllm.embeddings.word_map import draw_map
from tfllm.embeddings.word_vectors import WordVectors

__all__ = ["FastText", "Word2Vec", "WordVectors", "draw_map", "plain_sentences"]
