"""The form of an answer: what clients ask for (`formats`), and what workers get (`grammar`)."""
