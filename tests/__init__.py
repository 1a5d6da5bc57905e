"""The tests: a package, because pgx installs another of that name."""
