"""What callers send and get: one struct for each body and each query string, by parts of the API.

What is limited here is limited in the record too, or keeps one caller from filling it.
"""
