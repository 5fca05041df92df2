"""The only code that imports mlflow: runs, artifacts, candidates, the registry."""

import os

from pipelines.core import offline

# Read by MLflow while it is imported, hence here.
offline.apply()
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
