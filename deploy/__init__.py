"""What runs Callboard on a machine: the demo and the pieces it is made of."""
