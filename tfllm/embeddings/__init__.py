"""Word embeddings: vectors learned from the company that words keep."""
