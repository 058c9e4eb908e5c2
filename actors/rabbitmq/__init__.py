"""RabbitMQ: the broker whose consumers claim what arrives, and the publisher of dispatches."""
