"""What is composed: stages, pipelines and the flow from one task to the next."""
