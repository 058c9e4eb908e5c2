"""How work runs: actors, the recorded call, broker, dispatch and clock."""
