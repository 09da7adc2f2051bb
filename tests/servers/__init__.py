"""Real servers for tests, all on 127.0.0.1, killed by their own process id."""
