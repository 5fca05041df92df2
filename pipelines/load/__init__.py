"""Open-loop load: when requests are due, sending them then, and what that shows of a server.

Our own and small, because of what guidellm 0.8.1 does: its Poisson arrivals repeat in every worker
process, its TTFT and its limits count from the sending, and it wants an older click.
"""
