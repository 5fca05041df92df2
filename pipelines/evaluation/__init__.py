"""The runner: ask every candidate every item once, measure, grade, estimate."""
