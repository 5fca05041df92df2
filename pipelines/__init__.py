"""Decide, per workload, whether to rent a model, own one, or split the traffic.

Every module directly in this folder is a command: `python -m pipelines.<name> STUDY`.
Everything else is in a folder, and imports point down this list only:

    run prepare finetune serve evaluate decide promote      one stage, one MLflow run each
    tracking/ training/ serving/ evaluation/ reports/ data/  the engines
    metrics/ statistics/ economics/                          pure, or nearly so
    providers/                                               one file per API
    core/                                                    records, study, prices, errors
"""

__version__ = "0.1.0"
