"""Other task queues beside ours, each in an environment of its own and its best reasonable configuration.

``catalogue`` says which and how, ``<name>.txt`` what is installed, ``<name>_app`` what runs there: its no-op
task, how its tasks are submitted in bulk, and what starts a worker where the queue has no command for that.
"""
