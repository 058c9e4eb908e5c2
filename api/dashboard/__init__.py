"""Dramatiq's dashboard on Callboard: what it calls queues and jobs comes from RabbitMQ and the record."""
