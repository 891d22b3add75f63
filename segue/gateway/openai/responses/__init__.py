"""`POST /v1/responses`: OpenAI's Responses API.

request.py   the request, and its turn
items.py     input items as the messages of a chat
tools.py     functions, including those in namespaces
output.py    output items and their events
answer.py    the response, whole or as a stream of events
"""
