"""Pure: token prices -> dollars per call, machine hours -> dollars per task, break-even."""
