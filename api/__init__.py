"""How people reach Callboard: HTTP, the command line and the client."""
