"""Made-up requests by the thousand, against a whole Callboard: ``make fuzz``."""
