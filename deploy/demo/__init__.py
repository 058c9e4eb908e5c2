"""The demo: ingests real documents, English and Chinese, and asks questions about them."""
