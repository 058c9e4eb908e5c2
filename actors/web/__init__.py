"""How Callboard reaches hosts that users name: documents are fetched this way, and callbacks are sent."""
