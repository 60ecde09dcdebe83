"""Real servers for the tests, started from what is installed with the test dependencies; no tests here."""
