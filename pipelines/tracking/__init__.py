"""The only code that imports mlflow: runs, artifacts, candidates, the registry."""

import os

# Read by MLflow while it is imported, hence here. The catalog URI is empty because the default
# fetches live prices: not reproducible, and 7 s per provider without a network.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_MODEL_CATALOG_URI", "")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
