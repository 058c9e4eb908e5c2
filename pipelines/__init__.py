"""What is composed: stages, pipelines and the flow from one task to the next."""

from pipelines.composition import Done, Pipeline, stage

__all__ = ["Done", "Pipeline", "stage"]
