"""Pure functions: intervals and paired comparisons. No I/O, no dollars."""
