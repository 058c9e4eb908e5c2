"""The document pipeline: validate, convert, chunk, embed, store and index, and the search over it."""
