"""Real servers for the tests, started on loopback ports; no tests here."""
