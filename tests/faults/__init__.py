"""The fault suite: what becomes of accepted work when processes, connections and servers fail."""
