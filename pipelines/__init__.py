"""What is composed: stages, pipelines and the flow from one task to the next."""

from pipelines.composition import Done, Failure, Pipeline, gather, stage, when

__all__ = ["Done", "Failure", "Pipeline", "gather", "stage", "when"]
