"""System checks: a missing or malformed setting stops start-up with its name, what is wrong and how to mend it."""
