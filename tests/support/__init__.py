"""What supports the tests: servers."""
