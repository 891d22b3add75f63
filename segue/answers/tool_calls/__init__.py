"""Finds tool calls in a model's answer, and reads their arguments.

    markup.py    splits the text into tags and Hermes calls, in one pass
    hermes.py    calls in JSON
    json_scanner.py  a JSON value that arrives in pieces
    reading.py   decides which tags open and close calls and parameters, and which are only text
    steps.py     the tags that a reading counts as markup, and their cost
    schema.py    the values that a tool's schema allows for a parameter
    literals.py  JSON and Python literals as models write them
    values.py    a parameter's text as a value that fits its schema
    calls.py     emits calls and the text around them, as the text arrives
    writers.py   writes the content around calls, and the calls' arguments

`markup` knows nothing about values, `reading` only which names exist, and `values` nothing about
markup.
"""
